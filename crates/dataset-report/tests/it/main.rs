//! Looking at folders of images, and taking images out and back.

mod cleaning;
mod folder;
mod inspecting;

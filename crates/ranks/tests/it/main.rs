//! What is recognised, for each launcher, and what is refused.

mod contradictions;
mod launchers;
mod variables;

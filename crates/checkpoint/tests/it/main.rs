//! The commit protocol, with every file call failing once and the power going at every one.

mod disk;
mod faults;
mod power_cut;
mod run;

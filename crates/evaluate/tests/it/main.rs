//! Evaluations of a tiny model with random weights on the sample posters.

mod run;

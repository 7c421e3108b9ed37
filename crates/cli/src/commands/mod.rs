//! One file a command.

pub(crate) mod check;
pub(crate) mod convert;
pub(crate) mod dataset;
pub(crate) mod env;
pub(crate) mod evaluate;
pub(crate) mod inspect;
pub(crate) mod launch;
pub(crate) mod merge;
pub(crate) mod sample;
pub(crate) mod train;

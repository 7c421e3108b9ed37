//! Which draw is meant: an example in an epoch.

/// The coordinates that, with the seed and the purpose, decide an example's noise and timestep.
///
/// They do not depend on the batch it stands in, so neither batch size, nor bucket order, nor the number of
/// workers, nor a resumed run changes what an example gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExampleKey {
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// Index of the example; a repeated image has one for each repeat.
    pub example: u64,
}

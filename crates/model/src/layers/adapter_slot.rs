//! Where adapters hook into a layer: the layer hands them its input and output, nothing is patched.

use crate::parameters::LayerAdapter;
use std::cell::RefCell;
use std::rc::Rc;
use tch::Tensor;

/// The adapters of one layer, in the order in which they were attached.
#[derive(Debug, Default)]
pub struct AdapterSlot(RefCell<Vec<Rc<dyn LayerAdapter>>>);

impl AdapterSlot {
    /// Adds `adapter` behind those already there.
    pub fn attach(&self, adapter: Rc<dyn LayerAdapter>) {
        self.0.borrow_mut().push(adapter);
    }

    /// Takes all adapters off.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// The layer's `output` for `input`, changed by each adapter in turn.
    pub fn apply(&self, input: &Tensor, output: Tensor) -> Tensor {
        self.0.borrow().iter().fold(output, |output, adapter| adapter.apply(input, output))
    }
}

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

    /// The layer's `output` for `input`, with what each adapter adds to it.
    pub fn apply(&self, input: &Tensor, output: Tensor) -> Tensor {
        let adapters = self.0.borrow();
        let added = adapters.iter().filter_map(|adapter| adapter.added(input, &output));
        added.fold(output.shallow_clone(), |sum, added| sum + added)
    }
}

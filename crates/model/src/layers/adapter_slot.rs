//! Where adapters hook into a layer: the layer hands them its input and output, nothing is patched.

use crate::parameters::LayerAdapter;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tch::Tensor;

/// The adapters of one layer, in the order in which they were attached.
#[derive(Debug, Default)]
pub struct AdapterSlot {
    adapters: RefCell<Vec<Rc<dyn LayerAdapter>>>,
    is_off: Cell<bool>,
}

impl AdapterSlot {
    /// Adds `adapter` behind those already there.
    pub fn attach(&self, adapter: Rc<dyn LayerAdapter>) {
        self.adapters.borrow_mut().push(adapter);
    }

    /// Takes all adapters off.
    pub fn clear(&self) {
        self.adapters.borrow_mut().clear();
    }

    /// Lets the adapters work again, or not: the layer is then as if it had none.
    pub fn switch(&self, on: bool) {
        self.is_off.set(!on);
    }

    /// The layer's `output` for `input`, with what each adapter adds to it.
    pub fn apply(&self, input: &Tensor, output: Tensor) -> Tensor {
        if self.is_off.get() {
            return output;
        }
        let adapters = self.adapters.borrow();
        let added = adapters.iter().filter_map(|adapter| adapter.added(input, &output));
        added.fold(output.shallow_clone(), |sum, added| sum + added)
    }
}

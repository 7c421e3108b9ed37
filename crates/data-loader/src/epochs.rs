//! How many batches and steps each epoch has, where epochs may differ in it.

use std::sync::{Mutex, PoisonError};

use sdtrain_recipe::TrainSection;

use crate::order::Order;

/// Batches of every epoch, counted when they are asked for.
#[derive(Debug)]
pub(crate) struct EpochLengths {
    /// Batches of each epoch, where all have as many.
    alike: Option<usize>,
    /// Those of the first epochs otherwise.
    counted: Mutex<Vec<usize>>,
}

impl EpochLengths {
    pub(crate) fn of(order: &Order) -> Self {
        let alike = order.is_the_same_length_every_epoch().then(|| order.batches(0));
        Self { alike, counted: Mutex::default() }
    }

    /// Batches of one epoch.
    pub(crate) fn batches(&self, order: &Order, epoch: u64) -> usize {
        self.alike.unwrap_or_else(|| order.batches(epoch))
    }

    /// Optimizer steps of all epochs before this one.
    pub(crate) fn steps_before(&self, order: &Order, train: &TrainSection, epoch: u64) -> u64 {
        if let Some(batches) = self.alike {
            return epoch.saturating_mul(train.steps_per_epoch(batches as u64));
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = usize::try_from(epoch).unwrap_or(usize::MAX);
        while counted.len() < epoch {
            let next = order.batches(counted.len() as u64);
            counted.push(next);
        }
        counted[..epoch].iter().map(|&batches| train.steps_per_epoch(batches as u64)).sum()
    }

    /// Optimizer steps of a run; 0 where it has no end.
    pub(crate) fn total_steps(&self, order: &Order, train: &TrainSection) -> u64 {
        match (train.max_steps, train.max_epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => self.steps_before(order, train, epochs),
            (None, None) => 0,
        }
    }
}

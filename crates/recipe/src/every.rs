//! The `every_steps` and `every_epochs` twins: when something that repeats is due.

/// How often something happens: every so many optimizer steps, every so many epochs, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Every {
    /// Optimizer steps between two times; absent: not by steps.
    pub steps: Option<u64>,
    /// Epochs between two times; absent: not by epochs.
    pub epochs: Option<u64>,
}

impl Every {
    /// From the two keys; 0 means never, as an absent key does.
    pub fn new(every_steps: Option<u64>, every_epochs: Option<u64>) -> Every {
        Every { steps: every_steps.filter(|&steps| steps > 0), epochs: every_epochs.filter(|&epochs| epochs > 0) }
    }

    /// Whether it is due when `step` optimizer steps are done.
    pub fn due_after_step(self, step: u64) -> bool {
        step > 0 && self.steps.is_some_and(|steps| step.is_multiple_of(steps))
    }

    /// Whether it is due when `epoch` epochs are complete.
    pub fn due_after_epoch(self, epoch: u64) -> bool {
        epoch > 0 && self.epochs.is_some_and(|epochs| epoch.is_multiple_of(epochs))
    }

    /// Whether it never happens.
    pub fn is_never(self) -> bool {
        self.steps.is_none() && self.epochs.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::Every;

    #[test]
    fn is_due_at_each_multiple_but_not_at_the_start() {
        let every = Every::new(Some(250), Some(2));
        assert!(!every.due_after_step(0));
        assert!(!every.due_after_step(249));
        assert!(every.due_after_step(500));
        assert!(!every.due_after_epoch(1));
        assert!(every.due_after_epoch(4));
    }

    #[test]
    fn zero_and_absent_are_never() {
        assert!(Every::new(Some(0), None).is_never());
        assert!(!Every::new(None, None).due_after_step(1));
    }
}

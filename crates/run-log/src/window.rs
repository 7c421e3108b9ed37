//! The mean of the last numbers of a series: smoothed loss and pace.

use std::collections::VecDeque;

/// Steps over which loss is averaged, on the console and as `loss/average`.
pub(crate) const LOSS_WINDOW: usize = 100;

/// The last numbers of a series, up to a fixed count.
pub(crate) struct Window {
    values: VecDeque<f64>,
    length: usize,
}

impl Window {
    pub(crate) fn new(length: usize) -> Window {
        Window { values: VecDeque::with_capacity(length), length }
    }

    /// Adds a number. One that is not finite (a skipped fp16 step) says nothing about the mean and is left out.
    pub(crate) fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.values.len() == self.length {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// The mean of what is in the window. Summed anew each time: a running sum drifts over a million steps.
    pub(crate) fn mean(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| self.values.iter().sum::<f64>() / self.values.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_all_but_the_last_values() {
        let mut window = Window::new(2);
        assert_eq!(window.mean(), None);
        for value in [100.0, 1.0, 3.0] {
            window.push(value);
        }
        assert_eq!(window.mean(), Some(2.0));
    }

    #[test]
    fn leaves_out_what_is_not_finite() {
        let mut window = Window::new(2);
        for value in [1.0, f64::NAN, 3.0, f64::INFINITY] {
            window.push(value);
        }
        assert_eq!(window.mean(), Some(2.0));
    }
}

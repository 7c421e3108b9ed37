//! The running mean of squares that is kept as a row and a column for each matrix (Shazeer & Stern 2018,
//! arXiv:1804.04235), which Adafactor and CAME share.

use crate::ParamGroup;
use crate::update::{Commit, single};
use tch::{Kind, Tensor};

/// The mean of squares of one parameter.
enum MeanSquare {
    /// Means over the last dimension, and over the one before it.
    Factored { row: Tensor, column: Tensor },
    /// Of a vector or a single number.
    Whole(Tensor),
    /// Where none is needed.
    Nothing,
}

/// The means of squares of all parameters.
pub(crate) struct MeanSquares {
    name: &'static str,
    list: Vec<MeanSquare>,
}

impl MeanSquares {
    pub fn zeros(name: &'static str, groups: &[ParamGroup]) -> MeanSquares {
        let make = |parameter: &Tensor| {
            let (shape, options) = (parameter.size(), (Kind::Float, parameter.device()));
            match shape.as_slice() {
                [leading @ .., rows, columns] => MeanSquare::Factored {
                    row: Tensor::zeros([leading, &[*rows]].concat().as_slice(), options),
                    column: Tensor::zeros([leading, &[*columns]].concat().as_slice(), options),
                },
                _ => MeanSquare::Whole(Tensor::zeros(shape.as_slice(), options)),
            }
        };
        let parameters = groups.iter().flat_map(|group| &group.parameters);
        MeanSquares { name, list: parameters.map(|(_, parameter)| make(parameter)).collect() }
    }

    /// Likewise, with nothing for parameters that are no matrices.
    pub fn zeros_of_matrices(name: &'static str, groups: &[ParamGroup]) -> MeanSquares {
        let mut means = MeanSquares::zeros(name, groups);
        for mean in &mut means.list {
            if matches!(mean, MeanSquare::Whole(_)) {
                *mean = MeanSquare::Nothing;
            }
        }
        means
    }

    /// Lets the mean of parameter `index` follow `squares`, forgetting by `beta` (a number on the device); one over its
    /// root, in a shape that a gradient can be multiplied by.
    pub fn follow(&self, index: usize, squares: &Tensor, beta: &Tensor, commit: &Commit) -> Tensor {
        let (keep, add) = (single(beta), single(&(1.0 - beta)));
        let followed = |slot: &Tensor, value: &Tensor| {
            let new = slot * &keep + value * &add;
            commit.write(slot, &new);
            new
        };
        match &self.list[index] {
            MeanSquare::Factored { row, column } => {
                let row = followed(row, &squares.mean_dim([-1i64].as_slice(), false, Kind::Float));
                let column = followed(column, &squares.mean_dim([-2i64].as_slice(), false, Kind::Float));
                let mean = row.mean_dim([-1i64].as_slice(), true, Kind::Float);
                (row / mean).rsqrt().unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
            }
            MeanSquare::Whole(mean) => followed(mean, squares).rsqrt(),
            MeanSquare::Nothing => squares.ones_like(),
        }
    }

    /// Under the names that checkpoints have.
    pub fn named(&self, groups: &[ParamGroup]) -> Vec<(String, Tensor)> {
        let names = groups.iter().flat_map(|group| &group.parameters).map(|(name, _)| name);
        let entries = names.zip(&self.list).flat_map(|(name, mean)| match mean {
            MeanSquare::Factored { row, column } => vec![
                (format!("{}_row.{name}", self.name), row.shallow_clone()),
                (format!("{}_column.{name}", self.name), column.shallow_clone()),
            ],
            MeanSquare::Whole(mean) => vec![(format!("{}.{name}", self.name), mean.shallow_clone())],
            MeanSquare::Nothing => Vec::new(),
        });
        entries.collect()
    }
}

/// The root mean square of a tensor.
pub(crate) fn root_mean_square(tensor: &Tensor) -> Tensor {
    tensor.norm() / (tensor.numel() as f64).sqrt()
}

/// `update`, scaled down to a root mean square of `threshold` where it is larger.
pub(crate) fn clipped(update: &Tensor, threshold: f64) -> Tensor {
    update / (root_mean_square(update) / threshold).clamp_min(1.0)
}

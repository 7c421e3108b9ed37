//! How a sampler's steps are laid over the training timesteps (table 2 of Lin et al. 2023, arXiv:2305.08891).
//!
//! Three families round differently; each function is one of them, and all count down.

use crate::Error;
use crate::{SchedulerSettings, TimestepSpacing};

/// Whole timesteps, for samplers that look ᾱ up: DDIM, DDPM, PNDM.
pub fn whole(settings: &SchedulerSettings, steps: usize) -> Result<Vec<i64>, Error> {
    let train = settings.num_train_timesteps;
    let timesteps = match settings.timestep_spacing {
        TimestepSpacing::Linspace => linspace(train - 1, steps).map(round).rev().collect(),
        TimestepSpacing::Leading => leading(train / steps, 0..steps, settings.steps_offset),
        TimestepSpacing::Trailing => trailing(train, train as f64 / steps as f64, steps),
    };
    in_range(settings, steps, timesteps)
}

/// Timesteps that may lie between two of the training schedule, for samplers over noise levels: Euler, LMS, Heun.
pub fn fractional(settings: &SchedulerSettings, steps: usize) -> Vec<f32> {
    let train = settings.num_train_timesteps;
    let as_fp32 = |timesteps: Vec<i64>| timesteps.into_iter().map(|timestep| timestep as f32).collect();
    match settings.timestep_spacing {
        TimestepSpacing::Linspace => linspace(train - 1, steps).map(|timestep| timestep as f32).rev().collect(),
        TimestepSpacing::Leading => as_fp32(leading(train / steps, 0..steps, settings.steps_offset)),
        TimestepSpacing::Trailing => as_fp32(trailing(train, train as f64 / steps as f64, steps)),
    }
}

/// Whole timesteps above the lowest one, for multistep solvers: DPM-Solver, UniPC. `last` is where they begin, the
/// length of the schedule unless its end is cut off.
pub fn solver(settings: &SchedulerSettings, steps: usize, last: usize) -> Result<Vec<i64>, Error> {
    let timesteps = match settings.timestep_spacing {
        TimestepSpacing::Linspace => linspace(last - 1, steps + 1).skip(1).map(round).rev().collect(),
        TimestepSpacing::Leading => leading(last / (steps + 1), 1..steps + 1, settings.steps_offset),
        TimestepSpacing::Trailing => trailing(last, settings.num_train_timesteps as f64 / steps as f64, steps),
    };
    in_range(settings, steps, timesteps)
}

/// `count` numbers from 0 to `end`, both included.
fn linspace(end: usize, count: usize) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator {
    let stride = end as f64 / (count.max(2) - 1) as f64;
    (0..count).map(move |i| if i > 0 && i + 1 == count { end as f64 } else { i as f64 * stride })
}

fn leading(stride: usize, strides: std::ops::Range<usize>, offset: i64) -> Vec<i64> {
    strides.rev().map(|i| (i * stride) as i64 + offset).collect()
}

/// Exactly `steps` of them: summing up fractional strides can yield one timestep more than was asked for, below zero.
fn trailing(last: usize, stride: f64, steps: usize) -> Vec<i64> {
    let stride = (last as f64 - stride) - last as f64;
    (0..steps).map(|i| round(last as f64 + i as f64 * stride) - 1).take_while(|&timestep| timestep >= 0).collect()
}

/// To the nearest, halves to the even one, as numpy does it.
fn round(timestep: f64) -> i64 {
    timestep.round_ties_even() as i64
}

fn in_range(settings: &SchedulerSettings, steps: usize, timesteps: Vec<i64>) -> Result<Vec<i64>, Error> {
    let end = settings.num_train_timesteps as i64;
    if timesteps.iter().all(|timestep| (0..end).contains(timestep)) && !timesteps.is_empty() {
        return Ok(timesteps);
    }
    Err(Error::Steps {
        class: settings.class.name(),
        steps,
        num_train_timesteps: settings.num_train_timesteps,
        reason: ": with `steps_offset` the first lies outside",
    })
}

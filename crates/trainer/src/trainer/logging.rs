//! What a run says and writes down of its steps.

use super::Trainer;
use crate::error::{Error, Result};
use crate::state::Position;
use crate::step::StepOutcome;
use sdtrain_run_log::{Console, ConsoleOptions, JsonLines, MetricSink, RunLog, TensorBoard};

impl Trainer {
    pub(super) fn open_log(&self, position: &Position) -> Result<RunLog> {
        let folder = &self.folder.path;
        let resumed = (position.step > 0).then_some(position.step);
        let options = ConsoleOptions {
            total_steps: Some(self.total_steps),
            total_epochs: self.config.train.max_epochs,
            steps_done: position.step,
            every_steps: self.config.log.every_steps,
            ..ConsoleOptions::default()
        };
        if !self.ranks.is_lead() {
            return Ok(RunLog::new());
        }
        let mut log = RunLog::new().with(Console::new(options));
        if self.config.log.jsonl {
            log = log.with(JsonLines::open(folder, resumed).map_err(|error| Error::storage(folder, error))?);
        }
        if self.config.log.tensorboard {
            log = log.with(TensorBoard::open(&folder.join("tensorboard"), resumed));
        }
        Ok(log)
    }

    /// Whether what takes time to measure is measured in `step`, counted from 1: where a file takes it.
    pub(super) fn is_logged(&self, step: u64) -> bool {
        let log = &self.config.log;
        let is_due = step == 1 || step.is_multiple_of(log.every_steps.max(1)) || step == self.total_steps;
        is_due && (log.jsonl || log.tensorboard)
    }

    /// Gradient norms of the groups, where there are several, and how far what was trained has moved.
    pub(super) fn log_norms(&self, log: &mut RunLog, step: u64, outcome: &StepOutcome) -> Result<()> {
        if outcome.group_norms.len() > 1 {
            for (group, norm) in &outcome.group_norms {
                log.scalar(&format!("grad_norm/{group}"), step, *norm);
            }
        }
        for (tag, norm) in self.trainable.weight_norms()? {
            log.scalar(&tag, step, norm);
        }
        Ok(())
    }

    /// Names images that turned out to be broken since the last step.
    pub(super) fn tell_of_stand_ins(&mut self, log: &mut RunLog) {
        for problem in self.data.unreadable() {
            if self.left_out.insert(problem.path.clone()) {
                log.message(&format!("warning: left out, another image takes its place: {problem}"));
            }
        }
    }

    /// Writes the trace, with fewer steps than asked for when the run ends before.
    pub(super) fn finish_trace(&mut self) -> Result<()> {
        self.trace.take().map_or(Ok(()), |trace| trace.finish(self.optimizer.groups()))
    }

    /// Begins the profile where `step` is its first one. It is no reason to end a run.
    pub(super) fn begin_profile(&mut self, log: &mut RunLog, step: u64) {
        let Some(profile) = &mut self.profile else { return };
        if let Err(error) = profile.begin(step) {
            log.message(&format!("warning: there is no profile: {error}"));
            self.profile = None;
        }
    }

    /// Says what the profile has found, of fewer steps than asked for when the run ends before. Neither is it a reason to end a run.
    pub(super) fn finish_profile(&mut self, log: &mut RunLog) {
        let Some(profile) = self.profile.take() else { return };
        match self.folder.check_in_place().and_then(|()| profile.finish()) {
            Ok(lines) => lines.iter().for_each(|line| log.message(line)),
            Err(error) => log.message(&format!("warning: the profile is lost: {error}")),
        }
    }
}

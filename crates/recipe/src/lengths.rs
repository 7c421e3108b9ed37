//! Lengths of a configuration against the steps of its run: what is set and can never come into force in so many.
//!
//! A length that would spoil the product is refused instead: [`TrainConfig::length_refused`].

use crate::lr_schedule::steps_of;
use crate::{EmaConfig, LrScheduleConfig, PiecewiseConstantSchedule, TrainConfig, WarmupStableDecaySchedule};

impl TrainConfig {
    /// Why a run of `total_steps` is refused for a length that it has no room for: the key, the message and the way out.
    pub fn length_refused(&self, total_steps: u64) -> Option<(&'static str, String, String)> {
        self.ema.refused_in(total_steps).or_else(|| self.lr_schedule.refused_in(total_steps))
    }

    /// Warnings of what a run of `total_steps` never comes to, without [`LrScheduleConfig::warmup_warning`], which the run gives itself.
    pub fn length_warnings(&self, total_steps: u64) -> Vec<String> {
        let mut warnings = Vec::from_iter(self.lr_schedule.length_warning(total_steps));
        warnings.extend(self.lr_schedule.shape_warnings(total_steps));
        let train = &self.train;
        let never = |key: &str, limit: Option<u64>, length: u64, unit: &str| {
            let limit = limit.filter(|&limit| limit >= length)?;
            Some(format!("`{key}` = {limit}, and the run has {length} {unit}: the text encoder learns in all of them"))
        };
        warnings.extend(never("train.max_text_encoder_steps", train.max_text_encoder_steps, total_steps, "steps"));
        let epochs = train.max_epochs.unwrap_or(u64::MAX);
        warnings.extend(never("train.max_text_encoder_epochs", train.max_text_encoder_epochs, epochs, "epochs"));
        if !self.ema.enabled && self.ema != EmaConfig::default() {
            warnings.push(
                "`[ema]` has settings, and `ema.enabled` is false: nothing is averaged, and the product holds the trained weights"
                    .to_owned(),
            );
        }
        warnings
    }
}

impl LrScheduleConfig {
    /// A warning where a run of `total_steps` ends before its warm-up does, so that no step has the whole rate.
    pub fn warmup_warning(&self, total_steps: u64) -> Option<String> {
        let warmup = self.warmup_steps(total_steps);
        let last = total_steps.checked_sub(1).filter(|_| warmup >= total_steps)?;
        let share = 100.0 * last as f64 / warmup as f64;
        Some(format!(
            "the run ends within its warm-up: of {total_steps} steps `lr_schedule.warmup_steps` takes {warmup}, and the learning rate \
             is never more than {share:.0} % of what is set"
        ))
    }

    /// Why a run of `total_steps` has no room for what is set: the key, the message and the way out.
    pub(crate) fn refused_in(&self, total_steps: u64) -> Option<(&'static str, String, String)> {
        match self {
            LrScheduleConfig::WarmupStableDecay(schedule) => self.fall_refused(schedule, total_steps),
            LrScheduleConfig::PiecewiseConstant(schedule) => factors_refused(schedule, total_steps),
            _ => None,
        }
    }

    /// A fall that begins within the warm-up has no top to fall from, and the rate would jump.
    fn fall_refused(
        &self,
        schedule: &WarmupStableDecaySchedule,
        total_steps: u64,
    ) -> Option<(&'static str, String, String)> {
        let (warmup, decay) = (self.warmup_steps(total_steps), schedule.decay_steps(total_steps));
        // A warm-up that the run does not outlast has a warning of its own.
        let has_top = warmup > 0 && warmup < total_steps;
        // Two shares that make up a whole run may be rounded to one step more.
        let shares = self.warmup() < 1.0 && schedule.decay_steps < 1.0;
        let rounded = u64::from(shares && self.warmup() + schedule.decay_steps <= 1.0 + 1e-9);
        if !has_top || warmup.saturating_add(decay) <= total_steps.saturating_add(rounded) {
            return None;
        }
        let message = format!(
            "of {total_steps} steps `lr_schedule.warmup_steps` takes {warmup} and `lr_schedule.decay_steps` {decay}: the fall begins \
             within the warm-up, and the learning rate would jump into it after step {warmup}"
        );
        // A share grows with the run.
        let hint = match self.warmup() >= 1.0 && schedule.decay_steps >= 1.0 {
            true => format!("lower one of them, or train for at least {} steps", warmup.saturating_add(decay)),
            false => "lower one of them".to_owned(),
        };
        Some(("lr_schedule.decay_steps", message, hint))
    }

    /// A warning where a run of `total_steps` ends before the rate has gone the way that is set.
    fn length_warning(&self, total_steps: u64) -> Option<String> {
        match self {
            LrScheduleConfig::WarmupStableDecay(schedule) => {
                let decay = schedule.decay_steps(total_steps);
                (decay > total_steps).then(|| {
                    format!(
                        "`lr_schedule.decay_steps` = {decay}, and the run has {total_steps} steps: it ends before the learning rate \
                         has fallen"
                    )
                })
            }
            LrScheduleConfig::PiecewiseConstant(schedule) => {
                let beyond = schedule.boundaries.iter().filter(|&&boundary| boundary >= total_steps);
                let beyond: Vec<String> = beyond.map(u64::to_string).collect();
                (!beyond.is_empty()).then(|| {
                    format!(
                        "`lr_schedule.boundaries`: a run of {total_steps} steps does not come to {}, nor to the factors behind",
                        beyond.join(", ")
                    )
                })
            }
            _ => None,
        }
    }
}

impl LrScheduleConfig {
    /// Warnings of shapes that cannot be meant: waves shorter than the steps can show, shares that are no step, a fall to where it begins.
    fn shape_warnings(&self, total_steps: u64) -> Vec<String> {
        let after_warmup = total_steps.saturating_sub(self.warmup_steps(total_steps));
        let cycles = match self {
            LrScheduleConfig::Cosine(schedule) => schedule.cycles,
            LrScheduleConfig::CosineWithRestarts(schedule) => schedule.cycles as f64,
            _ => 0.0,
        };
        let mut warnings = Vec::new();
        // One cycle is what there is by default, and a run may be a single step.
        if cycles > 1.0 && cycles > after_warmup as f64 / 2.0 {
            warnings.push(format!(
                "`lr_schedule.cycles` = {cycles}, and {after_warmup} of {total_steps} steps come after the warm-up: a cycle of less than \
                 two steps has no fall"
            ));
        }
        let fall = match self {
            LrScheduleConfig::WarmupStableDecay(schedule) => Some(schedule.decay_steps),
            _ => None,
        };
        let lengths = [("warmup_steps", Some(self.warmup()), "warm-up"), ("decay_steps", fall, "fall")];
        for (key, length, what) in lengths {
            if let Some(share) = length.filter(|&share| share > 0.0 && steps_of(share, total_steps) == 0) {
                warnings.push(format!(
                    "`lr_schedule.{key}` = {share}: this share of {total_steps} steps is less than half of one, and there is no {what}"
                ));
            }
        }
        if self.settings().min_ratio() >= 1.0 {
            warnings.push(format!(
                "`lr_schedule.min_ratio` = 1: all of the learning rate is left at the end, and `{}` never falls below it",
                self.name()
            ));
        }
        warnings
    }
}

/// Factors of 0 until the end leave everything as it is.
fn factors_refused(schedule: &PiecewiseConstantSchedule, total_steps: u64) -> Option<(&'static str, String, String)> {
    let PiecewiseConstantSchedule { min_ratio, boundaries, factors, .. } = schedule;
    // Lists that do not go together are refused as such.
    if factors.len() != boundaries.len() + 1 || *min_ratio > 0.0 {
        return None;
    }
    let reached = 1 + boundaries.iter().filter(|&&boundary| boundary < total_steps).count();
    factors.iter().take(reached).all(|&factor| factor == 0.0).then(|| {
        let message = format!(
            "`lr_schedule.factors`: all that a run of {total_steps} steps comes to are 0, and it would train nothing"
        );
        ("lr_schedule.factors", message, "1 is the whole learning rate".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConstantSchedule, CosineSchedule, CosineWithRestartsSchedule, LinearSchedule};

    fn with_schedule(lr_schedule: LrScheduleConfig) -> Vec<String> {
        TrainConfig { lr_schedule, ..TrainConfig::default() }.length_warnings(1000)
    }

    #[test]
    fn a_warm_up_that_the_run_does_not_outlast_is_said() {
        let warning = |warmup_steps: f64, total_steps| {
            LrScheduleConfig::Constant(ConstantSchedule { warmup_steps }).warmup_warning(total_steps)
        };
        let said = warning(500.0, 101).expect("it is five times as long");
        assert!(said.contains("101 steps") && said.contains("takes 500") && said.contains("20 %"), "{said}");
        assert!(warning(100.0, 100).is_some_and(|said| said.contains("99 %")));
        assert!(warning(0.999, 100).is_some(), "a share that is rounded to all of them");
        for (warmup_steps, total_steps) in [(99.0, 100), (0.5, 100), (0.0, 100), (0.0, 0), (1.0, 2)] {
            assert_eq!(warning(warmup_steps, total_steps), None, "{warmup_steps} of {total_steps}");
        }
    }

    fn with_fall(warmup_steps: f64, decay_steps: f64) -> LrScheduleConfig {
        LrScheduleConfig::WarmupStableDecay(WarmupStableDecaySchedule {
            warmup_steps,
            decay_steps,
            ..WarmupStableDecaySchedule::default()
        })
    }

    #[test]
    fn a_fall_that_the_run_has_no_room_for_is_said() {
        let said = |warmup_steps, decay_steps| with_schedule(with_fall(warmup_steps, decay_steps));
        assert!(matches!(&said(0.0, 5000.0)[..], [text] if text.contains("= 5000, and the run has 1000 steps")));
        for (warmup, decay) in [(400.0, 600.0), (0.0, 1000.0), (0.1, 0.9), (2000.0, 0.1)] {
            assert_eq!(said(warmup, decay), [""; 0], "{warmup}, {decay}");
        }
    }

    #[test]
    fn a_fall_that_begins_within_the_warm_up_is_refused() {
        let refused =
            |warmup_steps, decay_steps, total_steps| with_fall(warmup_steps, decay_steps).refused_in(total_steps);
        let (key, message, hint) = refused(600.0, 600.0, 1000).expect("they overlap");
        assert_eq!(key, "lr_schedule.decay_steps");
        assert!(message.contains("takes 600 and `lr_schedule.decay_steps` 600"), "{message}");
        assert!(hint.contains("at least 1200 steps"), "{hint}");
        let (_, _, hint) = refused(0.6, 0.5, 1000).expect("more than the whole");
        assert_eq!(hint, "lower one of them", "shares of a longer run overlap as well");
        for (warmup, decay) in [(401.0, 600.0), (0.5, 501.0), (0.6, 0.5), (10.0, 5000.0)] {
            assert!(refused(warmup, decay, 1000).is_some(), "{warmup}, {decay}");
        }
        for (warmup, decay) in [(400.0, 600.0), (0.0, 1000.0), (0.1, 0.9), (0.0, 5000.0), (2000.0, 0.1), (1000.0, 0.1)]
        {
            assert_eq!(refused(warmup, decay, 1000), None, "{warmup}, {decay}");
        }
        assert_eq!(refused(0.5, 0.5, 101), None, "51 and 51 steps by rounding");
        let linear = LrScheduleConfig::Linear(LinearSchedule { warmup_steps: 900.0, ..Default::default() });
        assert_eq!(linear.refused_in(1000), None, "it falls after the warm-up");
    }

    #[test]
    fn factors_of_which_none_trains_anything_are_refused() {
        let refused = |boundaries: &[u64], factors: &[f64], min_ratio| {
            let (boundaries, factors) = (boundaries.to_vec(), factors.to_vec());
            let schedule = PiecewiseConstantSchedule { boundaries, factors, min_ratio, ..Default::default() };
            LrScheduleConfig::PiecewiseConstant(schedule).refused_in(1000)
        };
        let (key, message, _) = refused(&[], &[0.0], 0.0).expect("there is no other");
        assert_eq!(key, "lr_schedule.factors");
        assert!(message.contains("a run of 1000 steps comes to are 0"), "{message}");
        assert!(refused(&[500, 1000], &[0.0, 0.0, 1.0], 0.0).is_some(), "the last is never reached");
        for (boundaries, factors, min_ratio) in
            [(&[999][..], &[0.0, 1.0][..], 0.0), (&[500], &[1.0, 0.0], 0.0), (&[], &[0.0], 0.1), (&[10], &[0.0], 0.0)]
        {
            assert_eq!(refused(boundaries, factors, min_ratio), None, "{boundaries:?}, {factors:?}, {min_ratio}");
        }
    }

    #[test]
    fn boundaries_behind_the_end_are_said() {
        let said = |boundaries: &[u64]| {
            with_schedule(LrScheduleConfig::PiecewiseConstant(PiecewiseConstantSchedule {
                boundaries: boundaries.to_vec(),
                ..PiecewiseConstantSchedule::default()
            }))
        };
        assert!(matches!(&said(&[500, 1000, 5000])[..], [text] if text.contains("does not come to 1000, 5000,")));
        assert_eq!(said(&[500, 999]), [""; 0]);
    }

    #[test]
    fn more_cycles_than_the_steps_can_show_are_said() {
        let restarts = |cycles, warmup_steps| {
            let schedule = CosineWithRestartsSchedule { cycles, warmup_steps, ..Default::default() };
            with_schedule(LrScheduleConfig::CosineWithRestarts(schedule))
        };
        let said = restarts(501, 0.0);
        assert!(
            matches!(&said[..], [text] if text.contains("= 501, and 1000 of 1000 steps come after the warm-up")),
            "{said:?}"
        );
        assert_eq!(restarts(251, 500.0).len(), 1, "the warm-up has none");
        let waves = |cycles| with_schedule(LrScheduleConfig::Cosine(CosineSchedule { cycles, ..Default::default() }));
        assert_eq!(waves(1e9).len(), 1);
        for said in [restarts(500, 0.0), restarts(1, 999.0), waves(0.5), waves(500.0)] {
            assert_eq!(said, [""; 0]);
        }
        let one_step = LrScheduleConfig::CosineWithRestarts(CosineWithRestartsSchedule::default());
        assert_eq!(one_step.shape_warnings(1), [""; 0]);
    }

    #[test]
    fn shares_of_less_than_half_a_step_are_said() {
        let said = with_schedule(with_fall(0.0004, 0.0001));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("`lr_schedule.warmup_steps` = 0.0004: ") && said[0].ends_with("there is no warm-up"));
        assert!(said[1].contains("`lr_schedule.decay_steps` = 0.0001: ") && said[1].ends_with("there is no fall"));
        assert_eq!(with_schedule(with_fall(0.0005, 0.001)), [""; 0]);
        assert_eq!(with_schedule(with_fall(0.0, 0.0)), [""; 0], "they are left out");
    }

    #[test]
    fn a_fall_to_the_whole_rate_is_said() {
        let said = |min_ratio| {
            with_schedule(LrScheduleConfig::Linear(LinearSchedule { min_ratio, ..LinearSchedule::default() }))
        };
        assert!(matches!(&said(1.0)[..], [text] if text.contains("`linear` never falls")));
        assert_eq!(said(0.99), [""; 0]);
    }

    #[test]
    fn a_text_encoder_that_never_stands_still_is_said() {
        let said = |steps, epochs, max_epochs| {
            let mut config = TrainConfig::default();
            config.train.max_text_encoder_steps = steps;
            config.train.max_text_encoder_epochs = epochs;
            config.train.max_epochs = max_epochs;
            config.length_warnings(1000)
        };
        assert!(
            matches!(&said(Some(100_000), None, None)[..], [text] if text.contains("= 100000, and the run has 1000 steps"))
        );
        assert!(matches!(&said(None, Some(3), Some(3))[..], [text] if text.contains("= 3, and the run has 3 epochs")));
        assert_eq!(said(Some(999), None, None), [""; 0]);
        assert_eq!(said(None, Some(2), Some(3)), [""; 0]);
        assert_eq!(said(None, Some(2), None), [""; 0]);
    }

    #[test]
    fn settings_of_an_average_that_is_off_are_said() {
        let mut config = TrainConfig::default();
        assert_eq!(config.length_warnings(1000), [""; 0]);
        config.ema.decay = 0.9;
        assert!(matches!(&config.length_warnings(1000)[..], [text] if text.contains("nothing is averaged")));
        config.ema.enabled = true;
        assert_eq!(config.length_warnings(1000), [""; 0]);
    }
}

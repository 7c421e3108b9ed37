//! A look at where the time of some steps goes: a Chrome trace, and the operators that cost most.

use crate::error::{Error, Result};
use sdtrain_files::PendingFile;
use sdtrain_torch::{ProfiledEvent, Profiler, Span, span};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::Device;

/// Steps before it: libtorch chooses kernels and takes memory in the first, and some caches fill.
const WARM_UP: u64 = 2;

/// A whole step among the spans.
const STEP: &CStr = c"step";

/// Lines of the table.
const COSTLIEST: usize = 10;

/// Steps that are to be looked at, are being looked at, or were.
#[derive(Debug)]
pub(crate) struct Profile {
    folder: PathBuf,
    device: Device,
    /// The first step and the last, counted from 1.
    steps: (u64, u64),
    /// The step that is going on; what is drawn, measured and saved between steps is recorded, too, and not counted.
    step: Option<Span>,
    running: Option<Profiler>,
    /// Seconds of each step so far.
    seconds: Vec<f64>,
}

impl Profile {
    /// Of `count` steps of a run that goes on after step `done` and ends with `last`: those after two that warm up, as far as there are
    /// as many. `folder` is where the trace goes.
    pub fn new(folder: PathBuf, device: Device, count: u64, done: u64, last: u64) -> Profile {
        let first = (done + 1 + WARM_UP).min((last + 1).saturating_sub(count)).max(done + 1);
        let steps = (first, last.min(first + count - 1));
        Profile { folder, device, steps, step: None, running: None, seconds: Vec::new() }
    }

    /// Before `step`.
    pub fn begin(&mut self, step: u64) -> Result<()> {
        if self.running.is_none() && step == self.steps.0 {
            self.running = Some(Profiler::begin(self.device)?);
        }
        if self.running.is_some() && step <= self.steps.1 {
            self.step = Some(span(STEP));
        }
        Ok(())
    }

    /// After a step, which took so long.
    pub fn step_ended(&mut self, seconds: f64) {
        if self.step.take().is_some() {
            self.seconds.push(seconds);
        }
    }

    /// Whether `step` was the last one, or is behind it.
    pub fn is_over(&self, step: u64) -> bool {
        step >= self.steps.1
    }

    /// Writes the trace; what is to be said, in lines. Nothing where no step was looked at.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.step = None;
        let Some(profiler) = self.running.take() else { return Ok(Vec::new()) };
        if self.seconds.is_empty() {
            return Ok(Vec::new());
        }
        let count = self.seconds.len() as u64;
        let (first, last) = (self.steps.0, self.steps.0 + count - 1);
        let path = self.folder.join(format!("step-{first:06}-{last:06}.json"));
        let stored = |error| Error::storage(&path, error);
        let file = PendingFile::create(&self.folder).map_err(stored)?;
        let events = profiler.end(file.path())?;
        file.publish(&path).map_err(stored)?;
        let took = Duration::from_secs_f64(self.seconds.iter().sum());
        let mut lines = vec![format!(
            "profile of steps {first} to {last}, {:.4} s each: `{}`, for https://ui.perfetto.dev or chrome://tracing",
            took.as_secs_f64() / count as f64,
            path.display()
        )];
        lines.extend(Table::of(&events, took, count).lines());
        Ok(lines)
    }
}

/// What operators, or kernels where there are some, cost.
struct Table {
    /// Whose time it is.
    head: &'static str,
    costs: Vec<Cost>,
    /// All of them.
    total: Duration,
    took: Duration,
    steps: u64,
}

/// What all runs of one operator cost.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cost {
    name: String,
    runs: u64,
    /// Without that of what ran within them.
    time: Duration,
}

impl Table {
    fn of(events: &[ProfiledEvent], took: Duration, steps: u64) -> Table {
        let mut spans: Vec<(u64, u64)> = events
            .iter()
            .filter(|event| event.is_span && !event.on_device && event.name.as_bytes() == STEP.to_bytes())
            .map(|event| (event.start_ns, event.end_ns))
            .collect();
        spans.sort_unstable();
        let is_in_a_step = |event: &ProfiledEvent| {
            let begun = spans.partition_point(|span| span.0 <= event.start_ns);
            begun > 0 && event.start_ns < spans[begun - 1].1
        };
        let counted = || events.iter().filter(|event| !event.is_span && is_in_a_step(event));
        let on_device = counted().any(|event| event.on_device);
        let of_one = counted().filter(|event| event.on_device == on_device);
        let (head, costs) = match on_device {
            true => ("kernel", sum(of_one.map(|event| (event, event.end_ns - event.start_ns)))),
            false => ("operator", sum(own_times(of_one.collect()).into_iter())),
        };
        Table { head, total: costs.iter().map(|cost| cost.time).sum(), costs, took, steps }
    }

    fn lines(&self) -> Vec<String> {
        let milliseconds = |time: Duration| 1000.0 * time.as_secs_f64() / self.steps as f64;
        let share = |time: Duration| 100.0 * time.as_secs_f64() / self.took.as_secs_f64().max(1e-9);
        let line = |name: &str, runs: u64, time| {
            format!("  {name:<48} {:>8} {:>11.3} {:>8.1} %", runs / self.steps, milliseconds(time), share(time))
        };
        let head = format!("  {:<48} {:>8} {:>11} {:>10}", self.head, "a step", "ms a step", "of a step");
        let (shown, others) = self.costs.split_at(COSTLIEST.min(self.costs.len()));
        let runs = |costs: &[Cost]| costs.iter().map(|cost| cost.runs).sum();
        let others_time = others.iter().map(|cost| cost.time).sum();
        let rest = self.took.saturating_sub(self.total);
        let mut lines = vec![head];
        lines.extend(shown.iter().map(|cost| line(&shortened(&cost.name), cost.runs, cost.time)));
        lines.push(line(&format!("{} others", others.len()), runs(others), others_time));
        let idle = if self.head == "kernel" { "no kernel" } else { "no operator" };
        lines.push(format!("  {idle:<48} {:>8} {:>11.3} {:>8.1} %", "", milliseconds(rest), share(rest)));
        lines
    }
}

/// A name of a column's width: of C++ templates the end says little.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(48) {
        Some(_) => name.chars().take(47).chain(['…']).collect(),
        None => name.to_string(),
    }
}

/// The costs by name, the largest first.
fn sum<'e>(times: impl Iterator<Item = (&'e ProfiledEvent, u64)>) -> Vec<Cost> {
    let mut by_name: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (event, time) in times {
        let entry = by_name.entry(&event.name).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let cost =
        |(name, (runs, time)): (&str, _)| Cost { name: name.to_string(), runs, time: Duration::from_nanos(time) };
    let mut costs: Vec<Cost> = by_name.into_iter().map(cost).collect();
    costs.sort_by_key(|cost| std::cmp::Reverse(cost.time));
    costs
}

/// How long each event ran itself, in nanoseconds, without the events of its thread within it.
fn own_times(mut events: Vec<&ProfiledEvent>) -> Vec<(&ProfiledEvent, u64)> {
    // Of two that begin together the longer one holds the other.
    events.sort_by_key(|event| (event.thread, event.start_ns, std::cmp::Reverse(event.end_ns)));
    let mut own: Vec<(&ProfiledEvent, u64)> = Vec::with_capacity(events.len());
    // Those that the next one may be within, the innermost last.
    let mut around: Vec<usize> = Vec::new();
    for event in events {
        let holds = |&index: &usize| own[index].0.thread == event.thread && own[index].0.end_ns > event.start_ns;
        while around.last().is_some_and(|index| !holds(index)) {
            around.pop();
        }
        let time = event.end_ns.saturating_sub(event.start_ns);
        if let Some(&outer) = around.last() {
            own[outer].1 = own[outer].1.saturating_sub(time);
        }
        around.push(own.len());
        own.push((event, time));
    }
    own
}

/// The folder of traces in a run's folder.
pub(crate) fn folder_in(output: &Path) -> PathBuf {
    output.join("profile")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, thread: u64, start_ns: u64, end_ns: u64) -> ProfiledEvent {
        ProfiledEvent { name: name.into(), on_device: false, is_span: false, thread, start_ns, end_ns }
    }

    #[test]
    fn time_counts_once_for_what_is_innermost() {
        let events = [
            event("outer", 1, 0, 100),
            event("inner", 1, 10, 40),
            event("innermost", 1, 10, 20),
            event("inner", 1, 40, 50),
            event("alone", 1, 100, 130),
            event("elsewhere", 2, 5, 25),
        ];
        let found = sum(own_times(events.iter().collect()).into_iter());
        let found: Vec<_> = found.iter().map(|cost| (cost.name.as_str(), cost.runs, cost.time.as_nanos())).collect();
        assert_eq!(
            found,
            [("outer", 1, 60), ("alone", 1, 30), ("inner", 2, 30), ("elsewhere", 1, 20), ("innermost", 1, 10)]
        );
    }

    #[test]
    fn kernels_go_before_operators_and_spans_are_neither() {
        let mut events = vec![event("step", 1, 0, 1000), event("aten::mm", 1, 0, 900), event("gemm", 0, 100, 400)];
        events[0].is_span = true;
        events[2].on_device = true;
        let table = Table::of(&events, Duration::from_nanos(1000), 1);
        assert_eq!((table.head, table.total), ("kernel", Duration::from_nanos(300)));
        let lines = table.lines();
        assert!(lines[1].contains("gemm") && lines[1].ends_with(" 30.0 %"), "{lines:#?}");
        assert!(lines.last().is_some_and(|line| line.contains("no kernel") && line.ends_with(" 70.0 %")), "{lines:#?}");
        events.truncate(2);
        assert_eq!(Table::of(&events, Duration::from_nanos(1000), 1).head, "operator");
    }

    #[test]
    fn what_is_done_between_steps_does_not_count() {
        let mut events = vec![event("step", 1, 10, 20), event("step", 1, 40, 60)];
        events.iter_mut().for_each(|event| event.is_span = true);
        events.extend([0, 10, 19, 20, 39, 59, 60].map(|start| event("aten::mm", 2, start, start + 1)));
        assert_eq!(Table::of(&events, Duration::from_nanos(30), 2).costs[0].runs, 3);
    }

    #[test]
    fn steps_that_warm_up_are_left_out_where_there_are_others() {
        let of = |count, done, last| Profile::new("".into(), Device::Cpu, count, done, last).steps;
        assert_eq!(of(5, 0, 100), (3, 7));
        assert_eq!(of(5, 40, 100), (43, 47));
        assert_eq!(of(5, 0, 6), (2, 6));
        assert_eq!(of(5, 98, 100), (99, 100));
        assert_eq!(of(500, 0, 100), (1, 100));
    }
}

//! The harness by hand: `crash ROW [--count N] [--from N] [--seconds S] [--ledger]`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sdtrain_crash::ledger::Ledger;
use sdtrain_crash::program::Program;
use sdtrain_crash::ranks::RankProgram;
use sdtrain_crash::{Extent, Report, calls, flips, kills, power, soak, states};

const USAGE: &str = "\
usage: crash ROW [--count N] [--from N] [--seconds S] [--ledger] [--stop] [--scratch FOLDER] [--program SDTRAIN]
  kills      SIGKILL of the driver at random moments                                 10000
  calls      SIGKILL at every file-system call of the driver, by strace              all
  errors     8 errors of failing disks at every such call, once and for good         all
  memory     the same errors at every call of a run in memory                        all
  power      power cuts of the driver on a loop-mounted ext4 (needs root)            1000
  states     states that a disk may be in after a power cut, in memory               1000000
  flips      every bit of a small checkpoint, every length of its files              all
  flips-1m   a bit of every byte of a checkpoint of 1 MiB                            all
  program    SIGKILL of `sdtrain train` on the tiny base                             500
  program-calls  the same at every call by which it saves, by strace                 all
  program-power  power cuts of it on a loop-mounted ext4 (needs root)                30
  ranks      one of 2 to 4 ranks killed, stopped, in a panic or hanging, in each phase (engine as in `leak`)  480
  soak       the whole program with every feature on for --seconds, a part of three: does it grow?  1
  leak       a part with 4 KiB of each step kept (sdtrain-engine built with --features seeded-bugs): must be seen  1
  bugs       every seeded bug with every row (built with --features seeded-bugs)     all
  table      what the ledger adds up to

  --count N         so many cases instead of those on the right
  --from N          begin with case N, so that processes side by side can share a row; 0, or where the ledger ends, unless told
  --seconds S       begin no new case after so long; 3000 unless told. `soak` lasts so long; 3600 unless told
  --part NAME       with `soak` and `leak`: lora (0), full (1) or textual_inversion (2) instead of --from
  --ledger          go on after the cases in tests/crash/ledger.jsonl, and add what was done to it
  --stop            stop at the first failure
  --scratch FOLDER  where the runs are; a temporary folder unless told
  --bugs A,B        with `bugs`: only these

Ends with 0 if everything survived, 1 if something did not, 3 if the machine lacks what the row needs.";

struct Arguments {
    row: String,
    count: Option<u64>,
    from: Option<u64>,
    seconds: u64,
    ledger: bool,
    stop: bool,
    scratch: Option<PathBuf>,
    program: Option<PathBuf>,
    part: Option<String>,
    #[cfg_attr(not(feature = "seeded-bugs"), allow(dead_code, reason = "only builds with bugs can choose among them"))]
    bugs: Vec<String>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut words = std::env::args().skip(1);
    let row = words.next().filter(|row| !row.starts_with('-')).ok_or(USAGE)?;
    let seconds = if row == "soak" { 3600 } else { 3000 };
    let mut arguments = Arguments {
        row,
        count: None,
        from: None,
        seconds,
        ledger: false,
        stop: false,
        scratch: None,
        program: None,
        part: None,
        bugs: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("`{word}` wants a value"));
        let number = |text: String| text.parse().map_err(|_| format!("`{text}` is no number"));
        match word.as_str() {
            "--count" => arguments.count = Some(number(value()?)?),
            "--from" => arguments.from = Some(number(value()?)?),
            "--seconds" => arguments.seconds = number(value()?)?,
            "--ledger" => arguments.ledger = true,
            "--stop" => arguments.stop = true,
            "--scratch" => arguments.scratch = Some(value()?.into()),
            "--program" => arguments.program = Some(value()?.into()),
            "--part" => arguments.part = Some(value()?),
            "--bugs" => arguments.bugs = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> Result<u8, String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
    let row = arguments.row.as_str();
    let default_count = match row {
        "table" => {
            print!("{}", Ledger::open(&repository)?.table()?);
            return Ok(0);
        }
        "kills" => 10_000,
        "power" => 1000,
        "states" => 1_000_000,
        "program" => 500,
        "program-power" => 30,
        "ranks" => sdtrain_crash::ranks::CASES,
        "soak" | "leak" => 1,
        "calls" | "errors" | "memory" | "flips" | "flips-1m" | "program-calls" | "bugs" => u64::MAX,
        _ => return Err(USAGE.to_owned()),
    };
    let number_of = |asked: &String| {
        let number = soak::PARTS.iter().position(|part| part == asked);
        number.map(|number| number as u64).ok_or_else(|| format!("`--part` is one of {}", soak::PARTS.join(", ")))
    };
    let part = arguments.part.as_ref().map(number_of).transpose()?;
    let ledger = if arguments.ledger { Some(Ledger::open(&repository)?) } else { None };
    let from = match (part.or(arguments.from), &ledger) {
        (Some(from), _) => from,
        (None, Some(ledger)) if row != "bugs" => ledger.tried(row)?,
        _ => 0,
    };
    let began = Instant::now();
    let extent = Extent {
        from,
        count: arguments.count.unwrap_or(match row {
            // An hour each: one after another would hold the machine for too long.
            "soak" | "leak" => default_count,
            _ => default_count.saturating_sub(from),
        }),
        until: began + Duration::from_secs(arguments.seconds),
        stop_at_failure: arguments.stop,
    };
    let temporary = tempfile::tempdir().map_err(|error| format!("no temporary folder can be made: {error}"))?;
    let scratch = arguments.scratch.as_deref().unwrap_or(temporary.path());
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let driver = here.with_file_name("crash-driver");
    let program = arguments.program.clone().unwrap_or_else(|| here.with_file_name("sdtrain"));
    let whole = |steps| Program { path: &program, repository: &repository, steps };
    let report = match row {
        "kills" => kills::kills(&driver, scratch, extent),
        "calls" => calls::kills_at_calls(&driver, scratch, extent),
        "errors" => calls::errors_at_calls(&driver, scratch, 8, extent),
        "memory" => states::errors_in_memory(8, extent),
        "power" => power::power_cuts(&driver, scratch, 6, extent),
        "states" => states::power_cut_states(extent),
        "flips" => flips::small_checkpoint(extent),
        "flips-1m" => flips::large_checkpoint(extent),
        "program" => whole(30).kills(scratch, extent),
        "program-calls" => whole(4).kills_at_calls(scratch, extent),
        "soak" => soak::soak(&program, &repository, scratch, extent, Duration::from_secs(arguments.seconds)),
        "leak" => soak::planted_leak(&program, &repository, scratch, extent, Duration::from_secs(arguments.seconds)),
        "ranks" => {
            RankProgram { path: &program, has_seeded_bugs: true, repository: &repository }.faults(scratch, extent)
        }
        "program-power" => whole(30).power_cuts(scratch, extent),
        _ => bugs(&here, arguments, extent)?,
    };
    let seconds = began.elapsed().as_secs();
    for failure in &report.failures {
        println!("FAILED {failure}");
    }
    if let Some(reason) = &report.skipped {
        println!("SKIPPED {row}: {reason}");
        return Ok(3);
    }
    println!(
        "{row}: {} tried from {from}, {} failed, {seconds} s; {}",
        report.tried,
        report.failures.len(),
        report.note
    );
    if let Some(ledger) = &ledger {
        ledger.add(row, from, seconds, &report)?;
    }
    Ok(u8::from(!report.failures.is_empty()))
}

#[cfg(feature = "seeded-bugs")]
fn bugs(here: &Path, arguments: &Arguments, extent: Extent) -> Result<Report, String> {
    // About as many as the short form has.
    const METHODS: [(&str, &str); 7] = [
        ("flips", "100000"),
        ("states", "16000"),
        ("memory", "100000"),
        ("kills", "60"),
        ("calls", "60"),
        ("errors", "80"),
        ("power", "12"),
    ];
    Ok(sdtrain_crash::bugs::bugs(here, &METHODS, &arguments.bugs, extent))
}

#[cfg(not(feature = "seeded-bugs"))]
fn bugs(_: &Path, _: &Arguments, _: Extent) -> Result<Report, String> {
    Err("this build has no seeded bugs; `cargo run --release -p sdtrain-crash --features seeded-bugs -- bugs`"
        .to_owned())
}

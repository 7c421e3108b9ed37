"""Measures our program against diffusers and PEFT, in turns and in one sitting, and adds a table to docs/benchmarks.md.

    scripts/bench --python VENV/bin/python [--only tiny,sd15,methods,sampling,encoding,start,help,images,captions,optimizers,saving] [--rounds 3] [--threads N] [--base FOLDER] [--sdxl FILE]

tiny    steps a second on the built-in base model, fp32, 96 pixels, batch 8
sd15    a step of Stable Diffusion 1.5's architecture with random weights, bf16 and fp32, 256 pixels, batch 1
methods a step and the memory of full fine-tuning, textual inversion, DreamBooth, LoRA, LoHa, LoKr and DoRA on the built-in base,
        beside the same steps in diffusers, PEFT and LyCORIS (`reference_step.py`)
sampling  a denoising step of Stable Diffusion 1.5's architecture, bf16, 256 pixels, and of the built-in base, fp32, 128 pixels; pictures of
        both sides in fp32 are compared
encoding  an image of 512 pixels to the latents of Stable Diffusion 1.5's autoencoder, bf16
start   from the start of `scripts/run --config configs/lora_poster.toml` to its first optimizer step
help    `sdtrain --help`
images  a JPEG of 1536 × 1024 pixels to the tensor of a 512-bucket, beside Pillow and torch
captions  CLIP tokens of 10,000 captions, beside transformers' fast tokenizer; with CLIP's vocabulary and with another one
optimizers  a step over 40 million parameters and the bytes of its state, beside torch's AdamW
saving  a durable checkpoint, beside a plain write of the same bytes
sdxl-load  Stable Diffusion XL with random weights from a single file: seconds and anonymous memory until all is in bf16 and in fp16,
        beside `load_file` and `.to`; then `sdtrain convert` to a folder. 15 GB in TMPDIR; a file that is there: `--sdxl FILE`
sdxl-lora  a LoRA step of Stable Diffusion XL's architecture with random weights, bf16, 512 pixels, batch 1. 15 GB in TMPDIR

ranks   two ranks beside one, without diffusers, and sums over both by size

The last three run only where `--only` names them; those of SDXL on a machine of 24 GB.

Both sides train rank 16 on the UNet's attention layers. Times are medians over all rounds without each run's first two
steps; memory is the largest resident memory of the process. In each row the first ten (tiny) or three (sd15) steps of
our first run are replayed in diffusers, those of sd15 also in fp32: a speed without a matching trace counts for nothing.
Anything else that runs on the machine spoils the figures, so the load average is written beside them.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import earlier
import pictures_speed
import ranks_speed
import sdxl
import side_by_side
from side_by_side import ROOT, Case, Failed, compare, end_of, gigabytes, process, say

PARTS = ["tiny", "sd15", "methods", "sampling", "encoding", "start", "help", "images", "captions", "optimizers", "saving"]
# Run where they are named.
LARGE = ["sdxl-load", "sdxl-lora", "ranks"]
HERE_COME_TABLES = "<!-- scripts/bench adds each sitting below this line, newest first -->"


def load():
    return f"{os.getloadavg()[0]:.2f}"


def row(comparison, load_before, title=None):
    ours, theirs = comparison.seconds(comparison.ours), comparison.seconds(comparison.theirs)
    memory = [gigabytes([run.peak_bytes for run in runs]) for runs in (comparison.ours, comparison.theirs)]
    return (
        f"| {title or comparison.case.title} | {ours:.3f} s, {1 / ours:.2f}/s | {theirs:.3f} s, {1 / theirs:.2f}/s "
        f"| {comparison.ratio():.2f} × | {side_by_side.rate_in_words(comparison)} | {memory[0]} | {memory[1]} | {comparison.trace} "
        f"| {load_before} |"
    )


def seconds_to_first_step(command, output, log, cwd):
    """From the start of a command to the first line of metrics.jsonl in its folder `output`."""
    metrics, seconds = output / "metrics.jsonl", []

    def watch():
        if metrics.is_file() and metrics.stat().st_size:
            seconds.append(time.monotonic() - started)
            return True
        return False

    started = time.monotonic()
    process([*command, "--output", output], log, 300.0, watch, cwd=cwd)
    if not seconds:
        raise Failed(f"{command[0]} reached no step:\n{end_of(log)}")
    return seconds[0]


def program_by_itself(programs):
    """What trains the shipped LoRA, without pictures before the first step."""
    config = ROOT / "configs" / "lora_poster.toml"
    return [programs / "sdtrain", "train", "--config", config, "--set", "samples.prompts=[]"]


def time_of_start(programs, work):
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return seconds_to_first_step(program_by_itself(programs), Path(folder) / "output", work / "start.log", work)


def times_of_start(programs, work, rounds):
    """Seconds from the start of a command to its first step, for the shipped LoRA configuration."""
    found = {}
    config = ROOT / "configs" / "lora_poster.toml"
    # Once before, so that cargo has nothing left to build.
    process([ROOT / "scripts" / "run", "--help"], work / "run.log", 3600.0)
    commands = {
        "`scripts/run --config configs/lora_poster.toml`": [ROOT / "scripts" / "run", "--config", config],
        "the same without pictures at step 0": [ROOT / "scripts" / "run", "--config", config, "--set", "samples.prompts=[]"],
        "the program by itself, without pictures at step 0": program_by_itself(programs),
    }
    for index, (title, command) in enumerate(commands.items()):
        name = f"start-{index}"
        seconds = [
            seconds_to_first_step(command, work / "outputs" / f"{name}-{number}", work / f"{name}-{number}.log", work)
            for number in range(rounds)
        ]
        found[title] = statistics.median(seconds)
    return found


def time_of_help(programs, work):
    seconds = []
    for _ in range(21):
        started = time.perf_counter()
        subprocess.run([programs / "sdtrain", "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def answer_of(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def data_speed(task, *paths):
    return answer_of([sys.executable, ROOT / "scripts" / "compare" / "data_speed.py", task, *paths])


def rows_of_images(programs, work):
    say("images")
    folder = work / "photographs"
    data_speed("make-images", folder)
    ours = answer_of([programs / "examples" / "image_speed", folder])
    theirs = data_speed("images", folder)
    workers = f"{ours['one_worker']:.0f} and {ours['two_workers']:.0f}"
    processes = f"{ours['two_processes']:.0f}"
    return [
        f"| JPEG 1536 × 1024 to a tensor of 640 × 384, one thread | {ours['milliseconds']:.1f} ms "
        f"| {theirs['milliseconds']:.1f} ms (Pillow, torch) |",
        f"| images a second with one and with two workers | {workers} | |",
        f"| the same by two processes of one worker each: what the machine gives | {processes} | |",
    ]


def rows_of_captions(programs, work):
    say("captions")
    file = work / "captions.txt"
    folder = work / "vocabulary"
    data_speed("make-captions", file)
    data_speed("make-vocabulary", folder)
    rows = []
    for title, paths in [("CLIP", [file]), ("byte pairs of its own", [file, folder])]:
        ours = answer_of([programs / "examples" / "tokenizer_speed", *paths])
        theirs = data_speed("captions", *paths)
        if ours["tokens"] != theirs["tokens"]:
            raise Failed(f"the captions have {ours['tokens']} tokens here and {theirs['tokens']} in transformers ({title})")
        rows += [
            f"| tokens of a caption, {title}, one at a time | {ours['microseconds']:.1f} µs "
            f"| {theirs['microseconds']:.1f} µs (transformers) |",
            f"| the same, in one call for all | | {theirs['batch_microseconds']:.1f} µs |",
        ]
    return rows


def rows_of_optimizers(programs):
    say("optimizers")
    # In turns, since the machine is not equally fast at all times.
    rounds = [
        (
            answer_of([programs / "examples" / "optimizer_speed"]),
            answer_of([sys.executable, ROOT / "scripts" / "compare" / "optimizer_speed.py"]),
        )
        for _ in range(5)
    ]
    median = lambda values: sorted(values)[len(rounds) // 2]
    theirs = {name: median([found[name] for _, found in rounds]) for name in rounds[0][1]}
    ours = {
        name: {**found, "seconds": median([own[name]["seconds"] for own, _ in rounds])} for name, found in rounds[0][0].items()
    }
    own = ours["adamw"]["seconds"]
    # At least 0.95 of the fused kernel and 6 times the default loop is what it is to be.
    verdict = "" if theirs["fused"] / own >= 0.95 and theirs["loop"] / own >= 6 else " **less than it is to be**"
    beside = {
        "adamw": f"{1000 * theirs['fused']:.1f} ms (torch, fused), {1000 * theirs['loop']:.1f} ms (its default loop): "
        f"{theirs['fused'] / own:.2f} and {theirs['loop'] / own:.1f} times as long{verdict}"
    }
    return [
        f"| a step of `{name}` over 40 million parameters; state | {1000 * found['seconds']:.1f} ms; "
        f"{found['state_bytes_per_parameter']:.2f} bytes a parameter | {beside.get(name, '')} |"
        for name, found in ours.items()
    ]


def rows_of_saving(programs, work):
    say("saving")
    found = answer_of([programs / "examples" / "save_speed", work / "saving", 256])
    times = [found["publish"] / found[beside] for beside in ("write", "write_and_sync")]
    plain = (
        f"{found['write']:.2f} s; {found['write_and_sync']:.2f} s (a plain write; the same and waiting for the disk): "
        f"{times[0]:.1f} and {times[1]:.1f} times these{'' if times[1] <= 1.3 else ' **longer than it may**'}"
    )
    return [f"| a checkpoint of 256 MB, durable | {found['publish']:.2f} s | {plain} |"]


def commit():
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    name = git("rev-parse", "--short=10", "HEAD") or "unknown"
    return name + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def measure(arguments, work):
    """The lines of the section, and the facts of a diffusers run for its heading."""
    training, methods, other, ranks, facts = [], [], [], [], {}
    programs = arguments.program
    if {"tiny", "methods", "start"} & set(arguments.only):
        images = side_by_side.sample_images(work, 32)
    if "tiny" in arguments.only:
        folder = arguments.base or side_by_side.small_base(work, programs)
        case = Case("`builtin:poster-tiny`, 96 px, batch 8, fp32", folder, images, 96, 8, "fp32", 42)
        case.threads = arguments.threads
        if arguments.base:
            case.title = f"`{arguments.base.name}`, 96 px, batch 8, fp32"
        before = load()
        found = compare(case, programs, work, "tiny", arguments.rounds)
        training.append(row(found, before))
        facts = found.theirs[-1].facts
        first = [statistics.median(run.first_step for run in runs) for runs in (found.ours, found.theirs)]
        other.append(f"| start to first step of the row `tiny` above | {first[0]:.2f} s | {first[1]:.2f} s |")
    if "sd15" in arguments.only:
        folder = side_by_side.sd15(work)
        images = side_by_side.sample_images(work, 4)
        for dtype, steps in (("bf16", 10), ("fp32", 6)):
            title = f"Stable Diffusion 1.5's architecture, 256 px, batch 1, {dtype}"
            case = Case(title, folder, images, 256, 1, dtype, steps, trace_steps=3, threads=arguments.threads)
            before = load()
            found = compare(case, programs, work, f"sd15-{dtype}", arguments.rounds, timeout=1800.0)
            training.append(row(found, before))
            facts = found.theirs[-1].facts
        if not {"sampling", "encoding"} & set(arguments.only):
            shutil.rmtree(folder)
    if "methods" in arguments.only:
        folder = work / "poster-tiny"
        folder = folder if folder.is_dir() else side_by_side.small_base(work, programs)
        wanted = {title: side_by_side.METHODS[title] for title in arguments.methods or side_by_side.METHODS}
        for number, (title, overrides) in enumerate(wanted.items()):
            case = Case(title, folder, images, 96, 4, "fp32", 12, threads=arguments.threads, overrides=tuple(overrides))
            before = load()
            methods.append(row(side_by_side.compare_method(case, programs, work, f"method-{number}", arguments.rounds), before))
    if {"sampling", "encoding"} & set(arguments.only):
        folder = work / "sd15"
        folder = folder if folder.is_dir() else side_by_side.sd15(work)
        if "sampling" in arguments.only:
            title = "Stable Diffusion 1.5's architecture"
            other += pictures_speed.rows_of_drawing(programs, work, folder, title, "bf16", 256, arguments.rounds, arguments.threads)
            small = work / "poster-tiny"
            small = small if small.is_dir() else side_by_side.small_base(work, programs)
            other += pictures_speed.rows_of_drawing(programs, work, small, "`builtin:poster-tiny`", "fp32", 128, arguments.rounds, arguments.threads)
        if "encoding" in arguments.only:
            other += pictures_speed.rows_of_encoding(programs, work, folder, "bf16", arguments.rounds, arguments.threads)
        shutil.rmtree(folder)
    if "start" in arguments.only:
        say("start to first step")
        for title, seconds in times_of_start(programs, work, arguments.rounds).items():
            other.append(f"| start to first step: {title} | {seconds:.2f} s | |")
    if "help" in arguments.only:
        say("sdtrain --help")
        other.append(f"| `sdtrain --help` | {time_of_help(programs, work) * 1000:.1f} ms | |")
    if "images" in arguments.only:
        other += rows_of_images(programs, work)
    if "captions" in arguments.only:
        other += rows_of_captions(programs, work)
    if "optimizers" in arguments.only:
        other += rows_of_optimizers(programs)
    if "saving" in arguments.only:
        other += rows_of_saving(programs, work)
    if "ranks" in arguments.only:
        ranks = ranks_speed.rows(programs, work, arguments.rounds)
    if "sdxl-load" in arguments.only:
        other += sdxl.rows_of_loading(programs, work, arguments.rounds, arguments.threads, arguments.sdxl)
        other += sdxl.rows_of_converting(programs, work, arguments.sdxl)
    if "sdxl-lora" in arguments.only:
        folder = sdxl.folder(work, programs)
        images = side_by_side.sample_images(work, 4)
        title = "Stable Diffusion XL's architecture, 512 px, batch 1, bf16"
        case = Case(title, folder, images, 512, 1, "bf16", 5, trace_steps=2, threads=arguments.threads)
        before = load()
        # The weights in fp32 leave no room for activations of 512 pixels.
        found = compare(case, programs, work, "sdxl", arguments.rounds, timeout=3600.0, exactly_at=256)
        training.append(row(found, before))
        facts = found.theirs[-1].facts
        shutil.rmtree(folder)
    return training, methods, other, ranks, facts


def section(training, methods, other, ranks, facts, began, load_at_start):
    threads = facts.get("threads", os.cpu_count())
    lines = [
        f"## {began:%Y-%m-%d %H:%M}, commit {commit()}",
        "",
        f"{processor()}, {os.cpu_count()} cores, threads: {threads}, load {load_at_start} at the start. "
        + ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
        + ("." if facts else ""),
        "",
    ]
    if training:
        lines += [
            "| LoRA r16 on attention | sdtrain, a step | diffusers, a step | faster | of what the machine gives | sdtrain, memory "
            "| diffusers, memory | trace | load |",
            "|---|---|---|---|---|---|---|---|---|",
            *training,
            "",
        ]
    if methods:
        lines += [
            "| method, `builtin:poster-tiny`, 96 px, batch 4, fp32; adapters r16 on attention | sdtrain, a step "
            "| diffusers, a step | faster | of what the machine gives | sdtrain, memory | diffusers, memory | trace | load |",
            "|---|---|---|---|---|---|---|---|---|",
            *methods,
            "",
        ]
    if other:
        lines += ["| | sdtrain | diffusers |", "|---|---|---|", *other, ""]
    if ranks:
        lines += ["| sdtrain by ranks | | beside it |", "|---|---|---|", *ranks, ""]
    return "\n".join(lines)


def add_to(path, text):
    page = path.read_text()
    if HERE_COME_TABLES not in page:
        raise Failed(f"`{path}` has no line `{HERE_COME_TABLES}`")
    path.write_text(page.replace(HERE_COME_TABLES, f"{HERE_COME_TABLES}\n\n{text}".rstrip() + "\n", 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="folder with sdtrain and sdtrain-engine")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--methods", nargs="*", choices=list(side_by_side.METHODS), help="rows of the part `methods`; default: all")
    parser.add_argument("--rounds", type=int, help="runs of each side; default: 3, with --compare 5")
    parser.add_argument("--threads", type=int, help="processor threads of both sides; default: what each takes itself")
    parser.add_argument("--base", type=Path, help="a diffusers folder to train in the place of the built-in base")
    parser.add_argument("--sdxl", type=Path, help="a single file of Stable Diffusion XL to load in the place of random weights")
    parser.add_argument("--compare", type=Path, help="a folder with the programs of an earlier commit, to be held against these")
    parser.add_argument("--named", help="that commit, as it is called")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="where the table goes")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    arguments.rounds = arguments.rounds or (5 if arguments.compare else 3)
    for part in arguments.only:
        if part not in PARTS + LARGE:
            parser.error(f"unknown part `{part}`; there are {', '.join(PARTS + LARGE)}")
    arguments.program = arguments.program.resolve()
    arguments.compare = arguments.compare and arguments.compare.resolve()
    if arguments.compare and not (arguments.compare / "sdtrain").is_file():
        parser.error(f"there is no program in `{arguments.compare}`; `scripts/bench --compare REV` builds one")
    arguments.base = arguments.base and arguments.base.resolve()
    arguments.sdxl = arguments.sdxl and arguments.sdxl.resolve()
    began, load_at_start = datetime.datetime.now(), load()
    if os.getloadavg()[0] > 0.5:
        say(f"warning: the load average is {load_at_start}: something else runs here, and the figures will be wrong")
    with tempfile.TemporaryDirectory(prefix="sdtrain-bench-") as work:
        try:
            if arguments.compare:
                lines, slower = earlier.compare(arguments, Path(work), sys.modules[__name__])
                print("\n".join([f"now: {commit()}; then: {arguments.named or arguments.compare}", "", *lines]))
                say("\n".join(f"more than before: {title}" for title in slower))
                return 1 if slower else 0
            text = section(*measure(arguments, Path(work)), began, load_at_start)
            add_to(arguments.page, text)
        except Failed as failure:
            say(f"error: {failure}")
            return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

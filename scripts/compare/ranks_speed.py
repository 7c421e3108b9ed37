"""Two ranks against one: rows of scripts/compare/bench.py.

The same work is done twice, in turns: by one rank of two threads that plays both parts of each batch, and by two ranks of one thread each.
What adding up costs shows in the first without the others: one rank of one thread that computes one of the two parts. And one rank alone
with the reducer and without: what it costs where there is nothing to add; by one thread, with more steps and in turns of a second, since it is
little.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

from side_by_side import DATASETS, Failed, say

STEPS = 14
WARM_UP = 3
# Of runs that go on in turns.
LONG = 300
METHODS = {
    "LoRA r16": ["lora.rank=16"],
    "whole UNet, overlapped": ["method=full", "ranks.reducer=overlapped"],
    "whole UNet, flat": ["method=full", "ranks.reducer=flat"],
    "whole UNet, optimizer shared out": ["method=full", "ranks.shard_optimizer=true"],
}


ALONE = {
    "LoRA r16, flat": ["lora.rank=16", "ranks.reducer=flat"],
    "whole UNet, flat": ["method=full", "ranks.reducer=flat"],
    "whole UNet, overlapped": ["method=full", "ranks.reducer=overlapped"],
}


def config(work):
    path = work / "ranks.toml"
    path.write_text(
        f"""name = "ranks"
[model]
path = "builtin:poster-tiny"
[data]
resolution = 96
batch_size = 4
cache_text_encoder_outputs = true
[[data.subsets]]
path = "{DATASETS / 'posters-validation'}"
[optimizer]
type = "adamw"
learning_rate = 1e-4
[train]
max_steps = {STEPS}
[checkpoint]
every_steps = 0
[log]
tensorboard = false
"""
    )
    return path


def command_of(programs, work, output, ranks, settings):
    train = ["train", "--config", config(work), "--output", output, "--resume", "never"]
    for setting in settings:
        train += ["--set", setting]
    command = [programs / "sdtrain", *(["launch", "--nproc", ranks, "--"] if ranks else []), *train]
    return [str(word) for word in command]


def median_step(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[WARM_UP:])


def seconds(programs, work, ranks, threads, overrides):
    """The median step of a run by so many ranks, or by a process that was not launched as one where there are none."""
    output = work / "ranks-run"
    command = command_of(programs, work, output, ranks, [*overrides, f"train.threads={threads}"])
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise Failed(f"`{' '.join(command)}` ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return median_step(output)


def with_descendants(process):
    """The numbers of a process and of whatever it has started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def in_turns(programs, work, overrides):
    """The median steps of a plain run and of one rank with the reducer. Both processes are there all the time and go on in turns of a
    second: a machine's speed varies by more from minute to minute than what is looked for. A step in which its run was held up is far from
    the median."""
    outputs = [work / "ranks-plain", work / "ranks-alone"]
    settings = [*overrides, f"train.max_steps={LONG}", "train.threads=1"]
    commands = [command_of(programs, work, outputs[ranks], ranks, settings) for ranks in (0, 1)]
    logs = [open(output.with_suffix(".log"), "w+") for output in outputs]
    running = [subprocess.Popen(command, stdout=log, stderr=log) for command, log in zip(commands, logs, strict=True)]

    def signal_all(process, number):
        for one in with_descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    turn = 0
    while all(process.poll() is None for process in running):
        signal_all(running[1 - turn], signal.SIGSTOP)
        signal_all(running[turn], signal.SIGCONT)
        time.sleep(1)
        turn = 1 - turn
    for process, command, log in zip(running, commands, logs, strict=True):
        signal_all(process, signal.SIGCONT)
        if process.wait():
            log.seek(0)
            raise Failed(f"`{' '.join(command)}` ended with {process.returncode}:\n{log.read()[-2000:]}")
        log.close()
    return [median_step(output) for output in outputs]


def rows(programs, work, rounds):
    say("ranks")
    found = []
    for title, overrides in METHODS.items():
        times = {"two": [], "one": [], "half": []}
        for _ in range(rounds):
            times["two"].append(seconds(programs, work, 2, 1, overrides))
            times["one"].append(seconds(programs, work, 0, 2, [*overrides, "train.world_size=2"]))
            times["half"].append(seconds(programs, work, 0, 1, overrides))
        two, one, half = (statistics.median(times[name]) for name in ("two", "one", "half"))
        found.append(
            f"| {title}: a step of 2 × 4 images by two ranks of one thread | {two:.3f} s | by one of two threads {one:.3f} s: "
            f"{one / two:.2f} times as long; half of it by one of one thread {half:.3f} s |"
        )
    for title, overrides in ALONE.items():
        without, with_it = in_turns(programs, work, overrides)
        found.append(
            f"| {title}: a step of 4 images by one rank of one thread with the reducer | {1000 * with_it:.1f} ms | "
            f"without {1000 * without:.1f} ms: {100 * (with_it / without - 1):+.1f} % |"
        )
    made = subprocess.run([programs / "examples" / "all_reduce_speed"], capture_output=True, text=True, check=True)
    for line in made.stdout.splitlines():
        one = json.loads(line)
        rate = one["bytes"] / one["seconds"] / 1e9
        found.append(f"| all-reduce of {one['bytes'] / 1e6:.2f} MB, two ranks, Gloo, loopback | {1000 * one['seconds']:.2f} ms, {rate:.2f} GB/s | |")
    return found

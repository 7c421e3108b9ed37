"""Two ranks against one: rows of scripts/compare/bench.py.

The same work is done twice, in turns: by one rank of two threads that plays both parts of each batch, and by two ranks of one thread each.
What adding up costs shows in the first without the others: one rank of one thread that computes one of the two parts. And one rank alone
with the reducer and without: what it costs where there is nothing to add; by one thread and with more steps, since it is little.
"""

import json
import statistics
import subprocess

from side_by_side import DATASETS, Failed, say

STEPS = 14
WARM_UP = 3
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


def seconds(programs, work, ranks, threads, overrides):
    """The median step of a run by so many ranks, or by a process that was not launched as one where there are none."""
    output = work / "ranks-run"
    train = ["train", "--config", config(work), "--output", output, "--resume", "never"]
    for override in [*overrides, f"train.threads={threads}"]:
        train += ["--set", override]
    command = [programs / "sdtrain", *(["launch", "--nproc", ranks, "--"] if ranks else []), *train]
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if ended.returncode:
        raise Failed(f"`{' '.join(map(str, command))}` ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[WARM_UP:])


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
        # What is looked for is less than what a machine's speed varies by from minute to minute: pairs of runs that lie side by side, in
        # either order, and many of them.
        pairs = []
        for number in range(4 * rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            times = {ranks: seconds(programs, work, ranks, 1, [*overrides, "train.max_steps=40"]) for ranks in order}
            pairs.append((times[0], times[1]))
        without, with_it = (statistics.median(side) for side in zip(*pairs, strict=True))
        more = sorted(100 * (after / before - 1) for before, after in pairs)
        found.append(
            f"| {title}: a step of 4 images by one rank of one thread with the reducer | {with_it:.4f} s | without {without:.4f} s: "
            f"{statistics.median(more):+.1f} % in the middle of {len(more)} pairs ({more[len(more) // 4]:+.1f} to {more[-1 - len(more) // 4]:+.1f} "
            "in half of them) |"
        )
    made = subprocess.run([programs / "examples" / "all_reduce_speed"], capture_output=True, text=True, check=True)
    for line in made.stdout.splitlines():
        one = json.loads(line)
        rate = one["bytes"] / one["seconds"] / 1e9
        found.append(f"| all-reduce of {one['bytes'] / 1e6:.2f} MB, two ranks, Gloo, loopback | {1000 * one['seconds']:.2f} ms, {rate:.2f} GB/s | |")
    return found

"""Stable Diffusion XL at its full size with random weights, for bench.py: how it loads and is converted, and where its files lie.

Nothing here imports torch: each side runs in a process of its own, so that its memory can be measured.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import HERE, Failed, end_of, process, say

# A single file and the folder made of it; what is written beside them is small.
ROOM = 15e9
# The memory that loading may take beside the weights in the dtype of computing.
BESIDE = 1e9
BLOCK = 1 << 24


def room_for(work):
    free = shutil.disk_usage(work).free
    if free < ROOM:
        raise Failed(f"`{work}` has {free / 1e9:.1f} GB of room and {ROOM / 1e9:.0f} are needed; name another folder in TMPDIR")


def single_file(work):
    """The file, written where it is not there."""
    file = work / "sdxl.safetensors"
    if not file.exists():
        room_for(work)
        say("writing random weights of Stable Diffusion XL in fp16 (6.9 GB)")
        status, _ = process([sys.executable, HERE / "sdxl_file.py", file], work / "sdxl-file.log")
        if status != 0:
            raise Failed(f"sdxl_file.py ended with {status}:\n{end_of(work / 'sdxl-file.log')}")
    return file


def folder(work, programs):
    """The same model in bf16 as a diffusers folder; the single file is deleted."""
    target = work / "sdxl"
    if not target.exists():
        file = single_file(work)
        say("Stable Diffusion XL as a folder in bf16")
        anonymous([programs / "sdtrain", "convert", file, target, "--to", "diffusers", "--dtype", "bf16"], work / "sdxl-convert.log")
    (work / "sdxl.safetensors").unlink(missing_ok=True)
    return target


def anonymous(command, log, timeout=600.0):
    """Runs `command` with its output in `log`. Returns the most anonymous memory (RssAnon) that it had in bytes, and its seconds.

    Asked for every few milliseconds: what is there for less is not seen. Pages of a file that is mapped do not count.
    """
    errors = log.with_suffix(".errors")
    with open(log, "wb") as output, open(errors, "wb") as told:
        started = time.monotonic()
        child = subprocess.Popen([str(word) for word in command], stdout=output, stderr=told)
    peak, status = 0, Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        if time.monotonic() - started > timeout:
            child.kill()
            child.wait()
            raise Failed(f"took more than {timeout:.0f} s: {' '.join(map(str, command))}")
        try:
            line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon:")), None)
        except OSError:
            line = None
        # Linux counts in KiB. A process that has ended and was not asked for yet has no such line.
        peak = max(peak, 1024 * int(line.split()[1]) if line else 0)
        time.sleep(0.003)
    seconds = time.monotonic() - started
    if child.returncode != 0:
        raise Failed(f"`{' '.join(map(str, command))}` ended with {child.returncode}:\n{end_of(errors)}")
    return peak, seconds


def warm(file):
    """Brings a file into the page cache."""
    with open(file, "rb") as content:
        while content.read(BLOCK):
            pass


def one_load(command, log):
    peak, _ = anonymous(command, log)
    return {**json.loads(log.read_text().splitlines()[-1]), "peak": peak}


def rows_of_loading(programs, work, rounds, threads=None, file=None):
    """Rows of loading and converting `file`, or the random one: ours and `load_file` in turns."""
    file = file or single_file(work)
    ours = [programs / "examples" / "load_speed", file]
    theirs = [sys.executable, HERE / "load_speed.py", file]
    also = ["--threads", threads] if threads else []
    rows = []
    for dtype in ["bf16", "fp16"]:
        found = {"ours": [], "theirs": []}
        for number in range(rounds):
            say(f"loading {file.name} in {dtype}: round {number + 1} of {rounds}")
            for side, command in {"ours": [*ours, dtype], "theirs": [*theirs, dtype, *also]}.items():
                # A model and its file together may be more than the cache holds.
                warm(file)
                found[side].append(one_load(command, work / f"load-{side}.log"))
        middle = {side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in found.items()}
        ours_is, theirs_is = middle["ours"], middle["theirs"]
        wanted = ours_is["loaded"] <= theirs_is["read"] and ours_is["peak"] <= ours_is["bytes"] + BESIDE
        cells = {
            side: f"{run['loaded']:.2f} s, {run['read']:.2f} s with one read of all, {run['peak'] / 1e9:.2f} GB anonymous"
            for side, run in middle.items()
        }
        rows.append(
            f"| XL's single file ({file.stat().st_size / 1e9:.1f} GB, in the page cache) in {dtype}, {ours_is['bytes'] / 1e9:.2f} GB"
            f"{'' if wanted else ' **more than it may**'} | {cells['ours']} | {cells['theirs']} (`load_file`, `.to`) |"
        )
    return rows


def rows_of_converting(programs, work, file=None):
    """Rows of `sdtrain convert` of the file to a folder, as it is and in bf16; the second folder stays for the training."""
    if file:
        room_for(work)
    else:
        file = single_file(work)
    rows = []
    for title, target, more in [("", work / "sdxl-as-it-is", []), (" in bf16", work / "sdxl", ["--dtype", "bf16"])]:
        say(f"converting {file.name} to a folder{title}")
        warm(file)
        command = [programs / "sdtrain", "convert", file, target, "--to", "diffusers", *more]
        peak, seconds = anonymous(command, work / "sdxl-convert.log")
        written = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        rows.append(
            f"| `convert` of the same to a folder{title}, {written / 1e9:.1f} GB | {seconds:.1f} s, {peak / 1e9:.2f} GB anonymous | |"
        )
        if not more:
            shutil.rmtree(target)
    return rows

"""Parity and speed on an NVIDIA GPU against diffusers and PEFT; started by scripts/gpu_check, which says how.

Untested until its first run on such a machine. Writes gpu.md after every part, so a run that is cut short leaves what
there is. No part begins after its time is up; the whole takes under nine minutes.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import device_runs
import ranks_speed
import side_by_side
from side_by_side import Case, Failed, compare, gigabytes, say

# Seconds after the start when the last round and the last run behind it may begin, and the longest that one process may take.
LAST_ROUND = 330
LAST_RUN = 450
LONGEST = 120.0


class Page:
    """gpu.md, written again with every line."""

    def __init__(self, path):
        self.path, self.lines = path, []
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, *lines):
        self.lines += lines
        self.path.write_text("\n".join(self.lines) + "\n")


def describe():
    """One line about the machine, from the Python that is compared with."""
    code = (
        "import torch, diffusers, peft, transformers; "
        "print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU', 'torch', torch.__version__, "
        "'diffusers', diffusers.__version__, 'peft', peft.__version__, 'transformers', transformers.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"this Python cannot run the comparison:\n{done.stderr.strip()[-1500:]}")
    return done.stdout.strip()


def parity(case, programs, work):
    """Ten steps of ours in the case's type, replayed."""
    if case.dtype == "fp32":
        return side_by_side.check_exactly(case, programs, work, "parity-fp32", 10, LONGEST)
    trace = work / "parity.safetensors"
    side_by_side.run_ours(case, programs, work, "parity", trace, timeout=LONGEST)
    return side_by_side.check_trace(case, trace, work, "parity-replay", LONGEST)


def nccl(programs, device):
    """NCCL as far as one GPU can tell: a group of one rank, its operations held against what they must give."""
    for name in ("libsdtrain_nccl.so", "nccl_one_rank"):
        if not (programs / name).exists():
            return f"not tried: there is no `{name}` beside the programs (`scripts/gpu_pack` puts it there)"
    try:
        done = subprocess.run([programs / "nccl_one_rank", device], capture_output=True, text=True, timeout=LONGEST)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"failed: {error}"
    if done.returncode != 0:
        say(f"error: nccl_one_rank ended with {done.returncode}:\n{done.stderr.strip()[-1500:]}")
        return f"failed ({done.returncode})"
    return done.stdout.strip()


def rank_of_one(programs, work, device, reducer):
    """Twelve steps of the whole UNet by a rank without others, whose gradients travel all the same, beside those of a plain run."""
    lines = {}
    settings = ["method=full", f"ranks.reducer={reducer}", "train.max_steps=12"]
    for name, ranks in (("plain", 0), ("rank", 1)):
        output = work / f"{reducer}-{name}"
        command = [*ranks_speed.command_of(programs, work, output, ranks, settings), "--device", device]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            return f"failed: the {name} run takes more than {LONGEST:.0f} s"
        if done.returncode != 0:
            say(f"error: {' '.join(command)} ended with {done.returncode}:\n{done.stderr.strip()[-1500:]}")
            return f"failed ({done.returncode})"
        lines[name] = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    # What both runs print ends with the last one, that of the rank.
    if device.startswith("cuda") and "gradients travel by NCCL" not in done.stderr + done.stdout:
        return "failed: the gradients do not travel by NCCL"
    furthest = max(
        abs(rank["loss"] - plain["loss"]) / abs(plain["loss"]) for rank, plain in zip(lines["rank"], lines["plain"], strict=True)
    )
    verdict = "agrees" if furthest <= 1e-3 else "failed"
    return f"{verdict}: over {len(lines['plain'])} steps losses differ by {furthest:.1e} of them at most"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="folder with sdtrain and sdtrain-engine")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the wheels that this Python lacks")
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.md")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    began = time.monotonic()
    programs = arguments.program.resolve()
    page = Page(arguments.output / "gpu.md")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="sdtrain-gpu-") as folder:
        work = Path(folder)
        # Unpacked rather than imported from the archive: diffusers looks for its own files.
        for wheel in arguments.wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(work / "site")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(work / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            page.add("# GPU", "", describe(), "")
            base = side_by_side.small_base(work, programs)
        except Failed as failure:
            page.add(f"error: {failure}")
            say(f"error: {failure}")
            return 1

        verdict = nccl(programs, arguments.device)
        failures += verdict.startswith("failed")
        page.add(f"NCCL, one rank on one GPU: {verdict}", "")
        if (programs / "libsdtrain_nccl.so").exists():
            for reducer in ("flat", "overlapped"):
                verdict = rank_of_one(programs, work, arguments.device, reducer)
                failures += verdict.startswith("failed")
                page.add(f"The whole UNet trained by one rank, {reducer}: {verdict}", "")

        page.add("| parity: LoRA r16 of the built-in base, ten steps | trace |", "|---|---|")
        images = side_by_side.sample_images(work, 16)
        case = Case("fp32", base, images, 96, 8, "fp32", 10, device=arguments.device)
        for dtype in ("fp32", "bf16"):
            try:
                verdict = parity(dataclasses.replace(case, dtype=dtype), programs, work)
            except Failed as failure:
                verdict = "failed"
                say(f"error: {failure}")
            failures += not verdict.startswith("agrees")
            page.add(f"| {dtype} | {verdict} |")

        page.add(
            "",
            "| speed: Stable Diffusion 1.5's architecture, LoRA r16 on attention, 512 px, bf16 "
            "| sdtrain, a step | diffusers, a step | faster | of what the GPU gives | sdtrain, memory of the GPU "
            "| diffusers, memory of the GPU | trace |",
            "|---|---|---|---|---|---|---|---|",
        )
        try:
            sd15 = side_by_side.sd15(work, "bf16", arguments.device, LONGEST)
            images = side_by_side.sample_images(work, 8)
            for batch in (1, 4):
                if time.monotonic() > began + LAST_ROUND:
                    raise Failed(f"no time is left for batch {batch}")
                case = Case(f"batch {batch}", sd15, images, 512, batch, "bf16", 30, 3, arguments.device)
                found = compare(
                    case, programs, work, f"speed-{batch}", arguments.rounds, None, LONGEST, began + LAST_ROUND
                )
                ours, theirs = found.seconds(found.ours), found.seconds(found.theirs)
                memory = [gigabytes([run.device_bytes for run in runs]) for runs in (found.ours, found.theirs)]
                failures += not found.agrees()
                page.add(
                    f"| {case.title} (rounds: {len(found.ours)}) | {ours * 1000:.1f} ms | {theirs * 1000:.1f} ms "
                    f"| {found.ratio():.2f} × | {side_by_side.rate_in_words(found)} | {memory[0]} | {memory[1]} | {found.trace} |"
                )
        except Failed as failure:
            failures += 1
            say(f"error: {failure}")
            page.add("", "Cut short: see the messages of the run.")
        page.add("", "| runs of the built-in base on the device | |", "|---|---|")
        try:
            for title, verdict in device_runs.rows(programs, work, arguments.device, LONGEST):
                failures += verdict.startswith("failed")
                page.add(f"| {title} | {verdict} |")
                if time.monotonic() > began + LAST_RUN:
                    page.add("", "No time was left for the rows after this one.")
                    break
        except subprocess.TimeoutExpired as error:
            failures += 1
            page.add("", f"Cut short: a run takes more than {error.timeout:.0f} s.")
        page.add("", f"{time.monotonic() - began:.0f} s in all.")
    print(page.path.read_text())
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

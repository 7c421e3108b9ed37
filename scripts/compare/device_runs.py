"""What a run does on a device beside its speed: rows of scripts/compare/gpu_check.py.

Continued to the bit, every optimizer beside the processor's, TF32, an average in the processor's memory, and a step that does not fit.
On a processor (`gpu_check.py --device cpu`) all but the last are tried as well.
"""

import json
import os
import shutil
import subprocess

import ranks_speed

STEPS = 6
HALF = 3
# Each with what it needs to be itself.
OPTIMIZERS = {
    "adamw": [],
    "adamw_8bit": ["optimizer.min_8bit_size=1"],
    "adafactor": ["optimizer.relative_step=false", "optimizer.scale_parameter=false", "optimizer.learning_rate=1e-4"],
    "lion": [],
    "sgd": ["optimizer.momentum=0.9"],
    "prodigy": [],
    "dadapt_adam": [],
    "adamw_schedule_free": ["lr_schedule.type=constant"],
    "came": [],
    "muon": [],
}
CONTINUED = {
    "LoRA, fp32": ["lora.rank=4"],
    "LoRA, fp16, with an average": ["lora.rank=4", "precision.compute=fp16", "ema.enabled=true", "ema.decay=0.9"],
    "whole UNet, bf16 with stochastic rounding": ["method=full", "precision.compute=bf16", "precision.weights=bf16"],
    "whole UNet, 8-bit AdamW": ["method=full", "optimizer.type=adamw_8bit"],
}
# How far losses may be from a processor's: sums in another order, over six steps.
LIMIT = 1e-3
# The exit code of too little memory.
NO_MEMORY = 6


def train(programs, work, name, device, settings, longest, resume="auto"):
    """The run's folder, its exit status and what it said."""
    output = work / "device-runs" / name
    shutil.rmtree(output, ignore_errors=True)
    train = [programs / "sdtrain", "train", "--config", ranks_speed.config(work), "--output", output, "--resume", resume]
    settings = [f"train.max_steps={STEPS}", f"checkpoint.every_steps={HALF}", "checkpoint.keep_last=9", *settings]
    command = [*train, "--device", device, *(word for setting in settings for word in ("--set", setting))]
    # On a GPU convolutions of fp32 tensors are rounded to 10 bits by default.
    exactly = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"} if "precision.tf32=true" not in settings else None
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=longest, env=exactly)
    return output, done.returncode, done.stderr


def tensors(output):
    """Names, types and shapes of the products' tensors, and their bytes."""
    found = []
    for product in sorted(path for path in output.rglob("*.safetensors") if "checkpoints" not in path.parts):
        content = product.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        # When and where it was made.
        header.pop("__metadata__", None)
        found.append((product.name, header, content[start:]))
    return found


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def failed(code, said):
    return f"failed: exit code {code}: {said.strip()[-300:]}".replace("\n", " / ")


def continued(programs, work, device, settings, longest):
    """From the checkpoint in the middle to the bits of the run that went on."""
    straight, code, said = train(programs, work, "straight", device, settings, longest)
    if code:
        return failed(code, said)
    half = straight / "checkpoints" / f"step-{HALF:06}"
    again, code, said = train(programs, work, "again", device, settings, longest, resume=half)
    if code:
        return failed(code, said)
    same = tensors(straight) == tensors(again) and losses(straight)[HALF:] == losses(again)[-(STEPS - HALF) :]
    return "the same bits" if same else "failed: other bits"


def beside_processor(programs, work, device, settings, longest):
    """The losses of a few steps on the device and on the processor."""
    found = []
    for name, where in (("device", device), ("processor", "cpu")):
        output, code, said = train(programs, work, name, where, settings, longest)
        if code:
            return failed(code, said)
        found.append(losses(output))
    furthest = max(abs(one - other) / abs(other) for one, other in zip(*found, strict=True))
    return f"{'agrees' if furthest <= LIMIT else 'failed'}: losses differ by {furthest:.0e} of them at most"


def average(programs, work, device, longest):
    """An average that lies in the processor's memory is the one of the device's."""
    found = []
    for on_cpu in ("true", "false"):
        settings = ["lora.rank=4", "ema.enabled=true", "ema.decay=0.5", f"ema.on_cpu={on_cpu}"]
        output, code, said = train(programs, work, f"average-{on_cpu}", device, settings, longest)
        if code:
            return failed(code, said)
        found.append(losses(output))
    return "the same losses" if found[0] == found[1] else "failed: other losses"


def tf32(programs, work, device, longest):
    found = []
    for allowed in ("true", "false"):
        settings = ["method=full", f"precision.tf32={allowed}"]
        output, code, said = train(programs, work, f"tf32-{allowed}", device, settings, longest)
        if code:
            return failed(code, said)
        found.append(losses(output))
    differs = "is seen in the losses" if found[0] != found[1] else "changes no loss"
    return f"runs with and without, and {differs}"


def too_large(programs, work, device, longest):
    """A step that no GPU has the memory for, behind a checkpoint: exit code 6, and a message that says what takes less."""
    settings = ["method=full", "data.resolution=4096", "data.batch_size=4096", "data.cache_latents=false"]
    _, code, said = train(programs, work, "too-large", device, settings, longest)
    return "ends with 6" if code == NO_MEMORY else failed(code, said)


def rows(programs, work, device, longest):
    """Title and verdict of each; one that begins with `failed` is one."""
    for title, settings in CONTINUED.items():
        yield f"continued after step {HALF} of {STEPS}: {title}", continued(programs, work, device, settings, longest)
    for name, settings in OPTIMIZERS.items():
        settings = [f"optimizer.type={name}", "method=full", *settings]
        yield f"`{name}` beside the processor", beside_processor(programs, work, device, settings, longest)
    yield "an average in the processor's memory", average(programs, work, device, longest)
    if device.startswith("cuda"):
        yield "TF32", tf32(programs, work, device, longest)
        yield "a step that does not fit", too_large(programs, work, device, longest)

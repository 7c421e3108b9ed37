"""Holds the memory that `sdtrain check` predicts against what the run then takes, for every method on the built-in base.

    python3 scripts/compare/memory.py --program FOLDER [--only WORDS] [--threads 1]

FOLDER holds `sdtrain` and `sdtrain-engine`. Prints a table in Markdown; exit status 1 where one is more than 15 % off. Without pictures,
evaluation and checkpoints on the way, as the prediction is without them. Needs nothing but Python.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
LIMIT = 0.15

BASE = {
    "model.path": "builtin:poster-tiny",
    "data.batch_size": 4,
    "data.resolution": 128,
    "data.subsets": [{"path": str(DATASETS / "posters")}],
    "train.max_steps": 6,
    "checkpoint.every_steps": 0,
    "validation.evaluate_at_end": False,
    "log.tensorboard": False,
}
DREAMBOOTH = {
    "method": "dreambooth",
    "data.subsets": [{"path": str(DATASETS / "posters-subject")}],
    "dreambooth.prior": "base_prediction",
    "dreambooth.class_prompt": "poster, a house",
}
# The place of a model that is made when it is wanted.
INPAINTING = "inpainting base"
FULL = {"method": "full", "optimizer.learning_rate": 1e-5}
NARROW = {"precision.compute": "bf16", "precision.weights": "bf16", "precision.optimizer_state": "bf16"}
CASES = {
    "LoRA, 128 px, batch 4": {},
    "LoRA, 512 px, batch 2": {"data.resolution": 512, "data.batch_size": 2},
    "LoRA of both networks, 256 px, batch 4": {"data.resolution": 256, "lora.train_text_encoder": True},
    "`kind = \"dora\"`, 256 px, batch 4": {"data.resolution": 256, "lora.kind": "dora"},
    "`kind = \"loha\"`, 256 px, batch 4": {"data.resolution": 256, "lora.kind": "loha"},
    "`kind = \"lokr\"`, 256 px, batch 4": {"data.resolution": 256, "lora.kind": "lokr"},
    "`kind = \"ia3\"`, 256 px, batch 4": {"data.resolution": 256, "lora.kind": "ia3"},
    "LoRA, 512 px, batch 1, no cached latents": {"data.resolution": 512, "data.batch_size": 1, "data.cache_latents": False},
    "LoRA, 256 px, gradient checkpointing of blocks at full size": {
        "data.resolution": 256,
        "train.gradient_checkpointing": "high_resolution",
    },
    "LoRA, 256 px, gradient checkpointing of all blocks": {"data.resolution": 256, "train.gradient_checkpointing": "all"},
    "LoRA in bf16, 256 px": {"data.resolution": 256, "precision.compute": "bf16"},
    "LoRA in fp16, 256 px": {"data.resolution": 256, "precision.compute": "fp16"},
    "full, 128 px": FULL,
    "full, 8-bit AdamW, 128 px": FULL | {"optimizer.type": "adamw_8bit"},
    "full, `fused_backward`, 128 px": FULL | {"train.fused_backward": True, "train.max_grad_norm": 0},
    "full, 256 px": FULL | {"data.resolution": 256},
    "full with `[ema]`, 128 px": FULL | {"ema.enabled": True},
    "full, Adafactor, 128 px": FULL | {"optimizer.type": "adafactor", "optimizer.learning_rate": None},
    "full, 8-bit AdamW with `[ema]`, 192 px": FULL
    | {"optimizer.type": "adamw_8bit", "ema.enabled": True, "data.resolution": 192},
    "full, weights and state in bf16, 128 px": FULL | NARROW,
    "full, CAME, weights and state in bf16, 128 px": FULL | NARROW | {"optimizer.type": "came"},
    "full, Adafactor, weights and state in bf16, 128 px": FULL
    | NARROW
    | {"optimizer.type": "adafactor", "optimizer.learning_rate": None},
    "full, weights in bf16, `fused_backward`, 256 px": FULL
    | {
        "precision.compute": "bf16",
        "precision.weights": "bf16",
        "train.fused_backward": True,
        "train.max_grad_norm": 0,
        "data.resolution": 256,
    },
    "textual inversion, 256 px": {
        "method": "textual_inversion",
        "data.resolution": 256,
        "data.subsets": [{"path": str(DATASETS / "posters"), "caption_prefix": "<look>,"}],
        "textual_inversion.tokens": [{"word": "<look>", "initial_words": "poster"}],
    },
    "VAE, 256 px, batch 2": {"method": "vae", "data.resolution": 256, "data.batch_size": 2},
    "inpainting, LoRA, 256 px": {
        "method": "inpainting",
        "model.path": INPAINTING,
        "lora.targets": ["unet.conv_in", "unet.*.attn2.*"],
        "data.resolution": 256,
    },
    "full, Kahan, 128 px": FULL | {"precision.compute": "bf16", "precision.weights": "bf16", "precision.rounding": "kahan"},
    "`kind = \"full\"`, 256 px, batch 4": {"data.resolution": 256, "lora.kind": "full"},
    "full, Prodigy, 128 px": FULL | {"optimizer.type": "prodigy", "optimizer.learning_rate": None},
    "DreamBooth, full, class images, 192 px": DREAMBOOTH
    | {"dreambooth.prior": "class_images", "dreambooth.num_class_images": 2, "dreambooth.steps": 2, "data.resolution": 192},
    "DreamBooth, LoRA, the base's prediction, 256 px": DREAMBOOTH | {"trainable": "lora", "data.resolution": 256},
    "DreamBooth, full, the base's prediction, 256 px": DREAMBOOTH | {"trainable": "full", "data.resolution": 256},
}


def make_inpainting(program, folder):
    """The built-in base with five more channels of input, whose weights are 0."""
    base = ROOT / "crates" / "model" / "builtin" / "poster-tiny.safetensors"
    subprocess.run([program / "sdtrain", "convert", base, folder, "--to", "diffusers"], check=True, capture_output=True)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    data = {name: content[start:][slice(*tensor["data_offsets"])] for name, tensor in header.items()}
    outputs, inputs, *sides = header["conv_in.weight"]["shape"]
    header["conv_in.weight"]["shape"] = [outputs, 9, *sides]
    old = data["conv_in.weight"]
    row, channel = len(old) // outputs, len(old) // outputs // inputs
    data["conv_in.weight"] = b"".join(old[row * o : row * (o + 1)] + bytes(channel * (9 - inputs)) for o in range(outputs))
    place = 0
    for name, tensor in header.items():
        tensor["data_offsets"] = [place, place + len(data[name])]
        place += len(data[name])
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data.values()))


def toml(settings):
    """Dotted keys with their values; JSON's lists and strings are TOML's, its objects are written as inline tables."""

    def value(thing):
        if isinstance(thing, dict):
            return "{" + ", ".join(f"{key} = {value(inner)}" for key, inner in thing.items()) + "}"
        if isinstance(thing, list):
            return "[" + ", ".join(map(value, thing)) + "]"
        return json.dumps(thing)

    return "".join(f"{key} = {value(thing)}\n" for key, thing in settings.items() if thing is not None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--only", help="cases with these words in their name")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    off = 0
    print("| run | predicted | measured | |\n|---|---|---|---|", flush=True)
    for name, settings in CASES.items():
        if arguments.only and arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="sdtrain-memory-") as folder:
            folder = Path(folder)
            if settings.get("model.path") == INPAINTING:
                make_inpainting(arguments.program, folder / "base")
                settings = settings | {"model.path": str(folder / "base")}
            config = folder / "run.toml"
            config.write_text(toml({"name": "memory"} | BASE | settings | {"train.threads": arguments.threads}))
            call = [arguments.program / "sdtrain"]
            checked = subprocess.run([*call, "check", config], capture_output=True, text=True)
            trained = subprocess.run([*call, "--config", config, "--output", folder / "out"], capture_output=True, text=True)
            if checked.returncode or trained.returncode:
                sys.exit(f"{name}:\n{checked.stderr}{trained.stderr}")
            predicted = float(re.search(r"^memory +about ([\d.]+) GB", checked.stdout, re.MULTILINE)[1])
            measured = json.loads((folder / "out" / "run.json").read_text())["peak_memory_bytes"] / 1e9
        error = predicted / measured - 1
        off += abs(error) > LIMIT
        print(f"| {name} | {predicted:.2f} GB | {measured:.2f} GB | {100 * error:+.0f} % |".replace("-", "−"), flush=True)
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())

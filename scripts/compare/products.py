"""Draws the same pictures with our program and with diffusers from the files that our program writes.

    python scripts/compare/products.py --program FOLDER/sdtrain --model builtin:poster-tiny --lora FILE [--work FOLDER]

The base goes to diffusers as the folder that `sdtrain convert` writes, once more as a single file, and the LoRA in kohya's
and in PEFT's form, loaded by `load_lora_weights` as a user would. Each is drawn from the same prompts and seeds in fp32.
Prints, for each file, the largest and the mean difference of an 8-bit channel between both programs' pictures, and how far
the LoRA moved them. Exit status 1 when a channel differs by more than 1, or the LoRA moves nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from load_lora import load_adapter
from PIL import Image

logging.set_verbosity_error()
logging.disable_progress_bar()

STEPS, GUIDANCE = 10, 3.0


def our_pictures(arguments, work, name, extra=()):
    """`sdtrain sample` of each prompt: uint8 `[prompts, height, width, 3]`."""
    pictures = []
    for index, prompt in enumerate(arguments.prompts):
        folder = work / f"ours-{name}-{index}"
        command = [arguments.program, "sample", "--model", arguments.model, "--prompt", prompt, "--seed", str(index)]
        command += ["--steps", str(STEPS), "--guidance", str(GUIDANCE), "--dtype", "fp32", "--output", folder, *extra]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        pictures.append(np.asarray(Image.open(next(folder.glob("*.png"))).convert("RGB")))
    return np.stack(pictures)


def their_pictures(arguments, pipe):
    """The same prompts and seeds in diffusers."""
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for index, prompt in enumerate(arguments.prompts):
        generator = torch.Generator("cpu").manual_seed(index)
        found = pipe(prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator).images[0]
        pictures.append(np.asarray(found.convert("RGB")))
    return np.stack(pictures)


def convert(arguments, source, target, form):
    command = [str(arguments.program), "convert", str(source), str(target), "--to", form]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def pipeline(folder):
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--prompts", nargs="+", default=["zenpop poster of a red bottle", "poster of a blue house"])
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)

    folder = convert(arguments, arguments.model, work / "folder", "diffusers")
    base = our_pictures(arguments, work, "base")
    rows = [("model, diffusers folder", base, their_pictures(arguments, pipeline(folder)), None)]
    single = convert(arguments, folder, work / "single.safetensors", "single-file")
    whole = StableDiffusionPipeline.from_single_file(
        str(single), config=str(folder), torch_dtype=torch.float32, safety_checker=None
    )
    rows.append(("model, single file", base, their_pictures(arguments, whole), None))
    if arguments.lora:
        ours = our_pictures(arguments, work, "lora", ["--lora", arguments.lora])
        peft = convert(arguments, arguments.lora, work / "peft.safetensors", "peft-lora")
        for name, file in [("LoRA, kohya's form", arguments.lora), ("LoRA, PEFT's form", peft)]:
            pipe = pipeline(folder)
            load_adapter(pipe, file)
            rows.append((name, ours, their_pictures(arguments, pipe), base))

    passed = True
    print(f"{'file':<26} {'largest':>8} {'mean':>8} {'moved by':>9}   (8-bit channels)")
    for name, ours, theirs, before in rows:
        difference = np.abs(ours.astype(int) - theirs.astype(int))
        moved = None if before is None else np.abs(ours.astype(int) - before.astype(int)).mean()
        passed &= difference.max() <= 1 and (moved is None or moved > 1)
        print(f"{name:<26} {difference.max():>8} {difference.mean():>8.4f} {'' if moved is None else f'{moved:.1f}':>9}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Writes a diffusers folder with the architecture of Stable Diffusion 1.5 and random weights, for measuring speed.

    python scripts/compare/sd15_folder.py FOLDER [--dtype bf16] [--device cpu]

Speed and memory do not depend on what the weights are, and two programs that read the same folder can be held against
each other step by step. About 2.1 GB in 16 bits. The tokenizer is CLIP's, from the merges that are built into the program.
"""

import argparse
import gzip
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[2]

# The config.json files of https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, without what is default.
UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    block_out_channels=[320, 640, 1280, 1280],
    layers_per_block=2,
    attention_head_dim=8,
    cross_attention_dim=768,
    norm_num_groups=32,
)
VAE = dict(
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512],
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=32,
    sample_size=512,
    # What the file does not have: diffusers would write its own default, which asks for fp32.
    force_upcast=False,
)
TEXT_ENCODER = dict(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    projection_dim=768,
)
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def write_vocabulary(folder):
    """CLIP's 49,408 tokens: every byte, each within a word and at its end, what merges make of them, and two marks."""
    with gzip.open(ROOT / "crates" / "tokenizer" / "data" / "clip_merges.txt.gz", "rt", encoding="utf-8") as packed:
        merges = packed.read().splitlines()
    # GPT-2's letters for bytes: those that can be seen stand for themselves and come first.
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in visible] + [chr(256 + number) for number in range(256 - len(visible))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == TEXT_ENCODER["vocab_size"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def write(folder, dtype="bf16", device="cpu"):
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    # Built in the wanted type from the start: in fp32 it would take twice the memory on the way.
    torch.set_default_dtype({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
    parts = {
        "unet": lambda: UNet2DConditionModel(**UNET),
        "vae": lambda: AutoencoderKL(**VAE),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)),
    }
    for name, build in parts.items():
        with torch.device(device):
            module = build()
        module.to("cpu").save_pretrained(folder / name)
    small = ROOT / "configs" / "poster_tiny" / "model"
    shutil.copytree(small / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    write_vocabulary(folder / "tokenizer")
    index = json.loads((small / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", SCHEDULER["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--device", default="cpu", help="where the weights are drawn")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write(arguments.folder, arguments.dtype, arguments.device)


if __name__ == "__main__":
    sys.exit(main())

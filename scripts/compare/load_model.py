"""Loads what a run on a model of any family left behind the way a user does, in diffusers, and draws with it.

    python scripts/compare/load_model.py --model FOLDER [--folder PRODUCT] [--lora FILE ...] [--embedding FILE] [--single-file FILE]

Exit status 1 when an adapter or a learned word changes nothing, or when a tensor of the single file is not that of the folder beside it.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def opened(folder):
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, prompt):
    return pipe(
        prompt,
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images


def tensors(pipe):
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()}


def split(path):
    folder, name = os.path.split(os.path.abspath(path))
    return folder, {"weight_name": name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the folder that was trained from")
    parser.add_argument("--prompt", default="a red bottle", help="what to draw")
    parser.add_argument("--folder", help="a product of `full.format = \"diffusers\"`")
    parser.add_argument("--single-file", help="the same product as one file")
    parser.add_argument("--lora", nargs="*", default=[], help="adapter files")
    parser.add_argument("--embedding", help="a learned word of one text encoder, which the prompt holds")
    arguments = parser.parse_args()
    failed = False
    for path in arguments.lora:
        pipe = opened(arguments.model)
        before = drawn(pipe, arguments.prompt)
        folder, name = split(path)
        pipe.load_lora_weights(folder, **name)
        change = abs(drawn(pipe, arguments.prompt) - before).max()
        failed |= not change > 0
        print(f"{path}: pictures change by up to {change:.3g}; adapters of {', '.join(pipe.get_list_adapters())}")
    if arguments.embedding:
        pipe = opened(arguments.model)
        before, tokens = drawn(pipe, arguments.prompt), len(pipe.tokenizer)
        folder, name = split(arguments.embedding)
        pipe.load_textual_inversion(folder, **name)
        change = abs(drawn(pipe, arguments.prompt) - before).max()
        failed |= not change > 0
        print(f"{arguments.embedding}: {len(pipe.tokenizer) - tokens} tokens, pictures change by up to {change:.3g}")
    folder = opened(arguments.folder) if arguments.folder else None
    if folder:
        print(f"{arguments.folder}: {type(folder).__name__} with a {type(folder.text_encoder).__name__} draws, {drawn(folder, arguments.prompt).shape}")
    if arguments.single_file:
        kind = type(folder or opened(arguments.model))
        single = kind.from_single_file(arguments.single_file, config=arguments.model, torch_dtype=torch.float32)
        found, expected = tensors(single), tensors(folder) if folder else {}
        differing = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
        failed |= bool(differing)
        print(f"{arguments.single_file}: {len(found)} tensors; {len(expected)} compared, differing: {differing[:5]}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

"""Writes a single file with every tensor of Stable Diffusion XL in fp16 and random weights: 6.9 GB, for measuring speed and memory.

    python scripts/compare/sdxl_file.py FILE

Names and shapes are those of tests/fixtures/keys. Weights are drawn so that what goes through a layer keeps its size, norms are those of
an untrained network. One tensor is in memory at a time.
"""

import gzip
import json
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np

KEYS = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "keys"
# Where the files say the text encoder of SD1 is, and where XL has it.
FIRST_TEXT = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
TABLES = ["unet_sdxl.tsv", "te_clip_l.tsv", "te_openclip_bigg_sdxl.tsv", "vae.tsv"]
BLOCK = 1 << 22


def expanded(line):
    """The lines that one with `{10}` in it stands for."""
    count = re.search(r"\{(\d+)\}", line)
    if not count:
        return [line]
    return [piece for number in range(int(count[1])) for piece in expanded(line.replace(count[0], str(number)))]


def tensors():
    """Name and shape of every tensor of the file."""
    found = {}
    for table in TABLES:
        for line in gzip.decompress((KEYS / f"{table}.gz").read_bytes()).decode().splitlines():
            for row in expanded(line):
                _, shape, name, *other = row.split("\t")
                shape = [int(side) for side in (other[0] if other else shape).split(",")]
                # OpenCLIP has queries, keys and values in one tensor; its projection is square.
                name, *part = name.split(" ")
                if part and part[0] == "[0]":
                    found[name] = [3 * shape[0], *shape[1:]]
                elif not part or part[0] == "(transposed)":
                    found[name.replace(*FIRST_TEXT)] = shape
    return found


def is_norm(name, shape):
    return len(shape) == 1 and name.endswith("weight")


def write(path):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    named = tensors()
    for name, shape in named.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # One block of normal numbers, begun at another place for each tensor.
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(BLOCK, dtype=np.float32)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in named.items():
            count = math.prod(shape)
            if len(shape) == 1:
                file.write(np.full(count, 1.0 if is_norm(name, shape) else 0.0, np.float16).tobytes())
                continue
            spread = 0.02 if "embedding" in name else math.prod(shape[1:]) ** -0.5
            block = np.roll(normal * np.float32(spread), int(generator.integers(BLOCK))).astype(np.float16)
            for start in range(0, count, BLOCK):
                file.write(block[: min(BLOCK, count - start)].tobytes())
    return 8 + len(text) + at


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    print(f"{sys.argv[1]}: {write(sys.argv[1]) / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

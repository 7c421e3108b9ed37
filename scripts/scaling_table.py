#!/usr/bin/env python3
"""Prints the tables of docs/scaling.md: bytes a step, expected efficiency and memory with several ranks, by arithmetic.

    scripts/scaling_table.py                           # Markdown, to standard output
    scripts/scaling_table.py --check docs/scaling.md   # exit status 1 where the document has another figure

Parameters are counted in tests/fixtures/keys. Times of a step and speeds of links are assumptions, all of them in the upper part of
this file: nothing here was measured on a GPU. Needs nothing but Python 3.8. Units: bytes, seconds; GB is 1e9 bytes.
"""

import argparse
import gzip
import heapq
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"SD 1.5": "unet_sd15.tsv", "SD 2": "unet_sd21.tsv", "SDXL": "unet_sdxl.tsv"}

# A link is taken to carry four fifths of what it is sold for.
USABLE = 0.8
# GB/s, one direction. NVLink of an H100 or H200: 900 GB/s both ways. A ring of all GPUs crosses each machine's border once, so
# there the network cards of a machine count together.
NVLINK = USABLE * 450e9
INFINIBAND = USABLE * 8 * 400e9 / 8
ETHERNET = USABLE * 100e9 / 8
MACHINE = 8
PLACES = [  # (name, ranks, slowest link)
    ("8 in a machine, NVLink", 8, NVLINK),
    ("64, 8 × 400 Gb/s a machine", 64, min(NVLINK, INFINIBAND)),
    ("64, 100 Gb/s a machine", 64, ETHERNET),
]
# A collective of no bytes: so long for each doubling of the ranks.
LATENCY = 20e-6
# Gradients and gathered weights travel in fp32, whatever they are kept in (crates/trainer/src/ranks): a sum of bf16 would lose digits.
SENT = 4
# c10d's Reducer sends buckets of this size; the last one goes when the backward pass is over.
BUCKET = 25 * 2**20
# Numbers of one all-reduce of the flat way (ranks/flat.rs), and of each rank in one window of `shard_optimizer` (ranks/shares.rs).
FLAT_AT_ONCE = 8 * 2**20
WINDOW = 2 * 2**20
# A backward pass is twice a forward pass where every weight is trained.
BACKWARD = 2 / 3
# AdamW in fp32 reads weight, gradient and both moments and writes all but the gradient.
UPDATE_BYTES = 28
MEMORY_BANDWIDTH = 4.0e12

# (model, what is trained, examples a step and rank, seconds of a step of one rank). The times are aims for one H200, in bf16 with
# cached latents, and not measurements.
STEPS = [
    ("SD 1.5", "lora", 1, 0.008),
    ("SD 1.5", "lora", 8, 8 / 170),
    ("SDXL", "lora", 1, 0.046),
    ("SD 1.5", "full", 4, 4 / 105),
    ("SD 2", "full", 32, 32 / 145),
    ("SDXL", "full", 4, 4 / 17),
]
PIXELS = {"SD 1.5": 512, "SD 2": 512, "SDXL": 1024}
RANK = 16


def tensors(model):
    """(name, shape) of every parameter; a line with `{10}` in its name stands for ten."""
    for line in gzip.decompress((ROOT / "tests/fixtures/keys" / f"{KEYS[model]}.gz").read_bytes()).decode().splitlines():
        name, shape = line.split("\t")[:2]
        repeated = re.search(r"\{(\d+)\}", name)
        for number in range(int(repeated[1]) if repeated else 1):
            own = name.replace(repeated[0], str(number)) if repeated else name
            yield own, [int(size) for size in shape.split(",")]


def parameters(model):
    return sum(math.prod(shape) for _, shape in tensors(model))


def longest_share(model, ranks):
    """Numbers of the rank that has most of them: whole tensors, the largest first, each to the rank that has least (ranks/shares.rs)."""
    loads = [0] * ranks
    for size in sorted((math.prod(shape) for _, shape in tensors(model)), reverse=True):
        heapq.heapreplace(loads, loads[0] + size)
    return max(loads)


def lora_parameters(model, modules):
    """Of both matrices, for the linear layers whose path holds one of `modules`."""
    total = 0
    for name, shape in tensors(model):
        if name.endswith(".weight") and len(shape) == 2 and any(f".{module}." in name for module in modules):
            total += RANK * sum(shape)
    return total


ATTENTION = ("attn1", "attn2")
DEFAULT_TARGETS = (*ATTENTION, "ff")


def all_reduce(count, ranks, bandwidth, at_once):
    """Bytes that a rank sends, and seconds, of ring all-reduces of `count` numbers, `at_once` in each."""
    sent = 2 * (ranks - 1) / ranks * SENT * count
    return sent, sent / bandwidth + math.ceil(count / at_once) * LATENCY * math.log2(ranks)


def shared_out(model, ranks, bandwidth):
    """The same of `shard_optimizer`: gradients are reduced and scattered, weights gathered. Every share is sent as if it were the longest."""
    longest = longest_share(model, ranks)
    sent = 2 * (ranks - 1) * SENT * longest
    return sent, sent / bandwidth + 2 * math.ceil(longest / WINDOW) * LATENCY * math.log2(ranks)


def amount(size):
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def milliseconds(seconds):
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def table(head, rows):
    # The first column says what a row is; the others are figures.
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- |", "|---|").replace(" ---: ", "---:") for line in lines)


def counts():
    rows = [
        [
            model,
            f"{parameters(model):,}",
            f"{lora_parameters(model, DEFAULT_TARGETS):,}",
            f"{lora_parameters(model, ATTENTION):,}",
        ]
        for model in KEYS
    ]
    return table(["", "UNet", f"LoRA, rank {RANK}, default `targets`", "attention alone"], rows)


def sent_bytes():
    rows = []
    for model in ("SD 1.5", "SDXL"):
        lora, full = lora_parameters(model, DEFAULT_TARGETS), parameters(model)

        def reduced(count):
            return lambda ranks: all_reduce(count, ranks, 1, FLAT_AT_ONCE)[0]

        for name, count, sent in [
            ("LoRA", lora, reduced(lora)),
            ("full, weights in fp32 or bf16", full, reduced(full)),
            ("full, `shard_optimizer`, fp32 or bf16", full, lambda ranks: shared_out(model, ranks, 1)[0]),
        ]:
            rows.append([f"{model}, {name}", amount(SENT * count), *(amount(sent(ranks)) for ranks in (2, 8, 64))])
    return table(["", "gradients in fp32", "sent by a rank of 2", "of 8", "of 64"], rows)


def efficiency():
    rows = []
    for model, method, batch, step in STEPS:
        lora = method == "lora"
        trained = lora_parameters(model, DEFAULT_TARGETS) if lora else parameters(model)
        update = UPDATE_BYTES * trained / MEMORY_BANDWIDTH
        backward = BACKWARD * (step - update)

        def flat(ranks, bandwidth):
            return step + all_reduce(trained, ranks, bandwidth, FLAT_AT_ONCE)[1]

        def overlapped(ranks, bandwidth):
            bucket = BUCKET // SENT
            whole = all_reduce(trained, ranks, bandwidth, bucket)[1]
            last = all_reduce(min(bucket, trained), ranks, bandwidth, bucket)[1]
            return step + max(last, whole - backward)

        def sharded(ranks, bandwidth):
            part = longest_share(model, ranks) / trained
            return step - update * (1 - part) + shared_out(model, ranks, bandwidth)[1]

        ways = [("flat", flat)] if lora else [("overlapped", overlapped), ("flat", flat), ("`shard_optimizer`", sharded)]
        for name, seconds in ways:
            row = [f"{model} {PIXELS[model]} px, {method}, {batch} a rank, {name}", milliseconds(step)]
            for _, ranks, bandwidth in PLACES:
                taken = seconds(ranks, bandwidth)
                row.append(f"{milliseconds(taken)}, {100 * step / taken:.0f} %")
            rows.append(row)
    return table(["", "alone", *(name for name, _, _ in PLACES)], rows)


def memory():
    rows = []
    for model in ("SD 1.5", "SDXL"):
        for name, weights, gradients, state in [
            ("fp32, AdamW", 4, 4, 8),
            ("weights in bf16, state in fp32", 2, 2, 8),
            ("weights and state in bf16", 2, 2, 4),
        ]:
            count = parameters(model)
            sizes = [count * (weights + gradients) + longest_share(model, ranks) * state for ranks in (1, 2, 8, 64)]
            rows.append([f"{model}, {name}", *(f"{size / 1e9:.1f} GB" for size in sizes)])
    return table(["", "whole on each rank", "`shard_optimizer`, 2 ranks", "8", "64"], rows)


# Measured on files in folders (docs/benchmarks.md): a million images, one process.
LIST_BYTES, MANIFEST_BYTES = 582, 172
IMAGES = 100_000_000
RANKS_OF_DATA = 64
# An average JPEG of a web data set, 512 pixels at its smaller side.
JPEG_BYTES = 100e3
TEXT_STATES = 77 * 768
LATENT_PLACES = (512 // 8) ** 2


def data():
    # The cache keeps a mean and a deviation of four channels, in fp32; text states in the precision of the run.
    latents, text = 8 * LATENT_PLACES * 4, 2 * TEXT_STATES
    rate = RANKS_OF_DATA * 105
    rows = [
        ["the list of images, in the memory of each rank", f"{LIST_BYTES} bytes", f"{IMAGES * LIST_BYTES / 1e9:.0f} GB"],
        ["… of eight ranks in a machine", "", f"{MACHINE * IMAGES * LIST_BYTES / 1e9:.0f} GB"],
        ["the manifest of headers and captions, on disk", f"{MANIFEST_BYTES} bytes", f"{IMAGES * MANIFEST_BYTES / 1e9:.0f} GB"],
        ["images, as JPEG", f"{JPEG_BYTES / 1e3:.0f} kB", f"{IMAGES * JPEG_BYTES / 1e12:.0f} TB"],
        ["cached latents", f"{latents / 1e3:.0f} kB", f"{IMAGES * latents / 1e12:.1f} TB"],
        ["cached text states in bf16", f"{text / 1e3:.0f} kB", f"{IMAGES * text / 1e12:.1f} TB"],
        [f"read by {RANKS_OF_DATA} ranks, each 105 images a second", "JPEG", f"{rate * JPEG_BYTES / 1e9:.2f} GB/s"],
        ["", "latents and text states", f"{rate * (latents + text) / 1e9:.2f} GB/s"],
        ["an epoch of them", "", f"{IMAGES / rate / 3600:.1f} h"],
    ]
    return table(["", "an image", f"{IMAGES // 10**6} million"], rows)


TABLES = {
    "Parameters": counts,
    "Bytes a step": sent_bytes,
    "A step, and what is left of N times the speed": efficiency,
    "Weights, gradients and optimizer state of a rank": memory,
    "A hundred million images of 512 pixels": data,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--check", type=Path, metavar="DOCUMENT")
    document = arguments.parse_args().check
    made = {title: make() for title, make in TABLES.items()}
    if document is None:
        print("\n\n".join(f"**{title}**\n\n{text}" for title, text in made.items()))
        return
    text = document.read_text()
    stale = [title for title, lines in made.items() if lines not in text]
    for title in stale:
        print(f"{document}: the table `{title}` is another one: run scripts/scaling_table.py", file=sys.stderr)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()

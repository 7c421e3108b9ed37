"""What the machine gives at most, for the share of it that a step reaches: products of two matrices, and copies of memory.

    python scripts/compare/peak.py [fp32|bf16|fp16] [--device cpu] [--threads N]

Prints one JSON object: operations a second (a product and a sum are two) of the fastest of some square matrices, and bytes a second read
and written by a copy that fits no cache.
"""

import argparse
import json
import time

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SIDES = {"cpu": [1024, 2048], "cuda": [4096, 8192]}
COPIED = {"cpu": 1 << 28, "cuda": 1 << 31}
TIMES = 5


def fastest(work, synchronize):
    found = []
    for _ in range(TIMES + 1):
        start = time.perf_counter()
        work()
        synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", nargs="?", choices=DTYPES, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kind = torch.device(arguments.device).type
    synchronize = torch.cuda.synchronize if kind == "cuda" else lambda: None
    rates = []
    for side in SIDES[kind]:
        one, other = (torch.randn(side, side, device=arguments.device).to(DTYPES[arguments.dtype]) for _ in range(2))
        rates.append(2 * side**3 / fastest(lambda one=one, other=other: one @ other, synchronize))
    source = torch.ones(COPIED[kind], dtype=torch.uint8, device=arguments.device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / fastest(lambda: target.copy_(source), synchronize)
    print(json.dumps({"operations": max(rates), "bytes": bandwidth}))


if __name__ == "__main__":
    main()

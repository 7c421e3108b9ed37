"""How long `load_file`, `.to(dtype)` and one read of every tensor of a file take, as the other side of crates/model/examples/load_speed.rs.

    python scripts/compare/load_speed.py FILE [bf16|fp16|fp32] [--threads N]

Prints one JSON object. What the interpreter and torch take to start is not counted, as it is not on the other side.
"""

import argparse
import json
import sys
import time

import torch
from safetensors.torch import load_file

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("dtype", nargs="?", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    tensors = load_file(arguments.file)
    # One after the other, each in the place of what it was made of: both at once would be twice the model.
    for name in list(tensors):
        tensors[name] = tensors[name].to(DTYPES[arguments.dtype])
    loaded = time.perf_counter() - start
    total = sum(float(tensor.sum(dtype=torch.float32)) for tensor in tensors.values())
    read = time.perf_counter() - start
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    print(json.dumps({"loaded": loaded, "read": read, "tensors": len(tensors), "bytes": size, "sum": total}))


if __name__ == "__main__":
    sys.exit(main())

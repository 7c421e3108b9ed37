"""Times a step of torch's AdamW over 40 million parameters, as the other side of crates/optimizer/examples/optimizer_speed.rs.

Prints one JSON object: seconds of the fused kernel, of the default loop over tensors and of the `foreach` form.
"""

import json
import time

import torch

TENSORS, SHAPE, STEPS = 40, (1000, 1000), 7


def seconds(**options):
    parameters = [torch.randn(SHAPE, requires_grad=True) for _ in range(TENSORS)]
    for parameter in parameters:
        parameter.grad = torch.randn(SHAPE)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)
    # The first one also makes the state.
    optimizer.step()
    found = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.step()
        found.append(time.perf_counter() - start)
    return sorted(found)[STEPS // 2]


print(json.dumps({"fused": seconds(fused=True), "loop": seconds(foreach=False), "foreach": seconds(foreach=True)}))

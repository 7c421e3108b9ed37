"""Replays a trace of our training in diffusers and PEFT, and compares losses, gradients, trained weights and times.

    python scripts/compare/replay.py TRACE [--model FOLDER|FILE] [--repeat N]

TRACE is what `[debug] trace` wrote. Each step starts from the recorded latents, noise, masks, timesteps and prompts; the loss
with its weights is worked out anew from the configuration; the trained weights follow diffusers' own gradients from the
recorded initial ones. Exit status 1 when a loss or a trained weight differs by more than its tolerance. AdamW divides a gradient
by its own size, so one that is almost zero makes a whole step of its rounding, and a tensor that holds such numbers is off by
luck. Where a tensor differs in fp32, of all that training moved no more than the tolerance may differ (a thousandth of what one
tensor of a hundred learned would), and both sides are held against the same steps in fp64: over the tensors, the median of our
distance from these divided by that of diffusers' fp32 may be at most 1.25.
"""

import argparse
import json
import os
import re
import statistics
import sys
import time
import tomllib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors import safe_open

# Without a stated tolerance: rounding of fp32 over ten steps, and of 16 bits in two orders of the same sums.
LOSS_TOLERANCE = {"fp64": 1e-5, "fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3}
NEARNESS = 1.25
WEIGHT_TOLERANCE = {"fp64": 1e-4, "fp32": 1e-4, "bf16": 1e-1, "fp16": 5e-2}


class Trace:
    """The file of a trace: configuration, initial and final weights, and the inputs and results of each step."""

    def __init__(self, path):
        self.path = Path(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if "config" not in metadata:
            raise SystemExit(f"error: `{path}` has no `config` in its metadata, so it is not a trace")
        self.config = tomllib.loads(metadata["config"])
        self.initial = self.part(tensors, "initial.")
        self.final = self.part(tensors, "final.")
        numbers = {int(match[1]) for name in tensors if (match := re.match(r"step\.(\d+)\.", name))}
        self.steps = {number: self.part(tensors, f"step.{number}.") for number in sorted(numbers)}
        if not self.initial or not self.steps:
            raise SystemExit(f"error: `{path}` has no initial weights or no steps, so it is not a trace")

    @staticmethod
    def part(tensors, prefix):
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    def micro_batches(self, number):
        step = self.steps[number]
        micro = sorted({int(match[1]) for name in step if (match := re.match(r"micro\.(\d+)\.", name))})
        return [self.part(step, f"micro.{at}.") for at in micro] or [
            {name: value for name, value in step.items() if name not in ("loss", "grad_norm", "lr")}
        ]

    def number(self, step, name):
        value = self.steps[step].get(name)
        return float(value.reshape(-1)[0]) if value is not None else float("nan")

    def learning_rates(self, step):
        return [float(rate) for rate in self.steps[step]["lr"].reshape(-1)]


def find_model(trace, given):
    path = given or trace.config.get("model", {}).get("path", "")
    if path.startswith("builtin:"):
        raise SystemExit(
            f"error: `{path}` is inside our program\n"
            f"  hint: `sdtrain convert {path} FOLDER --to diffusers`, then pass `--model FOLDER`"
        )
    for candidate in [Path(path), trace.path.parent / path]:
        if path and candidate.exists():
            return candidate
    raise SystemExit(f"error: the trace's model `{path}` is not here\n  hint: pass `--model FOLDER`")


def our_seconds(trace, path):
    """Seconds of each step from the run's metrics.jsonl, by default the one beside the trace."""
    file = Path(path) if path else trace.path.parent / "metrics.jsonl"
    if not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return {row["step"]: row["seconds"] for row in rows if "seconds" in row}


def make_trainee(trace, model, model_config=None, **overrides):
    """The trace's model in diffusers with the step that its method asks for."""
    from autoencoding_step import AutoencodingTrainee
    from reference_step import Settings, Trainee

    kind = AutoencodingTrainee if trace.config.get("method") == "vae" else Trainee
    return kind(model, trace.initial, Settings.from_config(trace.config, **overrides), model_config)


def relative(ours, theirs):
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def replay(trace, trainee, repeats):
    """Results of the first pass and the times of all: pass after pass from the initial weights."""
    found, seconds, weights = {}, {number: [] for number in trace.steps}, None
    for _ in range(repeats):
        trainee.reset()
        for number in trace.steps:
            started = time.perf_counter()
            result = trainee.step(trace.micro_batches(number), trace.learning_rates(number))
            seconds[number].append(time.perf_counter() - started)
            found.setdefault(number, result)
        weights = weights or trainee.weights()
    return found, seconds, weights


def print_steps(trace, found, seconds, ours):
    print(f"{'':>5}  {'loss':^35}  {'gradient norm':^35}  {'seconds':^17}")
    print(f"{'step':>5}" + f"  {'ours':>12} {'diffusers':>12} {'relative':>9}" * 2 + f"  {'ours':>8} {'diffusers':>8}")
    worst = 0.0
    for number, (loss, norm) in found.items():
        our_loss, our_norm = trace.number(number, "loss"), trace.number(number, "grad_norm")
        difference = relative(our_loss, loss)
        # A comparison with a number that is not there, or not finite, is never within a tolerance.
        worst = max(worst, difference) if difference == difference else float("inf")
        own = f"{ours[number]:8.3f}" if number in ours else f"{'-':>8}"
        print(
            f"{number:>5}  {our_loss:12.8f} {loss:12.8f} {difference:9.1e}"
            f"  {our_norm:12.8f} {norm:12.8f} {relative(our_norm, norm):9.1e}"
            f"  {own} {statistics.median(seconds[number]):8.3f}"
        )
    return worst


def print_weights(trace, weights):
    """Prints the tensors that differ most. Returns the largest difference, relative to the tensor's norm, and that of all
    tensors together, relative to what training moved."""
    if not trace.final:
        print("\nno trained weights in this trace")
        return float("inf"), float("inf")
    rows, apart, size, moved = [], 0.0, 0.0, 0.0
    for name, theirs in weights.items():
        ours = trace.final[name].to(theirs.dtype)
        gap, norm = (ours - theirs).norm(), theirs.norm()
        apart, size = apart + gap**2, size + norm**2
        moved += (theirs - trace.initial[name].to(theirs.dtype)).norm() ** 2
        rows.append((float(gap / norm.clamp(min=1e-12)), float((ours - theirs).abs().max()), name))
    rows.sort(reverse=True)
    print(f"\ntrained weights: {len(rows)} tensors, farthest first")
    print(f"  {'relative':>9} {'largest':>9}  tensor")
    for difference, largest, name in rows[:5]:
        print(f"  {difference:9.1e} {largest:9.1e}  {name}")
    of_moved = float((apart / moved) ** 0.5)
    print(f"  together: {(apart / size) ** 0.5:.1e} of the weights, {of_moved:.1e} of what training moved")
    return rows[0][0], of_moved


def operations_of_step(trace, trainee):
    """Of the first step, forward and backward; a product and a sum are two."""
    from torch.utils.flop_counter import FlopCounterMode

    trainee.reset()
    number = min(trace.steps)
    with FlopCounterMode(display=False) as counter:
        trainee.step(trace.micro_batches(number), trace.learning_rates(number))
    return counter.get_total_flops()


def is_as_near_to_fp64(trace, weights, trainee):
    """Whether our trained weights are as near to the steps in fp64 as diffusers' in fp32, but for the luck of single numbers.
    `trainee`: in fp64."""
    _, _, exact = replay(trace, trainee, 1)
    ratios, farthest = [], {"ours": (0.0, ""), "diffusers fp32": (0.0, "")}
    for name, value in exact.items():
        size = value.norm().clamp(min=1e-12)
        apart = {"ours": trace.final[name], "diffusers fp32": weights[name]}
        apart = {who: float((tensor.to(value.dtype) - value).norm() / size) for who, tensor in apart.items()}
        farthest = {who: max(farthest[who], (distance, name)) for who, distance in apart.items()}
        ratios.append(apart["ours"] / max(apart["diffusers fp32"], 1e-12))
    print("\nfrom the same steps in fp64, the tensor farthest off")
    for who, (distance, name) in farthest.items():
        print(f"  {who:<14} {distance:9.1e}  {name}")
    ratio = statistics.median(ratios)
    print(f"  our distance divided by diffusers', median of {len(ratios)} tensors: {ratio:.2f} (at most {NEARNESS})")
    return ratio <= NEARNESS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--model", help="diffusers folder or single file; default: the one in the trace's configuration")
    parser.add_argument("--model-config", help="diffusers folder whose configuration describes a single file")
    parser.add_argument("--metrics", help="our metrics.jsonl, for our times; default: the one beside the trace")
    parser.add_argument("--repeat", type=int, default=1, help="passes over the trace; the times are medians")
    parser.add_argument("--threads", type=int, help="processor threads; default: OMP_NUM_THREADS or all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp64", "fp32", "bf16", "fp16"], help="default: as the run")
    parser.add_argument("--no-autocast", action="store_true", help="16-bit arithmetic throughout, adapters in fp32")
    parser.add_argument("--channels-last", action="store_true", help="run the UNet in channels_last")
    parser.add_argument("--loss-tolerance", type=float, help="default: 1e-5 in fp32")
    parser.add_argument("--weight-tolerance", type=float, help="default: 1e-4 in fp32")
    parser.add_argument("--count", action="store_true", help="count the first step's operations for --json (products, convolutions, attention)")
    parser.add_argument("--json", help="file to write all numbers to")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    from reference_step import are_adapters

    trace = Trace(arguments.trace)
    overrides = {"device": arguments.device, "autocast": not arguments.no_autocast}
    if arguments.precision:
        overrides["compute"] = arguments.precision

    model = find_model(trace, arguments.model)
    trainee = make_trainee(trace, model, arguments.model_config, **overrides)
    settings = trainee.settings
    adapters = are_adapters(trace.initial)
    if arguments.no_autocast and settings.compute != "fp32" and not adapters:
        raise SystemExit("error: weights trained in fp32 need autocast in 16 bits\n  hint: leave out `--no-autocast`")
    if arguments.channels_last:
        trainee.unet.to(memory_format=torch.channels_last)
    print(
        f"{arguments.trace}: {len(trace.steps)} steps, {len(trace.initial)} trained tensors, {settings.compute}, "
        f"{trainee.objective()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    ours = our_seconds(trace, arguments.metrics)
    found, seconds, weights = replay(trace, trainee, max(arguments.repeat, 1))
    worst_loss = print_steps(trace, found, seconds, ours)
    worst_weight, of_moved = print_weights(trace, weights)
    # The first step warms caches and allocators up, on both sides.
    steady = [statistics.median(times) for number, times in seconds.items() if number != min(seconds)]
    if steady:
        both = [f"diffusers {statistics.median(steady):.3f}"]
        own = [ours[number] for number in trace.steps if number in ours and number != min(seconds)]
        if own:
            both.insert(0, f"ours {statistics.median(own):.3f}")
        print(f"\nmedian seconds a step after the first: {', '.join(both)}")

    loss_tolerance = arguments.loss_tolerance or LOSS_TOLERANCE[settings.compute]
    weight_tolerance = arguments.weight_tolerance or WEIGHT_TOLERANCE[settings.compute]
    weights_pass = worst_weight <= weight_tolerance
    if not weights_pass and settings.compute == "fp32" and of_moved <= weight_tolerance:
        exact = make_trainee(trace, model, arguments.model_config, **overrides | {"compute": "fp64"})
        weights_pass = is_as_near_to_fp64(trace, weights, exact)
    passed = worst_loss <= loss_tolerance and weights_pass
    print(
        f"\n{'agrees' if passed else 'DIFFERS'}: loss {worst_loss:.1e} (at most {loss_tolerance:.0e}), "
        f"weights {worst_weight:.1e} (at most {weight_tolerance:.0e}"
        f"{'; as near to fp64 as diffusers' if weights_pass and worst_weight > weight_tolerance else ''})"
    )
    if arguments.json:
        report = {
            "passed": passed,
            "loss_difference": worst_loss,
            "weight_difference": worst_weight,
            "difference_of_what_moved": of_moved,
            "limits": {"loss": loss_tolerance, "weights": weight_tolerance},
            "steps": [
                {
                    "step": number,
                    "loss": [trace.number(number, "loss"), loss],
                    "grad_norm": [trace.number(number, "grad_norm"), norm],
                    "seconds": [ours.get(number), statistics.median(seconds[number])],
                }
                for number, (loss, norm) in found.items()
            ],
        }
        if arguments.count:
            report["operations"] = operations_of_step(trace, trainee)
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

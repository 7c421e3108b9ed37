"""Full fine-tuning of Stable Diffusion 1.5's architecture, 256 px, batch 1, in pure bf16: memory and time, ours and diffusers'.

    python scripts/compare/full_sd15.py --program FOLDER [--steps 4] [--threads N] [--only ours|theirs]

FOLDER holds `sdtrain` and `sdtrain-engine`. The weights are random and written first (2.1 GB in TMPDIR). Ours: latents and text cached, so
that VAE and text encoder are not resident; weights and state in bf16 with stochastic rounding (at most 8 GiB), and with
`fused_backward` and 8-bit state (at most 6 GiB). diffusers': the UNet with its weights, gradients and torch's fused AdamW state in bf16,
rounded to the nearest, on latents and states that are there already. Memory is the largest resident one of the process, loading included.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

# What our configuration has in every case, said last: another optimizer begins with a learning rate of its own.
PURE_BF16 = ("method=full", "optimizer.learning_rate=1e-5", "precision.weights=bf16", "precision.rounding=stochastic")
# What it has besides, and how many GiB are to be enough.
CASES = {
    "weights and state in bf16, stochastic rounding": (8, ("precision.optimizer_state=bf16",)),
    "the same with `fused_backward` and `adamw_8bit`": (
        6,
        ("train.fused_backward=true", "train.max_grad_norm=0", "optimizer.type=adamw_8bit"),
    ),
}


def ours(programs, folder, images, work, name, number, steps, threads):
    limit, overrides = CASES[name]
    case = side_by_side.Case(
        name, folder, images, 256, 1, "bf16", steps, threads=threads, overrides=overrides + PURE_BF16
    )
    try:
        run = side_by_side.run_ours(case, programs, work, f"full-{number}", timeout=1800.0)
    except side_by_side.Failed as failure:
        raise SystemExit(str(failure)) from None
    # The products are large.
    shutil.rmtree(work / "outputs" / f"full-{number}")
    return run.peak_bytes, statistics.median(run.seconds[1:]), limit


def theirs(folder, steps, threads):
    """In a process of its own: `full_sd15.py --only theirs --folder …`."""
    import torch
    import torch.nn.functional as F
    from diffusers import DDPMScheduler, UNet2DConditionModel

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.bfloat16)
    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, fused=True)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents, states = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 768, dtype=torch.bfloat16)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        noisy = schedule.add_noise(latents, noise, timesteps).bfloat16()
        loss = F.mse_loss(unet(noisy, timesteps, states).sample.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": statistics.median(seconds[1:])}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path)
    parser.add_argument("--folder", type=Path, help="a diffusers folder in place of random weights")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=["ours", "theirs"])
    arguments = parser.parse_args()
    if arguments.only == "theirs" and arguments.folder:
        theirs(arguments.folder, arguments.steps, arguments.threads)
        return 0
    passed = True
    with tempfile.TemporaryDirectory(prefix="sdtrain-full-") as work:
        work = Path(work)
        folder = arguments.folder or side_by_side.sd15(work)
        images = side_by_side.sample_images(work, 4)
        print("| full fine-tuning of SD1.5's architecture, 256 px, batch 1 | memory | a step |\n|---|---|---|", flush=True)
        for number, name in enumerate(CASES if arguments.only != "theirs" else []):
            peak, seconds, limit = ours(
                arguments.program, folder, images, work, name, number, arguments.steps, arguments.threads
            )
            passed &= peak <= limit << 30
            print(f"| sdtrain: {name} | {peak / 2**30:.2f} GiB (at most {limit}) | {seconds:.1f} s |", flush=True)
        if arguments.only != "ours":
            command = [sys.executable, __file__, "--only", "theirs", "--folder", str(folder), "--steps", str(arguments.steps)]
            command += ["--threads", str(arguments.threads)] if arguments.threads else []
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            name = "diffusers: all in bf16, fused AdamW, rounded to the nearest"
            print(f"| {name} | {found['peak'] / 2**30:.2f} GiB | {found['seconds']:.1f} s |")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

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
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import side_by_side

CASES = {
    "weights and state in bf16, stochastic rounding": (8, ""),
    "the same with `fused_backward` and `adamw_8bit`": (6, "[train]\nfused_backward = true\nmax_grad_norm = 0\n"),
}


def ours(programs, folder, images, work, name, number, steps, threads):
    limit, train = CASES[name]
    eight = "8bit" in name
    config = work / f"full-{number}.toml"
    train = (train or "[train]\n") + f"max_steps = {steps}\n" + (f"threads = {threads}\n" if threads else "")
    state = "" if eight else 'optimizer_state = "bf16"\n'
    config.write_text(
        f'name = "full"\nmethod = "full"\n[model]\npath = "{folder}"\n[data]\nresolution = 256\nbatch_size = 1\n'
        f'cache_text_encoder_outputs = true\n[[data.subsets]]\npath = "{images}"\n'
        f'[optimizer]\ntype = "{"adamw_8bit" if eight else "adamw"}"\nlearning_rate = 1e-5\n'
        f'[precision]\ncompute = "bf16"\nweights = "bf16"\nrounding = "stochastic"\n{state}'
        f"{train}[checkpoint]\nevery_steps = 0\n[validation]\nevaluate_at_end = false\n[log]\ntensorboard = false\n"
    )
    output = work / f"full-{number}"
    command = [programs / "sdtrain", "--config", config, "--output", output, "--resume", "never"]
    status, peak = side_by_side.process(command, work / f"full-{number}.log", 1800.0)
    if status:
        raise SystemExit(side_by_side.end_of(work / f"full-{number}.log"))
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    subprocess.run(["rm", "-rf", output], check=True)
    return peak, statistics.median([row["seconds"] for row in rows][1:]), limit


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

"""Pictures drawn and encoded, without training: rows of scripts/compare/bench.py, and the other side of them.

    python scripts/compare/pictures_speed.py draw FOLDER --dtype bf16 --size 256 --steps 2 12 --output PNG
    python scripts/compare/pictures_speed.py encode FOLDER --dtype bf16 --images IMAGES...

As a script it is diffusers: it draws with so many steps and with so many, or encodes the images one by one, and prints one JSON object of
seconds. What a step takes is the difference of two drawings on either side, so that neither start nor loading is in it. What an image takes is for
us the difference of two folders, with the writing of the cache, and for diffusers the mean in one process, which writes nothing.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import side_by_side
from side_by_side import Failed, end_of, process, say

PROMPT, SEED, GUIDANCE = "a red house by the sea", 0, 7.5
SAMPLER = "ddim"
# Denoising steps of two drawings, and images of two folders.
STEPS, IMAGES = (2, 12), (2, 12)
ENCODED_SIZE = 512
TIMEOUT = 1800.0
# A picture of 8 bits in fp32: roundings add up over the steps.
MOST_LEVELS = 2


def pipeline(folder, dtype):
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch_dtype, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(arguments):
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    pipe = pipeline(arguments.folder, arguments.dtype)
    seconds = []
    # The first time warms up.
    for steps in [arguments.steps[0], *arguments.steps]:
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(SEED)
        picture = pipe(
            PROMPT, num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generator, width=arguments.size, height=arguments.size
        ).images[0]
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 1:
            picture.save(arguments.output)
    return {"seconds": seconds[1:]}


def encode(arguments):
    import numpy
    import torch
    from PIL import Image

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pipe = pipeline(arguments.folder, arguments.dtype)
    seconds = []
    with torch.inference_mode():
        for path in [arguments.images[0], *arguments.images]:
            began = time.perf_counter()
            numbers = torch.from_numpy(numpy.array(Image.open(path).convert("RGB")))
            pixels = numbers.permute(2, 0, 1)[None].to(pipe.dtype) / 127.5 - 1
            pipe.vae.encode(pixels).latent_dist.sample()
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:]}


def theirs(words, log, threads):
    words = [*words, *(["--threads", threads] if threads else [])]
    status, peak = process([sys.executable, __file__, *words], log, TIMEOUT)
    if status != 0:
        raise Failed(f"pictures_speed.py ended with {status}:\n{end_of(log)}")
    return json.loads(Path(log).read_text().splitlines()[-1])["seconds"], peak


def timed(command, log, threads):
    # `sample` has no option for it.
    environment = dict(os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {}))
    began = time.monotonic()
    status, peak = process(command, log, TIMEOUT, env=environment)
    if status != 0:
        raise Failed(f"`sdtrain` ended with {status}:\n{end_of(log)}")
    return time.monotonic() - began, peak


def one_drawing(programs, work, folder, dtype, size, steps, threads):
    """Our seconds and peak memory; the picture lies in `work/drawn/dtype-size-steps`."""
    output = work / "drawn" / f"{dtype}-{size}-{steps}"
    shutil.rmtree(output, ignore_errors=True)
    command = [programs / "sdtrain", "sample", "--model", folder, "--prompt", PROMPT, "--seed", SEED, "--guidance", GUIDANCE, "--width", size]
    command += ["--height", size, "--sampler", SAMPLER, "--steps", steps, "--dtype", dtype, "--output", output]
    return timed(command, work / "draw.log", threads)


def drawing_of_diffusers(work, folder, dtype, size, steps, threads):
    words = ["draw", folder, "--dtype", dtype, "--size", size, "--steps", *steps, "--output", work / f"diffusers-{dtype}-{size}.png"]
    return theirs(words, work / "draw-diffusers.log", threads)


def same_picture(work, dtype, size, steps):
    """The largest difference of two pictures of 8 bits."""
    import numpy
    from PIL import Image

    drawn = sorted((work / "drawn" / f"{dtype}-{size}-{steps}").glob("*.png"))
    if len(drawn) != 1:
        raise Failed(f"`sdtrain sample` was to draw one picture and drew {len(drawn)}")
    pictures = [numpy.array(Image.open(path).convert("RGB")).astype(int) for path in (drawn[0], work / f"diffusers-{dtype}-{size}.png")]
    return int(abs(pictures[0] - pictures[1]).max())


def row(title, seconds, peaks, unit, remark):
    own, other = (statistics.median(times) for times in seconds)
    memory = [side_by_side.gigabytes(each) for each in peaks]
    return (
        f"| {title} | {own:.3f} s {unit}, {memory[0]} | {other:.3f} s, {memory[1]}: {other / own:.2f} times as long; {remark} |"
    )


def our_drawing(programs, work, folder, dtype, size, threads):
    """Seconds of a denoising step, and peak memory."""
    # The first time warms up, as on the other side: who reads the weights first, waits for the disk.
    _, few, many = (one_drawing(programs, work, folder, dtype, size, steps, threads) for steps in [STEPS[0], *STEPS])
    return (many[0] - few[0]) / (STEPS[1] - STEPS[0]), many[1]


def their_drawing(work, folder, dtype, size, threads):
    seconds, peak = drawing_of_diffusers(work, folder, dtype, size, STEPS, threads)
    return (seconds[1] - seconds[0]) / (STEPS[1] - STEPS[0]), peak


def our_encoding(programs, work, folder, folders, dtype, threads):
    """Seconds of an image, and peak memory."""
    times = []
    # The first time warms up.
    for images in [folders[0], *folders]:
        cache = work / "latents"
        shutil.rmtree(cache, ignore_errors=True)
        config = work / "encode.toml"
        config.write_text(
            f'method = "lora"\n[model]\npath = {json.dumps(str(folder))}\n[data]\nresolution = {ENCODED_SIZE}\n'
            f"cache_dir = {json.dumps(str(cache))}\n[[data.subsets]]\npath = {json.dumps(str(images))}\n"
            f'[precision]\ncompute = "{dtype}"\n[train]\nmax_steps = 1\n'
        )
        times.append(timed([programs / "sdtrain", "dataset", "cache", "--config", config], work / "encode.log", threads))
    return (times[2][0] - times[1][0]) / (IMAGES[1] - IMAGES[0]), times[2][1]


def their_encoding(work, folder, images, dtype, threads):
    words = ["encode", folder, "--dtype", dtype, "--images", *sorted(images.glob("*.png"))]
    seconds, peak = theirs(words, work / "encode-diffusers.log", threads)
    return statistics.mean(seconds), peak


def in_turns(what, ours, others, rounds):
    """Both sides, so many times: seconds and peaks of each."""
    found = ([], [])
    for number in range(rounds):
        say(f"{what}: round {number + 1} of {rounds}")
        found[0].append(ours())
        found[1].append(others())
    return [[[pair[part] for pair in side] for side in found] for part in range(2)]


def rows_of_drawing(programs, work, folder, title, dtype, size, rounds, threads):
    """A denoising step with guidance."""
    seconds, peaks = in_turns(
        f"drawing, {title}",
        lambda: our_drawing(programs, work, folder, dtype, size, threads),
        lambda: their_drawing(work, folder, dtype, size, threads),
        rounds,
    )
    if dtype != "fp32":
        # Guidance makes much of the roundings of a network that was never trained: pictures in bf16 have nothing in common.
        one_drawing(programs, work, folder, "fp32", size, STEPS[0], threads)
        drawing_of_diffusers(work, folder, "fp32", size, (STEPS[0], STEPS[0]), threads)
    most = same_picture(work, "fp32", size, STEPS[0])
    verdict = "agree" if most <= MOST_LEVELS else "**differ**"
    remark = f"pictures of {STEPS[0]} steps in fp32 {verdict}: {most} of 255 apart (at most {MOST_LEVELS})"
    return [row(f"{title}, {size} px, {dtype}: a denoising step with guidance", seconds, peaks, "a step", remark)]


def folders_of_images(work):
    """Two folders, of so many images each."""
    import numpy
    from PIL import Image

    draws = numpy.random.default_rng(0)
    folders = []
    for count in IMAGES:
        folder = work / f"encoded-{count}"
        folder.mkdir()
        for number in range(count):
            # Slopes: of noise it would be the reading of PNG that is measured.
            corners = draws.integers(0, 256, (4, 4, 3), dtype=numpy.uint8)
            Image.fromarray(corners).resize((ENCODED_SIZE, ENCODED_SIZE), Image.BICUBIC).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(PROMPT)
        folders.append(folder)
    return folders


def rows_of_encoding(programs, work, folder, dtype, rounds, threads):
    """An image to its latents in `data.cache_dir`."""
    folders = folders_of_images(work)
    seconds, peaks = in_turns(
        "encoding",
        lambda: our_encoding(programs, work, folder, folders, dtype, threads),
        lambda: their_encoding(work, folder, folders[1], dtype, threads),
        rounds,
    )
    title = f"Stable Diffusion 1.5's autoencoder, {dtype}: an image of {ENCODED_SIZE} pixels to its latents"
    return [row(title, seconds, peaks, "an image", "held to diffusers' numbers by `crates/model/tests/it/vae.rs`")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["draw", "encode"])
    parser.add_argument("folder", type=Path, help="a diffusers folder")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, nargs=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=Path, nargs="*")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print(json.dumps({"draw": draw, "encode": encode}[arguments.work](arguments)))


if __name__ == "__main__":
    main()

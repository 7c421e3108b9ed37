"""Draws the same pictures with our program and with diffusers from the files that our program writes.

    python scripts/compare/products.py --program FOLDER/sdtrain --family all [--work FOLDER] [--markdown FILE]
    python scripts/compare/products.py --program FOLDER/sdtrain --model builtin:poster-tiny --lora FILE [--work FOLDER]

With `--family`, for each family's small model: the model as a single file and as the folder made of that file again (`sdtrain convert`);
then two steps of `full`, of `lora` and of `textual_inversion` each, and their products: a folder, that folder as a single file, the LoRA
in kohya's and in PEFT's form, the learned word. Models for inpainting are made of the small ones by diffusers, are trained by
`method = "inpainting"`, learn no words, and draw into a picture. With `--model` and `--lora` the same of a model and a LoRA that are
there already.
Diffusers loads each file as a user would (`from_pretrained`, `from_single_file`, `load_lora_weights`, `load_textual_inversion`); both
programs compute in fp32 and draw the first noise from torch's generator on the processor with the same seed. Prints, for each product,
the largest and the mean difference of an 8-bit channel between both programs' pictures, and how far the training moved them. Exit
status 1 when a channel differs by more than 1, when a product moves nothing, or when diffusers does not load one that it should.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import numpy as np
import torch
from diffusers.utils import logging
from load_embedding import load_words
from load_lora import load_adapter
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from inpainting_unet import inpainting_unet

warnings.simplefilter("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
POSTERS = ROOT / "datasets" / "posters"
# What those families start from that draw from a picture.
START = POSTERS / "00000.png"
STEPS, GUIDANCE, STRENGTH = 10, 3.0, 0.6
WORD = "<look>"
# The most that a channel may differ by: a rounding to 8 bits that fell the other way.
LIMIT = 1
FOLDER, SINGLE = "folder of the single file", "single file"
FULL, FULL_SINGLE = "full, folder", "full, single file"
KOHYA, PEFT, LEARNED = "LoRA, kohya", "LoRA, PEFT", "learned word"

# Two steps at a rate that moves a picture.
CONFIG = """\
name = "run"
seed = 42
[data]
resolution = 64
batch_size = 2
[[data.subsets]]
path = {posters}
[full]
format = "diffusers"
[lora]
rank = 4
format = "both"
[train]
max_steps = 2
threads = {threads}
[checkpoint]
every_steps = 0
[validation]
evaluate_at_end = false
[log]
tensorboard = false
"""


@dataclass
class Family:
    """A kind of model, with a small one to try it on."""

    title: str
    # As `--model` takes it.
    model: str
    prompts: list[str]
    # Nobody else knows adapters of this text encoder, nor reads it from a single file.
    bert: bool = False
    # It draws from a picture and not from a prompt alone. Also it has an upsampler in a level without attention: diffusers takes the
    # second module of such a level for an attention where blocks have their original names, and drops the upsampler's adapter.
    refiner: bool = False
    # A UNet that sees a mask and what it leaves of a picture, and draws nothing without them.
    inpainting: bool = False

    def single_file(self, product):
        return f"{product}; text encoder from the folder" if self.bert else product


ENGLISH = ["poster of a red bottle", "poster of a blue house"]
CHINESE, JAPANESE = ["一只红色的瓶子放在桌子上", "油画"], ["油絵", "暗い 写真"]
FAMILIES = {
    "poster-tiny": Family("built-in base (SD1's text encoder, v with zero terminal SNR)", "builtin:poster-tiny", ENGLISH),
    "sd1": Family("Stable Diffusion 1", str(FIXTURES / "tiny_sd1"), ENGLISH),
    "sd2": Family("Stable Diffusion 2", str(FIXTURES / "tiny_sd2"), ENGLISH),
    "sdxl": Family("Stable Diffusion XL", str(FIXTURES / "tiny_sdxl"), ENGLISH),
    "sdxl-refiner": Family("XL's refiner", str(FIXTURES / "tiny_sdxl_refiner"), ENGLISH, refiner=True),
    "taiyi": Family("Taiyi (BERT)", str(FIXTURES / "tiny_taiyi"), CHINESE, bert=True),
    "pai": Family("PAI-Diffusion (CLIP on BERT's vocabulary)", str(FIXTURES / "tiny_pai"), CHINESE),
    "japanese": Family("Japanese Stable Diffusion (CLIP on SentencePiece)", str(FIXTURES / "tiny_japanese"), JAPANESE),
    # The models that these are made of: `made_for_inpainting`.
    "sd1-inpainting": Family("Stable Diffusion 1 for inpainting", str(FIXTURES / "tiny_sd1"), ENGLISH, inpainting=True),
    "sd2-inpainting": Family("Stable Diffusion 2 for inpainting", str(FIXTURES / "tiny_sd2"), ENGLISH, inpainting=True),
    "sdxl-inpainting": Family("Stable Diffusion XL for inpainting", str(FIXTURES / "tiny_sdxl"), ENGLISH, inpainting=True),
}


def made_for_inpainting(family, work):
    """The family with the model that diffusers' pipeline for inpainting writes with a UNet of 9 input channels."""
    of_xl = (Path(family.model) / "text_encoder_2").is_dir()
    kind = diffusers.StableDiffusionXLInpaintPipeline if of_xl else diffusers.StableDiffusionInpaintPipeline
    options = dict(add_watermarker=False) if of_xl else dict(safety_checker=None)
    pipe = kind.from_pretrained(family.model, torch_dtype=torch.float32, **options)
    pipe.register_modules(unet=inpainting_unet(pipe.unet))
    pipe.save_pretrained(work / "model")
    return replace(family, model=str(work / "model"))


def mask_of(picture):
    """What is painted anew: white in a rectangle that is no multiple of what a latent spans."""
    mask = Image.new("L", picture.size)
    mask.paste(255, (picture.width // 4 + 1, picture.height // 4 + 2, picture.width - 7, picture.height - 5))
    return mask


def call(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nerror: `{' '.join(map(str, words))}` ended with {done.returncode}")


@dataclass
class Drawer:
    """Draws the pictures of one family with either program."""

    program: Path
    work: Path
    family: Family
    prompts: list[str]

    def ours(self, name, model, extra=()):
        """`sdtrain sample` of each prompt: uint8 `[prompts, height, width, 3]`."""
        pictures = []
        for index, prompt in enumerate(self.prompts):
            folder = self.work / f"ours-{name}-{index}"
            command = [self.program, "sample", "--model", model, "--prompt", prompt, "--seed", index, "--steps", STEPS]
            command += ["--guidance", GUIDANCE, "--dtype", "fp32", "--device", "cpu", "--output", folder, *extra]
            if self.family.refiner:
                command += ["--init-image", START, "--strength", STRENGTH]
            if self.family.inpainting:
                mask = self.work / "mask.png"
                mask_of(Image.open(START)).save(mask)
                command += ["--init-image", START, "--mask", mask, "--strength", STRENGTH]
            call(*command)
            pictures.append(np.asarray(Image.open(next(folder.glob("*.png"))).convert("RGB")))
        return np.stack(pictures)

    def theirs(self, pipe):
        """The same prompts and seeds in diffusers."""
        pipe.set_progress_bar_config(disable=True)
        start = {}
        if self.family.refiner or self.family.inpainting:
            image = Image.open(START).convert("RGB")
            start = dict(image=image, strength=STRENGTH)
        if self.family.inpainting:
            # By itself this pipeline draws at the size that the UNet was made for.
            start |= dict(mask_image=mask_of(image), width=image.width, height=image.height)
        pictures = []
        for index, prompt in enumerate(self.prompts):
            found = pipe(
                prompt,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=torch.Generator("cpu").manual_seed(index),
                **start,
            )
            pictures.append(np.asarray(found.images[0].convert("RGB")))
        return np.stack(pictures)

    def convert(self, source, name, form):
        target = self.work / name
        call(self.program, "convert", source, target, "--to", form)
        return target

    def train(self, method, *changes):
        """The output folder of two steps."""
        config = self.work / "run.toml"
        config.write_text(CONFIG.format(posters=json.dumps(str(POSTERS)), threads=torch.get_num_threads()))
        output = self.work / f"of-{method}"
        command = [self.program, "train", "--config", config, "--output", output, "--resume", "never", "--device", "cpu"]
        method = ["method=inpainting", f"trainable={method}"] if self.family.inpainting else [f"method={method}"]
        for change in [*method, f"model.path={self.family.model}", *changes]:
            command += ["--set", change]
        call(*command)
        return output


@dataclass
class Row:
    """What both programs drew with one product; `theirs` is None where diffusers does not load it."""

    product: str
    ours: np.ndarray
    theirs: np.ndarray | None
    # Our pictures without the training.
    before: np.ndarray | None

    def column(self):
        return self.product.split(";")[0]

    def moved(self):
        return None if self.before is None else float(np.abs(self.ours.astype(int) - self.before.astype(int)).mean())

    def differences(self):
        return np.abs(self.ours.astype(int) - self.theirs.astype(int))

    def passed(self):
        same = self.theirs is not None and self.differences().max() <= LIMIT
        return bool(same and (self.before is None or self.moved() > 0))


def kind_of(folder):
    """The pipeline that a folder names, and how it is made. A hidden watermark, as XL's draw one, would be a difference."""
    name = json.loads((Path(folder) / "model_index.json").read_text())["_class_name"]
    return getattr(diffusers, name), dict(add_watermarker=False) if "XL" in name else dict(safety_checker=None)


def pipeline(folder):
    kind, options = kind_of(folder)
    return kind.from_pretrained(folder, torch_dtype=torch.float32, **options)


def pipeline_of_file(drawer, file, folder):
    kind, options = kind_of(folder)
    if drawer.family.bert:
        options["text_encoder"] = pipeline(folder).text_encoder
    return kind.from_single_file(str(file), config=str(folder), torch_dtype=torch.float32, **options)


def with_lora(folder, file):
    pipe = pipeline(folder)
    load_adapter(pipe, file)
    return pipe


def with_word(folder, file):
    pipe = pipeline(folder)
    load_words(pipe, file)
    return pipe


def row(drawer, product, ours, open_theirs, before=None):
    """`open_theirs` gives diffusers' pipeline of the product."""
    try:
        pipe = open_theirs()
    except Exception as failure:
        print(f"{product}: {type(failure).__name__}: {failure}", file=sys.stderr)
        return Row(product, ours, None, before)
    return Row(product, ours, drawer.theirs(pipe), before)


def rows_of_model(drawer, base, single, folder):
    yield row(drawer, drawer.family.single_file(SINGLE), base, lambda: pipeline_of_file(drawer, single, folder))
    yield row(drawer, FOLDER, base, lambda: pipeline(folder))


def rows_of_lora(drawer, folder, base, kohya, peft):
    ours = drawer.ours("lora", drawer.family.model, ["--lora", kohya])
    yield row(drawer, KOHYA, ours, lambda: with_lora(folder, kohya), base)
    yield row(drawer, PEFT, ours, lambda: with_lora(folder, peft), base)


def rows_of_training(drawer, folder, base):
    product = drawer.train("full", "full.train_text_encoder=true", "optimizer.learning_rate=1e-3") / "run"
    ours = drawer.ours("full", product)
    yield row(drawer, FULL, ours, lambda: pipeline(product), base)
    single = drawer.convert(product, "full.safetensors", "single-file")
    yield row(drawer, drawer.family.single_file(FULL_SINGLE), ours, lambda: pipeline_of_file(drawer, single, product), base)

    more = [] if drawer.family.bert else ["lora.train_text_encoder=true"]
    more += [] if drawer.family.refiner else ["lora.convolutions=true"]
    output = drawer.train("lora", "optimizer.learning_rate=2e-2", *more)
    yield from rows_of_lora(drawer, folder, base, output / "run.safetensors", output / "run-peft.safetensors")

    if drawer.family.inpainting:
        return
    token = f'textual_inversion.tokens=[{{word="{WORD}", vectors=2}}]'
    subset = f"data.subsets.0.caption_prefix={WORD}, "
    output = drawer.train("textual_inversion", token, subset, "optimizer.learning_rate=0.5")
    learned = output / "run.safetensors"
    asking = Drawer(drawer.program, drawer.work, drawer.family, [f"{prompt} {WORD}" for prompt in drawer.prompts])
    unknown = asking.ours("unknown", drawer.family.model)
    ours = asking.ours("word", drawer.family.model, ["--embedding", learned])
    yield row(asking, LEARNED, ours, lambda: with_word(folder, learned), unknown)


def said(rows):
    """The rows, each said as soon as it is there."""
    for found in rows:
        largest, mean = "not loaded", ""
        if found.theirs is not None:
            largest, mean = str(found.differences().max()), f"{found.differences().mean():.4f}"
        moved = "" if found.before is None else f"{found.moved():.1f}"
        mark = "" if found.passed() else "  differs"
        print(f"  {found.product:<52} {largest:>10} {mean:>8} {moved:>9}{mark}", flush=True)
        yield found


def cell(found):
    """The largest difference, and in brackets how far the training moved a channel."""
    largest = "not loaded" if found.theirs is None else str(found.differences().max())
    moved = "" if found.before is None else f" ({found.moved():.1f})"
    return f"{largest}{moved}" + ("" if found.passed() else " **differs**")


def table(families):
    """A line of Markdown for each family, a column for each product; `families`: titles and rows."""
    columns = list(dict.fromkeys(found.column() for _, rows in families for found in rows))
    lines = ["| family | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for title, rows in families:
        cells = {found.column(): cell(found) for found in rows}
        lines.append(f"| {title} | " + " | ".join(cells.get(column, "") for column in columns) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="sdtrain, with sdtrain-engine beside it")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--family", nargs="+", choices=["all", *FAMILIES], help="small models to train and convert")
    what.add_argument("--model", help="a model that is there already, to convert")
    parser.add_argument("--lora", type=Path, help="a LoRA of `--model` in kohya's form")
    parser.add_argument("--prompts", nargs="+", help="what to draw")
    parser.add_argument("--work", type=Path, help="an empty folder for all files, kept; default: a temporary one")
    parser.add_argument("--threads", type=int, default=1, help="processor threads on both sides")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if arguments.model:
        families = {"model": Family(arguments.model, arguments.model, ENGLISH)}
    else:
        families = {name: family for name, family in FAMILIES.items() if {name, "all"} & set(arguments.family)}

    print(f"  {'file':<52} {'largest':>10} {'mean':>8} {'moved by':>9}   (8-bit channels)", flush=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="sdtrain-products-") as temporary:
        for name, family in families.items():
            print(family.title, flush=True)
            work = (arguments.work or Path(temporary)) / name
            work.mkdir(parents=True)
            if family.inpainting:
                family = made_for_inpainting(family, work)
            drawer = Drawer(arguments.program.resolve(), work, family, arguments.prompts or family.prompts)
            # The base of all others: our pictures of the model, and the folder that diffusers gets.
            base = drawer.ours("base", family.model)
            single = drawer.convert(family.model, "single.safetensors", "single-file")
            folder = drawer.convert(single, "folder", "diffusers")
            rows = list(said(rows_of_model(drawer, base, single, folder)))
            if arguments.family:
                rows += said(rows_of_training(drawer, folder, base))
            elif arguments.lora:
                peft = drawer.convert(arguments.lora, "peft.safetensors", "peft-lora")
                rows += said(rows_of_lora(drawer, folder, base, arguments.lora, peft))
            found.append((family.title, rows))
    if arguments.markdown:
        day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
        arguments.markdown.write_text(f"{day}, {versions}\n\n{table(found)}\n")
    return 0 if all(row.passed() for _, rows in found for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Ten steps of every method, objective and option of noise, timesteps and loss: run by our program, replayed in diffusers and PEFT.

    python scripts/compare/replay_all.py --program FOLDER/sdtrain [--only WORD …] [--work FOLDER] [--markdown FILE]

Trains the built-in base on the sample posters in fp32, one short run a case, and holds each step against the reference as
`replay.py` does. A case passes when no loss is off by more than 1e-5 of its size. Prints a row for each case; exit status 1 when
one differs. Traces that lie in `--work` already are not made again.
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image, ImageDraw
from replay import LOSS_TOLERANCE, WEIGHT_TOLERANCE, Trace, farthest, make_trainee, print_steps, print_weights, relative, replay

ROOT = Path(__file__).resolve().parents[2]
MODEL = "builtin:poster-tiny"
CONFIG = """\
name = "run"
seed = 42
[model]
path = "builtin:poster-tiny"
[data]
resolution = 96
batch_size = 2
[[data.subsets]]
path = "{posters}"
[lora]
rank = 4
alpha = 2
[full]
train_text_encoder = false
[dreambooth]
class_prompt = "poster, a red house"
num_class_images = 4
steps = 4
guidance = 1.0
[optimizer]
type = "adamw"
learning_rate = 1e-4
[train]
max_steps = 10
[checkpoint]
every_steps = 1000
[log]
tensorboard = false
[debug]
trace_steps = 10
"""

FULL = ["method=full"]
WORD = "textual_inversion.tokens=[{word=\"snorp\", vectors=2, initial_words=\"red house\"}]"
SNORPS = [f"data.subsets.0.path={ROOT / 'datasets/posters-word'}", WORD]
SUBJECT = [
    "method=dreambooth",
    f"data.subsets.0.path={ROOT / 'datasets/posters-subject'}",
]
BESIDE = [f"data.subsets=[{{path=\"{ROOT / 'datasets/posters'}\"}}, {{path=\"{ROOT / 'datasets/posters-regularization'}\", "
          "is_regularization=true, loss_weight=0.5}]", "loss.prior_loss_weight=0.4"]
# The built-in base predicts v with zero terminal SNR; as what else its answers are read changes the losses, not their agreement.
EPSILON = ["model.prediction_type=epsilon", "model.zero_terminal_snr=false"]
# Masks are in the alpha channel of copies of the posters.
MASKED = ["data.subsets.0.path={masked}", "data.subsets.0.alpha_mask=true"]

CASES = {
    # What is trained.
    "LoRA": [],
    "LoRA, convolutions of another rank and alpha": ["lora.convolutions=true", "lora.conv_rank=2", "lora.conv_alpha=1"],
    "LoRA, text encoder as well": ["lora.train_text_encoder=true", "lora.text_encoder_learning_rate=5e-5"],
    "DoRA": ["lora.kind=dora", "lora.convolutions=true"],
    "LoHa": ["lora.kind=loha", "lora.convolutions=true"],
    "LoKr": ["lora.kind=lokr", "lora.convolutions=true"],
    "LoKr of factor 4, both factors split": ["lora.kind=lokr", "lora.lokr.factor=4", "lora.lokr.decompose_both=true", "lora.rank=1"],
    "(IA)³, text encoder as well": ["lora.kind=ia3", "lora.train_text_encoder=true", "optimizer.learning_rate=1e-3"],
    "whole differences": ["lora.kind=full", "lora.convolutions=true"],
    "LoRA+, text encoder as well": [
        "lora.train_text_encoder=true", "lora.loraplus_lr_ratio=8", "lora.loraplus_text_encoder_lr_ratio=4"],
    "LoRA, rates of blocks": ["blocks.down_weights=linear", "blocks.mid_weight=0.5", "blocks.up_weights=cosine+0.25"],
    "LoRA, weight norms limited": ["lora.max_weight_norm=0.005", "optimizer.learning_rate=1e-3"],
    "LoRA, text encoder stops after step 4": ["lora.train_text_encoder=true", "train.max_text_encoder_steps=4"],
    "full, UNet": FULL,
    "full, UNet and text encoder": [*FULL, "full.train_text_encoder=true", "full.text_encoder_learning_rate=5e-5"],
    "full, text encoder alone": [*FULL, "full.train_unet=false", "full.train_text_encoder=true"],
    "full, rates of blocks, some frozen": [*FULL, "blocks.learning_rates=[0, 0, 1e-5, 1e-5, 2e-5, 2e-5, 5e-5, 1e-4, 0, 0, 1e-4, 5e-5, 0]"],
    "full, text encoder stops after step 4": [*FULL, "full.train_text_encoder=true", "train.max_text_encoder_steps=4"],
    "textual inversion": ["method=textual_inversion", *SNORPS],
    "textual inversion, lengths kept": ["method=textual_inversion", *SNORPS, "textual_inversion.preserve_norm=true"],
    "pivotal tuning: LoRA and words": [*SNORPS, "textual_inversion.learning_rate=5e-3"],
    "autoencoder": ["method=vae"],
    "autoencoder, decoder alone, all terms": [
        "method=vae", "vae_objective.train_encoder=false", "vae_objective.l2_weight=0.5", "vae_objective.gradient_weight=0.3",
        "vae_objective.kl_weight=1e-4"],
    # A subject and its class.
    "DreamBooth, full, class images": [*SUBJECT, "loss.prior_loss_weight=0.5"],
    "DreamBooth, LoRA, class images, min-SNR": [*SUBJECT, "trainable=lora", "loss.min_snr_gamma=5"],
    "DreamBooth, LoRA, held to the base": [*SUBJECT, "trainable=lora", "dreambooth.prior=base_prediction"],
    "DreamBooth, LoRA and text encoder, held to the base": [
        *SUBJECT, "trainable=lora", "lora.train_text_encoder=true", "dreambooth.prior=base_prediction",
        "loss.min_snr_gamma=5"],
    "DreamBooth, full, held to the base": [*SUBJECT, "dreambooth.prior=base_prediction"],
    "regularization images, weights of subsets": BESIDE,
    # Noise.
    "noise offset, of random strength and adaptive": [
        "noise.offset=0.1", "noise.offset_random_strength=true", "noise.adaptive_offset_scale=0.1"],
    "multi-resolution noise": ["noise.multires_iterations=6"],
    "multi-resolution noise, normalised over the batch": ["noise.multires_iterations=6", "noise.multires_norm=batch"],
    "perturbation of noise and target": ["noise.perturbation=0.1"],
    "input perturbation, of random strength": [
        "noise.input_perturbation=0.1", "noise.input_perturbation_random_strength=true"],
    # Timesteps.
    "timesteps 200 to 700, stratified": ["timesteps.min=200", "timesteps.max=700", "timesteps.stratified=true"],
    "timesteps logit-normal": ["timesteps.distribution.type=logit_normal", "timesteps.distribution.mean=-0.3"],
    "timesteps sigmoid": ["timesteps.distribution.type=sigmoid"],
    "timesteps cubic": ["timesteps.distribution.type=cubic"],
    "timesteps biased to the late ones": [
        "timesteps.distribution.type=biased", "timesteps.distribution.strategy=later",
        "timesteps.distribution.multiplier=3"],
    # Losses.
    "L1": ["loss.type=l1"],
    **{f"{title}, {schedule} c": [f"loss.type={kind}", f"loss.huber_schedule={schedule}", "loss.huber_c=0.2"]
       for title, kind in [("Huber", "huber"), ("smooth L1", "smooth_l1")]
       for schedule in ["constant", "exponential", "snr"]},
    "min-SNR": ["loss.min_snr_gamma=5"],
    "min-SNR, SNR from before the rescaling": ["loss.min_snr_gamma=5", "loss.snr_before_rescaling=true"],
    "debiased": ["loss.debiased_estimation=true"],
    "P2": ["loss.p2_gamma=1"],
    "v as noise prediction": ["loss.scale_v_pred_loss_like_noise_pred=true"],
    "min-SNR × v as noise prediction × debiased": [
        "loss.min_snr_gamma=5", "loss.scale_v_pred_loss_like_noise_pred=true", "loss.debiased_estimation=true"],
    "v without zero terminal SNR, min-SNR": ["model.zero_terminal_snr=false", "loss.min_snr_gamma=5"],
    "noise prediction": EPSILON,
    "noise prediction, min-SNR": [*EPSILON, "loss.min_snr_gamma=5"],
    "noise prediction, debiased": [*EPSILON, "loss.debiased_estimation=true"],
    "noise prediction, P2": [*EPSILON, "loss.p2_gamma=1"],
    "noise prediction, v-like": [*EPSILON, "loss.v_pred_like_loss=0.5"],
    "noise prediction, Huber": [*EPSILON, "loss.type=huber"],
    "sample prediction, min-SNR": ["model.prediction_type=sample", "loss.min_snr_gamma=5"],
    "masks": MASKED,
    "masks, the rest a tenth, areas alike, some images whole": [
        *MASKED, "loss.unmasked_weight=0.1", "loss.normalize_masked_area=true", "loss.unmasked_probability=0.3"],
    # The step around it.
    "accumulation over three batches": ["train.gradient_accumulation_steps=3", "loss.min_snr_gamma=5"],
    "gradient checkpointing": ["train.gradient_checkpointing=true", *FULL],
    "captions of two windows, second last layer, no clipping": [
        "model.clip_skip=2", "model.max_token_length=150", "train.max_grad_norm=0", "lora.train_text_encoder=true"],
}


def masked_posters(folder):
    """Twelve posters with an alpha channel: an ellipse that is grey at its rim."""
    folder.mkdir()
    for index in range(12):
        source = ROOT / "datasets/posters" / f"{index:05}.png"
        picture = Image.open(source).convert("RGB")
        alpha = Image.new("L", picture.size, 0)
        draw = ImageDraw.Draw(alpha)
        draw.ellipse([8 + index, 16, 80, 90 - index], fill=128)
        draw.ellipse([20 + index, 28, 68, 78 - index], fill=255)
        picture.putalpha(alpha)
        picture.save(folder / source.name)
        (folder / source.name).with_suffix(".txt").write_text(source.with_suffix(".txt").read_text())
    return folder


def traced(arguments, work, name, changes):
    """The trace of a run with `changes`."""
    folder = work / re.sub(r"\W+", "-", name)
    trace = folder / "trace.safetensors"
    changes = [change.replace("{masked}", str(work / "masked")) for change in changes]
    if not trace.exists():
        folder.mkdir(exist_ok=True)
        config = folder / "run.toml"
        config.write_text(CONFIG.format(posters=ROOT / "datasets/posters"))
        command = [arguments.program, "train", "--config", config, "--output", folder / "run", "--resume", "never"]
        for change in [*changes, f"debug.trace={trace}", f"train.threads={torch.get_num_threads()}"]:
            command += ["--set", change]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nerror: `{' '.join(map(str, command))}` ended with {done.returncode}")
    return Trace(trace)


def compare(trace, model):
    """Largest relative differences of a loss and a gradient norm, the weights' (with what fp64 says of them), and the details."""
    details = io.StringIO()
    with contextlib.redirect_stdout(details):
        found, seconds, weights = replay(trace, make_trainee(trace, model), 1)
        loss = print_steps(trace, found, seconds, {})
        norm = max(relative(trace.number(number, "grad_norm"), norm) for number, (_, norm) in found.items())
        weight, _ = print_weights(trace, weights)
    note = f"{weight:.0e}"
    if weight > WEIGHT_TOLERANCE["fp32"]:
        # AdamW makes a step of the rounding of a gradient that is almost zero.
        _, _, exact = replay(trace, make_trainee(trace, model, compute="fp64"), 1)
        note += f" (from fp64: ours {farthest(trace.final, exact)[0]:.0e}, theirs {farthest(weights, exact)[0]:.0e})"
    return loss, norm, note, details.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="sdtrain, with sdtrain-engine beside it")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose names hold one of these")
    parser.add_argument("--work", type=Path, help="folder for runs and traces, kept; default: a temporary one")
    parser.add_argument("--threads", type=int, default=1, help="processor threads on both sides")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    parser.add_argument("--verbose", action="store_true", help="every step of the cases that differ")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    temporary = None if arguments.work else tempfile.TemporaryDirectory()
    work = arguments.work or Path(temporary.name)
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model"
    if not model.exists():
        command = [str(arguments.program), "convert", MODEL, str(model), "--to", "diffusers"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not (work / "masked").exists():
        masked_posters(work / "masked")

    limit, rows, failed = LOSS_TOLERANCE["fp32"], [], []
    rows.append("| case | trained tensors | loss | gradient norm | trained weights |\n|---|---:|---:|---:|---|")
    print(rows[0], flush=True)
    for name, changes in CASES.items():
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        trace = traced(arguments, work, name, changes)
        loss, norm, note, details = compare(trace, model)
        if not loss <= limit:
            failed.append(name)
        mark = "" if loss <= limit else " **differs**"
        rows.append(f"| {name} | {len(trace.initial)} | {loss:.0e}{mark} | {norm:.0e} | {note} |")
        print(rows[-1], flush=True)
        if mark and arguments.verbose:
            print(details)
    if arguments.markdown:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        arguments.markdown.write_text(f"{now}, torch {torch.__version__}\n\n" + "\n".join(rows) + "\n")
    print(f"\n{len(rows) - 1 - len(failed)} of {len(rows) - 1} cases agree: no loss is off by more than {limit:.0e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Times LoRA training steps in diffusers and PEFT, as the other side of our own benchmarks.

    python scripts/compare/diffusers_step.py folder FOLDER [--batch 4] [--resolution 128] [--steps 20]
    python scripts/compare/diffusers_step.py sd15 [--resolution 256] [--batch 1] [--steps 5]

`folder`: a diffusers folder in fp32. `sd15`: the UNet of Stable Diffusion 1.5 with random weights, its base in bf16
throughout and its adapters in fp32. Both train rank 16 on the attention layers with fused AdamW and print one JSON
object: seconds of every step (the first ones warm up), when the first one was done, and the largest resident memory.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

STARTED = time.perf_counter()

import diffusers
import peft
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from sd15_folder import UNET as SD15

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def build(arguments):
    """The frozen UNet, and how many pixels a latent stands for."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    if arguments.what == "folder":
        config = json.loads((Path(arguments.folder) / "vae" / "config.json").read_text())
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        return UNet2DConditionModel.from_pretrained(arguments.folder, subfolder="unet", torch_dtype=dtype), factor
    # Built in the wanted type from the start, so that the peak of memory is that of training.
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    unet = UNet2DConditionModel(**SD15)
    torch.set_default_dtype(default)
    return unet, 8


def frozen_beside(arguments):
    """VAE and text encoder, which diffusers' training scripts keep beside the UNet and use at each step. Here they are used
    once, before the time of a step is taken."""
    if arguments.what != "folder":
        return []
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    vae = AutoencoderKL.from_pretrained(arguments.folder, subfolder="vae", torch_dtype=dtype)
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    text_encoders = [
        kind.from_pretrained(Path(arguments.folder) / name, torch_dtype=dtype)
        for name, kind in kinds.items()
        if (Path(arguments.folder) / name).is_dir()
    ]
    pixels = torch.zeros(arguments.batch, 3, arguments.resolution, arguments.resolution, dtype=dtype)
    with torch.no_grad():
        vae.to(arguments.device).encode(pixels.to(arguments.device))
        for encoder in text_encoders:
            ids = torch.zeros(arguments.batch, encoder.config.max_position_embeddings, dtype=torch.long)
            encoder.to(arguments.device)(ids.to(arguments.device))
    return [part.requires_grad_(False) for part in [vae, *text_encoders]]


def added_conditions(unet, arguments):
    """What SDXL's UNet is told besides: the prompt as one vector, and the sizes of image, crop and target."""
    if unet.config.addition_embed_type != "text_time":
        return None
    sides = [arguments.resolution, arguments.resolution]
    time_ids = torch.tensor([sides + [0, 0] + sides] * arguments.batch, device=arguments.device, dtype=unet.dtype)
    width = unet.config.projection_class_embeddings_input_dim - time_ids.shape[1] * unet.config.addition_time_embed_dim
    vectors = torch.randn(arguments.batch, width, device=arguments.device).to(unet.dtype)
    return {"text_embeds": vectors, "time_ids": time_ids}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["folder", "sd15"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "folder" and not arguments.folder:
        parser.error("`folder` needs the path of a diffusers folder")
    real = arguments.what == "sd15"
    arguments.resolution = arguments.resolution or (256 if real else 128)
    arguments.batch = arguments.batch or (1 if real else 4)
    arguments.dtype = arguments.dtype or ("bf16" if real else "fp32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    torch.manual_seed(0)
    unet, factor = build(arguments)
    beside = frozen_beside(arguments)
    unet.requires_grad_(False)
    config = peft.LoraConfig(
        r=arguments.rank, lora_alpha=arguments.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    unet.add_adapter(config)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    unet.to(arguments.device)
    if arguments.channels_last:
        unet.to(memory_format=torch.channels_last)
    if arguments.gradient_checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    schedule = DDPMScheduler(**SCHEDULE)
    side = arguments.resolution // factor
    latents = torch.randn(arguments.batch, unet.config.in_channels, side, side, device=arguments.device)
    states = torch.randn(arguments.batch, 77, unet.config.cross_attention_dim, device=arguments.device)
    added = added_conditions(unet, arguments)
    cuda = arguments.device.startswith("cuda")
    seconds, losses, before, first_done = [], [], time.perf_counter() - STARTED, None
    for _ in range(arguments.steps):
        started = time.perf_counter()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (arguments.batch,), device=arguments.device)
        noisy_latents = schedule.add_noise(latents, noise, timesteps)
        noisy_latents, states = noisy_latents.to(unet.dtype), states.to(unet.dtype)
        prediction = unet(noisy_latents, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample
        loss = F.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        losses.append(float(loss.detach()))
        seconds.append(round(time.perf_counter() - started, 4))
        first_done = first_done or time.time()
    steady = sorted(seconds[min(2, len(seconds) - 1) :])
    print(
        json.dumps(
            {
                "what": arguments.what if real else Path(arguments.folder).name,
                "resolution": arguments.resolution,
                "batch": arguments.batch,
                "rank": arguments.rank,
                "dtype": arguments.dtype,
                "frozen_beside": [type(part).__name__ for part in beside],
                "trained_parameters": sum(parameter.numel() for parameter in trained),
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
                "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__},
                "seconds_before_first_step": round(before, 3),
                # Wall clock, for whoever started this process and knows when.
                "first_step_done_at": first_done,
                "seconds_per_step": seconds,
                "median_seconds": steady[len(steady) // 2],
                "losses": [round(loss, 5) for loss in losses],
                # Linux counts in KiB.
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                **({"peak_device_bytes": torch.cuda.max_memory_allocated()} if cuda else {}),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())

"""Loads a LoRA file into a diffusers folder the way a user does, and runs the UNet on given inputs.

    python scripts/compare/load_lora.py LORA --model FOLDER --inputs IN.safetensors [--output OUT.safetensors]
                                        [--expected OUT.safetensors [--tolerance 1e-4]]

IN holds `sample`, `timesteps`, `encoder_hidden_states` (and `ids`, to run the text encoder as well), each with or
without the prefix `input.`. OUT gets `sample`, `sample_without_adapter` (and `last_hidden_state`). Exit status 1 when
an output differs from the expected one by more than the tolerance, or when the adapter changes nothing.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

logging.set_verbosity_error()
logging.disable_progress_bar()


def load_adapter(pipe, path, adapter_name="default_0"):
    """`pipe.load_lora_weights(path)`; text encoder adapters are renamed where the installed transformers needs it."""
    folder, name = os.path.split(os.path.abspath(path))
    encoders = {key: part for key in ("text_encoder", "text_encoder_2") if (part := getattr(pipe, key, None)) is not None}
    # SDXL's blocks have the original names in kohya's form: which are which is counted from the UNet's configuration.
    asked = {"unet_config": pipe.unet.config} if hasattr(pipe, "text_encoder_2") else {}
    tensors, alphas, metadata = pipe.lora_state_dict(folder, weight_name=name, return_lora_metadata=True, **asked)
    # transformers 5 dropped `text_model` from CLIPTextModel's modules; diffusers 0.42 does not rename the adapters.
    renamed = [key for key, part in encoders.items() if not hasattr(part, "text_model")]
    if not any(tensor.startswith(f"{key}.") for key in renamed for tensor in tensors):
        pipe.load_lora_weights(folder, weight_name=name, adapter_name=adapter_name)
        return
    for key in renamed:
        tensors = {name.replace(f"{key}.text_model.", f"{key}."): value for name, value in tensors.items()}
        alphas = {name.replace(f"{key}.text_model.", f"{key}."): value for name, value in alphas.items()} if alphas else None
        if metadata and f"{key}.target_modules" in metadata:
            modules = metadata[f"{key}.target_modules"]
            metadata[f"{key}.target_modules"] = [module.removeprefix("text_model.") for module in modules]
    pipe.load_lora_into_unet(tensors, alphas, unet=pipe.unet, metadata=metadata, adapter_name=adapter_name)
    for key, encoder in encoders.items():
        pipe.load_lora_into_text_encoder(
            tensors,
            alphas,
            text_encoder=encoder,
            prefix=key,
            lora_scale=1.0,
            metadata=metadata,
            adapter_name=adapter_name,
        )


def load_pipeline(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def run(pipe, inputs):
    found = {}
    if "sample" in inputs:
        states = inputs["encoder_hidden_states"]
        found["sample"] = pipe.unet(inputs["sample"], inputs["timesteps"], encoder_hidden_states=states).sample
    if "ids" in inputs:
        found["last_hidden_state"] = pipe.text_encoder(inputs["ids"]).last_hidden_state
    return found


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora")
    parser.add_argument("--model", required=True, help="diffusers folder")
    parser.add_argument("--inputs", required=True, help="safetensors file")
    parser.add_argument("--output", help="safetensors file to write")
    parser.add_argument("--expected", help="safetensors file to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()

    inputs = {name.removeprefix("input."): value for name, value in load_file(arguments.inputs).items()}
    pipe = load_pipeline(arguments.model)
    without = run(pipe, inputs)
    load_adapter(pipe, arguments.lora)
    found = run(pipe, inputs)
    failed = False
    for name, value in found.items():
        change = relative(value, without[name])
        print(f"{name}: mean {value.mean():+.6f} std {value.std():.6f}; the adapter changes it by {change:.3e}")
        failed |= change == 0 and name == "sample"
    if arguments.expected:
        expected = {name.removeprefix("output."): value for name, value in load_file(arguments.expected).items()}
        for name, value in found.items():
            if name in expected:
                error = relative(value, expected[name])
                failed |= not error <= arguments.tolerance
                print(f"{name}: relative difference from the expected {error:.3e}")
    if arguments.output:
        save_file({**found, **{f"{name}_without_adapter": value for name, value in without.items()}}, arguments.output)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

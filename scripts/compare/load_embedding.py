"""Loads files of learned words into a diffusers folder the way a user does, and compares the text states of prompts.

    python scripts/compare/load_embedding.py FILE… --model FOLDER --prompt P… [--token WORD]…
                                             [--expected TRACE [--tolerance 1e-5]]

Prints for each prompt how far its states are from those without the words. `--expected` is the trace of a run that learned
them and ended with the last step that it recorded: the vectors that diffusers loaded must be the run's. Exit status 1 when
they differ by more than the tolerance, or when a prompt is not changed by any word.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging
from safetensors import safe_open
from safetensors.torch import load_file

logging.set_verbosity_error()
logging.disable_progress_bar()
LEARNED = "final.text_encoder.learned_tokens."


def load_pipeline(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_words(pipe, path, word=None):
    """`pipe.load_textual_inversion(path)`; a file with vectors of both of SDXL's encoders goes to each, as diffusers' guide says."""
    folder, name = os.path.split(os.path.abspath(path))
    if not hasattr(pipe, "text_encoder_2"):
        pipe.load_textual_inversion(folder, weight_name=name, token=word)
        return
    vectors = load_file(path)
    with safe_open(path, "pt") as file:
        word = word or (file.metadata() or {}).get("name") or os.path.splitext(name)[0]
    # The refiner has one encoder, and its vectors the word's own name.
    of_second = vectors["clip_g"] if "clip_g" in vectors else next(iter(vectors.values()))
    if pipe.text_encoder is not None:
        pipe.load_textual_inversion(vectors["clip_l"], token=word, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    encoder, tokenizer = pipe.text_encoder_2, pipe.tokenizer_2
    pipe.load_textual_inversion(of_second, token=word, text_encoder=encoder, tokenizer=tokenizer)
    # The released configuration says 2, with which transformers takes the prompt's vector from the largest id: from the new word.
    encoder.text_model.eos_token_id = tokenizer.eos_token_id


@torch.no_grad()
def states(pipe, prompts):
    texts = pipe.maybe_convert_prompt(list(prompts), pipe.tokenizer)
    window = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=window, return_tensors="pt").input_ids
    return pipe.text_encoder(ids).last_hidden_state


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--model", required=True, help="diffusers folder")
    parser.add_argument("--prompt", action="append", default=[], help="can be repeated")
    parser.add_argument("--token", action="append", help="the word of each file; default: the one that the file names")
    parser.add_argument("--expected", help="trace of the run that learned the words")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    arguments = parser.parse_args()
    words = arguments.token or [None] * len(arguments.files)
    if len(words) != len(arguments.files):
        raise SystemExit("error: there must be a `--token` for each file, or none")

    pipe = load_pipeline(arguments.model)
    without = states(pipe, arguments.prompt) if arguments.prompt else []
    for file, word in zip(arguments.files, words):
        load_words(pipe, file, word)
    failed = False
    for prompt, before, after in zip(arguments.prompt, without, states(pipe, arguments.prompt) if arguments.prompt else []):
        change = relative(after, before)
        failed |= change == 0
        print(f"{prompt!r}: the words change its states by {change:.3e}")
    if arguments.expected:
        trace = load_file(arguments.expected)
        table = pipe.text_encoder.get_input_embeddings().weight.data
        for name, vectors in trace.items():
            if not name.startswith(LEARNED):
                continue
            word = name.removeprefix(LEARNED)
            ids = pipe.tokenizer.convert_tokens_to_ids([word] + [f"{word}_{at}" for at in range(1, len(vectors))])
            error = relative(table[ids], vectors)
            failed |= not error <= arguments.tolerance
            print(f"{word}: its {len(vectors)} vectors differ from those of the run by {error:.3e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

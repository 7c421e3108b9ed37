"""Times what a Python trainer does to images and captions, as the other side of the rows `images` and `captions`.

    python scripts/compare/data_speed.py images FOLDER     JPEG → 512-bucket tensor, with Pillow and torch, one thread
    python scripts/compare/data_speed.py captions FILE [FOLDER]    a caption a line → ids, with transformers' fast CLIP tokenizer,
                                                           with CLIP's vocabulary or that of a folder
    python scripts/compare/data_speed.py make-images FOLDER | make-captions FILE | make-vocabulary FOLDER

Prints one JSON object. Images are 1536 × 1024 photographs as a program draws them: slopes, edges and grain.
"""

import json
import random
import sys
import time
from pathlib import Path

IMAGES, SIDES = 16, (1536, 1024)
CAPTIONS = 10_000
PASSES = 7
VOCABULARY = 6_000
SUBJECTS = ["a woman", "an old fisherman", "two dogs", "a red bicycle", "a castle", "the Eiffel tower", "a bowl of ramen"]
PLACES = ["on a beach", "in a misty forest", "at night", "beside a river", "in a crowded market", "under cherry trees"]
TAGS = ["masterpiece", "best quality", "highly detailed", "8k", "soft light", "bokeh", "sharp focus", "35mm photograph", "oil on canvas",
        "cinematic lighting", "1girl", "solo", "long hair", "looking at viewer", "blue sky", "depth of field", "ukiyo-e", "it's raining"]
OTHER = ["一个女孩站在樱花树下，水墨画", "桜の木の下に立つ着物の女性", "🎨✨ watercolour 🌸", "café à Paris, crème brûlée"]


def fixtures():
    """The module that builds CLIP tokenizers for golden files."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
    import tokenizer

    return tokenizer


def captions_of(seed):
    draw = random.Random(seed)
    lines = []
    for _ in range(CAPTIONS):
        words = [f"{draw.choice(SUBJECTS)} {draw.choice(PLACES)}", *draw.sample(TAGS, draw.randint(3, 10))]
        lines.append(", ".join(words + draw.sample(OTHER, 1) * (draw.random() < 0.1)))
    return lines


def make_captions(path):
    path.write_text("\n".join(captions_of(0)), encoding="utf-8")


def make_vocabulary(folder):
    """A tokenizer folder with byte pairs of its own, learned from other captions and this project's guides."""
    from tokenizers import Tokenizer, models, trainers

    ours = fixtures()
    marks = [ours.BOS, ours.EOS]
    clip = ours.clip_tokenizer(ours.EOS).backend_tokenizer
    learner = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    letters = ours.byte_letters()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=letters, end_of_word_suffix="</w>", continuing_subword_prefix="", show_progress=False
    )
    guides = Path(__file__).resolve().parents[2] / "docs"
    texts = captions_of(1) + [line for page in sorted(guides.rglob("*.md")) for line in page.read_text(encoding="utf-8").split("\n")]
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = list(dict.fromkeys(letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges] + marks))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ours.CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=ours.EOS, model_max_length=ours.WINDOW).save_pretrained(folder)
    return {"tokens": len(tokens), "merges": len(merges)}


def make_images(folder):
    import numpy
    from PIL import Image, ImageFilter

    draw = numpy.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(IMAGES):
        coarse = Image.fromarray(draw.integers(0, 255, (12, 18, 3), dtype=numpy.uint8)).resize(SIDES, Image.Resampling.BICUBIC)
        edges = Image.fromarray(draw.integers(0, 255, (48, 72, 3), dtype=numpy.uint8)).resize(SIDES, Image.Resampling.NEAREST)
        photograph = Image.blend(coarse, edges.filter(ImageFilter.GaussianBlur(1.2)), 0.3)
        grain = numpy.asarray(photograph, dtype=numpy.int16) + draw.normal(0, 4, (SIDES[1], SIDES[0], 1)).astype(numpy.int16)
        Image.fromarray(grain.clip(0, 255).astype(numpy.uint8)).save(folder / f"{index:02}.jpg", quality=92)


def time_images(folder):
    import numpy
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    times = []
    for path in sorted(folder.glob("*.jpg")) * 3:
        start = time.perf_counter()
        with Image.open(path) as image:
            # 640 × 384: the bucket that kohya's scripts choose for 3:2 at an area of 512 × 512.
            image = image.convert("RGB").resize((640, 427), Image.Resampling.LANCZOS).crop((0, 21, 640, 405))
        tensor = torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5).contiguous()
        assert tensor.shape[0] == 3
        times.append(time.perf_counter() - start)
    return {"milliseconds": 1000 * sorted(times)[len(times) // 2]}


def time_captions(path, folder=None):
    ours = fixtures()
    tokenizer = ours.CLIPTokenizer.from_pretrained(folder) if folder else ours.clip_tokenizer(ours.EOS)
    captions = path.read_text(encoding="utf-8").split("\n")

    def fastest(encode):
        found = []
        for _ in range(PASSES):
            start = time.perf_counter()
            tokens = encode()
            found.append(time.perf_counter() - start)
        return 1e6 * min(found) / len(captions), tokens

    # As trainers call it, a caption at a time, and as fast as it goes, all at once (on every core).
    one, tokens = fastest(lambda: sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in captions))
    batch, same = fastest(lambda: sum(map(len, tokenizer(captions, add_special_tokens=False).input_ids)))
    assert tokens == same
    return {"microseconds": one, "batch_microseconds": batch, "tokens": tokens, "captions": len(captions)}


def main():
    task, *paths = sys.argv[1:]
    tasks = {
        "images": time_images,
        "captions": time_captions,
        "make-images": make_images,
        "make-captions": make_captions,
        "make-vocabulary": make_vocabulary,
    }
    print(json.dumps(tasks[task](*map(Path, paths))))


if __name__ == "__main__":
    main()

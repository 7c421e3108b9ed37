"""This program beside that of an earlier commit, in turns: what got slower, or larger, by more than the noise.

    scripts/bench --compare REV [--only tiny,sd15,methods,sampling,encoding,start,help,images,captions,optimizers,saving] [--rounds 5] [--threads N]

`scripts/bench` builds REV in a folder of its own in the cache. Every round runs both, and the order changes with each. A row counts as
slower where it was in every round and by more than 2 % in the middle one: the spread of the rounds, which is the noise, stands beside it.
Exit status 1 where a row is. What the earlier program does not know yet has no row; where there is no row at all, that is a failure.
"""

import math
import statistics
from dataclasses import dataclass, field

import pictures_speed
import side_by_side
from side_by_side import Case, Failed, say

# Less than that is not worth a name.
LEAST = 0.02


@dataclass
class Row:
    """What both programs were measured at, round by round; less is better."""

    title: str
    unit: str
    now: list[float] = field(default_factory=list)
    then: list[float] = field(default_factory=list)

    def ratios(self):
        return [now / then for now, then in zip(self.now, self.then, strict=True)]

    def verdict(self):
        ratios = self.ratios()
        middle = statistics.median(ratios)
        if min(ratios) > 1 and middle > 1 + LEAST:
            return "**more**"
        return "less" if max(ratios) < 1 and middle < 1 - LEAST else ""

    def line(self):
        ratios = self.ratios()
        now, then = (in_words(statistics.median(values), self.unit) for values in (self.now, self.then))
        return (
            f"| {self.title} | {now} | {then} | {statistics.median(ratios):.3f} × "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | {self.verdict()} |"
        )


def in_words(value, unit):
    """Three digits of seconds or bytes."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        if value >= factor:
            digits = max(0, 2 - math.floor(math.log10(value / factor)))
            return f"{value / factor:.{digits}f} {prefix}{unit}"
    return f"{value:.2g} {unit}"


def trained(case, work, name):
    """A step and the memory of a run, by program."""

    def measure(programs):
        run = side_by_side.run_ours(case, programs, work, f"{name}-{programs.name}", timeout=1800.0)
        return {f"{case.title}: a step": (statistics.median(run.steady()), "s"), f"{case.title}: memory": (run.peak_bytes, "B")}

    return measure


def measurements(arguments, work, bench):
    """What is measured, each a function of a folder of programs that gives values by title."""
    programs, only = arguments.program, set(arguments.only)
    images = side_by_side.sample_images(work, 32)
    if {"tiny", "methods"} & only:
        base = side_by_side.small_base(work, programs)
    if "tiny" in only:
        yield trained(Case("LoRA of `builtin:poster-tiny`, 96 px, batch 8", base, images, 96, 8, "fp32", 42, threads=arguments.threads), work, "tiny")
    if "methods" in only:
        for number, (title, overrides) in enumerate(side_by_side.METHODS.items()):
            if arguments.methods and title not in arguments.methods:
                continue
            case = Case(title, base, images, 96, 4, "fp32", 12, threads=arguments.threads, overrides=tuple(overrides))
            yield trained(case, work, f"method-{number}")
    if {"sd15", "sampling", "encoding"} & only:
        folder = side_by_side.sd15(work)
    if "sd15" in only:
        case = Case("LoRA of SD1.5's architecture, 256 px, bf16", folder, images, 256, 1, "bf16", 8, threads=arguments.threads)
        yield trained(case, work, "sd15")
    if "sampling" in only:
        yield lambda programs: {
            "SD1.5's architecture, 256 px, bf16: a denoising step": (pictures_speed.our_drawing(programs, work, folder, "bf16", 256, arguments.threads)[0], "s")
        }
    if "encoding" in only:
        folders = pictures_speed.folders_of_images(work)
        yield lambda programs: {
            "SD1.5's autoencoder, 512 px, bf16: an image": (pictures_speed.our_encoding(programs, work, folder, folders, "bf16", arguments.threads)[0], "s")
        }
    if "start" in only:
        yield lambda programs: {"start to first step": (bench.time_of_start(programs, work), "s")}
    if "help" in only:
        yield lambda programs: {"`sdtrain --help`": (bench.time_of_help(programs, work), "s")}
    if "images" in only:
        photographs = work / "photographs"
        bench.data_speed("make-images", photographs)

        def read_images(programs):
            found = bench.answer_of([programs / "examples" / "image_speed", photographs])
            return {
                "JPEG 1536 × 1024 to a tensor": (found["milliseconds"] / 1000, "s"),
                "an image by two workers": (1 / found["two_workers"], "s"),
            }

        yield read_images
    if "captions" in only:
        captions = work / "captions.txt"
        bench.data_speed("make-captions", captions)
        yield lambda programs: {
            "tokens of a caption": (bench.answer_of([programs / "examples" / "tokenizer_speed", captions])["microseconds"] / 1e6, "s")
        }
    if "optimizers" in only:
        yield lambda programs: {
            f"a step of `{name}` over 40 million parameters": (found["seconds"], "s")
            for name, found in bench.answer_of([programs / "examples" / "optimizer_speed"]).items()
        }
    if "saving" in only:
        yield lambda programs: {
            "a checkpoint of 256 MB": (bench.answer_of([programs / "examples" / "save_speed", work / "saving", 256])["publish"], "s")
        }


def compare(arguments, work, bench):
    """The lines of the table; and the titles of what got slower or larger."""
    rows = {}
    for measure in measurements(arguments, work, bench):
        for number in range(arguments.rounds):
            sides = [("now", arguments.program), ("then", arguments.compare)]
            found = {}
            try:
                for side, programs in sides if number % 2 == 0 else reversed(sides):
                    found[side] = measure(programs)
            except (Failed, OSError, KeyError) as error:
                if "then" in found or side == "now":
                    raise
                say(f"left out, the earlier program cannot do it: {str(error).splitlines()[0]}")
                break
            for title in found["now"].keys() & found["then"].keys():
                unit = found["now"][title][1]
                row = rows.setdefault(title, Row(title, unit))
                row.now.append(found["now"][title][0])
                row.then.append(found["then"][title][0])
                say(f"{title}: {row.now[-1] / row.then[-1]:.3f} in round {number + 1}")
    if not rows:
        raise Failed("nothing could be compared: the earlier program did not do any of it")
    lines = ["| | now | then | | rounds | |", "|---|---:|---:|---:|---|---|"]
    lines += [row.line() for row in rows.values()]
    return lines, [row.title for row in rows.values() if row.verdict() == "**more**"]

"""The same training in our program and in diffusers and PEFT, run in turns: what bench.py and gpu_check.py share.

Nothing here imports torch: both sides run in processes of their own, so that their memory and start can be measured.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The first steps of a run fill caches and allocators, on both sides.
WARM_UP = 2


@dataclass
class Case:
    """One training set-up: rank 16 on the UNet's attention layers."""

    title: str
    # A diffusers folder, for both programs.
    folder: Path
    # A folder of images with captions, for our program; diffusers gets random latents of the same shape.
    data: Path
    resolution: int
    batch: int
    dtype: str
    steps: int
    trace_steps: int = 10
    device: str = "cpu"
    threads: int | None = None
    # What our configuration has besides, as `--set` takes it; diffusers_step.py knows none of it.
    overrides: tuple = ()


DATASETS = ROOT / "datasets"
# The methods by what they add to the configuration of a case. Each is held against the same step in `reference_step.py`.
METHODS = {
    "full, UNet": ["method=full"],
    "full, UNet and text encoder": ["method=full", "full.train_text_encoder=true", "data.cache_text_encoder_outputs=false"],
    "textual inversion, 2 vectors": [
        "method=textual_inversion",
        f"data.subsets.0.path={DATASETS / 'posters-word'}",
        'textual_inversion.tokens=[{word="snorp", vectors=2, initial_words="red house"}]',
        "data.cache_text_encoder_outputs=false",
    ],
    "DreamBooth, full, class images": [
        "method=dreambooth",
        f"data.subsets.0.path={DATASETS / 'posters-subject'}",
        'dreambooth.class_prompt="poster, a red house"',
        "dreambooth.num_class_images=8",
        "dreambooth.steps=4",
        "dreambooth.guidance=1.0",
    ],
    "DreamBooth, full, held to the base": [
        "method=dreambooth",
        f"data.subsets.0.path={DATASETS / 'posters-subject'}",
        'dreambooth.class_prompt="poster, a red house"',
        "dreambooth.prior=base_prediction",
    ],
    "DreamBooth, LoRA, class images": [
        "method=dreambooth",
        "trainable=lora",
        f"data.subsets.0.path={DATASETS / 'posters-subject'}",
        'dreambooth.class_prompt="poster, a red house"',
        "dreambooth.num_class_images=8",
        "dreambooth.steps=4",
        "dreambooth.guidance=1.0",
    ],
    "VAE, decoder": ["method=vae", "vae_objective.train_encoder=false", "data.cache_text_encoder_outputs=false"],
    "LoRA": [],
    "LoRA, convolutions and text encoder": [
        "lora.convolutions=true",
        "lora.train_text_encoder=true",
        "data.cache_text_encoder_outputs=false",
    ],
    "LoRA with a word of 2 vectors": [
        f"data.subsets.0.path={DATASETS / 'posters-word'}",
        'textual_inversion.tokens=[{word="snorp", vectors=2, initial_words="red house"}]',
        "data.cache_text_encoder_outputs=false",
    ],
    "LoHa": ["lora.kind=loha"],
    "LoKr": ["lora.kind=lokr"],
    "DoRA": ["lora.kind=dora"],
    "(IA)³": ["lora.kind=ia3"],
    "whole differences": ["lora.kind=full"],
}


@dataclass
class Run:
    """What one process measured."""

    seconds: list[float]
    first_step: float
    peak_bytes: int
    device_bytes: int | None = None
    facts: dict = field(default_factory=dict)

    def steady(self):
        return self.seconds[min(WARM_UP, len(self.seconds) - 1) :]


class Failed(Exception):
    """A process that did not do what it should; the text says which, with the end of its output."""


def process(command, log, timeout=600.0, watch=None, **options):
    """Runs `command` with its output in the file `log`. Returns its exit status and largest resident memory in bytes.

    `watch` is called every few milliseconds; the process is killed when it answers true.
    """
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    until = time.monotonic() + timeout
    killed = False
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            # Linux counts in KiB.
            return (0 if killed else child.returncode), usage.ru_maxrss * 1024
        if time.monotonic() > until:
            os.killpg(child.pid, 9)
            raise Failed(f"took more than {timeout:.0f} s: {' '.join(map(str, command))}")
        if not killed and watch and watch():
            os.killpg(child.pid, 9)
            killed = True
        time.sleep(0.003)


def end_of(log, lines=15):
    return "\n".join(Path(log).read_text(errors="replace").splitlines()[-lines:])


def config_of(case, name, model=None, trace=None):
    """Our configuration of a case. `model`: another way to name its folder."""

    def text(value):
        # A JSON string is a TOML string.
        return json.dumps(str(value))

    return "\n".join(
        [
            f"name = {text(name)}",
            'method = "lora"',
            "[model]",
            f"path = {text(model or case.folder)}",
            "[data]",
            f"resolution = {case.resolution}",
            f"batch_size = {case.batch}",
            # The other side is given the text's states and never encodes.
            "cache_text_encoder_outputs = true",
            "[[data.subsets]]",
            f"path = {text(case.data)}",
            "[lora]",
            "rank = 16",
            'targets = ["unet.*.attn1.*", "unet.*.attn2.*"]',
            "[optimizer]",
            'type = "adamw"',
            "learning_rate = 1e-4",
            "[precision]",
            f'compute = "{case.dtype}"',
            "[train]",
            f"max_steps = {case.steps}",
            *([f"threads = {case.threads}"] if case.threads else []),
            "[checkpoint]",
            "every_steps = 0",
            "[validation]",
            "evaluate_at_end = false",
            "[log]",
            "tensorboard = false",
            *(["[debug]", f"trace = {text(trace)}", f"trace_steps = {case.trace_steps}"] if trace else []),
            "",
        ]
    )


def run_ours(case, programs, work, name, trace=None, model=None, timeout=600.0, environment=None):
    """One run of `sdtrain train` in the folder `work`; its output folder is `work/outputs/name`."""
    config = work / f"{name}.toml"
    config.write_text(config_of(case, name, model, trace))
    output = work / "outputs" / name
    metrics = output / "metrics.jsonl"
    command = [programs / "sdtrain", "train", "--config", config, "--output", output]
    command += ["--resume", "never", "--device", case.device]
    for override in case.overrides:
        command += ["--set", override]
    first = []

    def watch():
        if not first and metrics.is_file() and metrics.stat().st_size:
            first.append(time.time())

    started = time.time()
    status, peak = process(command, work / f"{name}.log", timeout, watch, cwd=work, env=environment)
    if status != 0:
        raise Failed(f"`sdtrain train` ended with {status}:\n{end_of(work / f'{name}.log')}")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    record = output / "run.json"
    facts = json.loads(record.read_text()) if record.is_file() else {}
    seconds = [row["seconds"] for row in rows]
    first_step = (first[0] if first else time.time()) - started
    return Run(seconds, first_step, peak, facts.get("peak_device_memory_bytes"), facts)


def run_theirs(case, work, name, timeout=600.0):
    """One run of diffusers_step.py on the same folder."""
    command = [sys.executable, HERE / "diffusers_step.py", "folder", case.folder, "--batch", case.batch]
    command += ["--resolution", case.resolution, "--steps", case.steps, "--dtype", case.dtype, "--device", case.device]
    command += ["--threads", case.threads] if case.threads else []
    log = work / f"{name}.log"
    started = time.time()
    status, peak = process(command, log, timeout)
    if status != 0:
        raise Failed(f"diffusers_step.py ended with {status}:\n{end_of(log)}")
    facts = json.loads(log.read_text().splitlines()[-1])
    first_step = facts["first_step_done_at"] - started
    return Run(facts["seconds_per_step"], first_step, peak, facts.get("peak_device_bytes"), facts)


def run_replayed(case, trace, work, name, timeout=600.0):
    """The traced steps once more in diffusers, PEFT and LyCORIS: their times, and the memory of a process that does nothing else
    (the trace's inputs and two copies of what was trained lie in it)."""
    report, log = work / f"{name}.json", work / f"{name}.log"
    command = [sys.executable, HERE / "replay.py", trace, "--model", case.folder, "--device", case.device, "--json", report]
    command += ["--threads", case.threads] if case.threads else []
    status, peak = process(command, log, timeout)
    if status not in (0, 1) or not report.is_file():
        raise Failed(f"replay.py ended with {status}:\n{end_of(log)}")
    seconds = [step["seconds"][1] for step in json.loads(report.read_text())["steps"]]
    return Run(seconds, float("nan"), peak)


def compare_method(case, programs, work, name, rounds, timeout=600.0):
    """As `compare`, for methods that diffusers_step.py does not know: the other side does the traced steps of our first run."""
    ours, theirs = [], []
    trace = work / f"{name}-trace.safetensors"
    for number in range(rounds):
        say(f"{case.title}: round {number + 1} of {rounds}")
        ours.append(run_ours(case, programs, work, f"{name}-{number}", None if number else trace, timeout=timeout))
        theirs.append(run_replayed(case, trace, work, f"{name}-{number}-diffusers", timeout))
    verdict = check_trace(case, trace, work, f"{name}-replay", timeout)
    return Comparison(case, ours, theirs, verdict, counted(work, f"{name}-replay"))


def check_trace(case, trace, work, name, timeout=600.0, environment=None):
    """Replays our trace in diffusers and PEFT: one line that says whether both computed the same."""
    report = work / f"{name}.json"
    command = [sys.executable, HERE / "replay.py", trace, "--model", case.folder, "--device", case.device]
    command += ["--json", report, "--count"]
    # The first steps of AdamW go by the sign of a gradient alone, and rounding turns round those that are almost zero: a
    # trained tensor is a weak witness then, a loss and a gradient norm are strong ones.
    if case.dtype != "fp32":
        # The timed steps of diffusers compute in 16 bits throughout, as our program does.
        command += ["--no-autocast", "--weight-tolerance", 0.3]
    elif case.trace_steps < 10:
        command += ["--weight-tolerance", 0.01]
    command += ["--threads", case.threads] if case.threads else []
    status, _ = process(command, work / f"{name}.log", timeout, env=environment)
    if status not in (0, 1) or not report.is_file():
        raise Failed(f"replay.py ended with {status}:\n{end_of(work / f'{name}.log')}")
    found = json.loads(report.read_text())
    verdict = "agrees" if found["passed"] else "**differs**"
    norms = [step["grad_norm"] for step in found["steps"]]
    norm = max(abs(ours - theirs) / max(abs(theirs), 1e-12) for ours, theirs in norms)
    limits = found["limits"]
    return (
        f"{verdict} in {case.dtype} over {len(norms)} steps: loss {found['loss_difference']:.0e} (at most "
        f"{limits['loss']:.0e}), gradient norm {norm:.0e}, weights {found['weight_difference']:.0e} (at most "
        f"{limits['weights']:.0e}{'' if found['weight_difference'] <= limits['weights'] else ', or as near to fp64 as diffusers'}), "
        f"{found['difference_of_what_moved']:.0e} of what was learned"
    )


def counted(work, name):
    """The operations of a step that the replay `name` has counted."""
    return json.loads((work / f"{name}.json").read_text()).get("operations")


def peak(case):
    """What the machine gives at most in the case's type: operations and bytes a second."""
    command = [sys.executable, HERE / "peak.py", case.dtype, "--device", case.device]
    command += ["--threads", case.threads] if case.threads else []
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"peak.py ended with {done.returncode}:\n{done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rate_in_words(comparison):
    """How many operations a second we do of those that diffusers needs, and which share of a matrix product's that is."""
    if not comparison.operations:
        return "–"
    rate = comparison.operations / comparison.seconds(comparison.ours)
    return f"{rate / 1e9:,.0f} GFLOP/s, {100 * rate / peak(comparison.case)['operations']:.0f} %"


def check_exactly(case, programs, work, name, steps, timeout=600.0):
    """The same case in fp32, where both must agree to rounding: `steps` of ours, replayed."""
    case = replace(case, dtype="fp32", steps=steps, trace_steps=steps)
    # On a GPU convolutions of fp32 tensors are rounded to 10 bits by default, by either program.
    environment = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}
    trace = work / f"{name}.safetensors"
    run_ours(case, programs, work, name, trace, timeout=timeout, environment=environment)
    return check_trace(case, trace, work, f"{name}-replay", timeout, environment)


@dataclass
class Comparison:
    """All runs of one case, and what the replay of its trace said."""

    case: Case
    ours: list[Run]
    theirs: list[Run]
    trace: str
    # A step's, as diffusers does it: a product and a sum are two. None where they were not counted.
    operations: int | None = None

    def agrees(self):
        return "differs" not in self.trace

    def seconds(self, runs):
        return statistics.median(second for run in runs for second in run.steady())

    def ratio(self):
        return self.seconds(self.theirs) / self.seconds(self.ours)


def compare(case, programs, work, name, rounds, model=None, timeout=600.0, until=None, exactly_at=None):
    """Ours and theirs in turns, `rounds` times; the first of our runs writes the trace that is replayed at the end.

    After `until` (of time.monotonic) no further round begins. A case in 16 bits is also checked over two steps in fp32, at a
    resolution of `exactly_at` where its own would not fit into memory.
    """
    ours, theirs = [], []
    trace = work / f"{name}-trace.safetensors"
    for number in range(rounds):
        if number and until and time.monotonic() > until:
            break
        say(f"{case.title}: round {number + 1} of {rounds}")
        ours.append(run_ours(case, programs, work, f"{name}-{number}", None if number else trace, model, timeout))
        theirs.append(run_theirs(case, work, f"{name}-{number}-diffusers", timeout))
    say(f"{case.title}: replay of the trace")
    verdict = check_trace(case, trace, work, f"{name}-replay", timeout)
    if case.dtype != "fp32":
        exact, where = case, ""
        if exactly_at:
            exact, where = replace(case, resolution=exactly_at), f"at {exactly_at} px "
        say(f"{case.title}: two steps {where}in fp32")
        verdict = f"{where}{check_exactly(exact, programs, work, f'{name}-fp32', 2, timeout)}; {verdict}"
    return Comparison(case, ours, theirs, verdict, counted(work, f"{name}-replay"))


def sample_images(work, count):
    """A folder with the first `count` posters of the sample set and their captions."""
    folder = work / f"images-{count}"
    folder.mkdir(exist_ok=True)
    for image in sorted((ROOT / "datasets" / "posters").glob("*.png"))[:count]:
        for path in (image, image.with_suffix(".txt")):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def sd15(work, dtype="bf16", device="cpu", timeout=600.0):
    """A folder with Stable Diffusion 1.5's architecture and random weights."""
    say(f"writing random weights of Stable Diffusion 1.5's architecture in {dtype}")
    folder = work / "sd15"
    command = [sys.executable, HERE / "sd15_folder.py", folder, "--dtype", dtype, "--device", device]
    status, _ = process(command, work / "sd15.log", timeout)
    if status != 0:
        raise Failed(f"sd15_folder.py ended with {status}:\n{end_of(work / 'sd15.log')}")
    return folder


def small_base(work, programs):
    """The built-in base model as a diffusers folder."""
    folder = work / "poster-tiny"
    file = ROOT / "crates" / "model" / "builtin" / "poster-tiny.safetensors"
    command = [programs / "sdtrain", "convert", file, folder, "--to", "diffusers"]
    status, _ = process(command, work / "convert.log", 60.0)
    if status != 0:
        raise Failed(f"`sdtrain convert` ended with {status}:\n{end_of(work / 'convert.log')}")
    return folder


def gigabytes(numbers):
    numbers = [number for number in numbers if number]
    return f"{statistics.median(numbers) / 1e9:.2f} GB" if numbers else "–"


def say(text):
    print(text, file=sys.stderr, flush=True)

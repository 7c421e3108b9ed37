#!/usr/bin/env python3
"""Puts libtorch into sdtrain's cache folder, checked against the hashes kept beside this file. Called by scripts/setup.

usage: install_libtorch.py cpu|cuda|nccl FOLDER    makes FOLDER/2.11.0-cpu, -cuda or -nccl (headers alone, for scripts/build_nccl)

The folder appears by one rename, so it is whole or absent. `stamp` in it lists sizes ("SIZE PATH"), which is what the
set-up looks at on every start; a folder without a stamp is read through and taken over if every hash is right.
Needs Python 3.8 with pip, and no other module.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "2.11.0"
# pip is asked for the files of one fixed platform, whatever Python runs it: one wheel, one hash. It does not take
# a newer glibc to mean the older ones as well, so each is named.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + ["manylinux2014_x86_64"]
# torch-sys links libtorch_cuda as soon as it finds one, and torch's own libtorch.so pulls it in; so the link points
# at the CPU half, and the rest stays out.
LIBTORCH_LINK = "torch/lib/libtorch.so"
LIBTORCH_LINK_TARGET = "libtorch_cpu.so"


class Failed(Exception):
    """What went wrong, and what the user can do about it."""

    def __init__(self, message, hint):
        super().__init__(message)
        self.hint = hint


def expected_hashes():
    """{path: sha256} of libtorch-cpu.sha256; a path that ends in / stands for a folder (see `tree_hash`)."""
    rows = (line.split() for line in (HERE / "libtorch-cpu.sha256").read_text().splitlines())
    return {row[1]: row[0] for row in rows if len(row) == 2}


def file_hash(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tree_hash(folder):
    """One hash for a folder: that of the lines `HASH  PATH` of its files, sorted by path."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    lines = "".join(f"{file_hash(folder / name)}  {name}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def wrong_files(folder):
    """The paths of a CPU folder that are missing, differ or should not be there."""
    wrong = []
    for path, expected in expected_hashes().items():
        there = folder / path
        if not there.exists():
            wrong.append(f"{path} (missing)")
        elif (tree_hash(there) if path.endswith("/") else file_hash(there)) != expected:
            wrong.append(f"{path} (other content)")
    link = folder / LIBTORCH_LINK
    if not link.is_symlink() or os.readlink(link) != LIBTORCH_LINK_TARGET:
        wrong.append(f"{LIBTORCH_LINK} (not a link to {LIBTORCH_LINK_TARGET})")
    listed = {Path(path).name for path in expected_hashes()} | {Path(LIBTORCH_LINK).name}
    if (folder / "torch/lib").is_dir():
        wrong += [f"torch/lib/{name} (not expected)" for name in sorted(set(os.listdir(folder / "torch/lib")) - listed)]
    return wrong


def stamped_paths():
    """What the set-up looks at on every start: each library, the link, and one header for all."""
    libraries = [path for path in expected_hashes() if not path.endswith("/")]
    return [*libraries, LIBTORCH_LINK, "torch/include/torch/csrc/api/include/torch/version.h"]


def write_stamp(folder, paths):
    lines = "".join(f"{(folder / path).stat().st_size} {path}\n" for path in sorted(paths))
    partial = folder / "stamp.partial"
    with open(partial, "w") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / "stamp")


def stamp_holds(folder):
    try:
        rows = [line.split(" ", 1) for line in (folder / "stamp").read_text().splitlines()]
        return bool(rows) and all((folder / path).stat().st_size == int(size) for size, path in rows)
    except (OSError, ValueError):
        return False


def pip(command, requirements, folder_option, folder, free_bytes_needed):
    free = shutil.disk_usage(folder).free
    if free < free_bytes_needed:
        raise Failed(
            f"{folder.parent} has {free / 1e9:.1f} GB free; installing libtorch takes {free_bytes_needed / 1e9:.0f} GB",
            "make room, or set SDTRAIN_CACHE to a folder on another disk",
        )
    arguments = [sys.executable, "-m", "pip", command, "--no-deps", "--require-hashes", "--no-cache-dir"]
    arguments += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311"]
    arguments += [f"--platform={platform}" for platform in PLATFORMS]
    arguments += ["-r", str(HERE / requirements), folder_option, str(folder)]
    if not sys.stderr.isatty():
        arguments.append("--quiet")
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PIP_USER": "0"}
    # pip's own progress goes to stderr: stdout belongs to the program that is set up here.
    if subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment).returncode != 0:
        raise Failed(
            "pip could not fetch libtorch (its message is above)",
            f"without a network, put the wheels of scripts/{requirements} in a folder and set PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER; "
            "behind a proxy, set HTTPS_PROXY",
        )


def wanted(name):
    return name.startswith(("torch/include/", "nvidia/")) or name in expected_hashes()


def is_nccl_header(name):
    return name.startswith(("nvidia/nccl/include/", "nvidia/cu13/include/crt/", "nvidia/cu13/include/nv/"))


def unpack(wheel, folder, wanted=wanted):
    """Takes out of a wheel what is linked or included, and leaves Python modules and CUDA libraries in it."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or not wanted(entry.filename):
                continue
            path = Path(archive.extract(entry, folder))  # checks the CRC, and never leaves `folder`
            path.chmod((entry.external_attr >> 16) & 0o777 or 0o644)


def build_cpu(temporary):
    print("set-up: fetching libtorch 2.11.0 (545 MB, once) ...", file=sys.stderr)
    wheels = temporary / "wheels"
    wheels.mkdir()
    pip("download", "libtorch-cpu.txt", "--dest", wheels, 2_000_000_000)
    print("set-up: unpacking libtorch ...", file=sys.stderr)
    made = temporary / "made"
    made.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        unpack(wheel, made)
        wheel.unlink()
    (made / LIBTORCH_LINK).symlink_to(LIBTORCH_LINK_TARGET)
    if wrong := wrong_files(made):
        raise Failed(f"libtorch as unpacked is not the expected one: {', '.join(wrong)}", "please report this")
    write_stamp(made, stamped_paths())
    return made


def build_cuda(temporary):
    # Not yet run on a machine with a GPU.
    print("set-up: fetching libtorch 2.11.0 for CUDA (about 3 GB, once) ...", file=sys.stderr)
    made = temporary / "made"
    made.mkdir()
    pip("install", "libtorch-cuda.txt", "--target", made, 12_000_000_000)
    libraries = [*made.glob("torch/lib/*.so*"), *made.glob("nvidia/**/lib/*.so*")]
    write_stamp(made, [str(path.relative_to(made)) for path in libraries])
    return made


def build_nccl(temporary):
    print("set-up: fetching NCCL's headers (200 MB with its library, once) ...", file=sys.stderr)
    wheels = temporary / "wheels"
    wheels.mkdir()
    pip("download", "nccl-headers.txt", "--dest", wheels, 500_000_000)
    made = temporary / "made"
    made.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        unpack(wheel, made, is_nccl_header)
        wheel.unlink()
    write_stamp(made, [str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()])
    return made


def flush(folder):
    for path in folder.rglob("*.so*"):
        if not path.is_symlink():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


BUILDERS = {"cpu": build_cpu, "cuda": build_cuda, "nccl": build_nccl}


def install(kind, parent):
    folder = parent / f"{VERSION}-{kind}"
    parent.mkdir(parents=True, exist_ok=True)
    with open(parent / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another set-up is running, waiting for it ...", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp_holds(folder):
            return
        for leftover in parent.glob(f".{VERSION}-{kind}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists():
            wrong = wrong_files(folder) if kind == "cpu" else ["no valid stamp"]
            if not wrong:
                write_stamp(folder, stamped_paths())
                return
            print(f"set-up: {folder} is not complete and is made again: {', '.join(wrong)}", file=sys.stderr)
        temporary = Path(tempfile.mkdtemp(prefix=f".{VERSION}-{kind}.", dir=parent))
        try:
            made = BUILDERS[kind](temporary)
            flush(made)
            if folder.exists():
                folder.rename(temporary / "replaced")
            made.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in BUILDERS:
        sys.exit(__doc__)
    try:
        install(sys.argv[1], Path(sys.argv[2]).absolute())
    except Failed as failed:
        sys.exit(f"error: {failed}\n  hint: {failed.hint}")
    except (OSError, zipfile.BadZipFile) as error:
        sys.exit(f"error: installing libtorch failed: {error}\n  hint: run it again; half of an install is never left behind")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run it again to install libtorch")


if __name__ == "__main__":
    main()

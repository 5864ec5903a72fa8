"""One file, read as train, evaluate and predict do: what came of it, and what is wrong with that."""

import os
import re
import time
import warnings
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from foveal.cli.streams import without_library_lines
from foveal.data import load, read_image, scan
from foveal.errors import FovealError
from foveal.train import load_net

from .mutate import mutated
from .samples import SAMPLES, Files

#: Seconds of a processor, and bytes beyond those held before, that reading a file may take.
MAX_SECONDS, MAX_BYTES = 5.0, 10**9
FOLDERS = ("idx", "cifar")


class Case(NamedTuple):
    """A file to judge. number: 0 for the sample as it is."""

    format: str
    seed: int
    number: int

    def files(self) -> tuple[str, Files]:
        """Return the name of the damaged file, and all files of its folder."""
        draw = Random(f"{self.format} {self.seed} {self.number}")
        name, files = SAMPLES[self.format](draw)
        if self.number:
            files[name] = mutated(self.format, files[name], draw)
        return name, files


def judge(case: Case, folder: Path) -> tuple[str, str]:
    """Return ("read" or "refused", "") if all is well, else a word for what is wrong and the details."""
    name, files = case.files()
    for path in folder.iterdir():
        path.unlink()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    target = folder if case.format in FOLDERS else folder / name
    reset_peak()
    before, started, size = peak(), time.process_time(), os.fstat(2).st_size
    outcome = attempt(case.format, target, folder)
    seconds, taken, lines = time.process_time() - started, peak() - before, os.fstat(2).st_size - size
    if seconds > MAX_SECONDS:
        return "slow", f"{seconds:.1f} s"
    if taken > MAX_BYTES:
        return "memory", f"{taken / 1e6:.0f} MB"
    if lines:
        return "lines on stderr", f"{lines} bytes"
    if case.number == 0 and outcome[0] != "read":
        return "a valid file is refused", str(outcome)
    return outcome


def attempt(format: str, target: Path, folder: Path) -> tuple[str, str]:
    """Read the file and look at what was read, or at the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            problem = wrong(format, target)
        return ("wrong result", problem) if problem else ("read", "")
    except FovealError as error:
        message = str(error)
        if "\n" in message or not message:
            return "more than one line", repr(message[:300])
        if str(folder) not in message:
            return "a message that does not name the file", message[:300]
        return "refused", ""
    except Exception as error:
        return f"{type(error).__name__} is raised", str(error)[:300]


def wrong(format: str, target: Path) -> str:
    """Read a file; return what is wrong with the result, nothing if it is right."""
    if format in ("idx", "cifar", "npz"):
        data = load(target)
        count = len(data.classes)
        for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
            if x.shape != (len(y), data.channels, *data.size) or not np.isfinite(x).all():
                return f"images {x.shape} for {len(y)} labels"
            if y.min() < 0 or y.max() >= count:
                return f"labels from {y.min()} to {y.max()} for {count} classes"
        return "" if min(data.std) > 0 and np.isfinite(data.mean).all() else f"mean {data.mean}, std {data.std}"
    if format == "safetensors":
        net, description = load_net(target)
        return "" if min(description.std) > 0 and not net.training else "a description that cannot be used"
    if format in ("tar", "parquet"):
        files = scan(target, quiet=True)
        with without_library_lines():
            images = [read_image(path, 3, 16, 16) for path in files.paths]
        return "" if len(files.labels) == len(images) > 1 else f"{len(files.labels)} labels for {len(images)} images"
    # As predict does.
    with without_library_lines():
        image = read_image(target, 3, 16, 16)
    right = image.shape == (3, 16, 16) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    return "" if right else f"an image {image.shape} of {image.dtype}"


def reset_peak() -> None:
    """Forget the most memory that was held so far, where Linux lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Return the most bytes of memory that this process has held; 0 where the system is not Linux."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0

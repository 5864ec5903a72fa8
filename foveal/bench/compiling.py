"""First steps are timed, each in a process of its own: how long a network takes before it runs.

Cold is with an empty kernel cache, warm with the one that the cold process has left. Each process builds the network,
makes its batch, then times the first training step, another batch size and another image size on the same network; or,
instead of these, the first inference on one image. A time contains everything between the call and its result: tracing,
planning, compiling or loading machine code, and one run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np

from foveal import nn
from foveal.api import compile
from foveal.bench.memory import MIB
from foveal.bench.models import CLASSES, make_optimizer
from foveal.bench.timing import Bench, Record, Starting
from foveal.errors import FovealError, ShapeError
from foveal.kernel import cache, pool
from foveal.kernel import compile as machine_code
from foveal.kernel.target import current
from foveal.nn import models
from foveal.program import Program
from foveal.step import compile_step
from foveal.strides import Ndarray
from foveal.train.settings import LOSS

# Rows and columns of the images for networks that were published for larger ones.
LARGEST = 96
# Images in a batch: of images of that size, and of smaller ones.
LARGE_BATCH, SMALL_BATCH = 16, 128
# Seconds after which a process is ended.
LIMIT = 1800.0
# The columns of a measurement that are times.
TIMES = ("s", "cpu_s", "model_s")
# What a process times, and the names of passes.
STEP, INFER = "step", "inference"
BATCH, SIZE = "new batch size", "new image size"


def select(names: Sequence[str]) -> tuple[str, ...]:
    """Return the models of these names, as the registry spells them, or all without names. Raises ShapeError."""
    return tuple(dict.fromkeys(models.canonical(name) for name in names)) or models.NAMES


def shape(name: str) -> tuple[int, int, int]:
    """Return the first batch of a model: the number of images, their channels, their rows and columns."""
    channels, rows, _ = models.MODELS[name].image
    size = min(rows, LARGEST)
    return LARGE_BATCH if size == LARGEST else SMALL_BATCH, channels, size


def passes(kind: str, name: str) -> dict[str, tuple[int, int]]:
    """Return the number of images and their size of each call that a process times, in order, by the name of the pass.

    The second batch is smaller, as the last one of a data set is; the images of the third one are larger.
    """
    batch, _, size = shape(name)
    if kind == INFER:
        return {INFER: (1, size)}
    return {STEP: (batch, size), BATCH: (5 * batch // 8, size), SIZE: (batch, size + 8 * (size // 24))}


def first_calls(kind: str, net: nn.Module, threads: int) -> Callable[[Ndarray, Ndarray], Program]:
    """Return a function of images and labels that makes a training step or infers, and returns the program it ran."""
    if kind == INFER:
        function = compile(net.eval(), threads)

        def infer(x: Ndarray, labels: Ndarray) -> Program:
            function(x)
            return function.program(x)

        return infer
    step = compile_step(net, LOSS, make_optimizer(net), threads)

    def train(x: Ndarray, labels: Ndarray) -> Program:
        step(x, labels)
        return step.program(x, labels)

    return train


def measure(kind: str, name: str, threads: int, texts: bool) -> dict[str, Record | None]:
    """Time what a process is started for; return what each pass took, None for images that the network does not take.

    texts: whether to count the bytes of IR, which is built once more for that.
    """
    _, channels, size = shape(name)
    started = time.perf_counter()
    net = models.build(name, channels=channels, size=(size, size), classes=CLASSES)
    building = time.perf_counter() - started
    call = first_calls(kind, net, threads)
    found: dict[str, Record | None] = {}
    for label, (images, rows) in passes(kind, name).items():
        rng = np.random.default_rng(0)
        x = rng.standard_normal((images, channels, rows, rows), np.float32)
        labels = rng.integers(0, CLASSES, images).astype(np.int32)
        try:
            found[label] = timed(call, x, labels, texts) | {"model_s": building}
        except ShapeError:
            # Some networks take images of one size alone.
            if label != SIZE:
                raise
            found[label] = None
    return found


def timed(call: Callable[[Ndarray, Ndarray], Program], x: Ndarray, labels: Ndarray, texts: bool) -> Record:
    """Return what the first call on arrays of these shapes takes, and what of its kernels was in no cache."""
    compiled, (_, code) = machine_code.statistics.compiled, cache.size()
    cpu, started = cpu_seconds(), time.perf_counter()
    program = call(x, labels)
    seconds = time.perf_counter() - started
    # what compiling processes have taken counts when they have ended; the next pass has to start them anew
    pool.end_idle()
    cpu = cpu_seconds() - cpu
    target = current()
    of_calls = (kernel for call in program.calls for kernel in call.kernels)
    # those that copy arguments and results are the program's, too
    kernels = {machine_code.key(kernel, target): kernel for kernel in (*of_calls, *program.handover.kernels)}
    irs = (machine_code.build_ir(kernel, target, f"k{key}") for key, kernel in kernels.items()) if texts else None
    return {
        "s": seconds,
        "cpu_s": cpu,
        "kernels": len(kernels),
        "compiled": machine_code.statistics.compiled - compiled,
        "code_mib": (cache.size()[1] - code) / MIB,
        "ir_mib": None if irs is None else sum(map(len, irs)) / MIB,
    }


def cpu_seconds() -> float:
    """Return the seconds of CPU that this process has taken, and those it has started and waited for."""
    return sum(os.times()[:4])


def child(kind: str, name: str, threads: int, texts: bool, folder: str) -> dict[str, Record | None]:
    """Run `measure` in a new process with a kernel cache of its own. Raises FovealError if it fails, with its errors'
    last line.
    """
    words = [sys.executable, "-m", "foveal.bench.compiling", kind, name, str(threads), str(int(texts))]
    environment = os.environ | {"FOVEAL_CACHE": folder}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise FovealError(f"bench compile: the process for {name} ended with status {ended.returncode}: {last}")
    found: dict[str, Record | None] = json.loads(ended.stdout.splitlines()[-1])
    return found


def pair(
    kind: str, name: str, texts: bool, threads: int, starting: Starting
) -> tuple[dict[str, Record | None], dict[str, Record | None]]:
    """Return what two processes measure that share a cache, which is empty for the first."""
    with tempfile.TemporaryDirectory(prefix="foveal-bench-") as folder:
        starting(f"{name} {kind}, cold")
        cold = child(kind, name, threads, False, folder)
        starting(f"{name} {kind}, warm")
        return cold, child(kind, name, threads, texts, folder)


def shortest(one: dict[str, Record | None], other: dict[str, Record | None]) -> dict[str, Record | None]:
    """Return the shorter of two measured times of each pass; what is counted is equal in both."""

    def shorter(label: str) -> Record | None:
        first, second = one[label], other[label]
        return first and second and first | {key: min(first[key], second[key]) for key in TIMES}

    return {label: shorter(label) for label in one}


def records(names: Sequence[str], texts: bool, bench: Bench, starting: Starting) -> Iterator[Record]:
    """Yield a record for each pass of each model: seconds of wall clock, and of CPU on all cores together."""
    for name in names:
        for kind in (STEP, INFER):
            rounds = [pair(kind, name, texts, bench.threads, starting) for _ in range(bench.repeats)]
            cold, warm = (reduce(shortest, found) for found in zip(*rounds, strict=True))
            for label, (images, rows) in passes(kind, name).items():
                if (first := cold[label]) and (second := warm[label]):
                    yield {
                        "name": name,
                        "pass": label,
                        "batch": images,
                        "size": rows,
                        "cold_s": first["s"],
                        "warm_s": second["s"],
                        "cold_cpu_s": first["cpu_s"],
                        "warm_cpu_s": second["cpu_s"],
                        "model_s": second["model_s"],
                        "kernels": first["kernels"],
                        "compiled": first["compiled"],
                        "code_mib": first["code_mib"],
                        "ir_mib": second["ir_mib"],
                    }


def main(kind: str, name: str, threads: str, texts: str) -> None:
    """Measure what the arguments say, in their order of `child`, and print it as JSON."""
    print(json.dumps(measure(kind, name, int(threads), texts == "1")))


if __name__ == "__main__":
    main(*sys.argv[1:])

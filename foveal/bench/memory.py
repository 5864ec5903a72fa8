"""Peak memory of a training step is measured, each framework in a process of its own.

The figure is what the process holds at its peak during some steps, less what it holds after importing, building the
model and making the batch: activations, gradients, the optimiser's state and the libraries' own buffers.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from foveal import nn
from foveal.bench.models import LR, MOMENTUM, ModelWork, make_optimizer
from foveal.bench.timing import MEMORY_FORMATS, Bench, Contender, Record, Starting, StepSettings
from foveal.errors import FovealError
from foveal.passes.recompute import MEMORY
from foveal.step import compile_step

# Steps during which the peak is measured.
STEPS = 3
# Where Linux says what a process holds.
STATUS = Path("/proc/self/status")
MIB = 2.0**20
# Seconds after which a process is ended.
LIMIT = 600.0


def resident_now() -> int:
    """Return the bytes that the process holds in memory; where the system does not say, their maximum up to now."""
    return from_status("VmRSS") if STATUS.exists() else resident_peak()


def resident_peak() -> int:
    """Return the maximum of the bytes that the process held in memory up to now.

    Linux passes getrusage's figure on to a new process, so that the parent's would be read; VmHWM is the process's own.
    """
    if STATUS.exists():
        return from_status("VmHWM")
    resource: Any = import_module("resource")
    # In KiB, but on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def from_status(key: str) -> int:
    """Return the bytes of one line of STATUS, which has them in KiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def growth(step: Contender) -> int:
    """Return how many bytes the peak during some steps lies above what the process holds before them."""
    before = resident_now()
    for _ in range(STEPS):
        step()
    return resident_peak() - before


def measure(contender: str, work: ModelWork, threads: int) -> dict[str, int]:
    """Measure the growth of a training step: this is what a process is started for.

    contender: Foveal's way to plan memory, whose arena is returned as well, or one of PyTorch's memory formats.
    """
    x, labels = work.data()
    net = work.build()
    if contender in MEMORY:
        step = compile_step(net, nn.CrossEntropyLoss(), make_optimizer(net), threads=threads, memory=contender)
        added = growth(lambda: step(x, labels))
        return {"bytes": added, "arena": step.program(x, labels).arena_plan.size}
    torch = import_module("foveal.bench.against_torch")
    with torch.session(threads, gradients=True):
        twin = torch.TorchModel(work.model, net.state_dict(), x, contender)
        settings = StepSettings(work.model, net.state_dict(), x, labels, LR, MOMENTUM)
        call = torch.training_step(twin, settings, compiled=False)
        return {"bytes": growth(call)}


def child(contender: str, work: ModelWork, threads: int) -> dict[str, int]:
    """Run `measure` in a new process. Raises FovealError with the last line of its errors if it fails."""
    words = [contender, work.model, work.batch, work.channels, work.size, threads]
    command = [sys.executable, "-m", "foveal.bench.memory", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise FovealError(f"bench memory: the process for {contender} ended with status {ended.returncode}: {last}")
    sizes: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return sizes


def records(works: dict[str, ModelWork], bench: Bench, starting: Starting) -> Iterator[Record]:
    """Yield a record for each model.

    ratio is Foveal's bytes by PyTorch's in the memory format that takes less; low_ratio is that with memory="low".
    """
    formats = [m for m in MEMORY_FORMATS if bench.against and m in bench.modes]
    for name, work in works.items():
        starting(f"{name} memory")
        # The first run compiles: the compiler's memory is needed once for a model, not by its steps.
        for mode in MEMORY:
            child(mode, work, bench.threads)
        ours, low = (child(mode, work, bench.threads) for mode in MEMORY)
        theirs = {mode: child(mode, work, bench.threads)["bytes"] / MIB for mode in formats}
        smallest = min(theirs.values(), default=None)
        yield {
            "name": name,
            "batch": work.batch,
            "threads": bench.threads,
            "ours_mib": ours["bytes"] / MIB,
            "arena_mib": ours["arena"] / MIB,
            "low_mib": low["bytes"] / MIB,
            "torch_mib": smallest,
            "torch_mode": min(theirs, key=lambda mode: theirs[mode]) if theirs else None,
            "ratio": ours["bytes"] / MIB / smallest if smallest else None,
            "low_ratio": low["bytes"] / MIB / smallest if smallest else None,
            "torch_modes": theirs,
        }


def main() -> None:
    """Measure what the arguments say, in their order of `child`, and print it as JSON."""
    contender, model, *sizes = sys.argv[1:]
    batch, channels, size, threads = map(int, sizes)
    print(json.dumps(measure(contender, ModelWork(model, batch, channels, size), threads)))


if __name__ == "__main__":
    main()

"""Peak memory of a training step, each framework in a process of its own.

Counted is what the process holds at its peak during some steps, less what it holds after importing, building the model
and making the batch: activations, gradients, the optimiser's state, the libraries' own buffers.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from foveal import nn
from foveal.api import compile_step
from foveal.bench.models import LR, MOMENTUM, Work, descent
from foveal.bench.timing import CHANNELS_LAST, CONTIGUOUS, Bench
from foveal.errors import FovealError
from foveal.passes.recompute import MEMORY

STEPS = 3
STATUS = Path("/proc/self/status")
MIB = 2.0**20
LIMIT = 600.0  # seconds for one process


def held() -> int:
    """Bytes in memory now; where the system does not tell, at the peak up to now."""
    return from_status("VmRSS") if STATUS.exists() else peak()


def peak() -> int:
    """The most bytes in memory up to now.

    Linux keeps getrusage's figure across the start of a process, so that the parent's would be read; VmHWM is the
    process's.
    """
    if STATUS.exists():
        return from_status("VmHWM")
    resource: Any = import_module("resource")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def from_status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def growth(step: Callable[[], Any]) -> int:
    """Bytes that some steps add to what is held before."""
    before = held()
    for _ in range(STEPS):
        step()
    return peak() - before


def measure(contender: str, work: Work, threads: int) -> dict[str, int]:
    """What a process is started for: `growth` of our step, with its arena, or of PyTorch's in a memory format."""
    x, labels = work.data()
    net = work.build()
    if contender in MEMORY:
        step = compile_step(net, nn.CrossEntropyLoss(), descent(net), threads=threads, memory=contender)
        added = growth(lambda: step(x, labels))
        return {"bytes": added, "arena": step.program(x, labels).arena_plan.size}
    torch = import_module("foveal.bench.against_torch")
    with torch.session(threads, gradients=True):
        twin = torch.Twin(work.model, net.state_dict(), x, contender)
        call = torch.training_step(twin, x, labels, LR, MOMENTUM, compiled=False)
        return {"bytes": growth(call)}


def child(contender: str, work: Work, threads: int) -> dict[str, int]:
    """`measure` in a fresh process."""
    words = [contender, work.model, work.batch, work.channels, work.size, threads]
    command = [sys.executable, "-m", "foveal.bench.memory", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise FovealError(f"bench memory: the process for {contender} ended with status {ended.returncode}: {last}")
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


def records(works: dict[str, Work], bench: Bench, starting: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A record for each model; ratio is ours / torch's in the memory format that takes less, low_ratio with
    memory="low".

    Foveal runs once before it counts: the compiler's own memory is paid once for a model, not by its steps.
    """
    formats = [m for m in (CONTIGUOUS, CHANNELS_LAST) if bench.against and m in bench.modes]
    for name, work in works.items():
        starting(f"{name} memory")
        for mode in MEMORY:
            child(mode, work, bench.threads)
        ours, low = (child(mode, work, bench.threads) for mode in MEMORY)
        theirs = {mode: child(mode, work, bench.threads)["bytes"] / MIB for mode in formats}
        least = min(theirs.values(), default=None)
        yield {
            "name": name,
            "batch": work.batch,
            "threads": bench.threads,
            "ours_mib": ours["bytes"] / MIB,
            "arena_mib": ours["arena"] / MIB,
            "low_mib": low["bytes"] / MIB,
            "torch_mib": least,
            "torch_mode": min(theirs, key=lambda mode: theirs[mode]) if theirs else None,
            "ratio": ours["bytes"] / MIB / least if least else None,
            "low_ratio": low["bytes"] / MIB / least if least else None,
            "torch_modes": theirs,
        }


def main() -> None:
    contender, model, *sizes = sys.argv[1:]
    batch, channels, size, threads = map(int, sizes)
    print(json.dumps(measure(contender, Work(model, batch, channels, size), threads)))


if __name__ == "__main__":
    main()

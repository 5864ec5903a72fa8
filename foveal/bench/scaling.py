"""Speedup by threads: training steps on several threads against the same steps on one, timed alternately."""

from collections.abc import Iterator

from foveal import nn
from foveal.bench.models import STEPS_COMPARED, ModelWork, make_optimizer
from foveal.bench.timing import Bench, Record, Starting, alternate
from foveal.errors import FovealError
from foveal.step import Step, compile_step


def records(works: dict[str, ModelWork], bench: Bench, starting: Starting) -> Iterator[Record]:
    """Yield a record for each model; speedup is one_ms / many_ms, of the medians and of the best times."""
    for name, work in works.items():
        starting(f"{name} on 1 and {bench.threads} threads")
        yield record(name, work, bench)


def record(name: str, work: ModelWork, bench: Bench) -> Record:
    """Time one model's step. Raises FovealError if the numbers of threads lead to different bits."""
    x, labels = work.data()
    one, many = (compiled_step(work, threads) for threads in (1, bench.threads))
    # Losses and outputs of the first steps are the same, bit by bit.
    for number in range(1, STEPS_COMPARED + 1):
        alone, together = (step(x, labels) for step in (one, many))
        if alone.output.tobytes() != together.output.tobytes() or alone.loss != together.loss:
            raise FovealError(
                f"{name}, step {number}: {bench.threads} threads compute other bits than one; please report it"
            )
    times = alternate({"one": lambda: one(x, labels), "many": lambda: many(x, labels)}, bench.repeats)
    return {
        "name": name,
        "batch": work.batch,
        "threads": bench.threads,
        "one_ms": times["one"].median,
        "many_ms": times["many"].median,
        "speedup": times["one"].median / times["many"].median,
        "one_best_ms": times["one"].best,
        "many_best_ms": times["many"].best,
        "speedup_best": times["one"].best / times["many"].best,
    }


def compiled_step(work: ModelWork, threads: int) -> Step:
    """Return the model's training step on a number of threads."""
    net = work.build()
    return compile_step(net, nn.CrossEntropyLoss(), make_optimizer(net), threads=threads)

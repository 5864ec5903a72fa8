"""What more threads give: training steps on several threads against the same steps on one, turn by turn."""

from collections.abc import Callable, Iterator
from typing import Any

from foveal import nn
from foveal.api import Step, compile_step
from foveal.bench.models import STEPS_COMPARED, Work, descent
from foveal.bench.timing import Bench, turns
from foveal.errors import FovealError


def records(works: dict[str, Work], bench: Bench, starting: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A record for each model; speedup is one_ms / many_ms, of the medians and of the best."""
    for name, work in works.items():
        starting(f"{name} on 1 and {bench.threads} threads")
        yield record(name, work, bench)


def record(name: str, work: Work, bench: Bench) -> dict[str, Any]:
    x, labels = work.data()
    one, many = (prepared(work, threads) for threads in (1, bench.threads))
    for number in range(1, STEPS_COMPARED + 1):
        alone, together = (step(x, labels) for step in (one, many))
        if alone.output.tobytes() != together.output.tobytes() or alone.loss != together.loss:
            raise FovealError(
                f"{name}, step {number}: {bench.threads} threads give other bits than one; please report it"
            )
    times = turns({"one": lambda: one(x, labels), "many": lambda: many(x, labels)}, bench.repeats)
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


def prepared(work: Work, threads: int) -> Step:
    net = work.build()
    return compile_step(net, nn.CrossEntropyLoss(), descent(net), threads=threads)

"""Speedup by threads: training steps on several threads against the same steps on one, timed alternately."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from foveal import nn
from foveal.bench import output, thread_model
from foveal.bench.models import STEPS_COMPARED, ModelWork, make_optimizer
from foveal.bench.thread_model import Measured, Rates
from foveal.bench.timing import Bench, Record, Starting, alternate
from foveal.errors import FovealError
from foveal.peak import copy_rate
from foveal.step import Step, compile_step


@dataclass
class Prediction:
    """Predicts the steps that are measured."""

    #: GB/s that the machine copies at most
    bandwidth: float
    #: what was measured of this machine, and of each step
    rates: Rates | None = None
    found: list[Measured] = field(default_factory=list)

    def of(self, name: str, work: ModelWork, one: Step, seconds: float, bench: Bench) -> float:
        """Return the seconds of a step on the bench's threads, predicted from a step on one that takes `seconds`."""
        if self.rates is None:
            alone, together = (copy_rate(threads, output.LARGE) for threads in (1, bench.threads))
            barrier = thread_model.barrier_seconds(bench.threads)
            self.rates = Rates(bench.threads, alone, together, barrier, self.bandwidth)
        self.found.append(thread_model.measure(name, work.batch, one.program(*work.data()), seconds))
        return self.found[-1].predicted(bench.threads, self.rates)


def records(
    works: dict[str, ModelWork], prediction: Prediction | None, bench: Bench, starting: Starting
) -> Iterator[Record]:
    """Yield a record for each model; speedup is one_ms / many_ms, of the medians and of the best times.

    With a prediction, model_ms is what it says of many_ms, and error how far that is from it.
    """
    for name, work in works.items():
        starting(f"{name} on 1 and {bench.threads} threads")
        yield record(name, work, prediction, bench)


def record(name: str, work: ModelWork, prediction: Prediction | None, bench: Bench) -> Record:
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
    model = prediction and 1e3 * prediction.of(name, work, one, times["one"].median / 1e3, bench)
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
        "model_ms": model,
        "error": model / times["many"].median - 1 if model else None,
    }


def compiled_step(work: ModelWork, threads: int) -> Step:
    """Return the model's training step on a number of threads."""
    net = work.build()
    return compile_step(net, nn.CrossEntropyLoss(), make_optimizer(net), threads=threads)

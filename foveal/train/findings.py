"""The findings of `foveal tune`: the range test, the short runs, the choices."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from foveal.display import Table, Tables


@dataclass(frozen=True)
class RangeTest:
    """The loss while the learning rate grows from step to step (L. N. Smith 2017, section 3.3)."""

    #: Of each step: the rate, the loss, and the smoothed loss.
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    #: Rates in the middle of the longest fall of the loss, where it falls fastest, and where it is lowest.
    valley: float
    steepest: float
    lowest: float


# The hyper-parameters of a short run: lr, momentum, the low momentum of a cycle, weight decay.
Candidate = tuple[float, float | None, float | None, float]


@dataclass(frozen=True)
class Trial:
    """A short run: its hyper-parameters, and the loss and the accuracy on the images that are held out."""

    lr: float
    momentum: float | None
    momentum_low: float | None
    weight_decay: float
    #: None if the run diverged.
    loss: float | None
    accuracy: float

    @property
    def candidate(self) -> Candidate:
        """What was tried."""
        return self.lr, self.momentum, self.momentum_low, self.weight_decay

    def order(self) -> float:
        """Return the number by which trials are compared: the lower, the better."""
        return math.inf if self.loss is None else self.loss


@dataclass(repr=False)
class Findings(Tables):
    """The hyper-parameters that `tune` chose, and what it chose from: the content of `tune.json`."""

    data: str
    model: str
    optimizer: str
    seed: int
    epochs: int
    #: Steps of a short run.
    steps: int = 0
    lr: float = 0.0
    batch_size: int = 0
    momentum: float | None = None
    momentum_low: float | None = None
    weight_decay: float = 0.0
    range_test: RangeTest | None = None
    #: Images per second by batch size.
    speeds: dict[int, float] = field(default_factory=dict)
    #: The short runs that were compared, for the rate, the momentum and the weight decay.
    rates: list[Trial] = field(default_factory=list)
    momenta: list[Trial] = field(default_factory=list)
    decays: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    def tables(self) -> Iterator[Table]:
        """Yield what was chosen, the speeds, and the short runs that were compared."""
        chosen = [
            (name, f"{value:g}" if isinstance(value, float) else str(value))
            for name in ("optimizer", "lr", "batch_size", "momentum", "momentum_low", "weight_decay", "epochs")
            if (value := getattr(self, name)) is not None
        ]
        yield f"{self.data}: {self.model}, seed {self.seed}; chosen in {self.seconds:.0f} s", ("", ""), chosen
        if self.speeds:
            yield "Speed:", ("batch size", "images/s"), [(str(n), f"{v:,.0f}") for n, v in self.speeds.items()]
        rows = [
            (
                f"{t.lr:g}",
                "-" if t.momentum is None else f"{t.momentum:g}",
                "-" if t.momentum_low is None else f"{t.momentum_low:g}",
                f"{t.weight_decay:g}",
                "diverged" if t.loss is None else f"{t.loss:.4f}",
                f"{t.accuracy:.2%}",
            )
            for t in dict.fromkeys([*self.rates, *self.momenta, *self.decays])
        ]
        columns = ("lr", "momentum", "down to", "weight decay", "loss", "accuracy")
        yield f"Short runs of {self.steps} steps, on images held out:", columns, rows

    def command(self, data: str) -> str:
        """Return the command line that trains with these hyper-parameters; data: its DATA."""
        words = ["foveal", "train", shlex.quote(data), f"--model {self.model}"]
        words += [f"--optimizer {self.optimizer}", f"--batch-size {self.batch_size}"]
        words += [f"--lr {self.lr:g}"]
        if self.momentum is not None:
            words.append(f"--momentum {self.momentum:g}")
        if self.momentum_low is not None:
            words.append(f"--momentum-low {self.momentum_low:g}")
        words += [f"--weight-decay {self.weight_decay:g}", f"--epochs {self.epochs}"]
        return " ".join([*words, f"--seed {self.seed}"])

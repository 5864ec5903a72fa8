"""Which epoch a run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from foveal.errors import ArgumentError
from foveal.strides import Ndarray
from foveal.train.callbacks import EarlyStopping, Monitor, Values

if TYPE_CHECKING:
    from foveal.train.feed import Feed
    from foveal.train.settings import TrainOptions


class BestEpoch(EarlyStopping):
    """Lets a run end with the network of its best epoch: of the highest accuracy, and among these the lowest loss.

        train.BestEpoch(patience=10)

    Of few validation images many epochs have the same accuracy, and their losses differ. part: "validation", or another
    part that is measured; where it has no accuracy, the loss alone decides. patience: epochs without a better one after
    which the training ends; None never ends it early. (With a schedule that falls over the whole run, such as one
    cycle, the best epochs are usually among the last, as the rate is small there.)
    """

    def __init__(self, part: str = "validation", *, patience: int | None = None) -> None:
        # One more than there can be epochs.
        super().__init__(f"{part} accuracy", patience=2**62 if patience is None else patience, restore_best=True)
        self.part = part
        # The loss of the best epoch.
        self.loss = float("inf")

    def reset(self) -> None:
        super().reset()
        self.loss = float("inf")

    def on_train_begin(self) -> object:
        if self.monitor not in self.run.names:
            self.monitor, self.mode = f"{self.part} loss", "min"
        return super().on_train_begin()

    def improved(self, values: Values) -> bool:
        loss = float(values.get(f"{self.part} loss", np.nan))
        tied = values.get(str(self.monitor)) == self.best and loss < self.loss
        if tied:
            self.best_epoch = int(values["epoch"])
        better = tied or super().improved(values)
        if better:
            self.loss = loss
        return better

    def state_dict(self) -> Mapping[str, Any]:
        return {**super().state_dict(), "loss": self.loss}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        super().load_state_dict({name: value for name, value in state.items() if name != "loss"})
        self.loss = float(state["loss"])


def with_best(options: TrainOptions, feed: Feed) -> list[Any]:
    """Return the callbacks of a run, with one that keeps the best epoch where that is asked for, or usual.

    A run with a folder keeps the model of its best epoch there in any case.
    """
    given = list(options.callbacks) if isinstance(options.callbacks, list | tuple) else [options.callbacks]
    # A callback of the caller's own has decided about that.
    usual = feed.best and options.out is None and not any(isinstance(c, Monitor) for c in given)
    if options.patience is None and not usual:
        return given
    if "validation" not in feed.parts:
        raise ArgumentError("train: patience is given, and there is no validation part to go by: give validation=0.1")
    return [*given, BestEpoch(patience=options.patience)]

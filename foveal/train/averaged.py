"""What a trained model is worth with its test-time augmentation, measured once, at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from foveal import nn
from foveal.train.callbacks import State
from foveal.train.checkpoint import ModelDescription, NetworkDescription, load_run
from foveal.train.feed import Feed
from foveal.train.history import AVERAGED, History
from foveal.train.measure import Loss, Measures, measure
from foveal.train.progress import ProgressDisplay
from foveal.train.run_folder import RunFolder
from foveal.train.settings import Settings
from foveal.train.tally import Clock
from foveal.train.together import Together
from foveal.train.views import views


class Ended(Protocol):
    """A run whose epochs are all done."""

    net: nn.Module
    settings: Settings
    loss: Loss | None
    feed: Feed
    history: History
    folder: RunFolder | None
    display: ProgressDisplay
    clock: Clock
    together: Together
    stored: ModelDescription | NetworkDescription

    @property
    def measures(self) -> Measures:
        """More numbers, by name."""

    @property
    def check(self) -> Callable[[], None] | None:
        """What is called between batches, and raises where a signal asks for the end."""

    def weights(self) -> State:
        """Return copies of the network's state as it is measured."""


def add_averaged(run: Ended) -> None:
    """Measure the model of a run with its test-time augmentation; history and metrics.json get "averaged".

    That is {"views": name, "count": number of views, "validation": {...}, "test": {...}}. Nothing is done without one.
    """
    tta = run.settings.tta
    if tta is None or not run.history:
        return
    count = len(views(tta))
    run.display.note(f"measuring once more, each image averaged over {count} views ({tta})")
    own = {name: array.copy() for name, array in run.net.state_dict().items()}
    run.net.load_state_dict(run.together.computed(lambda: model_of(run)))
    try:
        parts: dict[str, Any] = {
            name: measure(run.net, loader, run.loss, run.measures, run.check, tta, run.together.ranks)
            for name, loader in run.feed.parts.items()
        }
    finally:
        run.net.load_state_dict(own)
    run.history.update({AVERAGED: {"views": tta, "count": count, **parts}, "seconds": run.clock.elapsed()})
    run.together.lead()
    if run.folder is not None:
        run.folder.save(None, run.stored, None, run.history)


def model_of(run: Ended) -> State:
    """Return the state of the model that the run keeps: that of its file, where there is one."""
    if run.folder is not None:
        return load_run(run.folder.path)[1]
    # A callback may have brought an earlier epoch back, whose parameters are averages already.
    return dict(run.net.state_dict()) if "restored_epoch" in run.history else run.weights()

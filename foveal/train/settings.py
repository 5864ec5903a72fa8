"""What decides how a run goes: options and the recipe put together, and the parts that are built from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import foveal
from foveal import nn, optim
from foveal.data.readers import Dataset
from foveal.errors import ShapeError
from foveal.nn import models
from foveal.passes.recompute import FAST, MEMORY

LOSS = nn.AuxiliaryLoss(nn.CrossEntropyLoss())  # auxiliary outputs count where a model has some
# Where --optimizer differs from the recipe's, its rate would be wrong by a factor of 10 or more:
# momentum 0.9 multiplies a step by 10, and Adam's steps do not scale with the gradient.
DEFAULT_LR = {
    "sgd": 0.2,
    "momentum": 0.02,
    "nesterov": 0.02,
    "adagrad": 0.02,
    "rmsprop": 1e-3,
    "adam": 2e-3,
    "adamw": 2e-3,
    "nadam": 2e-3,
    "lamb": 0.01,
    "muon": 0.02,
    "lookahead": 0.05,
}
ONE_CYCLE = "one-cycle"


@dataclass(frozen=True)
class Settings:
    """Everything that decides how a run goes, after the recipe and the options are put together."""

    model: str | None
    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    schedule: str
    momentum: float | None
    momentum_low: float | None
    weight_decay: float
    clip_norm: float | None
    ema: float | None
    augment: str | None
    seed: int
    threads: int
    memory: str


def choose(
    data: Dataset,
    model: str | nn.Module | None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    schedule: str | None = None,
    momentum: float | None = None,
    momentum_low: float | None = None,
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory: str = FAST,
) -> Settings:
    """What is given, and the recipe's for the rest. Raises ShapeError for what cannot be meant."""
    recipe = models.default(size=data.size)
    name = recipe.model if model is None else model if isinstance(model, str) else None
    rule = recipe.optimizer if optimizer is None else optimizer
    schedule = ONE_CYCLE if schedule is None else schedule
    name = None if name is None else models.canonical(name)
    _one_of("optimizer", rule, optim.NAMES)
    _one_of("schedule", schedule, optim.schedule.NAMES)
    _one_of("memory", memory, MEMORY)
    if lr is None:
        lr = recipe.lr if rule == recipe.optimizer else DEFAULT_LR[rule]
    if batch_size is None:  # the recipe's may be too large for a small data set
        batch_size = min(recipe.batch_size, len(data.x_train))
    epochs = recipe.epochs if epochs is None else epochs
    threads = foveal.get_threads() if threads is None else threads
    for what, value in (("epochs", epochs), ("lr", lr), ("threads", threads)):
        if not value > 0:
            raise ShapeError(f"{what} is {value}: it must be more than 0")
    if momentum_low is not None and schedule != ONE_CYCLE:
        raise ShapeError(
            f"momentum_low is {momentum_low:g} with schedule {schedule}: momentum is cycled with {ONE_CYCLE} only"
        )
    return Settings(
        model=name,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=rule,
        schedule=schedule,
        momentum=momentum,
        momentum_low=momentum_low,
        weight_decay=recipe.weight_decay if weight_decay is None else weight_decay,
        clip_norm=clip_norm,
        ema=ema,
        augment=recipe.augment,
        seed=seed,
        threads=threads,
        memory=memory,
    )


def make_optimizer(net: nn.Module, settings: Settings) -> optim.Update:
    """The optimiser of these settings, without its schedules."""
    s = settings
    made = optim.build(s.optimizer, net.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    made.clip_norm = s.clip_norm
    if s.momentum is not None or s.momentum_low is not None:
        if getattr(made, "momentum", None) is None:
            raise ShapeError(
                f"optimizer {s.optimizer}: has no momentum; leave it out, or choose nesterov or adamw, say"
            )
        if s.momentum is not None:
            made.momentum = s.momentum
    return made if s.ema is None else optim.EMA(made, s.ema)


def make_schedules(
    optimizer: optim.Update, settings: Settings, total: int, epoch: int
) -> dict[str, optim.schedule.Schedule]:
    """What changes over a run of `total` steps, with `epoch` of them in an epoch."""
    s = settings
    made = {"lr": optim.schedule.build(s.schedule, s.lr, total, epoch)}
    if s.momentum_low is not None:
        high: float = optimizer.momentum  # type: ignore[attr-defined]
        if not 0 <= s.momentum_low <= high:
            raise ShapeError(f"momentum_low is {s.momentum_low:g}: it has to be from 0 to the momentum, {high:g}")
        made["momentum"] = optim.schedule.one_cycle_momentum(total, s.momentum_low, high)
    return made


def _one_of(what: str, name: str | None, names: Any) -> None:
    if name is not None and name not in names:
        raise ShapeError(f"{what} {name!r}: choose from {', '.join(names)}")


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    before = foveal.get_threads()
    foveal.set_threads(count)
    try:
        yield
    finally:
        foveal.set_threads(before)


def build_net(settings: Settings, data: Dataset) -> nn.Module:
    assert settings.model is not None
    return models.build(
        settings.model, channels=data.channels, size=data.size, classes=len(data.classes), seed=settings.seed
    )

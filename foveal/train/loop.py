"""The training loop: predict, loss, backward, step; then measure, write, report.

The first three and the update are one native program (`foveal.compile_step`); what is left here is
the order of things, and that nothing written is ever lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

import foveal
from foveal import nn, optim
from foveal.data.loader import Loader, augmentation
from foveal.data.readers import Dataset
from foveal.errors import NumericsError, ShapeError
from foveal.execute import FAST, MEMORY
from foveal.nn import models
from foveal.plan import Footprint
from foveal.train.checkpoint import Run, RunFolder
from foveal.train.metrics import evaluate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

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


def train(
    data: Dataset,
    *,
    model: str | nn.Module | None = None,
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
    out: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network on `data` and return its metrics, the content of `metrics.json`.

    `model` is a name of `nn.models.NAMES` or a Module of your own; what is None comes from the
    recipe for this image size (`nn.models.default`). `schedule` is a name of `optim.schedule.NAMES`;
    unless given, the rate rises and falls once over the run (one cycle, with `lr` at its peak).
    `momentum` is Adam's first beta where that is the optimizer; with `momentum_low` it is cycled
    against the rate and has that value at the peak. `clip_norm` is the largest norm of all gradients
    together. With `ema`, a decay such as 0.999, the moving average of the parameters is what is
    tested and kept. `threads` holds for this run only. `memory` is "fast", or "low" to
    compute cheap values again instead of keeping them. With `out`, the folder
    gets `model.safetensors`, `log.jsonl` and `metrics.json` after every epoch; files of an older
    run in it move to `out/earlier-1`. `metrics["seconds"]` is all of it, with compiling and
    testing; `images_per_second` counts training steps only, without the first, which compiles.

    Raises FovealError before the first step if something does not fit, NumericsError when the loss
    stops being a number, and KeyboardInterrupt (whose text says what was kept) on Ctrl-C.
    """
    settings = choose(
        data, model, epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer,
        schedule=schedule, momentum=momentum, momentum_low=momentum_low, weight_decay=weight_decay,
        clip_norm=clip_norm, ema=ema, seed=seed, threads=threads, memory=memory,
    )  # fmt: skip
    folder = RunFolder(out) if out is not None else None
    with thread_count(settings.threads):
        return _Training(data, model, settings, folder, Report(quiet)).run()


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
            raise ShapeError(
                f"momentum_low is {s.momentum_low:g}: it has to be from 0 to the momentum, {high:g}"
            )
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


@dataclass
class _Tally:
    """Loss, accuracy and speed over the steps of one epoch."""

    loss: float = 0.0
    correct: int = 0
    images: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, loss: float, logits: Any, labels: Any, seconds: float) -> None:
        self.loss += loss * len(labels)
        self.correct += int(np.count_nonzero(logits.argmax(1) == labels))
        self.images += len(labels)
        self.steps += 1
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        return {"accuracy": self.correct / self.images, "loss": self.loss / self.images}


@dataclass
class _Clock:
    """Seconds since the start, and the speed of the training steps after the first one."""

    started: float = field(default_factory=time.perf_counter)
    images: int = 0
    seconds: float = 0.0
    steps: int = 0

    def step(self, images: int, seconds: float) -> None:
        if self.steps == 1:  # so far it holds the first step only, which compiled the program
            self.images, self.seconds = 0, 0.0
        self.images += images
        self.seconds += seconds
        self.steps += 1

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def speed(self) -> float:
        return self.images / self.seconds


class _Training:
    """One run: the network, its program, and where the results go."""

    def __init__(
        self,
        data: Dataset,
        model: str | nn.Module | None,
        settings: Settings,
        folder: RunFolder | None,
        report: Report,
    ) -> None:
        self.clock = _Clock()
        self.data, self.settings, self.folder, self.report = data, settings, folder, report
        self.epoch = self.step = 0  # the epoch and the step in it that are under way, from 1
        self.saved = 0  # the last epoch whose files are written
        s = settings
        self.loader = Loader(
            data.x_train,
            data.y_train,
            s.batch_size,
            mean=data.mean,
            std=data.std,
            seed=s.seed,
            shuffle=True,
            drop_last=True,
            augment=augmentation(s.augment, data.size),
        )
        self.net = model if isinstance(model, nn.Module) else build_net(s, data)
        self.parameters = sum(parameter.size for parameter in self.net.parameters())
        self.optimizer = make_optimizer(self.net, s)
        steps = len(self.loader)
        self.schedules = make_schedules(self.optimizer, s, s.epochs * steps, steps)
        self.optimizer.schedule(**self.schedules)
        self.train_step = foveal.compile_step(
            self.net,
            LOSS,
            self.optimizer,
            threads=s.threads,
            seed=s.seed,
            memory=s.memory,
        )

    @cached_property
    def footprint(self) -> Footprint:
        """Bytes that a training step holds, before the first one."""
        x = np.zeros((self.settings.batch_size, *self.data.x_train.shape[1:]), np.float32)
        labels = np.zeros(self.settings.batch_size, np.int32)
        return self.train_step.program(x, labels).footprint()

    def run(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        self.report.begin(self)
        try:
            with self.report:
                for epoch in range(self.settings.epochs):
                    metrics = self._one_epoch(epoch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted in epoch {self.epoch}. {self._kept()}") from None
        except NumericsError as error:
            raise NumericsError(
                f"epoch {self.epoch}, step {self.step}: {error}. {self._kept()} "
                f"Try a lower --lr than {self.settings.lr:g}."
            ) from None
        self.report.end(metrics, self.folder)
        return metrics

    def _one_epoch(self, epoch: int) -> dict[str, Any]:
        tally = _Tally()
        self.epoch, self.step = epoch + 1, 0
        self.net.train()
        for x, labels in self.loader.epoch(epoch):
            started = time.perf_counter()
            self.step += 1
            result = self.train_step(x, labels)
            seconds = time.perf_counter() - started
            tally.add(result.loss, result.output, labels, seconds)
            self.clock.step(len(labels), seconds)
            self.report.step(self, tally)
        plateau = self.schedules["lr"]
        lr = self.optimizer.lr
        if isinstance(plateau, optim.schedule.Plateau):
            plateau.update(tally.means()["loss"])
        with self._averaged():
            return self._finish_epoch(tally, lr)

    def _averaged(self) -> AbstractContextManager[None]:
        """Where there is an average of the parameters, the network has it inside of the block."""
        average = self.optimizer
        return average.averaged() if isinstance(average, optim.EMA) else nullcontext()

    def _finish_epoch(self, tally: _Tally, lr: float) -> dict[str, Any]:
        data = self.data
        test = evaluate(self.net, data.x_test, data.y_test, mean=data.mean, std=data.std)
        line = {
            "epoch": self.epoch,
            "lr": lr,
            "train": tally.means(),
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": tally.images / tally.seconds,
        }
        metrics = self._metrics(tally.means(), test)
        if self.folder is not None:
            run = Run.of(self.settings.model, data)
            self.folder.save(self.net.state_dict(), run, line, metrics)
            self.saved = self.epoch
        self.report.epoch(line)
        return metrics

    def _metrics(self, train: dict[str, float], test: dict[str, float]) -> dict[str, Any]:
        return {
            "data": self.data.name,
            **asdict(self.settings),
            "epochs_done": self.epoch,
            "train_images": len(self.data.x_train),
            "test_images": len(self.data.x_test),
            "parameters": self.parameters,
            "memory_bytes": asdict(self.footprint),
            "train": train,
            "test": test,
            "seconds": self.clock.elapsed(),
            "images_per_second": self.clock.speed(),
            "foveal": foveal.__version__,
        }

    def _kept(self) -> str:
        """What there is of this run, for messages."""
        if self.folder is None or self.saved == 0:
            return "No model of this run was written yet."
        kept = f"The model of epoch {self.saved} is kept at {self.folder.model}."
        earlier = self.folder.earlier
        return kept if earlier is None else f"{kept} The run that was there before: {earlier}."


def build_net(settings: Settings, data: Dataset) -> nn.Module:
    assert settings.model is not None
    return models.build(
        settings.model,
        channels=data.channels,
        size=data.size,
        classes=len(data.classes),
        seed=settings.seed,
    )


class Report:
    """What a person sees: a live bar on a terminal, else a line per epoch, and a table at the end.

    With `quiet`, nothing.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.console: Console = Console(quiet=quiet, highlight=False)
        self.progress: Progress | None = None
        self.epochs = 0
        self.test = ""

    def begin(self, training: _Training) -> None:
        s, steps = training.settings, len(training.loader)
        self.epochs = s.epochs
        self._line(str(training.data))
        self._line(
            f"{s.model or type(training.net).__name__}: {training.parameters:,} parameters, "
            f"{s.epochs} x {steps} steps of {s.batch_size} images, {s.optimizer}, lr {s.lr:g} "
            f"({s.schedule}), "
            f"{s.threads} thread{'s' * (s.threads > 1)}, seed {s.seed}"
        )
        if not self.console.quiet:
            self._line(f"memory: {training.footprint}")
        if self.console.is_terminal and not self.console.quiet:
            self.progress = _progress(self.console)
            self.progress.add_task(
                "", total=s.epochs * steps, speed=0.0, loss="", epoch="compiling"
            )

    def __enter__(self) -> None:
        if self.progress is not None:
            self.progress.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.progress is not None:
            self.progress.stop()

    def step(self, training: _Training, tally: _Tally) -> None:
        if self.progress is None:
            return
        means = tally.means()
        self.progress.update(
            self.progress.task_ids[0],
            advance=1,
            epoch=f"epoch {training.epoch}/{self.epochs}",
            loss=f"loss {means['loss']:.4f}  accuracy {means['accuracy']:.2%}{self.test}",
            speed=training.clock.speed(),
        )

    def epoch(self, line: dict[str, Any]) -> None:
        train, test = line["train"], line["test"]
        self.test = f"  test {test['accuracy']:.2%}"
        if self.progress is None:
            self._line(
                f"epoch {line['epoch']}/{self.epochs}: loss {train['loss']:.4f}, accuracy "
                f"{train['accuracy']:.2%}; test loss {test['loss']:.4f}, accuracy "
                f"{test['accuracy']:.2%}; {line['images_per_second']:,.0f} images/s"
            )

    def end(self, metrics: dict[str, Any], folder: RunFolder | None) -> None:
        from rich.table import Table

        table = Table("", "loss", "accuracy", "images")
        for part in ("train", "test"):
            values = metrics[part]
            row = f"{values['loss']:.4f}", f"{values['accuracy']:.2%}"
            table.add_row(part, *row, f"{metrics[f'{part}_images']:,}")
        self.console.print(table)
        self._line(
            f"{metrics['seconds']:.1f} s in all, {metrics['images_per_second']:,.0f} images/s"
        )
        if folder is not None:
            if folder.earlier is not None:
                self._line(f"The run that was there before is now in {folder.earlier}.")
            self._line(f"The model is at {folder.model}.")

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[loss]}  {task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,  # drawing takes a core away from the native threads
    )

"""The training loop: predict, loss, backward, step; then measure, write the files, show the results.

The first four are one native program (`foveal.compile_step`). This module orders epochs, measures, files and callbacks,
and sees to it that a run that is cut short leaves its last whole epoch on disk. `foveal train` is the same code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

import foveal
from foveal import nn
from foveal.arena import Footprint
from foveal.data.sources import Nest, leaves
from foveal.errors import ArgumentError, CallbackError, DataError, NumericsError
from foveal.kinds import shown
from foveal.nn.models.weights import read_file
from foveal.nn.saving import entry_or_problem
from foveal.optim import UpdateRule
from foveal.strides import Ndarray
from foveal.train.callbacks import Callback, Callbacks, State
from foveal.train.checkpoint import NetworkDescription
from foveal.train.feed import Feed, settings_and_feed
from foveal.train.history import History, flat
from foveal.train.measure import classified, measure
from foveal.train.phases import Phases, heads_of
from foveal.train.progress import ProgressDisplay
from foveal.train.run_folder import RunFolder
from foveal.train.settings import (
    LOSS,
    OWN,
    Settings,
    TrainOptions,
    build_net,
    make_optimizer,
    make_schedules,
    takes_options,
    thread_count,
)
from foveal.train.start import Start, start_of
from foveal.train.state import Training, from_text, schedules_of, to_text
from foveal.train.tally import Clock, EpochLog, Tally


@takes_options(TrainOptions)
def train(data: Any, options: TrainOptions) -> History:
    """Train a network on `data` and return the history of the training.

        train(foveal.data.load("digits"), epochs=3, seed=1, out="runs/mine")
        train((images, labels), net, epochs=5, validation=0.1, callbacks=[train.EarlyStopping(patience=2)])
        train(pairs, net, loss=nn.MSELoss(), optimizer=optim.AdamW, lr=1e-3, metrics={"mae": mean_error})

    data: a Dataset; (x, y); a Loader; a sequence of (image, label); or a function that makes a generator of such pairs,
    as `foveal.data.Loader` takes them. Of a Dataset images are normalised, the test images are measured after each
    epoch, and what is not given comes from the recipe for this image size (`train.recipes`). Other data are taken as
    they are (bytes are divided by 255), and what is not given is AdamW, in 10 epochs of batches of 32. Targets that are
    no class numbers need a `loss`.

    net: a network, or the name of one of `nn.models` for a Dataset. loss: one of nn, or a function (output, target)
    written with foveal.ops. optimizer: a name, an optimiser made for the network, or what makes one of parameters,
    `optim.AdamW`. schedule: a name, or a function of the update's number; unless it is given, the rate rises and falls
    once over the run (one cycle, with `lr` at its peak), an optimiser that was made before keeps its own schedules,
    and a generator of unknown length has a constant rate. augment: a name of `data.augment.AUGMENTATIONS`, a function
    (x, rng) -> x of batches before they are normalised, or a list. validation: (x, y), a Loader, a Dataset (its test
    images), or the share that is held out, such as 0.1, with the same share of each class. callbacks: functions of an
    epoch's values, and objects of `Callback`: `EarlyStopping`, `BestCheckpoint`, `Log`, `SaveState`. metrics:
    {"mae": function of outputs and targets}, of whole validation data, and as the mean over training batches.
    accumulate: batches per update, as in `foveal.compile_step`; the last update of an epoch may have fewer. resume:
    what SaveState wrote; the training goes on to the same bits, and `epochs` counts from its start. All options are
    fields of `foveal.train.TrainOptions`. Schedules count updates.

    The history prints as a table; `history.test["accuracy"]` is a list by epoch, and `history["test"]["accuracy"]` the
    number at the end. `foveal.train.callbacks` has the table of the values that callbacks get.

    With `out`, the folder gets `model.safetensors`, `log.jsonl` and `metrics.json` after every epoch; files of an older
    run in it move to `out/earlier-1`. A second training into the same folder is refused meanwhile. `history["seconds"]`
    is the duration of the whole run, with compiling and testing; `images_per_second` counts training steps only,
    without the first, which compiles.

    Raises FovealError before the first step if something does not fit, TypeError for an option that there is not,
    NumericsError when the loss is NaN or infinite, CallbackError when a callback fails, and KeyboardInterrupt (whose
    text says what was kept) on Ctrl-C.
    """
    if options.net is not None and options.model is not None:
        raise ArgumentError("train: net and model are both given; they mean the same, so leave one out")
    options = replace(options, model=options.model if options.net is None else options.net)
    start = start_of(data, options, (lambda line: None) if options.quiet else print)
    if start is not None:
        data, options = start.normalised(data), replace(options, model=start.model or options.model)
    settings, feed = settings_and_feed(data, options)
    if start is not None:
        settings = start.settings(settings, options, data)
    folder = RunFolder(options.out) if options.out is not None else None
    try:
        with thread_count(settings.threads):
            return Run(feed, settings, options, folder, ProgressDisplay(options.quiet), start).run()
    finally:
        if folder is not None:
            folder.close()


class Run:
    """One run: the network, its program, and where the results go."""

    def __init__(
        self,
        feed: Feed,
        settings: Settings,
        options: TrainOptions,
        folder: RunFolder | None,
        display: ProgressDisplay,
        start: Start | None = None,
    ) -> None:
        self.clock = Clock()
        self.feed, self.folder, self.display = feed, folder, display
        self.description, self.loader = feed.description, feed.loader
        # The epoch, and the step in it, that are under way; 0 before the first.
        self.epoch = self.step = 0
        # The last epoch whose files are written.
        self.saved = 0
        # Batches that the epoch under way, or cut short, has taken, and what they add up to: it goes on after them.
        self.taken, self.tally = 0, Tally()
        # Why the run ends before its last epoch, if it does.
        self.stopped: str | None = None
        self.history = History([], {})
        # A batch of the shapes that are trained on, as soon as one is known.
        self.batch: tuple[Any, Any] | None = None
        self.loss, self.measures = options.loss, dict(options.metrics)
        self.net = options.model if isinstance(options.model, nn.Module) else self.built(settings)
        if start is not None:
            assert self.description is not None
            start.load_into(self.net, self.description)
            self.feed.text += f"\n{start.text(settings, self.description, heads_of(self.net))}"
        self.phases = Phases(self.net, settings.freeze_epochs)
        # What is written beside the weights.
        self.stored = self.description or NetworkDescription(entry_or_problem(self.net))
        self.parameters = sum(parameter.size for parameter in self.net.parameters())
        self.optimizer = make_optimizer(self.net, settings, options)
        self.settings = s = of_optimizer(settings, self.optimizer, options)
        if s.schedule != OWN:
            self.optimizer.schedule(**self.make_schedules(options))
        self.train_step = foveal.compile_step(
            self.net,
            LOSS if self.loss is None else self.loss,
            self.optimizer,
            threads=s.threads,
            seed=s.seed,
            memory=s.memory,
            accumulate=s.accumulate,
        )
        self.callbacks = Callbacks(options.callbacks, self)
        self.resumed = options.resume is not None
        if self.resumed:
            self.resume(options.resume)

    def built(self, settings: Settings) -> nn.Module:
        """Return the network that the settings name. There is a description, since the data are a Dataset."""
        assert self.description is not None
        return build_net(settings, self.description)

    def make_schedules(self, options: TrainOptions) -> dict[str, Any]:
        """Return the schedules of the settings. They count updates, of which an epoch has one for its last batches."""
        s = self.settings
        if options.schedule is not None and not isinstance(options.schedule, str):
            return {"lr": options.schedule}
        steps = 1 if s.schedule == "constant" else -(-len(self.loader) // s.accumulate)
        return dict(make_schedules(self.optimizer, s, s.epochs * steps, steps))

    def example(self) -> tuple[Any, Any] | None:
        """Return a batch to learn shapes from; None for a generator before its first step, which would be used up."""
        if self.batch is None and self.description is not None:
            size, image = self.settings.batch_size, (self.description.channels, *self.description.size)
            self.batch = np.zeros((size, *image), np.float32), np.zeros(size, np.int32)
        if self.batch is None and self.loader.source.count is not None:
            self.batch = next(self.loader.epoch(0, fill=False))
        return self.batch

    def footprint(self) -> Footprint | None:
        """Return the memory that a training step takes, where it is known; this compiles the step."""
        batch = self.example()
        if batch is None:
            return None
        found = self.train_step.program(*batch).footprint()
        if self.settings.accumulate == 1:
            return found
        # The program of a batch writes sums of gradients; what the optimiser keeps belongs to the update.
        kept = sum(variable.storage.nbytes for variable in self.optimizer.state_variables().values())
        return replace(found, variables=found.variables + kept)

    @property
    def names(self) -> list[str]:
        """The names of the values that epochs have. Accuracy may turn out to have no meaning for a generator."""
        measured = ["loss", *self.measures]
        batch = self.example()
        shape = None if batch is None else self.train_step.program(*batch).graph.outputs[1].shape
        if batch is None or shape is None or classified(np.empty(shape, np.float32), batch[1]):
            measured = ["loss", "accuracy", *self.measures]
        parts = ["train", *self.feed.parts]
        others = ["lr", "seconds", "images per second"]
        return ["epoch", *(f"{part} {name}" for part in parts for name in measured), *others]

    def run(self) -> History:
        """Train all epochs and return the history; an interruption or a failed step reports what is on disk."""
        network = f"{self.settings.model or type(self.net).__name__}: {self.parameters:,} parameters"
        steps = None if self.loader.count is None else len(self.loader)
        with self.failures():
            self.call("on_train_begin")
        self.display.begin(self.feed.text, self.settings, network, steps, self.footprint)
        with self.failures():
            with self.display:
                while self.epoch < self.settings.epochs and self.stopped is None:
                    self.one_epoch(self.epoch)
            self.call("on_train_end")
        self.history.stopped = self.stopped
        # A callback may have ended it before its first epoch.
        if self.history:
            self.display.end(self.history, self.folder)
        return self.history

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Let errors inside of the block say where they came up, and what there is of this run on disk."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted in epoch {self.epoch}. {self.kept()}") from None
        except NumericsError as error:
            raise NumericsError(
                f"epoch {self.epoch}, step {self.step}: {error}. {self.kept()} "
                f"Try a lower learning rate than {self.settings.lr:g}."
            ) from None
        except DataError as error:
            raise DataError(f"epoch {self.epoch}: {error}. {self.kept()}") from None
        except CallbackError as error:
            where = f"epoch {self.epoch}: " if self.epoch else ""
            raise CallbackError(f"{where}{error}. {self.kept()}") from error.__cause__

    def call(self, moment: str, *values: dict[str, Any]) -> None:
        """Call a method of all callbacks; one may end the run."""
        stopped = self.callbacks.call(self.callbacks.all, moment, *values)
        self.stopped = self.stopped or stopped

    def one_epoch(self, epoch: int) -> None:
        """Train on all batches once (epoch counts from 0), then measure, write and show."""
        # A run that goes on in the middle of an epoch leaves out the batches that it has taken.
        if self.taken == 0:
            self.tally = Tally(self.measures)
        tally, cut = self.tally, False
        self.epoch, self.step = epoch + 1, self.taken
        self.phases.begin(epoch)
        batches = islice(self.loader.epoch(epoch, fill=False), self.step, None)
        for x, labels in batches:
            if self.step == 0:
                self.batch = x, labels
                self.check_targets(labels)
            started = time.perf_counter()
            self.step += 1
            result = self.train_step(x, labels)
            seconds = time.perf_counter() - started
            images = tally.add(result.loss, result.outputs, labels, seconds)
            self.taken = self.step
            self.clock.step(images, seconds)
            self.display.step(self.epoch, tally, self.clock.speed())
            if self.callbacks.at_steps and self.step_ended(result.loss, images):
                cut = next(batches, None) is not None
                break
        if not cut:
            self.taken = 0
            # The window at the end may be of fewer batches.
            if self.settings.accumulate > 1:
                self.train_step.flush()
        # The log shows the rate of the last step, before a schedule reacts to the loss.
        lr = self.optimizer.lr
        for _, (_, schedule) in () if cut else schedules_of(self.optimizer):
            if hasattr(schedule, "observe"):
                schedule.observe(tally.means()["loss"])
        # If the optimiser keeps an average of the parameters, that is what is measured and written.
        with self.optimizer.averaged():
            line = self.finish_epoch(tally, lr)
        self.call("on_epoch_end", flat(line))

    def check_targets(self, targets: Nest) -> None:
        """Raise DataError for targets that are no class numbers, where no loss is given."""
        kinds = sorted({array.dtype.name for array in leaves(targets) if array.dtype.kind not in "iu"})
        if self.loss is None and kinds:
            raise DataError(
                f"the targets are {kinds[0]}; cross-entropy takes class numbers: give the loss, such as"
                " loss=nn.MSELoss(), or loss=nn.CrossEntropyLoss() for probabilities of classes"
            )

    def step_ended(self, loss: float, images: int) -> bool:
        """Call the callbacks of a step; return True if one ends the run."""
        values = {"epoch": self.epoch, "step": self.step, "loss": loss, "lr": self.optimizer.lr, "images": images}
        self.stopped = self.callbacks.call(self.callbacks.at_steps, "on_step_end", values)
        return self.stopped is not None

    def finish_epoch(self, tally: Tally, lr: float) -> Mapping[str, Any]:
        """Measure the network, write the files and show a line, which is returned."""
        parts = {name: measure(self.net, loader, self.loss, self.measures) for name, loader in self.feed.parts.items()}
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "lr": lr,
            "train": tally.means(),
            **parts,
            "seconds": self.clock.elapsed(),
            "images_per_second": tally.speed(),
        }
        metrics = self.metrics({"train": tally.means(), **parts})
        self.history.add(line, metrics)
        if self.folder is not None:
            self.folder.save(self.net.state_dict(), self.stored, line, metrics)
            self.saved = self.epoch
        self.display.epoch(cast(EpochLog, line))
        return line

    def metrics(self, parts: Mapping[str, dict[str, float]]) -> dict[str, Any]:
        """Return the content of metrics.json."""
        footprint = self.footprint()
        counts = {f"{name}_images": loader.count for name, loader in self.feed.parts.items()}
        return {
            "data": self.feed.name,
            **asdict(self.settings),
            "epochs_done": self.epoch,
            "train_images": self.loader.count,
            **counts,
            "parameters": self.parameters,
            "memory_bytes": None if footprint is None else asdict(footprint),
            **parts,
            "seconds": self.clock.elapsed(),
            "images_per_second": self.clock.speed(),
            "foveal": foveal.__version__,
        }

    def kept(self) -> str:
        """Return a sentence for messages: what there is of this run on disk."""
        if self.folder is None or self.saved == 0:
            return "No model of this run was written yet."
        kept = f"The model of epoch {self.saved} is kept at {self.folder.model}."
        earlier = self.folder.earlier
        return kept if earlier is None else f"{kept} The run that was there before: {earlier}."

    # What callbacks may ask for.

    def weights(self) -> State:
        """Return copies of the network's state as it is measured."""
        with self.optimizer.averaged():
            return {name: np.array(array, order="C") for name, array in self.net.state_dict().items()}

    def restore(self, weights: Mapping[str, Ndarray], epoch: int) -> None:
        """Let the network, the history's end and the files hold what they were after an earlier epoch."""
        self.net.load_state_dict(weights)
        line = next(line for line in self.history.lines if line["epoch"] == epoch)
        parts = {name: value for name, value in line.items() if isinstance(value, dict)}
        self.history.update({**parts, "restored_epoch": epoch})
        if self.folder is not None:
            self.folder.save(self.net.state_dict(), self.stored, None, self.history)

    # The state of the run.

    def training(self) -> Training:
        """Return all that belongs to the state of the run."""
        own = {f"callback.{i}": CallbackState(callback) for i, callback in enumerate(self.callbacks.all)}
        return Training(self.train_step, loader=self.loader, parts={"run": Progress(self), **own})

    def state_dict(self) -> State:
        """Return the state of the whole training, from which `train(resume=...)` goes on."""
        return self.training().state_dict()

    def resume(self, stored: Any) -> None:
        """Go on from a state, or from the file that holds one. Raises StateError that names what does not fit."""
        state = read_file(Path(stored))[1] if isinstance(stored, str | Path) else stored
        if not isinstance(state, Mapping):
            raise ArgumentError(f"train: resume is {shown(state)}; give what train.SaveState wrote, or its arrays")
        self.training().load_state_dict(state)
        if self.epoch >= self.settings.epochs:
            raise ArgumentError(
                f"train: the training that is resumed has {self.epoch} epochs behind it, and epochs is"
                f" {self.settings.epochs}: give a larger number, which counts from the start"
            )
        if self.folder is not None:
            self.folder.begin(self.history.lines)
        if self.history.lines:
            self.clock.started -= self.history.lines[-1]["seconds"]


def of_optimizer(settings: Settings, optimizer: UpdateRule, options: TrainOptions) -> Settings:
    """Return the settings with the numbers that an optimiser of the caller's own has decided about."""
    if options.optimizer is None or isinstance(options.optimizer, str):
        return settings
    return replace(settings, lr=optimizer.lr, weight_decay=float(optimizer.weight_decay), momentum=optimizer.momentum)


class Progress:
    """How far a run is, and its history, as a part of its state."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def state_dict(self) -> State:
        run = self.run
        # An epoch that was cut short goes on where it was, and is no line of the history.
        done = run.epoch - (run.taken > 0)
        lines = [line for line in run.history.lines if line["epoch"] <= done]
        found = {"epoch": done, "taken": run.taken, "tally": run.tally.numbers(), "lines": lines}
        return {"progress": from_text(json.dumps(found))}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        stored = json.loads(to_text(state["progress"]))
        self.run.epoch, self.run.taken = int(stored["epoch"]), int(stored["taken"])
        self.run.tally = Tally(self.run.measures, **stored.get("tally", {}))
        self.run.history.lines[:] = stored["lines"]


class CallbackState:
    """A callback, as a part of the state of a run; its numbers become arrays."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def state_dict(self) -> State:
        return {name: np.array(value, order="C") for name, value in self.callback.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Ndarray]) -> None:
        self.callback.load_state_dict(state)

"""The training loop: predict, loss, backward, step; then measure, write the files, show the results.

The first four are one native program (`foveal.compile_step`). This module orders epochs, measures, files and callbacks,
and sees to it that a run that is cut short leaves its last whole epoch on disk. `foveal train` is the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

import foveal
from foveal import nn
from foveal.arena import Footprint
from foveal.data.loader import Loader
from foveal.data.sources import Nest, leaves
from foveal.errors import ArgumentError, DataError, Terminated
from foveal.nn.saving import entry_or_problem
from foveal.step import Step
from foveal.strides import Ndarray
from foveal.train.averaged import add_averaged
from foveal.train.best import with_best
from foveal.train.callbacks import Callbacks, State
from foveal.train.checkpoint import NetworkDescription
from foveal.train.feed import Feed, settings_and_feed
from foveal.train.first_layer import whitened
from foveal.train.history import History, flat
from foveal.train.keeper import Keeper
from foveal.train.measure import classified, measure
from foveal.train.measured import check_memory, with_measured
from foveal.train.phases import Phases, heads_of
from foveal.train.progress import ProgressDisplay
from foveal.train.resume import finish_resumed, resume, run_to_resume, unfinished_run
from foveal.train.run_file import ENDED, FAILED, INTERRUPTED, facts, files_read
from foveal.train.run_folder import RunFolder
from foveal.train.run_state import Best, CallbackState, Progress
from foveal.train.settings import OWN, Settings, TrainOptions, build_net, make_loss, takes_options, thread_count
from foveal.train.signals import INTERRUPTIONS, Interruptions
from foveal.train.start import Start, start_of
from foveal.train.state import Training, schedules_of
from foveal.train.tally import Clock, EpochLog, Tally
from foveal.train.together import Together, example_of, shared
from foveal.train.updates import make_optimizer, make_schedules, of_optimizer


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
    and a generator of unknown length has a constant rate. augment: a name of `data.augment.AUGMENTATIONS`, one of
    `data.transforms`, a function (x, rng) -> x of batches before they are normalised, or a list. flip: False where a
    mirror image is of another class. mix: "mixup", "cutmix" or "mixup+cutmix"; accuracy in training goes by the larger
    share. tta: how the model is used, a name of `train.views.VIEWS`, measured at the end. validation: (x, y), a
    Loader, a Dataset (its test images), or the share that is held out, such as 0.1, with the same share of each class.
    callbacks: functions of an epoch's values, and objects of `Callback`: `EarlyStopping`, `BestCheckpoint`, `Log`,
    `SaveState`. metrics: {"mae": function of outputs and targets}, of whole validation data,
    and as the mean over training batches.
    accumulate: batches per update, as in `foveal.compile_step`; the last update of an epoch may have fewer. resume:
    what SaveState wrote, or the folder of a run that has not ended, which it goes on with; the training goes on to the
    same bits, and `epochs` counts from its start. All options are fields of `foveal.train.TrainOptions`. Schedules
    count updates.

    The history prints as a table; `history.test["accuracy"]` is a list by epoch, and `history["test"]["accuracy"]` the
    number at the end. `foveal.train.callbacks` has the table of the values that callbacks get.

    With `out`, the folder gets `run.json` at the start, and `model.safetensors`, `log.jsonl` and `metrics.json` after
    every epoch; files of an older run in it move to `out/earlier-1`. A second training into the same folder is refused
    meanwhile. The model is that of the best epoch where there are validation data, by their accuracy, then their loss,
    and the numbers at the end are its own, with "best_epoch"; else it is that of the last epoch. `checkpoints` in the
    folder holds the state of the whole training, the last one and the one before it, written every
    `checkpoint_minutes` and at the ends of epochs, unless the last is some seconds old: whatever ends the process,
    resume=out goes on. What cannot be written on the way is a FovealWarning, and the training goes on.
    `history["seconds"]` is the duration of the whole run, with compiling and testing; `images_per_second` counts
    training steps only, without the first, which compiles.

    Raises FovealError before the first step if something does not fit, TypeError for an option that there is not,
    NumericsError when the loss is NaN or infinite, CallbackError when a callback fails, and KeyboardInterrupt (whose
    text says what was kept) on Ctrl-C. With `out`, and called in the main thread, the first Ctrl-C lets the step end
    and the state be written, and the second ends at once; SIGTERM is as a first Ctrl-C, and raises SystemExit(143).
    """
    if options.net is not None and options.model is not None:
        raise ArgumentError("train: net and model are both given; they mean the same, so leave one out")
    options = shared(replace(options, model=options.model if options.net is None else options.net))
    # All ranks know the folder, and rank 0 alone has it.
    first = options.ranks is None or options.ranks.first
    quiet = options.quiet or not first
    start = start_of(data, options, (lambda line: None) if quiet else print)
    if start is not None:
        data, options = start.normalised(data), replace(options, model=start.model or options.model)
    settings, feed = settings_and_feed(data, options)
    if start is not None:
        settings = start.settings(settings, options, data)
        if feed.description is not None:
            feed.description = replace(feed.description, licence=start.licence)
    stored, display = run_to_resume(options.resume) if first else None, ProgressDisplay(quiet)
    out, unfinished = stored if options.out is None or not first else Path(options.out), None
    goes_on = stored is not None and out is not None and out.resolve() == stored.resolve()
    if out is not None and not goes_on:
        unfinished = unfinished_run(out)
    folder = None if out is None else RunFolder(out, goes_on)
    try:
        if folder is not None and unfinished is not None:
            display.note(unfinished if folder.earlier is None else f"{unfinished} It is now in {folder.earlier}.")
        # Without a folder there is nothing to save, so that Ctrl-C acts at once.
        saves = folder is not None or not first
        with thread_count(settings.threads), Interruptions() if saves else nullcontext() as waiting:
            run = Run(feed, settings, options, folder, display, files_read(data), waiting, start)
            try:
                return run.run()
            finally:
                folder = run.folder
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
        files: list[str],
        interruptions: Interruptions | None,
        start: Start | None,
    ) -> None:
        self.clock = Clock()
        self.feed, self.folder, self.display = feed, folder, display
        self.interruptions = interruptions
        self.keeper = Keeper(folder, options.checkpoint_minutes, files if folder is not None else [])
        self.description, self.loader = feed.description, feed.loader
        # The epoch, and the step in it, that are under way; 0 before the first.
        self.epoch = self.step = 0
        self.together = Together(self, options, files)
        # The rate of the last step of an epoch whose steps are all done, and that is not measured yet.
        self.trained: float | None = None
        # The epoch whose model the folder holds, where there are validation data.
        self.best = Best() if self.together.kept and "validation" in feed.parts else None
        # Batches that the epoch under way, or cut short, has taken, and what they add up to: it goes on after them.
        self.taken, self.tally = 0, Tally()
        self.progress = Progress(self)
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
        self.phases = Phases(self.net, settings.freeze_epochs, whitened(self.net, settings, feed))
        # What is written beside the weights.
        self.stored = self.description or NetworkDescription(entry_or_problem(self.net))
        self.parameters = sum(parameter.size for parameter in self.net.parameters())
        self.optimizer = make_optimizer(self.net, settings, options)
        self.settings = s = of_optimizer(settings, self.optimizer, options)
        self.train_step = self.compiled_step(feed)
        # What was found out before the first step, in sentences for people.
        self.findings: list[str] = [feed.reason] if feed.reason else []
        check_memory(self)
        self.settings = s = with_measured(self, options)
        self.optimizer.schedule(**self.make_schedules(options))
        self.callbacks = Callbacks(with_best(options, feed), self)
        loaders = {"train": self.loader, **feed.parts}
        self.facts = self.together.begin(lambda: facts(s, loaders, feed, files, options.command), self.together.kept)
        self.resumed = False
        if options.resume is not None:
            resume(self, options.resume)

    def compiled_step(self, feed: Feed) -> Step:
        """Return the training step, which is compiled when it is first called."""
        s = self.settings
        return foveal.compile_step(
            self.net,
            make_loss(s, feed.counts) if self.loss is None else self.loss,
            self.optimizer,
            threads=s.threads,
            seed=s.seed,
            memory=s.memory,
            accumulate=s.accumulate,
            shards=s.shards,
            compress=s.compress,
            ranks=self.together.ranks if s.shards is not None else None,
            sync_batch_norm=s.sync_batch_norm,
        )

    def built(self, settings: Settings) -> nn.Module:
        """Return the network that the settings name. There is a description, since the data are a Dataset."""
        assert self.description is not None
        return build_net(settings, self.description)

    def make_schedules(self, options: TrainOptions) -> dict[str, Any]:
        """Return the schedules of the settings. They count updates, of which an epoch has one for its last batches."""
        s = self.settings
        # The number of steps of a generator is not known, and not asked for where nothing depends on it.
        endless = s.schedule in ("constant", OWN) or callable(options.schedule)
        unknown = self.loader.count is None and endless and s.lookahead is None
        steps = 1 if unknown else -(-len(self.loader) // s.accumulate)
        own = options.schedule if callable(options.schedule) else None
        return dict(make_schedules(self.optimizer, s, s.epochs * steps, steps, own))

    def example(self) -> tuple[Any, Any] | None:
        """Return a batch to learn shapes from; None for a generator before its first step, which would be used up."""
        if self.batch is None and self.description is not None:
            size = self.settings.batch_size // (self.settings.shards or 1)
            image = self.description.channels, *self.description.size
            classes = len(self.description.classes)
            labels = np.zeros(size, np.int32) if self.loader.mix is None else np.zeros((size, classes), np.float32)
            self.batch = np.zeros((size, *image), np.float32), labels
        if self.batch is None and self.loader.source.count is not None:
            self.batch = example_of(next(self.loader.epoch(0, fill=False)), self.settings.shards)
        return self.batch

    def footprint(self) -> Footprint | None:
        """Return the memory that a training step takes, where it is known; this compiles the step."""
        if (batch := self.example()) is None:
            return None
        found = self.train_step.footprint(*batch)
        if self.settings.accumulate == 1 and not self.together.sharded:
            return found
        # The program of a batch writes sums of gradients; what the optimiser keeps belongs to the update.
        kept = sum(variable.storage.nbytes for variable in self.optimizer.state_variables().values())
        return replace(found, variables=found.variables + kept)

    @property
    def held_out(self) -> Loader | None:
        """The validation part that the run is measured by, if it has one."""
        return self.feed.parts.get("validation")

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
            self.facts = self.together.computed(lambda: self.facts)
            self.keeper.begin(self.facts)
            self.call("on_train_begin")
        done = None if steps is None else self.epoch * steps + self.taken
        text = "\n".join([self.feed.text, *self.findings])
        self.display.begin(text, self.settings, network, steps, self.footprint, done, self.together.ranks.size)
        with self.failures():
            finish_resumed(self)
            with self.display:
                while self.epoch < self.settings.epochs and self.stopped is None:
                    self.one_epoch(self.epoch)
            self.call("on_train_end")
            # A callback may have brought an earlier epoch back.
            self.together.follow(lambda: dict(self.net.state_dict()))
            add_averaged(self)
            self.together.lead()
        self.history.stopped = self.stopped
        # Of a command's run more is left to do, without which it has not ended.
        if not self.facts.get("command"):
            self.keeper.end(ENDED)
        # A callback may have ended it before its first epoch.
        if self.history:
            self.display.end(self.history, self.folder, self.clock.waiting())
        return self.history

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Let errors inside of the block say where they came up, and what there is of this run on disk."""
        try:
            yield
        except INTERRUPTIONS as interrupt:
            kind = Terminated if isinstance(interrupt, Terminated) else KeyboardInterrupt
            self.keeper.end(INTERRUPTED)
            raise kind(f"Interrupted in epoch {self.epoch}. {self.keeper.kept()}") from None
        except BaseException as error:
            self.keeper.end(FAILED)
            self.keeper.explain(error, self.epoch, self.step, self.settings.lr)
            raise

    def call(self, moment: str, *values: dict[str, Any]) -> None:
        """Call a method of all callbacks; one may end the run."""
        self.stopped = self.together.called(moment, *values) or self.stopped

    def one_epoch(self, epoch: int) -> None:
        """Train on all batches once (epoch counts from 0), then measure, write and show."""
        # A run that goes on in the middle of an epoch leaves out the batches that it has taken.
        if self.taken == 0:
            self.tally = Tally(self.measures)
        self.epoch, self.step = epoch + 1, self.taken
        cut = self.trained is None and self.steps(epoch)
        if self.trained is None and not cut:
            # The window at the end may be of fewer batches.
            if self.settings.accumulate > 1:
                self.train_step.flush()
            # The log shows the rate of the last step, before a schedule reacts to the loss.
            self.trained = self.optimizer.lr
            for _, (_, schedule) in schedules_of(self.optimizer):
                if hasattr(schedule, "observe"):
                    schedule.observe(self.tally.means()["loss"])
        lr = self.optimizer.lr if self.trained is None else self.trained
        # If the optimiser keeps an average of the parameters, that is what is measured and written.
        try:
            with self.optimizer.averaged():
                parts = self.measured()
        except INTERRUPTIONS:
            self.keeper.checkpoint(self.whole_state, self.place(self.epoch))
            raise
        if not cut:
            self.taken, self.trained = 0, None
        self.together.check_alike()
        with self.optimizer.averaged():
            line = self.finish_epoch(self.tally, lr, parts)
        self.call("on_epoch_end", flat(line))
        self.keeper.check_files()
        ended = self.epoch >= self.settings.epochs or self.stopped is not None
        self.keep(ended or self.keeper.due(epoch_ended=True))

    def steps(self, epoch: int) -> bool:
        """Train on the batches that are left of an epoch; return True if a callback cuts it short."""
        self.phases.begin(epoch)
        batches = self.clock.timed(self.together.batches(epoch, self.step))
        for batch in batches:
            if self.step == 0 and (part := self.together.part(batch)) is not None:
                self.batch = part
                self.check_targets(part[1])
            started = time.perf_counter()
            self.step += 1
            result = self.together.step(batch)
            seconds = time.perf_counter() - started
            images = self.together.add(batch, result, seconds)
            self.taken = self.step
            self.clock.step(images, seconds)
            self.display.step(self.epoch, self.tally, self.clock.speed())
            if self.interruptions is not None:
                self.interruptions.deferred = True
            if self.callbacks.at_steps and self.step_ended(result.loss, images):
                return next(batches, None) is not None
            self.keep(self.keeper.due(epoch_ended=False))
        return False

    def keep(self, due: bool) -> None:
        """Write a checkpoint if it is due, or if a signal asks the run to end, which it then does."""
        self.together.lead()
        asked = self.together.asked if self.together.sharded else self.together.local()
        if self.together.collect(due or asked):
            self.keeper.checkpoint(self.whole_state, self.place(self.epoch))
        if self.together.sharded and asked:
            self.together.end_if_asked()
        if self.interruptions is not None and (asked or not self.together.sharded):
            self.interruptions.check()

    def place(self, epoch: int) -> str:
        """Return where the training is, in words. epoch: the one that is under way, or done."""
        return f"after step {self.taken} of epoch {epoch}" if self.taken else f"after epoch {epoch}"

    def measured(self) -> dict[str, dict[str, float]]:
        """Return what the network is worth on the parts that it is measured by."""
        parts, ranks = self.feed.parts.items(), self.together.ranks
        return {
            name: measure(self.net, loader, self.loss, self.measures, self.check, None, ranks) for name, loader in parts
        }

    @property
    def check(self) -> Callable[[], None] | None:
        """What is called between batches, and raises where a signal asks for the end."""
        return None if self.interruptions is None else self.interruptions.check

    def check_targets(self, targets: Nest) -> None:
        """Raise DataError for targets that are no class numbers, where no loss is given."""
        kinds = sorted({array.dtype.name for array in leaves(targets) if array.dtype.kind not in "iu"})
        if self.loss is None and self.loader.mix is None and kinds:
            raise DataError(
                f"the targets are {kinds[0]}; cross-entropy takes class numbers: give the loss, such as"
                " loss=nn.MSELoss(), or loss=nn.CrossEntropyLoss() for probabilities of classes"
            )

    def step_ended(self, loss: float, images: int) -> bool:
        """Call the callbacks of a step; return True if one ends the run."""
        values = {"epoch": self.epoch, "step": self.step, "loss": loss, "lr": self.optimizer.lr, "images": images}
        self.stopped = self.together.told(self.callbacks.at_steps, values)
        return self.stopped is not None

    def finish_epoch(self, tally: Tally, lr: float, parts: dict[str, dict[str, float]]) -> Mapping[str, Any]:
        """Write the files and show a line, which is returned. parts: what was measured."""
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "lr": lr,
            "train": tally.means(),
            **parts,
            "seconds": self.clock.elapsed(),
            "images_per_second": tally.speed(),
        }
        # Seconds are those of rank 0.
        line = self.together.computed(lambda: line)
        self.together.lead()
        found: dict[str, Any] = {"train": tally.means(), **parts}
        state: Mapping[str, Ndarray] = self.net.state_dict()
        better = self.best is None or self.best.take(self.epoch, found, state)
        if self.best is not None:
            found, state = self.best.measured(), self.best.weights
        # The file may lack the best one, where it could not be written or where the run goes on.
        written = state if better or self.keeper.behind else None
        metrics = self.metrics(found)
        self.history.add(line, metrics)
        last = self.epoch >= self.settings.epochs
        self.keeper.save(self.epoch, written, self.stored, self.history.lines, metrics, last)
        self.display.epoch(cast(EpochLog, line))
        return line

    def metrics(self, parts: Mapping[str, Any]) -> dict[str, Any]:
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
        self.history.update({**parts, "restored_epoch": epoch, **({} if self.best is None else {"best_epoch": epoch})})
        if self.folder is not None:
            self.folder.save(self.net.state_dict(), self.stored, None, self.history)

    # The state of the run.

    def training(self) -> Training:
        """Return all that belongs to the state of the run."""
        own = {f"callback.{i}": CallbackState(callback) for i, callback in enumerate(self.callbacks.all)}
        return Training(self.train_step, loader=self.loader, parts={"run": self.progress, **own})

    def whole_state(self) -> State:
        """Return what a checkpoint holds: the state of the training, and the best model so far."""
        return self.state_dict() | ({} if self.best is None else self.best.state_dict())

    def state_dict(self) -> State:
        """Return the state of the whole training, from which `train(resume=...)` goes on."""
        return self.training().state_dict()

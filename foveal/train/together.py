"""A run on shards, which several ranks may share: each takes its shards, rank 0 decides, and the others follow.

What is counted and measured is the same on all ranks. Callbacks, files and lines for people are rank 0's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foveal import nn
from foveal.data.loader import Loader
from foveal.data.sources import Nest, leaves, mapped
from foveal.distributed.ranks import Ranks, checksum
from foveal.distributed.sharded import SHARDS
from foveal.distributed.window import check_compress
from foveal.errors import ArgumentError, ShapeError, Terminated
from foveal.step import Step, StepResult
from foveal.train.callbacks import Callback, Values
from foveal.train.feed import Feed
from foveal.train.run_file import HARMLESS
from foveal.train.settings import TrainOptions
from foveal.train.signals import Interruptions
from foveal.train.succession import Led, Succession
from foveal.train.tally import Tally

PACKAGE = Path(__file__).parents[1]

Value = TypeVar("Value")


def shared(options: TrainOptions) -> TrainOptions:
    """Return the options of a run as each rank has them: shards and threads, where they are not given.

    Raises ShapeError and ArgumentError for options that do not go together with shards.
    """
    if options.ranks is None and options.shards is None:
        if options.compress is not None:
            raise ShapeError(
                f"compress is {options.compress!r} and there are no shards: gradients are sent between ranks that share"
                " the shards of a batch; give shards as well, or leave compress out"
            )
        if options.sync_batch_norm:
            raise ArgumentError(
                "sync_batch_norm (--sync-batch-norm) normalises the shards of a batch as one, and there are none: give"
                " shards (--shards 8) or start under mpiexec, or leave it out, as a batch that is taken whole is"
                " normalised as one already"
            )
        return options
    ranks = Ranks() if options.ranks is None else options.ranks
    threads = ranks.threads() if options.threads is None and ranks.size > 1 else options.threads
    options = replace(
        options, ranks=ranks, threads=threads, shards=SHARDS if options.shards is None else options.shards
    )
    assert options.shards is not None
    if options.shards < 1:
        raise ShapeError(f"shards is {options.shards}; a batch has 1 or more")
    ranks.own(options.shards)
    check_compress(options.compress, ranks)
    if options.accumulate > 1:
        raise ShapeError(
            f"accumulate is {options.accumulate} and shards {options.shards}: an update takes its shards one after the"
            " other already; leave accumulate out, and give larger batches of more shards"
        )
    for name, given in (("minutes", options.minutes is not None), ("lr auto", options.lr == "auto")):
        if given and options.shards > 1:
            raise ArgumentError(f"{name}: steps on shards are not timed or tried out; give epochs and a rate")
    return options


class Run(Led, Protocol):
    """A training, as it is seen here."""

    train_step: Step
    loader: Loader
    feed: Feed
    tally: Tally
    interruptions: Interruptions | None

    def footprint(self) -> object:
        """Return the memory that a training step takes, which compiles it."""


class Together:
    """What the ranks of a run do together. Without shards the run has one rank, and nothing is done here."""

    def __init__(self, run: Run, options: TrainOptions, files: list[str]) -> None:
        self.run, self.ranks = run, options.ranks or Ranks()
        elastic = self.ranks.elastic is not None
        self.succession = Succession(run, self.ranks, options, files) if elastic else None
        # Whether a rank is asked to end, which all know after a step.
        self.asked = False

    @property
    def sharded(self) -> bool:
        """True for a run on shards."""
        return self.run.settings.shards is not None

    @property
    def at_once(self) -> int:
        """How many shards a rank holds at once."""
        settings = self.run.settings
        if settings.shards is None or not settings.sync_batch_norm or not has_batch_norm(self.run.net):
            return 1
        return -(-settings.shards // self.ranks.size)

    @property
    def kept(self) -> bool:
        """True for a run that has a folder, on this rank or on one that this rank may succeed."""
        return self.run.folder is not None or (self.succession is not None and self.succession.home is not None)

    def lead(self) -> None:
        """Take the place of rank 0 if it is gone, and this rank is the first one."""
        if self.succession is not None:
            self.succession.lead()

    def begin(self, facts: Callable[[], dict[str, Any]], kept: bool) -> dict[str, Any]:
        """Return the content of run.json where it is kept, once all ranks agree about it and the step is compiled."""
        ranks = self.ranks
        found = facts() if kept or ranks.size > 1 else {}
        if ranks.size > 1:
            self.agree(found)
            # The first rank of each machine compiles, and the others find in the cache what they need.
            if ranks.hosts.index(ranks.hosts[ranks.rank]) == ranks.rank:
                self.run.footprint()
            ranks.all_of(None)
        return found if kept else {}

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raise RankError unless all ranks have the same code, data, settings and starting values.

        facts: the content of run.json, as each rank would write it.
        """
        found: dict[str, object] = {"the code of Foveal": code(), **facts["versions"]}
        for part, content in facts["data"]["parts"].items():
            found[f"the number of {part} items"] = content["items"]
            found[f"the content of the {part} items"] = content["sha256"]
        found["the list of image files, by names and sizes,"] = facts["files"]
        settings = facts["settings"].items()
        found |= {f"the setting {name}": value for name, value in settings if name not in HARMLESS}
        found["the content of the network"] = checksum(self.run.net.state_dict())
        self.ranks.agree(found, "give all ranks the same packages, machines of one type, data and options")

    def check_alike(self) -> None:
        """Raise RankError unless all ranks still have the same network."""
        if self.ranks.size > 1:
            facts = {"the content of the network": checksum(self.run.net.state_dict())}
            self.ranks.agree(facts, "machines of different types compute other bits; use machines of one type")

    def computed(self, compute: Callable[[], Value]) -> Value:
        """Return on each rank what rank 0 computes."""

        def led() -> Value:
            self.lead()
            return compute()

        return self.ranks.computed(led)

    def called(self, moment: str, *values: Values) -> str | None:
        """Call a method of all callbacks on rank 0; return on all ranks why the run is to end, if it is."""
        if self.succession is not None:
            return self.succession.called(moment, values)
        callbacks = self.run.callbacks
        return self.computed(lambda: callbacks.call(callbacks.all, moment, *values))

    def told(self, callbacks: list[Callback], values: Values) -> str | None:
        """Call the callbacks of a step on rank 0; return on all ranks why the run is to end, if it is."""
        call = partial(self.run.callbacks.call, callbacks, "on_step_end", values)
        # Otherwise nothing has to be waited for.
        waits = any(callback.ends_at_steps for callback in callbacks)
        if self.succession is not None:
            return self.succession.step_called(call, waits, values)
        if not waits:
            return call() if self.ranks.first else None
        return self.computed(call)

    # Steps.

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """Yield the batches of an epoch: pairs, or lists of this rank's shards."""
        run = self.run
        if not self.sharded:
            return run.loader.epoch(epoch, fill=False, first=first)
        return run.train_step.shares(run.loader, epoch, first)

    def part(self, batch: Any) -> tuple[Any, Any] | None:
        """Return the images and targets of a batch, or of its first shard; None where this rank has none."""
        if not self.sharded:
            pair: tuple[Any, Any] = batch
            return pair
        return batch[0] if batch else None

    def step(self, batch: Any) -> StepResult:
        """Train on a batch, or on the shards of it."""
        run = self.run
        if not self.sharded:
            return run.train_step(*batch)
        sharded = run.train_step.sharded
        assert sharded is not None
        sharded.counting(self.count, run.tally.numbers_of_batch, self.local)
        result = run.train_step.take_shards(batch)
        self.asked = result.asked
        return result

    def local(self) -> bool:
        """Return whether a signal asks this rank to end."""
        return self.run.interruptions is not None and self.run.interruptions.asked is not None

    def count(self, outputs: Nest, targets: Nest) -> Sequence[float]:
        """Return what is counted of a shard."""
        return self.run.tally.counted(outputs, self.classes_of(targets))

    def classes_of(self, targets: Any) -> Any:
        """Return targets as they are counted: of a mixture, the class with the larger share."""
        return targets if self.run.loader.mix is None else targets.argmax(1)

    def add(self, batch: Any, result: StepResult, seconds: float) -> int:
        """Add a step to the tally; return the number of its images."""
        tally = self.run.tally
        if not self.sharded:
            return tally.add(result.loss, result.outputs, self.classes_of(batch[1]), seconds)
        assert result.images is not None
        return tally.add_counts(result.loss, result.images, result.counts, seconds)

    def collect(self, due: bool) -> bool:
        """Return whether a checkpoint is due, on rank 0.

        Where gradients are sent in fewer bits, all ranks learn it and give rank 0 what rounding has lost.
        """
        sharded = self.run.train_step.sharded
        if sharded is None or sharded.codec is None:
            return due
        due = self.computed(lambda: due)
        if due:
            sharded.collect()
        return due

    def end_if_asked(self) -> None:
        """Raise what ends this rank, where a signal has asked any of them to end; all have taken the same step."""
        # Rank 0 has written its checkpoint by now.
        self.ranks.all_of(None)
        self.ranks.parted = True
        if not self.ranks.first:
            # It has nothing to say.
            raise SystemExit(0)
        if not self.local():
            raise Terminated

    def follow(self, state: Callable[[], dict[str, Any]]) -> None:
        """Let the network of each rank hold the weights that rank 0's has."""
        if self.ranks.size > 1:
            found = self.ranks.computed(state)
            if not self.ranks.first:
                self.run.net.load_state_dict(found)


def has_batch_norm(net: nn.Module) -> bool:
    """Return whether a network has a batch norm."""
    return any(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def code() -> str:
    """Return a checksum of Foveal's own sources."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def example_of(batch: tuple[Any, Any], shards: int | None) -> tuple[Any, Any]:
    """Return a batch, or as much of it as a shard is."""
    if shards is None:
        return batch
    rows = max(1, len(leaves(batch[1])[0]) // shards)
    return mapped(lambda array: array[:rows], batch[0]), mapped(lambda array: array[:rows], batch[1])

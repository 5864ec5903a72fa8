"""What a training step does with shards: it takes those of its rank, adds their gradients along the tree, and updates.

A step is carried out on all ranks or on none. Two sums are made: of a few numbers, among them how many shards have
failed, and then, if none has, of the gradients and of what the shards would change running statistics by.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike

from foveal.accumulate import Window, is_sum
from foveal.distributed.ranks import Ranks, checksum
from foveal.distributed.tree import PartialSums, owned
from foveal.errors import ArgumentError, DataError, NumericsError, RankError, ShapeError, StateError
from foveal.ops.op import Tensor
from foveal.program import Pause, Program
from foveal.strides import Ndarray
from foveal.trace import current
from foveal.variable import Variable

# Shards of a batch unless said otherwise.
SHARDS = 8
# The numbers that are added up before the gradients: shards, and what their places add up to; images; losses; shards
# that have failed; checksums of what shards write; ranks that are asked to end. What a caller counts comes after them.
TAKEN, PLACES, IMAGES, LOSSES, FAILED, CHECKSUMS, ASKED, FIXED = range(8)

# Counts something of a shard, from its outputs and its targets.
Count = Callable[[Any, Any], Sequence[float]]


class Ran(NamedTuple):
    """A shard that a program has run on."""

    program: Program
    loss: float
    #: the arrays that the model returned, and what nests them as it did
    outputs: list[Ndarray]
    rebuild: Callable[[Any], Any]
    #: why the shard has failed; empty if it has not
    problem: str


class Running(Protocol):
    """A training step, as it is seen here."""

    model: Any
    optimizer: Any
    steps: int

    def parts(self, x: Any, target: Any, number: int) -> Generator[Pause, None, Ran]:
        """Run the program of a shard, whose random operators draw by this number, in parts."""


class Totals(NamedTuple):
    """What a step has found, over all shards of all ranks."""

    loss: float
    images: int
    #: what the caller counts
    counts: tuple[float, ...]
    #: True if some rank is asked to end
    asked: bool
    #: of this rank's shards
    ran: list[Ran]


class Layout(NamedTuple):
    """What shards write, in the order in which it lies in the array that is added up."""

    #: the parameters that have a gradient
    parameters: tuple[Variable, ...] = ()
    #: running statistics and the like
    statistics: tuple[Variable, ...] = ()

    @property
    def elements(self) -> int:
        return sum(variable.storage.size for variable in (*self.parameters, *self.statistics))

    def same(self, other: "Layout") -> bool:
        """Return whether both are of the same variables; == would compare what these hold."""
        return [[id(v) for v in variables] for variables in self] == [[id(v) for v in variables] for variables in other]

    def checksum(self) -> int:
        """Return 32 bits that tell layouts apart."""
        shapes = [[variable.shape for variable in variables] for variables in self]
        return crc32(repr(shapes).encode())


class ShardWindow(Window):
    """The shards of one update: their gradients, added along the tree across ranks, and the update from the sum."""

    parts = "shards"

    def __init__(self, optimizer: Any, shards: int, added: bool, threads: int | None, ranks: Ranks) -> None:
        super().__init__(optimizer, shards, added, threads)
        self.ranks, self.own = ranks, ranks.own(shards)
        # What the caller counts of each shard, so many numbers; and whether this rank is asked to end.
        self.count: Count | None = None
        self.counts = 0
        self.asked: Callable[[], bool] = bool
        self.agreed = False
        self.renew()

    def renew(self) -> None:
        """Make the memory of sums."""
        self.layout, self.numbers, self.gradients = Layout(), PartialSums(FIXED, np.float64), PartialSums(0)
        # Running statistics as they were before the first shard of the step.
        self.kept: dict[Variable, Ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What is counted, and how an end is asked for, belongs to the caller.
        return {
            **vars(self),
            "count": None,
            "counts": 0,
            "asked": bool,
            "kept": None,
            "layout": None,
            "numbers": None,
            "gradients": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.renew()

    def assignments(self, gradients: dict[Variable, Tensor]) -> list[tuple[Variable, Tensor]]:
        """Return what the program of a shard writes: its gradients, times its weight."""
        lift = current().lift
        return [(self.sum_of(p), g * lift(self.weight)) for p, g in self.own_gradients(gradients).items()]

    def words(self) -> str:
        return f"; nothing of the {self.batches} shards of this update was carried out, on any rank"

    def drop(self) -> None:
        # What shards write replaces what was there.
        self.held, self.taken, self.total = frozenset(), 0, 0

    def state_dict(self, parameters: list[Variable]) -> dict[str, Ndarray]:
        """Return the number of shards; between two steps there is nothing else to be stored."""
        return {"shards": np.array(self.batches, np.int64)}

    def load_state_dict(self, state: Mapping[str, ArrayLike], parameters: list[Variable]) -> None:
        before = np.asarray(state.get("shards", 1))
        if state.keys() - {"shards"} or before.shape != () or int(before) != self.batches:
            raise StateError(
                f"an update was of {before} shards and is of {self.batches}: give the same shards; ranks may be others"
            )

    def counting(self, count: Count, numbers: int, asked: Callable[[], bool]) -> None:
        """Let each step also add up what `count` returns of each shard, so many numbers, and ask for an end."""
        self.count, self.counts, self.asked = count, numbers, asked

    # The shards of one update.

    def take(self, step: Running, shards: Sequence[tuple[Any, Any]]) -> Totals:
        """Take this rank's shards of a batch, in order, and update from those of all ranks.

        Raises NumericsError, on all ranks, if something of it is not finite on one of them; then nothing is changed.
        """
        if len(shards) > len(self.own):
            raise ArgumentError(
                f"take_shards: {len(shards)} shards are given, and rank {self.ranks.rank} of {self.ranks.size} takes"
                f" {len(self.own)} of {self.batches}; step.shares(loader, epoch) gives them"
            )
        self.optimizer, self.carried_out, self.kept = step.optimizer, False, {}
        self.begin()
        self.agree(step.model)
        ran: list[Ran] = []
        try:
            for place, (x, target) in zip(self.own, shards, strict=False):
                ran.append(self.drive(step.parts(x, target, step.steps * self.batches + place)))
                self.add_shard(place, ran[-1], target)
                if ran[-1].problem:
                    break
            return self.finish(step, ran)
        finally:
            if self.carried_out:
                step.steps += 1
            else:
                self.put_back()
                self.drop()
            self.numbers.clear()
            self.gradients.clear()

    def drive(self, parts: Generator[Pause, None, Ran]) -> Ran:
        """Run the parts of a shard. What it asks other shards for is what it is for one alone."""
        with closing(parts):
            while True:
                try:
                    pause = next(parts)
                except StopIteration as ended:
                    ran: Ran = ended.value
                    return ran
                if pause.message is not None and pause.y is not None:
                    pause.message.run(pause.y, pause.inputs)

    def agree(self, model: Any) -> None:
        """Before the first step, raise RankError unless all ranks have the same network and the same shards."""
        if not self.agreed and self.ranks.size > 1:
            state: dict[str, Ndarray] = getattr(model, "state_dict", dict)()
            facts = {"the number of shards": self.batches, "the content of the network": checksum(state)}
            self.ranks.agree(facts, "build the same network on all ranks, from the same seed (nn.seed) or file")
        self.agreed = True

    def ready(self, program: Program) -> Collection[int]:
        """Prepare the memory for a shard: its weight, and statistics as they were before the first shard.

        Returns the calls after which the program is to pause.
        """
        self.weigh(program)
        for variable in self.layout_of(program).statistics:
            if variable not in self.kept:
                self.kept[variable] = variable.storage.copy()
        self.put_back()
        return ()

    def put_back(self) -> None:
        """Let statistics be what they were before the first shard."""
        for variable, storage in self.kept.items():
            variable.storage[:] = storage
            variable.touch()

    def layout_of(self, program: Program) -> Layout:
        """Return what a program writes. Parameters come in the optimiser's order, which is the same on all ranks."""
        written, sums = set(program.updated), set(self.sums.values())
        parameters = tuple(p for p in self.parameters if p in self.sums and self.sums[p] in written)
        return Layout(parameters, tuple(variable for variable in program.updated if variable not in sums))

    def add_shard(self, place: int, ran: Ran, target: Any) -> None:
        """Add what a shard has found to the partial sums."""
        numbers, images = np.zeros(FIXED + self.counts), ran.program.arguments[0].shape[0]
        numbers[[TAKEN, PLACES, IMAGES]] = 1, place, images
        if ran.problem:
            numbers[FAILED] = 1
        else:
            layout = self.layout_of(ran.program)
            if not layout.same(self.layout):
                self.layout, self.gradients = layout, PartialSums(layout.elements)
            weight = np.float32(images)
            moved = ((variable.storage - self.kept[variable]) * weight for variable in layout.statistics)
            self.gradients.add(place, (*(self.sums[p].storage for p in layout.parameters), *moved))
            numbers[[LOSSES, CHECKSUMS]] = ran.loss * float(self.weight.data), layout.checksum()
            if self.count is not None:
                numbers[FIXED:] = self.count(ran.rebuild(iter(ran.outputs)), target)
        if self.numbers.elements != numbers.size:
            self.numbers = PartialSums(numbers.size, np.float64)
        self.numbers.add(place, [numbers])

    def finish(self, step: Running, ran: list[Ran]) -> Totals:
        """Add up what all ranks have found, and update the parameters and statistics from it."""
        if self.numbers.elements != FIXED + self.counts:
            self.numbers = PartialSums(FIXED + self.counts, np.float64)
        for place in self.own[len(ran) :]:
            self.numbers.add(place, [np.zeros(self.numbers.elements)])
        if self.asked():
            # On any of its shards.
            next(iter(self.numbers.nodes.values()))[ASKED] += 1
        numbers = self.numbers.total(self.ranks, self.batches, self.batches)
        taken, images = int(numbers[TAKEN]), int(numbers[IMAGES])
        self.check(numbers, taken, ran)
        if taken < self.batches:
            self.follow(step.model, taken)
        total = self.gradients.total(self.ranks, self.batches, taken)
        start = 0
        for p in self.layout.parameters:
            start = copy_from(total, start, self.sums[p])
        for variable in self.layout.statistics:
            before = self.kept.setdefault(variable, variable.storage.copy())
            stop = start + before.size
            variable.storage[:] = before + total[start:stop] / np.float32(images)
            variable.touch()
            start = stop
        self.held, self.taken = frozenset(self.layout.parameters), taken
        self.total = 1 if self.added else images
        loss = float(numbers[LOSSES]) / self.total
        self.update()
        return Totals(loss, images, tuple(numbers[FIXED:].tolist()), bool(numbers[ASKED]), ran)

    def check(self, numbers: Ndarray, taken: int, ran: list[Ran]) -> None:
        """Raise an error, on all ranks alike, unless the shards of all ranks can be added up."""
        if numbers[FAILED]:
            problems = self.ranks.all_of(ran[-1].problem if ran else "")
            rank = next(rank for rank, problem in enumerate(problems) if problem)
            raise NumericsError(f"{self.ranks.name(rank)}: {problems[rank]}" if self.ranks.size > 1 else problems[rank])
        if not taken:
            raise DataError("the batch is empty, on all ranks; a step needs at least one image")
        if numbers[PLACES] != taken * (taken - 1) // 2:
            raise RankError(
                f"the {taken} shards of a step are not the first of its {self.batches}: ranks were given shards of"
                " different batches; let all walk through the same data, by step.shares(loader, epoch)"
            )
        if ran and numbers[CHECKSUMS] != taken * self.layout.checksum():
            raise RankError("the ranks train different parameters; build and freeze the same network on all of them")

    def follow(self, model: Any, taken: int) -> None:
        """Let ranks without a shard in this step know what is added up, which those of rank 0 say."""
        if taken > owned(self.batches, self.ranks.size - 1, self.ranks.size).start:
            return
        known = [list(self.parameters), list(getattr(model, "buffers", list)())]
        places = [
            [{p: i for i, p in enumerate(k)}.get(v, -1) for v in own] for k, own in zip(known, self.layout, strict=True)
        ]
        places = self.ranks.broadcast(places)
        if any(-1 in part for part in places):
            raise ShapeError(
                "a batch has fewer shards than ranks, and the network writes to a variable that is no buffer of it;"
                " hold it as nn.Buffer, or give larger batches"
            )
        layout = Layout(*(tuple(k[i] for i in part) for k, part in zip(known, places, strict=True)))
        if not layout.same(self.layout):
            self.layout, self.gradients = layout, PartialSums(layout.elements)
            for p in layout.parameters:
                self.sum_of(p)


def copy_from(array: Ndarray, start: int, variable: Variable) -> int:
    """Copy part of an array into a variable's memory, and return where the next part begins."""
    stop = start + variable.storage.size
    variable.storage[:] = array[start:stop]
    variable.touch()
    return stop


def shard_window(
    optimizer: Any, loss: object, shards: int | None, ranks: Ranks | None, accumulate: int, threads: int | None
) -> ShardWindow | None:
    """Return the window of a step on shards; None for a step on whole batches. Raises ShapeError."""
    if shards is None and ranks is not None:
        shards = SHARDS
    if shards is not None and shards < 1:
        raise ShapeError(f"compile_step: shards is {shards}; a batch has 1 or more")
    if shards is None or (shards == 1 and ranks is None):
        return None
    if accumulate > 1:
        raise ShapeError(
            f"compile_step: accumulate is {accumulate} and shards {shards}: an update takes its shards one after the"
            " other already; leave accumulate out, and give larger batches of more shards"
        )
    return ShardWindow(optimizer, shards, is_sum(loss), threads, Ranks() if ranks is None else ranks)

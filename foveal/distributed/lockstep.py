"""The shards of a rank side by side, where their batch norms are to see the whole batch (sync_batch_norm).

Each shard has a program instance of its own. All run up to their first message (ops/between_shards.py); what they give
is added up along the tree of shards, in float64, on this rank and across ranks; each is given its result, and they run
on to the next message. After the last one they run to the end one after the other, as only then a program writes.

A rank without a shard of a last batch takes part in the sums, which it is told the sizes of.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Protocol
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np

from foveal.arena import Footprint
from foveal.distributed.found import Prepared, Ran
from foveal.distributed.ranks import Ranks
from foveal.distributed.tree import PartialSums, owned
from foveal.errors import RankError, ShapeError
from foveal.lower import KernelCall
from foveal.ops.between_shards import Message
from foveal.program import Pause, Program
from foveal.strides import Ndarray

# What is added up before the first message: the values that a channel has at least in a shard; checksums of the
# messages.
VALUES, CHECKSUMS, OPENING = range(3)


class SideBySide(Footprint):
    """Bytes that all shards of a rank hold at once."""

    def __str__(self) -> str:
        return f"{super().__str__()}; all shards of a rank at once, for batch norm"


class Memory(Protocol):
    """What programs of shards read and write, which the shards of a rank have in common."""

    def enter(self, place: int, program: Program) -> None:
        """Prepare it for what the program of a shard does first, and for what it writes at its end."""

    def weigh(self, program: Program) -> None:
        """Set the weight of the shard that a program takes."""


class Lockstep:
    """Runs the shards of a rank side by side. shards: of a batch; own: those of this rank."""

    def __init__(self, ranks: Ranks, shards: int, own: range) -> None:
        self.ranks, self.shards, self.own = ranks, shards, own
        # Further instances of a program, for shards of the same shapes.
        self.twins: WeakKeyDictionary[Program, list[Program]] = WeakKeyDictionary()
        # By the number of elements.
        self.sums: dict[int, PartialSums] = {}

    def footprint(self, program: Program) -> Footprint:
        """Return the bytes that the shards of a whole batch hold, of which a program takes one."""
        one, many = program.footprint(), len(self.own)
        if many == 1 or not messages_of(program):
            return one
        held = {name: many * getattr(one, name) for name in ("values", "without_reuse", "batch")}
        return SideBySide(**{**vars(one), **held})

    def run(self, given: Sequence[Prepared], present: int, memory: Memory) -> Iterator[Ran]:
        """Yield what the shards of this rank have found, each before the next one writes.

        present: how many shards the batch has on all ranks, which call this at the same time. Raises ShapeError and
        RankError, on all of them, where shards cannot be computed as one batch.
        """
        messages = [messages_of(shard.program) for shard in given]
        self.open(messages, present)
        sizes = self.sizes_of(messages, present)
        programs = self.programs_of(given) if sizes else [shard.program for shard in given]
        infected, clean = [False] * len(given), True
        with ExitStack() as opened:
            runs = [
                opened.enter_context(closing(shard.parts(program, ())))
                for shard, program in zip(given, programs, strict=True)
            ]
            for number, elements in enumerate(sizes):
                pauses = []
                for place, run, program in zip(self.own, runs, programs, strict=False):
                    if number:
                        memory.weigh(program)
                    else:
                        memory.enter(place, program)
                    pauses.append(next(run))
                finite, total_is_finite = self.exchange(pauses, elements, present)
                if clean and not total_is_finite:
                    infected, clean = finite, False
            for place, run, program, other in zip(self.own, runs, programs, infected, strict=False):
                memory.enter(place, program)
                yield ended(run)._replace(infected=other)

    def programs_of(self, given: Sequence[Prepared]) -> list[Program]:
        """Return an instance of its program for each shard."""
        used: dict[Program, int] = {}
        found = []
        for shard in given:
            place = used.get(shard.program, 0)
            used[shard.program] = place + 1
            instances = self.twins.setdefault(shard.program, [])
            if place > len(instances):
                instances.append(shard.program.twin())
            found.append(instances[place - 1] if place else shard.program)
        return found

    def open(self, messages: Sequence[Sequence[KernelCall]], present: int) -> None:
        """Check that the shards of a batch can be computed side by side."""
        opening = PartialSums(OPENING, self.own, np.float64)
        for place, calls in zip(self.own, messages, strict=False):
            opening.add(place, np.array([least_values(calls), checksum(calls)], np.float64))
        total = opening.total(self.ranks, self.shards, present)
        if total[VALUES] < 2:
            raise ShapeError(
                "batch norm: one value per channel in the whole batch has no variance; use a larger batch, or"
                " model.eval()"
            )
        if messages and total[CHECKSUMS] != present * checksum(messages[0]):
            raise RankError(
                "the shards of a batch do not have the same batch norms, which are to normalise all of it"
                " (sync_batch_norm); let the network not depend on the number of images, and be the same on all ranks"
            )

    def sizes_of(self, messages: Sequence[Sequence[KernelCall]], present: int) -> list[int]:
        """Return the numbers of elements of the messages, which ranks without a shard get from rank 0."""
        sizes = [elements_of(call) for call in messages[0]] if messages else []
        everywhere = present > owned(self.shards, self.ranks.size - 1, self.ranks.size).start
        return sizes if everywhere else self.ranks.broadcast(sizes)

    def exchange(self, pauses: Sequence[Pause], elements: int, present: int) -> tuple[list[bool], bool]:
        """Let all shards that wait for a message have its result.

        Returns for each own shard whether what it gave is finite, and whether the total is.
        """
        if elements not in self.sums:
            self.sums[elements] = PartialSums(elements, self.own, np.float64)
        sums, finite = self.sums[elements], []
        with np.errstate(all="ignore"):
            for place, pause in zip(self.own, pauses, strict=False):
                op, attributes = message_of(pause)
                given = op.addend(*pause.inputs, **attributes)
                finite.append(bool(np.isfinite(given).all()))
                sums.add(place, given)
            total = sums.total(self.ranks, self.shards, present)
            results: dict[object, Ndarray] = {}
            for pause in pauses:
                op, attributes = message_of(pause)
                assert pause.y is not None
                # It is the same for shards of the same shapes.
                key = tuple(attributes.values())
                if key not in results:
                    results[key] = op.result(total, pause.y.shape, **attributes)
                pause.y[...] = results[key]
        return finite, bool(np.isfinite(total).all())


def ended(run: Generator[Pause, None, Ran]) -> Ran:
    """Return what a run that waits for nothing any more has found."""
    try:
        next(run)
    except StopIteration as end:
        found: Ran = end.value
        return found
    raise AssertionError("a program waits for a message that its calls do not have")


def message_of(pause: Pause) -> tuple[Message, dict[str, object]]:
    """Return the message that a program waits for, and its attributes."""
    assert pause.message is not None
    assert isinstance(pause.message.op, Message)
    return pause.message.op, dict(pause.message.attributes)


def messages_of(program: Program) -> list[KernelCall]:
    """Return the messages of a program, in order."""
    return [program.calls[number] for number in program.messages]


def elements_of(call: KernelCall) -> int:
    """Return how many numbers a shard gives for a message."""
    assert call.python is not None
    assert isinstance(call.python.op, Message)
    return call.python.op.elements(*(view.shape for view in call.read), **call.python.attributes)


def least_values(calls: Sequence[KernelCall]) -> int:
    """Return how many values of a channel the moments of a shard are of, where they are fewest; 2 are enough."""
    counts = [call.python.attributes.get("count", 2) for call in calls if call.python is not None]
    return min([2, *counts])


def checksum(calls: Sequence[KernelCall]) -> int:
    """Return 32 bits that tell messages apart, which do not depend on the number of images."""
    kinds = [(str(call.python and call.python.op), [view.shape for view in call.views]) for call in calls]
    return crc32(repr(kinds).encode())

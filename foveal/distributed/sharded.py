"""What a training step does with shards: it takes those of its rank, adds their gradients along the tree, and updates.

A step is carried out on all ranks or on none. What ranks exchange, in this order: how many shards there are, and what
they write; the gradients, bucket by bucket, while the backward pass of each rank's last shard goes on; what the shards
would change running statistics by; and a few numbers, among them how many shards have failed. If any has, all that was
exchanged is dropped.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from foveal.arena import Footprint
from foveal.distributed.buckets import Bucket, Buckets, ShardRun
from foveal.distributed.compress import Codec
from foveal.distributed.exchange import Exchange, overlapping
from foveal.distributed.found import (
    ASKED,
    FAILED,
    FIXED,
    HEAD,
    IMAGES,
    LOSSES,
    TAKEN,
    Layout,
    Prepared,
    Ran,
    Running,
    Sums,
    Totals,
    check_shards,
)
from foveal.distributed.lockstep import Lockstep
from foveal.distributed.ranks import Ranks, checksum
from foveal.distributed.shares import Shares
from foveal.distributed.stored import StoredWindow
from foveal.distributed.tree import PartialSums, arrivals, owned
from foveal.errors import ArgumentError, FovealError, NumericsError, RankError, RanksLost
from foveal.ops.op import Tensor
from foveal.program import Pause, Program
from foveal.strides import Ndarray
from foveal.trace import Symbol, Trace, current
from foveal.variable import Variable

# Shards of a batch unless said otherwise.
SHARDS = 8
# Counts something of a shard, from its outputs and its targets.
Count = Callable[[Any, Any], Sequence[float]]


class ShardWindow(StoredWindow):
    """The shards of one update: their gradients, added along the tree across ranks, and the update from the sum."""

    parts = "shards"

    def __init__(
        self,
        optimizer: Any,
        shards: int,
        added: bool,
        threads: int | None,
        ranks: Ranks,
        codec: Codec | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        super().__init__(optimizer, shards, added, threads, ranks, codec)
        self.sync_batch_norm = sync_batch_norm
        ranks.own(shards)
        # What has given shards last.
        self.shares: Shares | None = None
        # Of the shard whose program runs.
        self.images = 0
        # What the caller counts of each shard, so many numbers; and whether this rank is asked to end.
        self.count: Count | None = None
        self.counts = 0
        self.asked: Callable[[], bool] = bool
        self.agreed = False
        # Whether the program of a shard is to write gradients as early as it can, for them to be sent meanwhile. Where
        # shards run side by side, none may write before all have told each other what they have to.
        self.overlaps = not sync_batch_norm and overlapping(ranks)
        self.renew()

    @property
    def own(self) -> range:
        """The shards of a batch that this rank takes."""
        return self.ranks.own(self.batches)

    def renew(self) -> None:
        """Make the memory of sums, and what sends them."""
        # For which ranks that is.
        self.shrunk = self.ranks.shrunk
        self.layout, self.buckets = Layout(), Buckets((), {}, self.own)
        self.statistics = PartialSums(0, self.own)
        # Running statistics as they were before the first shard of the step.
        self.kept: dict[Variable, Ndarray] = {}
        self.exchange: Exchange | None = None
        # What was found, over all ranks: the number of shards, what they write where a rank has none, the numbers after
        # them, the sum for statistics.
        self.places: list[list[int]] | None = None
        self.shards, self.numbers, self.moved = 0, np.zeros(FIXED), np.zeros(0, np.float32)
        # Why all ranks have refused a step.
        self.refused: FovealError | None = None
        # The shards that this rank has been given in this step, and the one whose program runs.
        self.given, self.current = 0, 0
        self.running: ShardRun | None = None
        # What runs the shards side by side; None where they run one after the other.
        self.lockstep = Lockstep(self.ranks, self.batches, self.own) if self.sync_batch_norm else None

    def __getstate__(self) -> dict[str, Any]:
        # What is counted, and how an end is asked for, belongs to the caller; memory is made anew.
        made = {"layout", "buckets", "statistics", "kept", "exchange", "numbers", "moved", "running", "lockstep"}
        made |= {"places", "shares"}
        return {**vars(self), "count": None, "counts": 0, "asked": bool} | dict.fromkeys(made)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.renew()

    def assignments(self, gradients: dict[Variable, Tensor]) -> list[tuple[Variable, Tensor]]:
        """Return what the program of a shard writes: its gradients, times its weight."""
        lift = current().lift
        return [(self.sum_of(p), g * lift(self.weight)) for p, g in self.own_gradients(gradients).items()]

    def written(self, recording: Trace, gradients: Mapping[Variable, Symbol]) -> dict[Variable, Symbol]:
        """Return what the program writes of these gradients, which is what its report is of."""
        sums = {p: self.sums.get(p) for p in gradients}
        found = {p: recording.updates[total] for p, total in sums.items() if total in recording.updates}
        return {p: Symbol(recording, node) for p, node in found.items()}

    def words(self) -> str:
        return f"; nothing of the {self.batches} shards of this update was carried out, on any rank"

    def drop(self) -> None:
        # What shards write replaces what was there.
        self.held, self.taken, self.total = frozenset(), 0, 0

    def counting(self, count: Count, numbers: int, asked: Callable[[], bool]) -> None:
        """Let each step also add up what `count` returns of each shard, so many numbers, and ask for an end."""
        self.count, self.counts, self.asked = count, numbers, asked

    # The shards of one update.

    def take(self, step: Running, shards: Sequence[tuple[Any, Any]]) -> Totals:
        """Take this rank's shards of a batch, in order, and update from those of all ranks.

        Raises NumericsError, on all ranks, if something of it is not finite on one of them; then nothing is changed.
        """
        # They may have been read before some ranks were gone.
        source = self.shares if self.shares is not None and shards is self.shares.last else None
        if source is None and len(shards) > len(self.own):
            raise ArgumentError(
                f"take_shards: {len(shards)} shards are given, and rank {self.ranks.rank} of {self.ranks.size} takes"
                f" {len(self.own)} of {self.batches}; step.shares(loader, epoch) gives them"
            )
        self.optimizer, self.carried_out, self.kept = step.optimizer, False, {}
        self.begin()
        taken, shrunk = (self.own if source is None else source.own), self.ranks.shrunk
        self.agree(step.model)
        ran: list[Ran] = []

        def attempt() -> Sums:
            nonlocal shards, taken
            if source is None and self.ranks.shrunk != shrunk:
                raise self.lost_ranks()
            if source is not None and taken != self.own:
                shards, taken = source.again(), self.own
            ran.clear()
            return self.attempt(step, shards, ran)

        try:
            return self.finish(step, self.ranks.exchanged(attempt), ran)
        finally:
            if self.carried_out:
                step.steps += 1
                self.updates += 1
            else:
                self.put_back()
                self.drop()
            self.buckets.end(self.carried_out)
            self.running = None

    def lost_ranks(self) -> RanksLost:
        """Return what is raised, on all ranks that are left, where shards cannot be read again."""
        return RanksLost(
            f"ranks are gone, and {self.ranks.size} are left; nothing of this step was carried out. Give the shards"
            f" that this rank takes now, {list(self.own)} of the {self.batches} of the batch, and take it again; those"
            " of step.shares are read again by themselves"
        )

    def attempt(self, step: Running, shards: Sequence[tuple[Any, Any]], ran: list[Ran]) -> Sums:
        """Run the shards, which are added to `ran`, and return what all ranks have found.

        Where a rank is gone meanwhile, those that are left come here once more.
        """
        # An attempt before may have written.
        self.put_back()
        if self.shrunk != self.ranks.shrunk:
            # What was under way may still write to the memory that there was.
            self.renew()
            self.overlaps = self.overlaps and self.ranks.size > 1
        exchange = self.exchange = self.opened()
        self.given, self.places, self.refused = len(shards), None, None
        try:
            if not shards:
                self.announce(step.model)
            rows = np.zeros((len(self.own), FIXED + self.counts))
            places = zip(self.own, shards, strict=False)
            prepared = (step.prepare(x, target, step.steps * self.batches + place) for place, (x, target) in places)
            running = self.one_by_one if self.lockstep is None else self.side_by_side
            for found, row, (_, target) in zip(running(prepared, step.model), rows, shards, strict=False):
                ran.append(found)
                self.count_shard(row, found, target)
                if found.problem and self.lockstep is None:
                    break
            return self.add_up(ran, rows)
        except FovealError as error:
            if error is not self.refused:
                raise
            # It is the same on all ranks.
            return Sums(problem=error)
        finally:
            # Before what its thread may work on is put back.
            exchange.leave()

    def opened(self) -> Exchange:
        """Return what exchanges the arrays of a step. Raises RankError where this rank has broken a step off."""
        if self.exchange is None or not self.overlaps:
            return Exchange(self.ranks, self.overlaps)
        if not self.exchange.idle:
            raise RankError(
                "a step before this one was broken off on this rank, and the others may be further; start the job"
                " again, it goes on with --resume"
            )
        return self.exchange

    def one_by_one(self, prepared: Iterable[Prepared], model: Any) -> Iterator[Ran]:
        """Yield what the shards of this rank have found; each is prepared and runs when its turn comes."""
        for place, shard in zip(self.own, prepared, strict=False):
            self.enter(place, shard.program)
            if place == self.own.start:
                self.announce(model)
            yield self.drive(shard.parts(shard.program, self.stops()))

    def side_by_side(self, prepared: Iterable[Prepared], model: Any) -> Iterator[Ran]:
        """Yield what the shards of this rank have found, which run side by side and end one after the other."""
        assert self.lockstep is not None
        given = list(prepared)
        if given:
            self.enter(self.own.start, given[0].program)
            self.announce(model)
        # How many shards there are has to be known.
        self.waited()
        try:
            for ran in self.lockstep.run(given, self.shards, self):
                self.add_gradients(len(ran.program.calls))
                self.add_statistics()
                yield ran
        except FovealError as error:
            # All ranks find that shards cannot be computed as one batch.
            self.refused = error
            raise

    def drive(self, parts: Generator[Pause, None, Ran]) -> Ran:
        """Run the parts of a shard. What it asks other shards for is what it is for one alone."""
        with closing(parts):
            while True:
                try:
                    pause = next(parts)
                except StopIteration as ended:
                    ran: Ran = ended.value
                    break
                if pause.message is not None and pause.y is not None:
                    pause.message.run(pause.y, pause.inputs)
                self.add_gradients(pause.done)
        self.add_gradients(len(ran.program.calls))
        self.add_statistics()
        return ran

    def agree(self, model: Any) -> None:
        """Before the first step, raise RankError unless all ranks have the same network and the same shards."""
        if not self.agreed and self.ranks.size > 1:
            state: dict[str, Ndarray] = getattr(model, "state_dict", dict)()
            facts = {"the number of shards": self.batches, "the content of the network": checksum(state)}
            self.ranks.agree(facts, "build the same network on all ranks, from the same seed (nn.seed) or file")
        self.agreed = True

    def enter(self, place: int, program: Program) -> None:
        """Prepare the memory for a shard: its weight, and statistics as they were before the first shard."""
        self.current = place
        self.weigh(program)
        self.images = program.arguments[0].shape[0]
        self.take_layout(self.layout_of(program))
        for variable in self.layout.statistics:
            if variable not in self.kept:
                self.kept[variable] = variable.storage.copy()
        self.put_back()
        last = place == self.own.start + self.given - 1
        self.running = ShardRun(place, program, self.buckets, last)

    def stops(self) -> Collection[int]:
        """Return the calls after which the program of the shard is to pause."""
        assert self.running is not None
        return set(self.running.ends) if self.overlaps and self.running.last else ()

    def footprint(self, program: Program) -> Footprint:
        """Return the bytes that a step holds, on shards of which a program takes one."""
        found = program.footprint() if self.lockstep is None else self.lockstep.footprint(program)
        return replace(found, sums=self.planned(program))

    def planned(self, program: Program) -> int:
        """Return the bytes of the sums that a step with this program takes, without what rounding has lost."""
        parameters = self.layout_of(program).parameters
        buckets = Buckets(parameters, self.sums, self.own)
        places = {arrival.slot for arrival in arrivals(self.own)}
        sizes = [4 * bucket.sums.elements for bucket in buckets.buckets]
        return len(places) * sum(sizes) + (max(sizes, default=0) if self.ranks.size > 1 else 0)

    def take_layout(self, layout: Layout) -> None:
        """Make the memory for what shards write."""
        if not layout.same(self.layout):
            sums = {p: self.sum_of(p) for p in layout.parameters}
            self.layout, self.buckets = layout, Buckets(layout.parameters, sums, self.own, self.codec)
            # As without a resume, nothing is added where other parameters are trained from here on.
            self.buckets.restore(self.restored[1] if self.restored[0] == layout.checksum() else {})
            self.restored = 0, {}
            self.statistics = PartialSums(sum(v.storage.size for v in layout.statistics), self.own)

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

    def add_gradients(self, done: int) -> None:
        """Add what the first calls of a shard's program have written, and hand over the buckets that are complete."""
        running = self.running
        assert running is not None
        # What a shard that fails has written is dropped later.
        with np.errstate(all="ignore"):
            for bucket in running.add(done):
                self.hand_over(bucket)

    def add_statistics(self) -> None:
        """Add by what a shard, whose program has run, would change running statistics."""
        weight, start = np.float32(self.images), 0
        with np.errstate(all="ignore"):
            for variable in self.layout.statistics:
                self.statistics.add(self.current, (variable.storage - self.kept[variable]) * weight, start)
                start += variable.storage.size

    def count_shard(self, row: Ndarray, ran: Ran, target: Any) -> None:
        """Write the numbers of a shard."""
        row[IMAGES] = ran.program.arguments[0].shape[0]
        if ran.problem:
            row[FAILED] = 1
            return
        row[LOSSES] = ran.loss * float(self.weight.data)
        if self.count is not None:
            row[FIXED:] = self.count(ran.rebuild(iter(ran.outputs)), target)

    # What ranks exchange.

    def announce(self, model: Any) -> None:
        """Let all ranks know how many shards there are; those that have none, what is written."""
        exchange, places = self.exchange, self.own[: self.given]
        assert exchange is not None
        head, checksum = PartialSums(HEAD, self.own, np.float64), self.layout.checksum()
        for place in self.own:
            there = place in places
            head.add(place, np.array([1, place, checksum] if there else [0, 0, 0], np.float64))

        def job(ranks: Ranks) -> None:
            found = head.total(ranks, self.batches, self.batches)
            self.shards, self.refused = int(found[TAKEN]), None
            try:
                check_shards(found, checksum if places else None, self.ranks.size)
                if self.shards <= owned(self.batches, ranks.size - 1, ranks.size).start:
                    # A rank has none, and rank 0 says what they write.
                    self.places = ranks.broadcast(self.layout.places(self.known(model)))
                    self.follow(model, self.places)
            except FovealError as error:
                # It is the same on all ranks, which exchange nothing more in this step.
                self.refused = error

        exchange.give(job)

    def waited(self) -> None:
        """Wait until all that was given has been exchanged. Raises what all ranks have refused the step for."""
        assert self.exchange is not None
        self.exchange.wait()
        if self.refused is not None:
            raise self.refused

    def hand_over(self, bucket: Bucket) -> None:
        """Let the gradients of a bucket be added up over all ranks."""
        assert self.exchange is not None

        def job(ranks: Ranks) -> None:
            if self.refused is None:
                bucket.total = bucket.sums.total(ranks, self.batches, self.shards)

        self.exchange.give(job)

    def hand_over_rest(self, rows: Ndarray) -> None:
        """Let statistics and the numbers of this rank's shards be added up."""
        assert self.exchange is not None
        numbers = PartialSums(rows.shape[1], self.own, np.float64)
        for place, row in zip(self.own, rows, strict=True):
            numbers.add(place, row)

        def job(ranks: Ranks) -> None:
            if self.refused is not None:
                return
            if self.statistics.elements:
                self.moved = self.statistics.total(ranks, self.batches, self.shards)
            self.numbers = numbers.total(ranks, self.batches, self.batches)

        self.exchange.give(job)

    def add_up(self, ran: list[Ran], rows: Ndarray) -> Sums:
        """Add up what all ranks have found. Raises what all of them refuse the step for."""
        for place in self.own[len(ran) : self.given]:
            # One before it has failed. The others wait for something, which is dropped.
            self.current = place
            self.running = ShardRun(place, ran[-1].program, self.buckets, place == self.own[self.given - 1])
            self.add_gradients(len(ran[-1].program.calls))
            self.add_statistics()
        if not self.given:
            # What is written has to be known.
            self.waited()
            for bucket in self.buckets.buckets:
                self.hand_over(bucket)
        if self.asked():
            # On any of its shards.
            rows[0, ASKED] += 1
        self.hand_over_rest(rows)
        self.waited()
        if self.numbers[FAILED]:
            self.refused = self.failure(ran)
            raise self.refused
        moved, totals = self.moved, self.buckets.totals()
        if self.ranks.elastic is not None:
            # Another rank may ask for them in the next step.
            moved, totals = moved.copy(), [total.copy() for total in totals]
        return Sums(self.numbers, self.shards, moved, totals, self.places)

    def finish(self, step: Running, sums: Sums, ran: list[Ran]) -> Totals:
        """Update the parameters and statistics from what all ranks have found."""
        if sums.problem is not None:
            raise sums.problem
        if sums.places is not None:
            # Another rank may have handed it over.
            self.follow(step.model, sums.places)
        numbers, images = sums.numbers, int(sums.numbers[IMAGES])
        self.buckets.copy_totals(sums.totals)
        start = 0
        for variable in self.layout.statistics:
            before = self.kept.setdefault(variable, variable.storage.copy())
            stop = start + before.size
            variable.storage[:] = before + sums.moved[start:stop] / np.float32(images)
            variable.touch()
            start = stop
        self.held, self.taken = frozenset(self.layout.parameters), sums.shards
        self.total = 1 if self.added else images
        loss = float(numbers[LOSSES]) / self.total
        self.update()
        return Totals(loss, images, tuple(numbers[FIXED:].tolist()), bool(numbers[ASKED]), ran)

    def failure(self, ran: list[Ran]) -> NumericsError:
        """Return an error, alike on all ranks, that says which shard has failed on one of them."""
        failed = sorted(((one.infected, one.problem) for one in ran if one.problem), key=lambda found: found[0])
        everywhere = self.ranks.all_of(failed[0] if failed else (True, ""))
        # The first rank with a shard that has failed by itself.
        rank = min(range(len(everywhere)), key=lambda rank: (not everywhere[rank][1], everywhere[rank][0]))
        problem = everywhere[rank][1]
        return NumericsError(f"{self.ranks.name(rank)}: {problem}" if self.ranks.size > 1 else problem)

    def known(self, model: Any) -> list[list[Variable]]:
        """Return the parameters and the buffers, which all ranks know by their places."""
        return [list(self.parameters), list(getattr(model, "buffers", list)())]

    def follow(self, model: Any, places: list[list[int]]) -> None:
        """Let a rank without a shard in this step know what is added up."""
        self.take_layout(Layout.at(places, self.known(model)))

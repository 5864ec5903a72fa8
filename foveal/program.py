"""Program: kernels with their memory, ready to run. foveal/build.py makes them."""

import threading
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from foveal import forks
from foveal.arena import ArenaPlan, Footprint, mib
from foveal.bind import RECORD_BYTES, Binding, bind
from foveal.errors import StateError
from foveal.graph import Graph
from foveal.handover import Entrance, Exit, Handover
from foveal.kernel import native_loop, runtime
from foveal.lower import KernelCall, Lowered
from foveal.pace import Pace
from foveal.passes.fusion.group import Group
from foveal.passes.layout import LayoutPlan
from foveal.python_call import PythonCall
from foveal.scheduling import CallSchedule
from foveal.strides import Ndarray
from foveal.system import processors
from foveal.variable import Variable
from foveal.workers import is_brief, is_short, workers

# Twins that help a program may be so many more than processors, since while one waits for Python's lock another one
# computes; or so many where it keeps that lock, so that a thread that is put aside within a run keeps no other waiting;
# and the bytes that they may take together.
MORE_HELPERS = 1
BRIEF_HELPERS = 31
MOST_HELPING = 1 << 27

# whether programs are built and not run, in this thread or task
_only_built: ContextVar[bool] = ContextVar("only_built", default=False)


class Built(Exception):
    """Raised in the place of a run, where programs are only built."""

    def __init__(self, program: "Program") -> None:
        super().__init__("the program was built and not run")
        self.program = program


@contextmanager
def only_built() -> Iterator[None]:
    """Inside of the block, what would run a program raises Built, before anything is copied or written."""
    token = _only_built.set(True)
    try:
        yield
    finally:
        _only_built.reset(token)


@dataclass(frozen=True)
class BuildRecord:
    """How long building a program took, and where its kernels came from."""

    seconds: float
    compiled: int
    from_disk: int


class Turn(forks.Locked):
    """The lock of a program, and the threads that run it or wait for it; none of them is in a forked child."""

    def renew(self) -> None:
        super().renew()
        self.callers: set[int] = set()


class Pause(NamedTuple):
    """Where a program that runs in parts has stopped."""

    #: how many calls of the program come before this place
    done: int
    #: the operator between shards that comes next; None at a stop
    message: PythonCall | None = None
    #: the memory of its output, which whoever drives the program writes, and of its inputs
    y: Ndarray | None = None
    inputs: Sequence[Ndarray] = ()


@dataclass(eq=False)
class Program:
    """A graph compiled for its shapes: what each stage of the compiler found, and the memory to run on.

    `run` takes the arguments and returns the outputs, as NumPy arrays. Python threads that share a program take turns,
    or, where it is short and updates nothing, run twins of it at the same time. A fork waits until no program runs (see
    forks), so that a child finds its memory and the variables whole.
    """

    graph: Graph
    threads: int
    groups: list[Group]
    layout: LayoutPlan
    lowered: Lowered
    schedule: CallSchedule
    arena_plan: ArenaPlan
    handover: Handover
    binding: Binding
    record: BuildRecord
    #: by which a short program chooses between all threads and one; None if it always runs on all
    pace: Pace | None = None

    #: whether the DEBUG ladder has shown its timings
    profiled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.calls = self.schedule.calls
        # how many of the calls are prepared ones, which come first
        self.prepared = len(self.schedule.prepared)
        self.arguments = [self.binding.array(view) for view in self.lowered.arguments]
        self.results = [self.binding.array(view) for view in self.lowered.outputs]
        copies, threads = self.handover, self.threads
        self.entrances = [
            Entrance(array, view, copies.arguments.get(i, {}), threads)
            for i, (array, view) in enumerate(zip(self.arguments, self.lowered.arguments, strict=True))
        ]
        self.exits = [Exit(array, copies.results.get(i), threads) for i, array in enumerate(self.results)]
        self.updated = [variable for variable, _ in self.graph.updates]
        # the variables that prepared calls may read, and in a list their versions when these last ran, if they have
        updated = set(self.updated)
        read = [node.variable for node in self.graph.variables]
        self.sources: list[Variable] = [v for v in read if v is not None and v not in updated]
        self.versions: list[list[int]] = []
        # the calls of operators without a kernel
        self.in_python = [i for i, call in enumerate(self.calls) if call.python is not None]
        # those of them that are messages between shards
        self.messages = [i for i in self.in_python if self.calls[i].between_shards]
        self.pauses: dict[int, Pause] = {}
        self.records = self.binding.table.ctypes.data
        # of a run that is timed: the clock at its beginning and after each call, and what else native_loop.py says
        self.times = np.zeros((1 + len(self.calls), 3), np.int64)
        self.turn = Turn(forks.PROGRAMS)
        # the thread in which `run` is in progress
        self.runner = 0
        # twins that run on one thread each, for threads that call while others do
        self.helpers: list[Program] = []
        self.making = forks.Locked()

    @property
    def arena(self) -> Ndarray:
        return self.binding.arena

    def run(
        self, *arrays: Ndarray, timed: bool = False, names: Sequence[str] = (), finite: bool = True
    ) -> list[Ndarray]:
        """Copy the arguments in, run every call, copy the outputs out.

        names: of the first arguments that are to be checked while they are copied, "" for one that is not. Raises
        NumericsError, before anything is computed, where one of those holds NaN or infinity, and StateError when a
        signal handler or a finaliser calls it during a run in the same thread. finite: False where arguments may hold
        NaN and infinity, and names are for other errors alone.
        """
        if _only_built.get():
            raise Built(self)
        one, caller = self.least_called() if self.turn.callers and not timed else self, threading.get_ident()
        one.turn.callers.add(caller)
        try:
            return one.run_in_turn(arrays, timed, names, finite)
        finally:
            one.turn.callers.discard(caller)

    def run_in_turn(self, arrays: Sequence[Ndarray], timed: bool, names: Sequence[str], finite: bool) -> list[Ndarray]:
        """Run on this program's own memory, when no other thread does."""
        with self.turn.lock:
            self.begin()
            try:
                self.fill_arguments(arrays, names, finite)
                self.launch(timed)
                return self.copy_results()
            finally:
                self.runner = 0

    def parts(
        self, arrays: Sequence[Ndarray], stops: Collection[int] = (), restore: bool = True
    ) -> Generator[Pause, None, list[Ndarray]]:
        """Run as `run` does, with a pause after each call whose number is in `stops`, and before each operator between
        shards, whose output is to be written during the pause; the outputs are what the generator returns.

        The program's turn is held from the first part to the end, so one thread drives it from `next` to the end or to
        `close`, which undoes the run as an exception does. A pause of a call that is not repeated, as what it reads has
        not changed, is left out. restore: False where the caller puts back what variables held.
        """
        if _only_built.get():
            raise Built(self)
        with self.turn.lock:
            self.begin()
            try:
                self.fill_arguments(arrays)
                yield from self.launching(stops, restore=restore, messages=True)
                return self.copy_results()
            finally:
                self.runner = 0

    def begin(self) -> None:
        """Note that this thread runs the program."""
        if self.runner == threading.get_ident():
            raise StateError(
                "a program was run from within a run of it in the same thread, by a signal handler or a finaliser;"
                " let that set a flag, and run the program when the run has returned"
            )
        self.runner = threading.get_ident()

    def twin(self) -> "Program":
        """Return a program of the same machine code and the same variables, with other memory for all that is computed
        in every run; what prepared calls have written, either finds.

        Parts of the two may run by turns in one thread: they share the lock, so that a fork waits for both.
        """
        binding = bind(
            self.lowered, self.schedule, self.arena_plan, self.binding.code, self.threads, prepared=self.binding.memory
        )
        made = replace(self, binding=binding)
        made.turn, made.versions = self.turn, self.versions
        return made

    def least_called(self) -> "Program":
        """Return this program or one of the twins that help it: the one that the fewest threads run or wait for."""
        if not self.most_helpers or threading.get_ident() in self.turn.callers:
            return self
        least = min([self, *self.helpers], key=lambda one: len(one.turn.callers))
        if not least.turn.callers or len(self.helpers) == self.most_helpers:
            return least
        with self.making.lock:
            if len(self.helpers) < self.most_helpers:
                binding = bind(self.lowered, self.schedule, self.arena_plan, self.binding.code, 1)
                self.helpers.append(replace(self, binding=binding, threads=1, pace=None))
            return self.helpers[-1]

    @cached_property
    def is_brief(self) -> bool:
        """Whether native code on this thread alone keeps Python's lock."""
        return is_brief(self.graph)

    @cached_property
    def most_helpers(self) -> int:
        """How many twins may help; none if it is long, writes variables or runs something in Python."""
        if self.updated or self.in_python or not is_short(self.graph):
            return 0
        one = self.footprint()
        size = max(one.prepared + one.values + one.batch, 1)
        return min(BRIEF_HELPERS if self.is_brief else processors() + MORE_HELPERS, MOST_HELPING // size)

    def fill_arguments(self, arrays: Sequence[Ndarray], names: Sequence[str] = (), finite: bool = True) -> None:
        """Copy the arguments into the program's memory, and check those that have names if they are to be finite."""
        threads = self.threads_now()
        for entrance, given, name in zip(self.entrances, arrays, chain(names, repeat("")), strict=False):
            entrance.fill(given, name, finite and name != "", threads)

    def copy_results(self) -> list[Ndarray]:
        """Return copies of the results, for the caller to keep."""
        threads = self.threads_now()
        return [exit.copy(threads) for exit in self.exits]

    def threads_now(self) -> int:
        """Return on how many threads arrays are copied."""
        return 1 if self.is_crowded() or (self.pace and not self.pace.pays) else self.threads

    def launch(self, timed: bool = False) -> None:
        """Run all calls on the arguments in memory; the prepared ones only when a variable they read has changed.

        An operator between shards computes what it is for one shard alone: its numpy().
        """
        with self.turn.lock:
            for _ in self.launching(timed=timed):
                pass

    def launching(
        self, stops: Collection[int] = (), timed: bool = False, restore: bool = True, messages: bool = False
    ) -> Generator[Pause, None, None]:
        """Run all calls, with pauses after `stops`, and with `messages` before each operator between shards."""
        versions = [variable.version for variable in self.sources]
        start = self.prepared if [versions] == self.versions else 0
        if timed:
            self.times[start] = 0
        try:
            if messages and self.messages and not any(number < self.prepared for number in self.in_python):
                # A twin whose turn comes at the first message need not run them again.
                self.launch_native(start, self.prepared, timed)
                self.versions[:], start = [versions], self.prepared
            if self.in_python or stops:
                yield from self.launch_in_parts(start, stops, timed, restore, messages)
            else:
                self.launch_native(start, len(self.calls), timed)
            self.versions[:] = [versions]
        finally:
            # Even a run that was interrupted may have written them.
            for variable in self.updated:
                variable.touch()

    def launch_in_parts(
        self, start: int, stops: Collection[int], timed: bool, restore: bool, messages: bool
    ) -> Generator[Pause, None, None]:
        """Run the calls from number `start` on, those in Python and pauses between native ones.

        What numpy() raises, or an interruption, may come when some variables are written and others not. All get back
        what they held, and the outputs are NaN: the run has not been carried out.
        """
        kept = [(variable, variable.storage.copy()) for variable in self.updated if restore]
        try:
            for number in sorted({*self.in_python, *stops}):
                # A call that is not there would be none of the table.
                if not start <= number < len(self.calls):
                    continue
                in_python = number in self.in_python
                self.launch_native(start, number if in_python else number + 1, timed)
                start = number + 1
                if in_python and self.calls[number].between_shards and messages:
                    yield self.message(number)
                elif in_python:
                    self.call_python(self.calls[number])
                if number in stops:
                    yield Pause(start)
            self.launch_native(start, len(self.calls), timed)
        except BaseException:
            # once more, whatever interrupts it now
            while True:
                try:
                    self.put_back(kept)
                    break
                except BaseException:
                    continue
            raise

    def message(self, number: int) -> Pause:
        """Return the pause before an operator between shards."""
        if number not in self.pauses:
            call = self.calls[number]
            y, *inputs = (self.binding.array(view) for view in call.views)
            self.pauses[number] = Pause(number, call.python, y, inputs)
        return self.pauses[number]

    def put_back(self, kept: Sequence[tuple[Variable, Ndarray]]) -> None:
        """Undo a run that failed between two calls."""
        for view, result in zip(self.lowered.outputs, self.results, strict=True):
            if view.buffer.variable is None and result.dtype == np.float32:
                result[...] = np.nan
        for variable, storage in kept:
            variable.storage[:] = storage
            variable.touch()

    def call_python(self, call: KernelCall) -> None:
        """Call an operator that has no kernel."""
        y, *inputs = (self.binding.array(view) for view in call.views)
        assert call.python is not None
        call.python.run(y, inputs)

    def launch_native(self, start: int, stop: int, timed: bool) -> None:
        """Run the calls from number `start` to before `stop`."""
        if start == stop:
            return
        records = self.records + start * RECORD_BYTES
        times = 0
        if timed:
            self.times[start + 1 : stop + 1] = 0
            times = self.times[start + 1 :].ctypes.data
        crowded = self.is_crowded()
        # only runs of the same calls can be compared
        compared = (start, stop, timed, crowded) == (self.prepared, len(self.calls), False, False)
        pace = self.pace if compared else None
        with self.turn.lock:
            threads = 1 if crowded else pace.choose(time.perf_counter()) if pace else self.threads
            if self.threads > 1:
                # of the parallel loops
                self.binding.counters[start:stop] = 0
            started = time.perf_counter()
            if threads == 1 or stop - start > native_loop.MAX_CALLS:
                runtime.alone(self.is_brief)(records, stop - start, times)
            elif not workers().run(threads, records, stop - start, times):
                # another caller had the threads
                pace = None
            if pace:
                pace.note(threads, time.perf_counter() - started)

    def is_crowded(self) -> bool:
        """Return True if threads that call this program and its twins take more than half of the processors."""
        callers = sum(len(one.turn.callers) for one in (self, *self.helpers)) if self.helpers else 1
        return callers > 1 and 2 * callers > processors()

    def interpret(self, *arrays: Ndarray) -> list[Ndarray]:
        """Run the same calls with every kernel body in plain Python: slow, for tests and for debugging."""
        self.fill_arguments(arrays)
        for call in self.calls:
            if call.python is not None:
                self.call_python(call)
                continue
            call.kernel.interpret([self.binding.array(view) for view in call.views], call.numbers, call.sizes)
        return self.copy_results()

    def footprint(self) -> Footprint:
        """Return the bytes that a run holds."""
        written_once = dict.fromkeys(view.buffer for call in self.schedule.prepared for view in call.written)
        return Footprint(
            variables=sum(4 * buffer.size for buffer in self.binding.memory if buffer.variable is not None),
            prepared=sum(4 * buffer.size for buffer in written_once),
            values=self.arena_plan.size,
            without_reuse=self.arena_plan.without_reuse,
            batch=sum(array.nbytes for array in self.arguments),
        )

    def summary(self) -> str:
        """Return one line: calls, barriers, arena, where the kernels came from."""
        return (
            f"program: {len(self.calls)} calls, {sum(self.schedule.barriers)} barriers, {self.threads} thread(s),"
            f" arena {mib(self.arena_plan.size)} for {mib(self.arena_plan.without_reuse)} of values,"
            f" {self.record.compiled} kernels compiled, {self.record.from_disk} from the cache,"
            f" built in {self.record.seconds:.2f} s"
        )

"""compile_step: forward, loss, backward and update of a network as one native program."""

import math
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from foveal import debug, forks
from foveal.accumulate import window
from foveal.arena import Footprint
from foveal.arguments import call_errors, checked
from foveal.autodiff import gradients_where_read
from foveal.batch import Given, check_labels, placeholders, rows_of
from foveal.build import build
from foveal.distributed.found import Prepared, Ran
from foveal.distributed.ranks import Ranks
from foveal.distributed.shares import shares_of, shares_of_batch
from foveal.distributed.window import shard_window
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError, StateError, warn
from foveal.graph import Graph
from foveal.guard import Guard, guard_updates
from foveal.handover import check_early, check_finite
from foveal.kernel.runtime import prepare
from foveal.kinds import shown
from foveal.names import missing
from foveal.ops.op import Type
from foveal.passes.recompute import FAST, MEMORY
from foveal.profile import show_timings
from foveal.program import Pause, Program
from foveal.programs import Programs
from foveal.strides import Ndarray, Shape
from foveal.structure import Rebuild, call_on, flattened
from foveal.trace import Symbol, tracing
from foveal.trained import LoaderLike, ModelLike, OptimizerLike, check_optimizer, check_used, parameters_of
from foveal.variable import Variable
from foveal.watch import Same, State

# What the optimiser's part of a program's key is, for DEBUG=1.
SETTINGS = "optimizer, or setting of it that is compiled in"
# Of the parameters that a loss does not read, a warning names this many.
MAX_NAMED = 5


@dataclass(frozen=True)
class StepResult:
    """What a training step returns."""

    #: the loss before the update; the losses of nn are means over the batch
    loss: float
    #: what the model returned, [N, classes] for a classifier; of several arrays the first
    output: Ndarray
    #: all that the model returned: an array, or arrays nested in lists (also for tuples) and dicts
    outputs: Any
    #: of a step on shards: images of all ranks, what was counted of them, and whether a rank is asked to end; the loss
    #: is that of all of them, the outputs are those of this rank's shards
    images: int | None = field(default=None, repr=False)
    counts: tuple[float, ...] = field(default=(), repr=False)
    asked: bool = field(default=False, repr=False)

    # Type checkers would take every attribute for one that exists.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            # Only what does not exist gets here.
            raise AttributeError(missing(type(self).__name__, name), name=name, obj=self)


class Traced(NamedTuple):
    """A step that was traced."""

    graph: Graph
    #: what it checks before it writes
    guard: Guard
    #: nests the model's outputs as it returned them
    rebuild: Rebuild
    #: the losses of nn that were called on a target: the loss, the place of the target among the targets, and the shape
    #: of the output
    losses: list[tuple[Any, int, Shape]]


class Made(NamedTuple):
    """A step for batches of some shapes, compiled."""

    program: Program
    traced: Traced


class Step:
    """One training step as one native program: forward, loss, backward and update; see compile_step."""

    def __init__(
        self,
        model: ModelLike,
        loss: Callable[[Any, Any], Any],
        optimizer: OptimizerLike,
        threads: int | None,
        seed: int,
        memory: str = FAST,
        accumulate: int = 1,
        shards: int | None = None,
        ranks: Ranks | None = None,
        compress: str | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        if isinstance(loss, type):
            raise ArgumentError(f"compile_step: loss is the class {loss.__name__}; make one first: {loss.__name__}()")
        if memory not in MEMORY:
            raise ShapeError(f"memory {memory!r} is not known; choose one of {', '.join(MEMORY)}")
        self.model, self.loss, self.optimizer, self.threads = model, loss, optimizer, threads
        self.memory = memory
        check_optimizer(model, loss, optimizer)
        # Where an update takes several batches or shards, their gradients are added up in place of updating parameters.
        self.sharded = shard_window(optimizer, loss, shards, ranks, accumulate, threads, compress, sync_batch_norm)
        self.window = self.sharded or window(optimizer, loss, accumulate, threads)
        # The key of random operators: 64 bits of seed, then 64 bits that count the steps.
        self.key = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0, 0], np.uint32)
        self.state = State()
        names = "", "inputs", "targets", "nesting of the inputs", "nesting of the targets", SETTINGS
        self.programs: Programs[Made] = Programs(names=names)
        self.steps = 0
        # The parameters that a warning has named as not read by the loss.
        self.named: set[Variable] = set()
        # held during a step: threads take turns
        self.turn = forks.Locked()

    @property
    def rule(self) -> OptimizerLike:
        """What the program of a batch updates: the parameters, or the sums of their gradients."""
        return self.optimizer if self.window is None else self.window

    def trace(self, x: Any, target: Any) -> Graph:
        """Return the step's graph. x, target: the Type of each array, nested as the arrays are."""
        return self.traced(x, target).graph

    def traced(self, x: Any, target: Any) -> Traced:
        """Return the step's graph, and what is needed to run it.

        Its outputs are the loss, the first of the model's outputs, the report of guard.py and the model's other
        outputs; it updates the parameters, the optimiser's state and running statistics. Every update keeps the old
        value unless all is finite, so a step that fails leaves the model as it was.
        """
        with tracing() as recording:
            inputs, _ = placeholders(recording, x, "x")
            labels, targets = placeholders(recording, target, "target")
            if self.sharded is not None and self.sharded.sync_batch_norm:
                recording.shard_weight = float(self.sharded.weight_of(recording.arguments[0].shape))
            recording.key = recording.argument(Type((4,), "int32"), "key")
            # forward
            outputs = call_on(self.model, inputs)
            # The loss may hold a network that another step trains, as a generator's loss holds its critic.
            owned = parameters_of(self.model, self.loss)
            check_used(owned, recording)
            found, rebuild = flattened(outputs)
            if not found or not all(isinstance(output, Symbol) for output in found):
                raise ShapeError(
                    f"the model returned {shown(outputs)}; a training step needs arrays: one, or several in a tuple,"
                    " a list or a dict"
                )
            y = self.loss_of(outputs, labels)
            if y.shape != ():
                raise ShapeError(f"the loss has shape {y.shape}; a training step needs a scalar: take its mean")
            # backward
            parameters = [p for p in owned if p.trainable]
            slopes = gradients_where_read(y, [recording.lift(p) for p in parameters])
            read = {p: slope for p, slope in zip(parameters, slopes, strict=True) if slope is not None}
            self.name_unread(p for p in parameters if p not in read)
            # update
            for variable, value in self.rule.assignments(dict(read)):
                recording.assign(variable, value)
            if self.sharded is not None:
                # What is sent is what is checked, so that it is in memory once.
                read = self.sharded.written(recording, read)
            # What shards write is dropped where one of them fails; side by side, they write after the report.
            guarded = guard_updates(recording, y, read, self.sharded is None or self.sharded.sync_batch_norm)
            # There is a loss.
            assert guarded is not None
            report, guard = guarded
            graph = recording.graph([y, found[0], report, *found[1:]])
            places = {id(symbol.node): place for place, symbol in enumerate(targets)}
            losses = [(o, places[id(t.node)], shape) for o, t, shape in recording.losses if id(t.node) in places]
            return Traced(graph, guard, rebuild, losses)

    def name_unread(self, parameters: Iterable[Variable]) -> None:
        """Warn, once for each, of parameters that the optimiser is to train and that the loss does not read."""
        unread = [p for p in self.optimizer.own_gradients(dict.fromkeys(parameters)) if p not in self.named]
        if not unread:
            return
        self.named.update(unread)
        names = ", ".join(p.name or f"one of shape {p.shape}" for p in unread[:MAX_NAMED])
        more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
        warn(
            f"the loss does not read {len(unread)} of the model's parameters, which stay as they are, without weight"
            f" decay: {names}{more}. Use them in forward, or set trainable = False where this is meant"
        )

    def loss_of(self, outputs: Any, labels: Any) -> Symbol:
        """Return the loss of everything that the model returned."""
        try:
            y = self.loss(outputs, labels)
        except (ShapeError, DataError, AttributeError, TypeError, LookupError) as error:
            if not isinstance(labels, Symbol) or isinstance(outputs, list | dict):
                raise ShapeError(
                    f"the loss cannot take what the model returned and the targets ({type(error).__name__}: {error});"
                    " write it as a function of both, such as lambda outputs, targets: ce(outputs[0], targets[0]) +"
                    " mse(outputs[1], targets[1])"
                ) from error
            if isinstance(outputs, tuple):
                raise ShapeError(
                    f"the loss cannot take the {len(outputs)} arrays that the model returned ({type(error).__name__}:"
                    f" {error}); correct it, or for auxiliary classifiers wrap it, as"
                    " nn.AuxiliaryLoss(nn.CrossEntropyLoss())"
                ) from error
            raise
        if not isinstance(y, Symbol):
            raise ShapeError(f"the loss returned {shown(y)}; a training step needs one scalar written with operators")
        return y

    @staticmethod
    def show_timings(program: Program) -> None:
        """With DEBUG=2, show the timings. Timing runs the step, so what it updates is put back afterwards."""
        if debug.level() >= debug.TIME and not program.profiled:
            kept = [(variable, variable.storage.copy()) for variable, _ in program.graph.updates]
            show_timings(program)
            for variable, storage in kept:
                variable.storage[:] = storage
                variable.touch()

    def program(self, x: Any, target: Any) -> Program:
        """Return the program for a batch of this shape; x and target as in a call."""
        return self._find(Given.of(x, "the input x"), Given.of(target, "the target", labels=True)).program

    def footprint(self, x: Any, target: Any) -> Footprint:
        """Return the bytes that a step on a batch of this shape holds, or on shards of it."""
        program = self.program(x, target)
        return program.footprint() if self.sharded is None else self.sharded.footprint(program)

    def _find(self, x: Given, target: Given) -> Made:
        number = self.state.number(self.model, self.loss, self.memory, self.threads)
        optimizer = Same(self.optimizer), self.optimizer.structure()
        # One input is float32, whatever it is given as; of several, some may be integers.
        inputs = tuple(Type(a.shape) for a in x.arrays) if x.form is None else x.types()
        targets = target.types()

        def make() -> Made:
            check_optimizer(self.model, self.loss, self.optimizer)
            with self.state.reading(number):
                traced = self.traced(x.nested(inputs), target.nested(targets))
            early = self.sharded is not None and self.sharded.overlaps
            return Made(build(traced.graph, self.threads, memory=self.memory, early=early), traced)

        key = number, inputs, targets, x.form, target.form, optimizer
        return self.programs.find(key, make, f"a step of {type(self.model).__name__}", self.state)

    def state_dict(self) -> dict[str, Ndarray]:
        """Return what random operators draw from: the seed and the number of steps taken, as arrays.

        `foveal.train.state_dict` returns the state of the whole training.
        """
        state: dict[str, Ndarray] = {"seed": self.key[:2].copy(), "steps": np.array(self.steps, np.int64)}
        # In the middle of a window the sums belong to it.
        return state if self.window is None else state | self.window.state_dict(parameters_of(self.model, self.loss))

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from a `state_dict`. Raises StateError if the state is none; then nothing is changed."""
        seed, steps = (np.asarray(state.get(name, ())) for name in ("seed", "steps"))
        fits = (seed.shape, seed.dtype.name, steps.shape, steps.dtype.kind) == ((2,), "uint32", (), "i")
        rest = {name: value for name, value in state.items() if name not in ("seed", "steps")}
        if (self.window is None and rest) or not fits or steps < 0:
            raise StateError(f"no state of a step: {dict(state)}; it has seed, uint32 [2], and steps, an integer")
        if self.window is not None:
            self.window.load_state_dict(rest, parameters_of(self.model, self.loss))
        self.key[:2], self.steps = seed, int(steps)

    def failure(self, loss: float, guard: Guard, report: Ndarray) -> str:
        """Return the message for a step that was not carried out."""
        problem, way_out = f"the loss is {loss} in step {self.steps + 1}", "lower the learning rate"
        if math.isfinite(loss):
            problem += f", but {guard.problem(report)}"
            way_out = f"look for a division by 0, or a root or logarithm of 0, in the model, {way_out}"
        rest = "" if self.window is None else self.window.words()
        kept = "The parameters were left as they were before the step"
        return f"{problem}; {way_out}, or check the targets. {kept}{rest}"

    def check(self, target: Given, made: Made) -> None:
        """Check the targets as the loss says; without a `check` of its own, as the losses of nn that it called.

        One target of integers that no loss of nn was called on holds labels of the last axis.
        """
        check = getattr(self.loss, "check", None)
        output = made.program.graph.outputs[1].shape
        if check is not None and target.form is None:
            check(target.arrays[0], output)
        elif made.traced.losses:
            for loss, place, shape in made.traced.losses:
                try:
                    loss.check(target.arrays[place], shape)
                except DataError as error:
                    raise DataError(str(error) if target.form is None else f"{target.names[place]}: {error}") from None
        elif target.form is None and target.arrays[0].dtype == np.int32:
            check_labels(target.arrays[0], output[-1])

    @call_errors("step")
    def __call__(self, x: Any, target: Any) -> StepResult:
        """Train on one batch: x [N, ...] float32, target [N] integer labels (or what the loss takes).

        Of a model with several inputs, x is a tuple or list of arrays, or a dict of them by the names that forward
        gives them; target may be nested as well, and the loss gets it so: loss(outputs, targets).

            step((image, text), {"class": labels, "box": boxes})

        Raises DataError for labels that are not among the classes, NumericsError for NaN or infinity in x or in the
        loss. The parameters are then as they were before. Python threads that share a step take turns.
        """
        with self.turn.lock:
            return self.take(x, target) if self.sharded is None else self.take_whole(x, target)

    def flush(self) -> None:
        """Update the parameters from the batches of a window that is not full, as at the end of an epoch.

        Nothing happens where there are none, or where every batch is an update (accumulate=1). Raises NumericsError as
        a step does.
        """
        with self.turn.lock:
            if self.window is not None and self.window.taken:
                self.window.prepare(self.optimizer)
                self.window.flush()

    def take(self, x: Any, target: Any) -> StepResult:
        """Train on one batch."""
        if self.window is not None:
            self.window.prepare(self.optimizer)
        made, arrays, names = self.ready(x, target, wide=True)
        program = made.program
        report = program.results[2]
        report[0] = math.nan
        if self.window is not None:
            self.window.weigh(program)
        self.rule.begin()
        try:
            loss, output, found, *others = program.run(*arrays, self.key_of(self.steps), names=names)
        finally:
            # An interruption (Ctrl-C) is raised before the program's native run or after all of it, never in between.
            # So the report tells whether the step was carried out, also where `run` does not return.
            if report[0] == 1:
                self.steps += 1
                if self.window is not None:
                    self.window.add(program)
            else:
                self.rule.undo()
        value = float(loss)
        if not found[0]:
            raise NumericsError(self.failure(value, made.traced.guard, found))
        self.show_timings(program)
        if self.window is not None and self.window.full:
            self.window.update()
        return StepResult(value, output, made.traced.rebuild(iter([output, *others])))

    def ready(self, x: Any, target: Any, wide: bool = False) -> tuple[Made, list[Ndarray], list[str]]:
        """Return the program for a batch, its arguments but for the key, and the names of those that the program checks
        (see Program.run); all else of the batch is checked. wide: large inputs may stay float64 (see as_argument).
        """
        given, targets = Given.of(x, "the input x", wide=wide), Given.of(target, "the target", labels=True)
        names: list[str] = []
        for array, name in zip(given.arrays, given.names, strict=True):
            if array.size == 0:
                batch = "the batch" if given.form is None else name
                raise DataError(f"{batch} is empty (shape {array.shape}); a step needs at least one image")
            names.append(check_early(array, name))
        made = self._find(given, targets)
        self.check(targets, made)
        return made, [*given.arrays, *targets.arrays], names

    def key_of(self, number: int) -> Ndarray:
        """Return the key of random operators, int32 [4], for the batch, or the shard, of that number.

        They draw other numbers in each, and the same ones when a run is repeated.
        """
        key = self.key.copy()
        key[2:] = number & 0xFFFFFFFF, number >> 32
        return key.view(np.int32)

    # Steps on shards.

    def prepare(self, x: Any, target: Any, number: int) -> Prepared:
        """Check a shard and find its program; for what takes the shards of a batch.

        number: of the shard, by which random operators draw.
        """
        made, arrays, names = self.ready(x, target)
        # All ranks have to know whether a step is carried out, before the first one runs.
        for array, name in zip(arrays, names, strict=False):
            if name:
                check_finite(array, name)
        arrays.append(self.key_of(number))
        return Prepared(made.program, lambda program, stops: self.parts(made.traced, program, arrays, stops))

    def parts(
        self, traced: Traced, program: Program, arrays: Sequence[Ndarray], stops: Collection[int]
    ) -> Generator[Pause, None, Ran]:
        """Run a program on a shard, in parts (Program.parts)."""
        # What a shard has written is dropped where the step is not carried out.
        loss, output, found, *others = yield from program.parts(arrays, stops, restore=False)
        problem = "" if found[0] else self.failure(float(loss), traced.guard, found)
        self.show_timings(program)
        return Ran(program, float(loss), [output, *others], traced.rebuild, problem)

    def take_shards(self, shards: Sequence[tuple[Any, Any]]) -> StepResult:
        """Train on one batch, of which this rank is given its shards (x, target), in order, as `shares` yields them.

        All ranks call it together; one that has no shard of a last batch gives none. The result has the loss and the
        images of all ranks, and the outputs of this one's shards.

        Raises ArgumentError for a step that was not made with shards, RanksLost if elastic ranks are gone and these
        shards are not those of `shares`; else as a call.
        """
        if self.sharded is None:
            raise ArgumentError("take_shards: this step takes whole batches; make it with compile_step(..., shards=8)")
        with self.turn.lock, self.sharded.ranks.stepping():
            totals = self.sharded.take(self, shards)
        first, outputs = totals.outputs()
        return StepResult(totals.loss, first, outputs, totals.images, totals.counts, totals.asked)

    def take_whole(self, x: Any, target: Any) -> StepResult:
        """Train on a batch that each rank has whole, in shards of ceil(images / shards) images."""
        assert self.sharded is not None
        given, targets = Given.of(x, "the input x"), Given.of(target, "the target", labels=True)
        shards = shares_of_batch(
            self.sharded, rows_of(given, targets), lambda rows: (given.rows(rows), targets.rows(rows))
        )
        return self.take_shards(shards)

    def shares(self, loader: LoaderLike, epoch: int, first: int = 0) -> Iterator[list[tuple[Any, Any]]]:
        """Yield this rank's shards of each batch of an epoch, for take_shards; the others' images are not read.

        loader: a foveal.data.Loader, whose batch size is a multiple of the number of shards. first: the batch to begin
        with. Raises ArgumentError for a step that was not made with shards, ShapeError for another batch size.
        """
        if self.sharded is None:
            raise ArgumentError("shares: this step takes whole batches; make it with compile_step(..., shards=8)")
        return shares_of(self.sharded, loader, epoch, first)


@checked
def compile_step(
    model: ModelLike,
    loss: Callable[[Any, Any], Any],
    optimizer: OptimizerLike,
    threads: int | None = None,
    seed: int = 0,
    memory: str = FAST,
    accumulate: int = 1,
    shards: int | None = None,
    ranks: Ranks | None = None,
    compress: str | None = None,
    sync_batch_norm: bool = False,
) -> Step:
    """Return a whole training step, step(x, labels) -> loss and output, as one native program.

    loss: called as loss(model(x), target): one of foveal.nn, or a function written with operators. It gets outputs
    nested as the model returns them, and targets as the step is called on them. Labels that a loss of foveal.nn is
    called on are checked before each step, in a function too. If it has parameters of its own, by `parameters()`, they
    are trained as the model's are.
    optimizer: made for parameters of the model; those of the model that it lacks keep their values, as in fine-tuning.
    threads: how many native threads run it. This changes the speed only: the same seed gives the same bits.
    seed: feeds random operators (dropout), together with the number of steps taken.
    memory: "low" computes cheap values again for the gradients instead of keeping them: less memory, some more time.
    accumulate: batches per update. The mean gradient of 4 batches of n images updates the parameters as one batch of
    4 n would, in less memory, with these exceptions: a batch norm normalises each batch by itself, a loss that divides
    by weights does so in each batch, and random layers draw for each batch. A call returns the loss of its batch; the
    update follows the last batch of a window, or `step.flush()`, for the window that an epoch's end leaves incomplete.
    The batches of a window may differ in size. Schedules and the optimiser's steps count updates, `step.steps` batches.
    A batch that fails is not added; an update that fails drops the sums.
    shards: take each batch in so many equal parts, whose gradients are added along one tree. A batch norm normalises
    each shard by itself, random layers draw for each, and running statistics change by the mean over shards. With
    `step.take_shards` each rank is given its own, else a call takes a whole batch.
    ranks: of foveal.distributed.ranks(), which share the shards, 8 unless said, with the same bits for any number of
    ranks.
    compress: "float16" or "int8" for gradients that ranks send in 2 bytes or 1 each, in place of 4. What rounding loses
    is added in the next step, and kept with the state of the step. The bits are others than without, and the same for
    any number of ranks.
    sync_batch_norm: batch norms normalise all shards of a batch as one, and running statistics are those of the batch,
    as with PyTorch's SyncBatchNorm. A rank then computes its shards side by side, and holds the activations of all of
    them at once; they wait for each other at each batch norm, forwards and backwards.

    The step follows changes of the model, the loss and the optimiser: modes, frozen parameters, replaced layers (see
    foveal.watch). A deep copy of it, or a pickle, has copies of all three.

    Raises ArgumentError for a class in place of a loss; ShapeError for another `memory`, for sync_batch_norm without
    shards, and at the first call if model, loss and batch do not fit each other; StateError for an optimiser of
    parameters that are not the model's.
    """
    step = Step(model, loss, optimizer, threads, seed, memory, accumulate, shards, ranks, compress, sync_batch_norm)
    prepare()
    return step

"""warm_up: everything that a network needs is compiled before it is needed, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from foveal.arguments import checked
from foveal.display import Table, Tables
from foveal.errors import ArgumentError, ShapeError
from foveal.explain.model import modes_restored
from foveal.kernel import compile as machine_code
from foveal.kernel import runtime
from foveal.kernel.progress import kept
from foveal.kinds import shown
from foveal.program import Built, only_built
from foveal.step import Step, compile_step
from foveal.strides import Ndarray
from foveal.structure import Around, call_on, inside_of
from foveal.trained import ModelLike, OptimizerLike
from foveal.watch import own_attributes

INFERENCE, TRAINING, UPDATE = "inference", "training step", "update"
# The attribute of a module that counts its calls, from which random layers draw.
CALLS = "_calls"


@dataclass(frozen=True)
class Warmed:
    """A program that is ready."""

    #: "inference", "training step", or "update" of a step that accumulates gradients
    kind: str
    #: of the input, as it was given; None for an update, which has none
    shape: object
    #: of the program, each counted once
    kernels: int
    #: of these, how many were compiled now, and how many were read from the cache folder; the others were in memory
    compiled: int
    from_cache: int
    seconds: float


@dataclass(frozen=True, repr=False)
class WarmUp(Tables):
    """What `warm_up` made ready; printed, a table."""

    programs: tuple[Warmed, ...]
    #: where kernels are kept, in words
    kept: str
    #: the training step, if one was asked for
    step: Step | None = None

    @property
    def compiled(self) -> int:
        """Kernels that were compiled."""
        return sum(program.compiled for program in self.programs)

    @property
    def from_cache(self) -> int:
        """Kernels that were read from the cache folder."""
        return sum(program.from_cache for program in self.programs)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return sum(program.seconds for program in self.programs)

    def as_json(self) -> dict[str, Any]:
        """Return everything as numbers, texts, lists and dictionaries."""
        programs = [{**asdict(replace(p, shape=None)), "shape": in_words(p.shape)} for p in self.programs]
        totals = {"compiled": self.compiled, "from_cache": self.from_cache, "seconds": self.seconds}
        return {"programs": programs, **totals, "kept": self.kept}

    def tables(self) -> Iterator[Table]:
        """Yield a table with a row for each program."""
        rows = [
            (p.kind, in_words(p.shape), str(p.kernels), str(p.compiled), str(p.from_cache), f"{p.seconds:.1f} s")
            for p in self.programs
        ]
        heading = (
            f"{self.compiled} kernels compiled in {self.seconds:.1f} s, {self.from_cache} from the cache; {self.kept}"
        )
        yield heading, ("program", "input", "kernels", "compiled", "from cache", "time"), rows


@checked
def warm_up(
    net: ModelLike,
    shapes: object,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: OptimizerLike | None = None,
    step: Step | None = None,
    targets: object = None,
    inference: bool = True,
) -> WarmUp:
    """Compile a network for inputs of these shapes, and a training step too if one is given; return what was compiled.

    Later calls with these shapes compile nothing: in this process, and in others that use the same cache folder.
    Nothing runs, and no bit changes: of the parameters, running statistics, random numbers, or the step.

    shapes: a list of input shapes with the batch, such as [(1, 3, 224, 224), (32, 3, 224, 224)]; for a network with
    several inputs, of tuples or dicts of shapes. An array stands for its shape and dtype. inference: compile the
    network in evaluation mode. step: what `compile_step` returned; or loss and optimizer, of which a step is made, the
    result's `step`. It is compiled in the modes that the network is in, in training mode if it is in evaluation mode.
    targets: for each shape an array, or a shape for float32; integer labels [N] if not given.

        print(foveal.warm_up(net, [(32, 3, 32, 32)], loss=nn.CrossEntropyLoss(), optimizer=optimizer))

    Raises ArgumentError for a loss without an optimizer, ShapeError where shapes, network and targets do not fit.
    """
    if step is not None and (loss is not None or optimizer is not None):
        raise ArgumentError("warm_up: give a step, or a loss and an optimizer of which one is made, not both")
    if (loss is None) != (optimizer is None):
        raise ArgumentError("warm_up: a training step needs a loss and an optimizer; give both, or neither")
    if loss is not None and optimizer is not None:
        step = compile_step(net, loss, optimizer)
    inputs = listed(shapes)
    given = [None] * len(inputs) if targets is None else listed(targets)
    if len(given) != len(inputs):
        raise ArgumentError(f"warm_up: {len(given)} targets and {len(inputs)} shapes; give one target for each shape")
    made = [inferred(net, shape) for shape in inputs] if inference else []
    if step is not None:
        made += [trained(step, shape, target) for shape, target in zip(inputs, given, strict=True)]
        window = step.window
        if window is not None:
            made.append(build(UPDATE, None, lambda: Built(window.program()[0])))
    return WarmUp(tuple(made), kept(), step)


def listed(shapes: object) -> list[Any]:
    """Return shapes as a list; a single one, (1, 3, 224, 224), stands for a list of it."""
    if not isinstance(shapes, list | tuple) or (shapes and all(isinstance(n, int | np.integer) for n in shapes)):
        return [shapes]
    return list(shapes)


def example(shape: Any, around: Around = ()) -> Any:
    """Return an input of the shape: zeros, nested as the shapes are; an array stands for itself.

    around: what the shape lies in.
    """
    if isinstance(shape, np.ndarray):
        return np.zeros(shape.shape, shape.dtype)
    if isinstance(shape, Mapping):
        around = inside_of(shape, around)
        return {name: example(part, around) for name, part in shape.items()}
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        if all(isinstance(n, int | np.integer) for n in shape) and all(n >= 0 for n in shape):
            return np.zeros([int(n) for n in shape], np.float32)
        if all(isinstance(part, Sequence | Mapping | np.ndarray) and not isinstance(part, str) for part in shape):
            around = inside_of(shape, around)
            return tuple(example(part, around) for part in shape)
    raise ShapeError(
        f"warm_up: {shown(shape)} is no shape; give the shape of a batch, such as (32, 3, 224, 224), a tuple of shapes"
        " for several inputs, or an array"
    )


def inferred(net: ModelLike, shape: Any) -> Warmed:
    """Compile the network in evaluation mode for one shape."""
    # Of a call nothing is to be left but the program: not its number, from which random layers draw.
    own = own_attributes(net)
    calls = own.get(CALLS)
    try:
        with modes_restored(net):  # type: ignore[arg-type]
            net.eval()  # type: ignore[attr-defined]
            return build(INFERENCE, shape, lambda: call_on(net, example(shape)))
    finally:
        if calls is None:
            own.pop(CALLS, None)
        else:
            own[CALLS] = calls


def trained(step: Step, shape: Any, target: Any) -> Warmed:
    """Compile the training step for one shape."""
    x = example(shape)
    first = x
    while not isinstance(first, np.ndarray):
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    # Class numbers, unless something else is given.
    y: Ndarray | Any = np.zeros(len(first), np.int32) if target is None else example(target)
    net: Any = step.model
    with modes_restored(net):
        if not net.training:
            net.train()
        try:
            return build(TRAINING, shape, lambda: Built(step.program(x, y)))
        except ShapeError as error:
            if target is not None:
                raise
            raise ShapeError(
                f"{error}. warm_up compiled the step for integer labels, int32 [{len(first)}]; give targets=[...], a"
                " shape or an array for each input, for other losses"
            ) from None


def build(kind: str, shape: Any, ask: Callable[[], Any]) -> Warmed:
    """Ask for a program, which is built and not run, and return what that took."""
    before = machine_code.Statistics(machine_code.statistics.compiled, machine_code.statistics.from_disk)
    started = time.perf_counter()
    with only_built():
        try:
            made = ask()
        except Built as built:
            made = built
    if not isinstance(made, Built):
        raise ArgumentError("warm_up: the network ran nothing that is compiled; give an nn.Module")
    # The loop that runs every program is kept in the cache folder too, and is compiled when it is first asked for.
    runtime.run()
    kernels = {kernel for one in made.program.calls for kernel in one.kernels}
    return Warmed(
        kind,
        shape,
        len(kernels),
        machine_code.statistics.compiled - before.compiled,
        machine_code.statistics.from_disk - before.from_disk,
        time.perf_counter() - started,
    )


def in_words(shape: Any) -> str:
    """Return a shape as text."""
    if isinstance(shape, np.ndarray):
        return f"{shape.dtype} {list(shape.shape)}"
    return "" if shape is None else str(list(shape) if isinstance(shape, tuple) else shape)

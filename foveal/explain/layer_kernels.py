"""The code of each layer: equation, textbook loop, kernel source, LLVM IR, assembly; and its share of the peak."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from foveal import debug, display
from foveal.api import as_argument
from foveal.arguments import checked
from foveal.build import build
from foveal.display import Table, Tables
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.explain.costs import BYTES
from foveal.explain.model import Model, float_outputs, modes_restored
from foveal.files import write_whole
from foveal.graph import Node
from foveal.handover import check_finite
from foveal.kernel import llvm_thread
from foveal.kernel.compile import Kernel, build_ir, emit_object
from foveal.kernel.target import Target, current
from foveal.lower import KernelCall
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Operator, Type
from foveal.ops.shape import constant
from foveal.passes.fusion.group import Group
from foveal.peak import copy_rate, peak
from foveal.profile import timings
from foveal.program import Program
from foveal.trace import LayerCall, calls_within, tracing

# The stages from the equation to the machine, in this order.
Stage = Literal["equation", "loop", "source", "ir", "assembly"]
STAGES: dict[Stage, str] = {
    "equation": "equation",
    "loop": "textbook loop",
    "source": "kernel source",
    "ir": "LLVM IR",
    "assembly": "assembly",
}
# Bytes; copying fewer measures how fast threads start.
LEAST_COPIED = 1 << 14
COLUMNS = ("layers", "kernels", "output", "ms", "share of time", "speed", "of peak")


class Code:
    """A kernel's source, and what the compiler makes of it, which is computed when it is first asked for."""

    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel, self.target = kernel, target

    @property
    def source(self) -> str:
        """The Python function that is traced, with its comments."""
        return source_of(self.kernel.body)

    @cached_property
    def listings(self) -> tuple[str, str]:
        """LLVM IR after LLVM's passes, and assembly, as the levels 5 and 6 of DEBUG show them."""
        text = build_ir(self.kernel, self.target, self.kernel.name)
        shown = debug.ASSEMBLY
        _, ir, assembly = llvm_thread.run(lambda: emit_object(text, self.target, self.kernel.plain, shown))
        return ir, assembly

    @property
    def ir(self) -> str:
        """LLVM IR after LLVM's passes."""
        return self.listings[0]

    @property
    def assembly(self) -> str:
        """Assembly for this machine."""
        return self.listings[1]


@dataclass(frozen=True)
class Call:
    """One call of a kernel."""

    #: The kernel's name, the shapes of the arrays that it is called on, outputs first, and its constants.
    name: str
    shapes: tuple[tuple[int, ...], ...]
    static: dict[str, object]
    #: True if it runs once, since it reads parameters alone, such as the packing of filters.
    once: bool
    #: The kernel, then functions that it calls by address; none where an operator runs in Python.
    code: tuple[Code, ...]

    def __str__(self) -> str:
        shapes = ", ".join(str(list(shape)) for shape in self.shapes)
        static = ", ".join(f"{name}={value}" for name, value in self.static.items())
        return f"{self.name}({shapes}){f' {static}' if static else ''}{'; runs once' if self.once else ''}"


@dataclass(frozen=True, repr=False)
class LayerKernels(Tables):
    """What computes one or several layers together: the operators, the kernels that are called, and their speed."""

    #: Dotted names of the layers, each with its class; for operators that a network or a block calls beside its layers,
    #: such as ops.relu, its name, "" for the network itself, with the operator.
    layers: tuple[tuple[str, str], ...]
    #: The operators of these layers, as they were written, before they were taken apart and fused.
    operators: tuple[Operator, ...]
    #: What is computed, and the types of what is stored, as DEBUG=3 shows it.
    computes: str
    calls: tuple[Call, ...]
    #: Median seconds, 0 for what runs once.
    seconds: float
    #: Multiplications and additions of the equations; 0 for layers whose time memory decides.
    flops: int
    #: Bytes of the values that are read and stored, each counted once.
    bytes: int
    #: Of this machine: GFLOP/s where flops are counted, else GB/s of copying about as many bytes.
    peak: float

    @property
    def label(self) -> str:
        """The layers in a line."""
        return " + ".join(" ".join(filter(None, one)) for one in self.layers)

    @property
    def rate(self) -> float:
        """GFLOP/s of the equation where flops are counted, else GB/s; NaN for what runs once."""
        work = self.flops or self.bytes
        return work / self.seconds / 1e9 if self.seconds else float("nan")

    @property
    def share(self) -> float:
        """The rate as a share of the machine's peak. Winograd's may exceed 1: it multiplies less than the equation."""
        return self.rate / self.peak

    def speed(self) -> str:
        """Return the rate with its unit."""
        return f"{self.rate:.1f} {'GFLOP/s' if self.flops else 'GB/s'}" if self.seconds else "runs once"

    def parts(self, stage: Stage) -> Iterator[tuple[str, str]]:
        """Yield title and text of each part of a stage: an operator's, or a kernel's."""
        if stage in ("equation", "loop"):
            for op in self.operators:
                yield op.name, equation(op) if stage == "equation" else loop(op)
            return
        seen: set[str] = set()
        for call in self.calls:
            if not call.code:
                yield str(call), "runs in Python: the operator has no kernel, and programs call its numpy()"
            for number, code in enumerate(call.code):
                text = code.source if stage == "source" else code.ir if stage == "ir" else code.assembly
                title = str(call) if number == 0 else f"{code.kernel.name}, which it calls"
                # Several calls may run one function; its text stands there once.
                yield title, "as above" if text in seen else text
                seen.add(text)

    def text(self, stage: Stage | None = None) -> str:
        """Return one stage as text, or all of them from the equation to assembly."""
        check_stage(stage)
        lines = [f"{self.label}: {self.computes}", self.measured(), ""]
        for one in STAGES if stage is None else (stage,):
            lines += [f"== {STAGES[one]}", ""]
            for title, text in self.parts(one):
                lines += [f"-- {title}", text.rstrip(), ""]
        return "\n".join(lines)

    def measured(self) -> str:
        """Return the time and what is reached of the peak, in a sentence."""
        if not self.seconds:
            return "It runs once, as it reads parameters alone."
        unit, what = ("GFLOP/s", "multiply-adds") if self.flops else ("GB/s", "copies of about as many bytes")
        return (
            f"{self.seconds * 1e3:.3f} ms, {self.rate:.1f} {unit}: {self.share:.0%} of the {self.peak:.1f} {unit} that"
            f" {what} reach here."
        )

    def tables(self) -> Iterator[Table]:
        """Yield the calls."""
        rows = [(call.name, ", ".join("x".join(map(str, s)) or "1" for s in call.shapes)) for call in self.calls]
        yield f"{self.label}. {self.measured()}", ("kernel", "arrays"), rows

    def html(self) -> str:
        """Return all stages as HTML that unfolds."""
        stages = (
            display.folded(
                STAGES[stage],
                (display.paragraph(title, bold=True) + display.listing(text) for title, text in self.parts(stage)),
                opened=stage == "equation",
            )
            for stage in STAGES
        )
        head = [display.paragraph(self.computes), display.paragraph(self.measured())]
        return display.folded(self.label, [*head, *stages], opened=False)


@dataclass(frozen=True, repr=False)
class Kernels(Tables):
    """What `kernels` returns: what computes each layer, in the order in which it runs. It shows itself as a table."""

    #: The class of the network, the shape of the images, and the number of threads.
    model: str
    input: tuple[int, ...]
    threads: int
    groups: tuple[LayerKernels, ...]

    def __iter__(self) -> Iterator[LayerKernels]:
        return iter(self.groups)

    def tables(self) -> Iterator[Table]:
        """Yield a table with a row for all layers that share kernels."""
        total = sum(group.seconds for group in self.groups)
        rows = [
            (
                group.label,
                " ".join(dict.fromkeys(call.name for call in group.calls)),
                group.computes.rpartition("-> ")[2],
                f"{group.seconds * 1e3:.3f}" if group.seconds else "-",
                f"{group.seconds / total:.1%}" if group.seconds else "-",
                group.speed(),
                f"{group.share:.0%}" if group.seconds else "-",
            )
            for group in self.groups
        ]
        shape = "x".join(map(str, self.input))
        yield f"{self.model} on {shape}: {total * 1e3:.2f} ms on {self.threads} thread(s)", COLUMNS, rows

    def text(self, stage: Stage | None = None) -> str:
        """Return the table, then one stage of all layers, or all stages."""
        check_stage(stage)
        return "\n\n".join([repr(self), *(group.text(stage) for group in self.groups)])

    def _repr_html_(self) -> str:
        return super()._repr_html_() + "".join(group.html() for group in self.groups)

    def page(self) -> str:
        """Return a whole page as HTML, whose stages unfold; it needs nothing else and runs no script."""
        return display.page(f"The kernels of {self.model}", self._repr_html_())

    def save(self, path: str | Path) -> None:
        """Write the page to a file. Raises DataError if that fails."""
        try:
            write_whole(Path(path), self.page().encode())
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}; choose another file") from None


def check_stage(stage: str | None) -> None:
    """Raise ArgumentError for what is no stage."""
    if stage is not None and stage not in STAGES:
        raise ArgumentError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")


def equation(op: Operator) -> str:
    """Return an operator's equation, with the shapes: the first paragraph of its class's docstring."""
    text = inspect.getdoc(type(op)) if type(op).__doc__ else None
    return text.partition("\n\n")[0] if text else "(its class has no docstring)"


def loop(op: Operator) -> str:
    """Return an operator's plain loop nest; of a pointwise one the formula of an element, of others NumPy's."""
    own = type(op)
    if isinstance(op, Pointwise) and own.scalar is not Operator.scalar:
        return source_of(own.scalar)
    plain = own.kernel not in (Operator.kernel, Pointwise.kernel) and not op.composite
    return source_of(own.kernel if plain else own.numpy)


def source_of(function: object) -> str:
    """Return the source of a function."""
    try:
        return textwrap.dedent(inspect.getsource(function))  # type: ignore[arg-type]
    except (OSError, TypeError):
        # Of what was typed in or made by a program nothing is kept.
        return "(its source is not in a file)"


@checked
def kernels(net: Model, images: ArrayLike, layer: str | None = None, threads: int | None = None) -> Kernels:
    """Return the code of a network's layers on images, from the equation to assembly, with what each reaches of peak.

        found = explain.kernels(net, images, layer="0")
        print(found)                      # a table
        print(found.text("assembly"))
        found.save("kernels.html")        # all of it, to be unfolded

    net: a network, which computes in evaluation mode. images: a batch as it takes them, [N, C, H, W]; their number and
    shape decide which kernels there are, and they are what is computed on while the time is measured. layer: a dotted
    name, for what computes this layer, or all that is inside of it; everything if not given. threads: how many run it;
    as many as `foveal.get_threads` if not given.

    Layers that are fused share kernels, and stand in one row: a convolution, a batch norm and a relu are one. A row has
    the stages equation (of the operators that the layers are written with), loop (the operator's plain loop nest, which
    is the specification), source (of the kernels that run, as DEBUG=4 shows it), ir and assembly (5 and 6). The speed
    is the median of five runs; the peak is what multiply-adds, or copies of about as many bytes, reach on this machine.

    Raises ShapeError for a layer that there is not, or that has no kernel of its own, such as a flattening.
    """
    x = as_argument(images, "kernels: images")
    if not x.size:
        raise DataError(f"kernels: images have shape {list(x.shape)}; give one image or more")
    check_finite(x, "kernels: images")
    net.name_parameters()
    with modes_restored(net), tracing() as recording:
        net.eval()
        image = recording.argument(Type(x.shape), "x")
        recording.key = recording.argument(Type((4,), "int32"), "key")
        outputs = float_outputs(net(image))
        graph = recording.graph(outputs)
        call = recording.call.parts[-1]
    if not outputs or not isinstance(call, LayerCall):
        raise ShapeError(f"kernels: {type(net).__name__} returned no array")
    places = Places(net, call, layer)
    origins: dict[Node, Node] = {}
    program = build(graph, threads, origins=origins)
    program.fill_arguments((x, np.zeros(4, np.int32))[: len(program.arguments)])
    found = tuple(measured(program, places, origins))
    if layer is not None and not found:
        raise ShapeError(
            f"kernels: layer {layer!r} of {type(net).__name__} has no kernel: what it returns is its input, seen in"
            " another shape, or a part of what a neighbouring layer computes"
        )
    return Kernels(type(net).__name__, x.shape, program.threads, found)


class Places:
    """Which layer each operator was called by."""

    def __init__(self, net: Model, call: LayerCall, layer: str | None) -> None:
        names = {id(module): name for name, module in net.named_modules()}
        if layer is not None and layer not in names.values():
            known = ", ".join(name for name in names.values() if name)
            raise ShapeError(f"kernels: {type(net).__name__} has no layer {layer!r}; it has {known}")
        self.layer = layer
        # Name and class of the layer that called each node. Where that calls other layers, too, the operator stands in
        # the place of the class: it is one of several things that the layer does.
        self.of: dict[Node, tuple[str, str]] = {}
        for one in calls_within(call):
            name, kind = names.get(id(one.layer), ""), type(one.layer).__name__
            holds = any(isinstance(part, LayerCall) for part in one.parts)
            for part in one.parts:
                if isinstance(part, Node):
                    self.of[part] = name, str(part.op) if holds else kind

    def wanted(self, layers: Iterable[tuple[str, str]]) -> bool:
        """True if one of the layers is the one that is asked for, or inside of it."""
        if not self.layer:
            return True
        return any(name == self.layer or name.startswith(f"{self.layer}.") for name, _ in layers)


def measured(program: Program, places: Places, origins: dict[Node, Node]) -> Iterator[LayerKernels]:
    """Yield what computes the wanted layers, measured."""
    times = group_seconds(program)
    once = {id(call) for call in program.schedule.prepared}
    target = current()
    for i, group in enumerate(program.groups):
        nodes = list(dict.fromkeys(origins[node] for node in group.readers() if node in origins))
        layers = tuple(dict.fromkeys(places.of[node] for node in nodes if node in places.of))
        calls = [call for call in program.calls if call.group == i]
        if not calls or not layers or not places.wanted(layers):
            continue
        flops, moved = group.flops(), bytes_of(group)
        most = peak(program.threads) if flops else copy_rate(program.threads, rounded(moved))
        operators = dict.fromkeys(op for node in nodes if (op := node.op) and op is not constant and not op.view)
        made = tuple(called(call, id(call) in once, target) for call in calls)
        yield LayerKernels(layers, tuple(operators), group.what(), made, times[i], flops, moved, most)


def rounded(moved: int) -> int:
    """Return the power of two that copying is measured at for so many bytes: each takes a tenth of a second."""
    return max(LEAST_COPIED, 1 << (moved - 1).bit_length())


def group_seconds(program: Program) -> list[float]:
    """Return the median seconds of each group, 0 for those whose calls all run once."""
    if not program.schedule.repeated:
        return [0.0] * len(program.groups)
    found = dict.fromkeys(range(len(program.groups)), 0.0)
    running = sorted({call.group for call in program.calls if call.group < len(program.groups)})
    for i, timing in zip(running, timings(program), strict=False):
        found[i] = timing.seconds
    return list(found.values())


def bytes_of(group: Group) -> int:
    """Return the bytes of the values that a group reads and stores, each counted once."""
    return sum(BYTES * node.type.size for node in dict.fromkeys([*group.inputs(), *group.results]))


def called(call: KernelCall, once: bool, target: Target) -> Call:
    """Return a call as it is shown."""
    shapes = tuple(view.shape for view in call.views)
    if call.python is not None:
        return Call(str(call.python.op), shapes, {}, once, ())
    code = tuple(Code(kernel, target) for kernel in dict.fromkeys(call.kernels))
    return Call(call.kernel.name, shapes, dict(call.kernel.static), once, code)

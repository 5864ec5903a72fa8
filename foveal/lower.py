"""Fused groups -> kernel calls on views of buffers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.graph import Graph, Node, Variable, owner
from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import lanes
from foveal.ops import nest
from foveal.ops.epilogue import Epilogue, Results
from foveal.ops.norm import channel_moments
from foveal.ops.op import OPS, Shape, channels_last, contiguous
from foveal.ops.reduce import sum as total
from foveal.ops.shape import constant, index, reshape
from foveal.passes.fuse import fuse
from foveal.passes.group import Group

CHUNKS = 32  # parts that a reduction is cut into where it keeps too few elements to occupy threads
LEAST_PART = 512  # elements of such a part


@dataclass(eq=False)
class Buffer:
    """Memory of a program: temporary (in the arena), or an argument's or a variable's."""

    size: int
    dtype: str = "float32"
    variable: Variable | None = None
    argument: bool = False
    per_thread: bool = False


@dataclass(frozen=True)
class View:
    """An array in a buffer: offset and strides in elements. Views are what operators' `lower` works with."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0

    def permuted(self, *axes: int) -> "View":
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def reshaped(self, shape: Shape) -> "View":
        strides = reshaped_strides(self.shape, self.strides, shape)
        assert strides is not None, (
            f"{self.shape} with strides {self.strides} is no view of shape {shape}"
        )
        return replace(self, shape=shape, strides=strides)

    def flattened(self) -> "View":
        """[N, C, H, W] as [N, C, 1, H W]."""
        n, c, h, w = self.shape
        return self.reshaped((n, c, 1, h * w))

    def channels_last_rows(self) -> "View":
        """[N, C, ...] as [N ..., C]."""
        axes = (0, *range(2, len(self.shape)), 1)
        return self.permuted(*axes).reshaped(
            (math.prod(self.shape) // self.shape[1], self.shape[1])
        )

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec(self.shape, self.strides, self.buffer.dtype)


def reshaped_strides(shape: Shape, strides: Shape, to: Shape) -> Shape | None:
    """Strides of the same elements, in C order, in another shape; None where that needs a copy."""
    if math.prod(shape) == 0:
        return contiguous(to)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    merged: list[tuple[int, int]] = []  # runs of axes that are evenly spaced together
    for n, s in old:
        if merged and merged[-1][1] == n * s:
            merged[-1] = (merged[-1][0] * n, s)
        else:
            merged.append((n, s))
    found: list[int] = []
    runs = iter(reversed(merged))
    left, step = next(runs, (1, 1))
    for n in reversed(to):
        if n == 1:
            found.append(step)
            continue
        if left == 1:
            left, step = next(runs, (1, 1))
        if left % n:
            return None
        found.append(step)
        left, step = left // n, step * n
    return tuple(reversed(found))


@dataclass(frozen=True)
class Call:
    """A kernel and the views it is called on, outputs first."""

    kernel: Kernel
    views: tuple[View, ...]
    outputs: int
    group: int  # which of the groups it is part of


@dataclass
class Lowered:
    """Calls in order, where arguments and outputs lie, and the variables written."""

    calls: list[Call] = field(default_factory=list)
    arguments: list[View] = field(default_factory=list)
    outputs: list[View] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


def lower(graph: Graph, tuned: bool = True) -> Lowered:
    """Kernel calls for a simplified graph; with `tuned` off, each operator's plain kernel."""
    return Lowerer(graph, tuned).run()


# what is read, the steps, and each node's slot
Straight = tuple[list[Node], tuple[nest.Step, ...], dict[Node, int]]


class Lowerer:
    """Keeps the view of each node that is in memory; implements ops.op.Lowering."""

    def __init__(self, graph: Graph, tuned: bool) -> None:
        self.graph, self.tuned = graph, tuned
        self.views: dict[Node, View] = {}
        self.done = Lowered()
        self.current = 0

    def run(self) -> Lowered:
        for node in self.graph.nodes:
            if node.op is None:
                self.views[node] = self.input(node)
        self.done.arguments = [self.views[node] for node in self.graph.arguments]
        self.done.groups = fuse(self.graph, epilogues=self.tuned)
        targets = self.update_targets()
        for i, group in enumerate(self.done.groups):
            self.current = i
            lowering = {
                "pointwise": self.pointwise,
                "reduce": self.reduction,
                "kernel": self.operator,
            }
            lowering[group.kind](group, targets)
        self.current = len(self.done.groups)
        self.finish_updates(targets)
        self.done.outputs = [self.view(node) for node in self.graph.outputs]
        return self.done

    def input(self, node: Node) -> View:
        if node.variable is not None:
            return View(
                Buffer(node.type.size, variable=node.variable), node.shape, node.variable.strides
            )
        strides = channels_last(node.shape) if node.type.rank == 4 else contiguous(node.shape)
        return View(Buffer(node.type.size, node.type.dtype, argument=True), node.shape, strides)

    def update_targets(self) -> dict[Node, View]:
        """Nodes that may be written into their variable at once: the writer runs after all who read the variable."""
        inputs = {node.variable: node for node in self.graph.variables}
        maker = {node: i for i, g in enumerate(self.done.groups) for node in g.results}
        targets: dict[Node, View] = {}
        for variable, value in self.graph.updates:
            if value not in maker or value in targets or variable not in inputs:
                continue
            group = self.done.groups[maker[value]]
            later = self.done.groups[maker[value] + 1 :]
            old = inputs[variable]
            read_later = any(owner(x) is old for g in later for x in g.inputs())
            fits = group.kind == "pointwise" and group.domain == variable.shape
            read = read_later or old in self.graph.outputs or self.read_elsewhere(group, old)
            if fits and not read:
                targets[value] = self.views[old]
        return targets

    def read_elsewhere(self, group: Group, old: Node) -> bool:
        """Whether the group reads the variable at other indices than the one it writes (through a view)."""
        return any(x is not old and owner(x) is old for x in group.inputs())

    def finish_updates(self, targets: dict[Node, View]) -> None:
        """Copy the values that could not be written in place; those that are another variable's first, aside."""
        inputs = {node.variable: node for node in self.graph.variables}
        left = []
        for variable, value in self.graph.updates:
            target, source = self.views[inputs[variable]], self.view(value)
            if targets.get(value) == target:
                continue
            if source.buffer.variable is not None:
                aside = View(Buffer(source.buffer.size), source.shape, contiguous(source.shape))
                self.copy(aside, source)
                source = aside
            left.append((target, source))
        for target, source in left:
            self.copy(target, source)

    def scratch(self, shape: Shape, *, per_thread: bool = False) -> View:
        return View(Buffer(math.prod(shape), per_thread=per_thread), shape, contiguous(shape))

    def call(
        self, body: Callable[..., None], outputs: Sequence[View], inputs: Sequence[View], /, plain: bool = False,
        **static: Any,
    ) -> None:  # fmt: skip
        views = (*outputs, *inputs)
        recipes = [static[name].steps for name in ("epilogue", "source") if name in static]
        steps = [step for recipe in (*recipes, static.get("steps", ())) for step in recipe]
        fused = {type(OPS[name]).__module__ for name, *_ in steps}
        specs = tuple(v.spec for v in views)
        kernel = Kernel(body, specs, tuple(sorted(static.items())), plain, tuple(sorted(fused)))
        self.done.calls.append(Call(kernel, views, len(outputs), self.current))

    def view(self, node: Node) -> View:
        """The node's memory, making it where it is a view or a constant."""
        if node in self.views:
            return self.views[node]
        if node.op is constant:
            made = self.scratch(())
            self.call(constant.kernel, [made], [], **node.attributes)
        elif node.op is index:
            x = self.view(node.inputs[0])
            i = node.attributes["i"]
            made = replace(
                x, shape=x.shape[1:], strides=x.strides[1:], offset=x.offset + i * x.strides[0]
            )
        else:
            assert node.op is reshape, f"{node.op} is in no group"
            x = self.view(node.inputs[0])
            strides = reshaped_strides(x.shape, x.strides, node.shape)
            if strides is None:
                copied = self.scratch(x.shape)
                self.copy(copied, x)
                x, strides = copied, contiguous(node.shape)
            made = replace(x, shape=node.shape, strides=strides)
        self.views[node] = made
        return made

    def copy(self, to: View, source: View) -> None:
        self.over(nest.pointwise, to.shape, [to], [source], steps=(), results=(0,))

    def like(self, node: Node, inputs: Sequence[View]) -> View:
        """New memory for a pointwise result, laid out as the first input of its shape."""
        assert node.op is not None
        for x in inputs:
            if x.shape == node.shape and dense(x):
                return View(Buffer(node.type.size), node.shape, x.strides)
        return View(Buffer(node.type.size), node.shape, node.op.strides(node.shape))

    def steps(
        self, nodes: Sequence[Node], ends: Sequence[Node] = (), first: Sequence[Node] = ()
    ) -> Straight:
        """Pointwise nodes in straight-line form. ends: reductions of theirs; first: values with the first slots."""
        readers = list(dict.fromkeys([*nodes, *ends]))
        found = dict.fromkeys(x for node in readers for x in node.inputs if x.op is not constant)
        inputs = [x for x in found if x not in {*readers, *first}]
        slots = {node: i for i, node in enumerate((*first, *inputs))}
        steps: list[nest.Step] = []
        count = len(slots)
        for node in readers:
            for x in node.inputs:
                if x.op is constant and x not in slots:
                    slots[x] = count + len(steps)
                    steps.append(("constant", tuple(x.attributes.items()), ()))
            if node in nodes:
                assert node.op is not None
                slots[node] = count + len(steps)
                operands = tuple(slots[x] for x in node.inputs)
                steps.append((node.op.name, tuple(sorted(node.attributes.items())), operands))
        return inputs, tuple(steps), slots

    def pointwise(self, group: Group, targets: dict[Node, View]) -> None:
        inputs, steps, slots = self.steps(group.members)
        views = [self.view(x) for x in inputs]
        outputs = []
        for node in group.results:
            self.views[node] = targets.get(node) or self.like(node, views)
            outputs.append(self.views[node])
        results = tuple(slots[node] for node in group.results)
        self.over(nest.pointwise, group.domain, outputs, views, steps=steps, results=results)

    def over(
        self, body: Callable[..., None], domain: Shape, outputs: list[View], inputs: list[View],
        steps: tuple[nest.Step, ...], results: tuple[int, ...],
    ) -> None:  # fmt: skip
        views = [*outputs, *inputs]
        strides = [broadcast_strides(v, domain) for v in views]
        shape, strides, _ = merge_axes(domain, strides, strides[0])
        merged = [replace(v, shape=shape, strides=s) for v, s in zip(views, strides, strict=True)]
        self.call(body, merged[: len(outputs)], merged[len(outputs) :],
                  outputs=len(outputs), steps=steps, results=results)  # fmt: skip

    def reduction(self, group: Group, targets: dict[Node, View]) -> None:
        inputs, steps, slots = self.steps(group.members, group.results)
        views = [self.view(x) for x in inputs]
        axes = group.results[0].attributes["axes"]
        largest = next((v for v in views if v.shape == group.domain), None)
        order = largest.strides if largest else contiguous(group.domain)
        flags = tuple(a in axes for a in range(len(group.domain)))
        outputs, out_strides = [], []
        for node in group.results:
            self.views[node] = made = self.scratch(node.shape)
            outputs.append(made)
            kept = iter(
                contiguous(tuple(n for n, f in zip(group.domain, flags, strict=True) if not f))
            )
            out_strides.append(tuple(0 if f else next(kept) for f in flags))
        strides = [*out_strides, *(broadcast_strides(v, group.domain) for v in views)]
        shape, strides, gone = merge_axes(group.domain, strides, order, flags)
        if gone == (True,):
            shape, strides, gone = split_axis(shape, strides)
        results = tuple(slots[node.inputs[0]] for node in group.results)
        combine = tuple(node.op.name for node in group.results)  # type: ignore[union-attr]
        self.reduce(outputs, views, shape, strides, gone, steps, results, combine)

    def reduce(
        self, outputs: list[View], inputs: list[View], shape: Shape, strides: list[Shape], gone: tuple[bool, ...],
        steps: tuple[nest.Step, ...], results: tuple[int, ...], combine: tuple[str, ...],
    ) -> None:  # fmt: skip
        """One pass, or two where the first is cut into chunks that threads share."""
        chunks = reduction_chunks(shape, gone)
        kept_size = outputs[0].buffer.size
        n = len(outputs)
        read = [
            replace(v, shape=shape, strides=s) for v, s in zip(inputs, strides[n:], strict=True)
        ]
        partial = [self.scratch((chunks, kept_size)) for _ in outputs] if chunks > 1 else outputs
        written = [
            replace(v, shape=(chunks, *shape), strides=(kept_size, *s))
            for v, s in zip(partial, strides[:n], strict=True)
        ]
        self.call(nest.reduce, written, read, outputs=n, steps=steps, results=results, reduced=gone,
                  combine=combine, chunks=chunks)  # fmt: skip
        if chunks > 1:
            domain = (chunks, kept_size)
            final = [replace(v, shape=(1, *domain), strides=(0, 0, 1)) for v in outputs]
            self.call(nest.reduce, final, partial, outputs=n, steps=(), results=tuple(range(n)),
                      reduced=(True, False), combine=combine, chunks=1)  # fmt: skip

    def operator(self, group: Group, targets: dict[Node, View]) -> None:
        node = group.operator
        assert node is not None
        assert node.op is not None
        source = group.source if group.prologue else None
        inputs: list[Any] = [
            self.source(group, x) if x is source else self.standard(self.view(x))
            for x in node.inputs
        ]
        strides = node.op.strides(node.shape, *inputs)
        for result in group.results:
            like = strides if result.shape == node.shape else contiguous(result.shape)
            buffer = Buffer(result.type.size, result.type.dtype)
            self.views[result] = View(buffer, result.shape, like)
        if source is not None or group.results != [node]:
            node.op.lower_results(self, self.epilogue(group, node), *inputs, **node.attributes)
        elif self.tuned:
            node.op.lower(self, self.views[node], *inputs, **node.attributes)
        else:
            self.call(node.op.kernel, [self.views[node]], inputs, plain=True, **node.attributes)

    def epilogue(self, group: Group, node: Node) -> Results:
        """What becomes of an operator's output in the group."""
        sums = [r for r in group.results if r.op is total]
        moments = [r for r in group.results if r.op is channel_moments]
        extras, steps, slots = self.steps(group.members, [*sums, *moments], first=[node])
        stored = [r for r in group.results if r is node or r in group.members]
        return Results(
            outputs=[self.views[r] for r in stored],
            extras=[self.repeated(self.view(x), group.domain) for x in extras],
            epilogue=Epilogue(
                steps,
                results=tuple(slots[r] for r in stored),
                sums=tuple(slots[r.inputs[0]] for r in sums),
                moments=slots[moments[0].inputs[0]] if moments else None,
            ),
            sums=[self.views[r] for r in sums],
            moments=self.views[moments[0]] if moments else None,
        )

    def source(self, group: Group, x: Node) -> nest.Source:
        """An operator's input as the group's prologue computes it."""
        inputs, steps, slots = self.steps(group.prologue)
        views = [
            self.standard(v) if v.shape == x.shape else self.repeated(v, x.shape)
            for v in map(self.view, inputs)
        ]
        return nest.Source(views, nest.Recipe(len(views), steps, slots[x]))

    def repeated(self, x: View, domain: Shape) -> View:
        """The view over the whole domain."""
        return replace(x, shape=domain, strides=broadcast_strides(x, domain))

    def standard(self, x: View) -> View:
        """Images with neighbouring channels, other arrays with neighbouring last elements; copied where they are not."""
        neighbours = x.strides[1] if len(x.shape) == 4 else x.strides[-1] if x.shape else 1
        if x.buffer.variable is not None or (neighbours == 1 and dense(x)) or len(x.shape) < 2:
            return x
        strides = channels_last(x.shape) if len(x.shape) == 4 else contiguous(x.shape)
        if strides == x.strides:
            return x
        made = View(Buffer(math.prod(x.shape), x.buffer.dtype), x.shape, strides)
        self.copy(made, x)
        return made


def dense(x: View) -> bool:
    """Whether the elements fill their range of memory without gaps or repeats."""
    step = 1
    for s, n in sorted((s, n) for s, n in zip(x.strides, x.shape, strict=True) if n != 1):
        if s != step:
            return False
        step *= n
    return True


def broadcast_strides(x: View, domain: Shape) -> Shape:
    """Strides over the domain: 0 along axes that x is repeated along."""
    missing = len(domain) - len(x.shape)
    own = [0 if n == 1 else s for n, s in zip(x.shape, x.strides, strict=True)]
    return (*[0] * missing, *own)


def merge_axes(
    shape: Shape, strides: list[Shape], order: Shape, flags: tuple[bool, ...] | None = None
) -> tuple[Shape, list[Shape], tuple[bool, ...]]:
    """Axes sorted as `order` lies in memory, those of size 1 left out, neighbours merged where every array allows it."""
    flags = flags or (False,) * len(shape)
    axes = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -order[a])
    runs: list[tuple[int, list[int], bool]] = []
    for a in axes:
        steps = [s[a] for s in strides]
        if runs:
            n, outer, flag = runs[-1]
            if flag == flags[a] and all(
                o == s * shape[a] for o, s in zip(outer, steps, strict=True)
            ):
                runs[-1] = (n * shape[a], steps, flag)
                continue
        runs.append((shape[a], steps, flags[a]))
    if any(flags) and not any(flag for *_, flag in runs):
        runs.append((1, [0] * len(strides), True))
    merged = [tuple(run[1][i] for run in runs) for i in range(len(strides))]
    return tuple(run[0] for run in runs), merged, tuple(run[2] for run in runs)


def split_axis(shape: Shape, strides: list[Shape]) -> tuple[Shape, list[Shape], tuple[bool, ...]]:
    """A sum over one long axis as rows of a few vectors, so that threads can share it."""
    (n,) = shape
    row = next((d for d in range(min(n, 64 * lanes()), lanes() - 1, -1) if n % d == 0), n)
    if row == n:
        return shape, strides, (True,)
    return (n // row, row), [(s[0] * row, s[0]) for s in strides], (True, True)


def reduction_chunks(shape: Shape, gone: tuple[bool, ...]) -> int:
    """How many parts the first reduced axis is cut into; by shape alone."""
    last = len(shape) - 1
    kept = math.prod(n for a, n in enumerate(shape) if not gone[a] and a != last)
    if not gone[last]:
        kept *= -(-shape[last] // (nest.BLOCK * lanes()))
    first = next(a for a in range(len(shape)) if gone[a])
    if kept >= CHUNKS // 2 or first == last:
        return 1
    total = math.prod(n for a, n in enumerate(shape) if gone[a] or a == last)
    return max(1, min(shape[first], CHUNKS // kept, total // LEAST_PART))

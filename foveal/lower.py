"""Fused groups -> kernel calls on views of buffers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.graph import Graph, Node
from foveal.kernel.compile import Kernel
from foveal.kernel.lang import lanes
from foveal.ops.batch_norm import channel_moments
from foveal.ops.concat import narrow
from foveal.ops.kernels import expression, pointwise, reduction
from foveal.ops.kernels.epilogue import Epilogue, EpilogueOutputs
from foveal.ops.op import OPS
from foveal.ops.reduce import sum as total
from foveal.ops.shape import constant, index, reshape
from foveal.passes.fusion.fuse import fuse
from foveal.passes.fusion.group import Group
from foveal.passes.layout import Conversion, Layout, layout
from foveal.strides import Shape, contiguous
from foveal.view import Buffer, View

CHUNKS = 32  # parts that a reduction is cut into where it keeps too few elements to occupy threads


LEAST_PART = 512  # elements of such a part


@dataclass(frozen=True)
class Call:
    """A kernel and the views it is called on, outputs first."""

    kernel: Kernel
    views: tuple[View, ...]
    outputs: int
    group: int  # which of the groups it is part of


@dataclass
class Lowered:
    """Calls in order, where arguments and outputs lie, and what led there."""

    calls: list[Call] = field(default_factory=list)
    arguments: list[View] = field(default_factory=list)
    outputs: list[View] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout)


def lower(graph: Graph, tuned: bool = True) -> Lowered:
    """Kernel calls for a simplified graph; with `tuned` off, each operator's plain kernel."""
    return Lowerer(graph, tuned).run()


# what is read, the steps, and each node's slot
Straight = tuple[list[Node], tuple[expression.Step, ...], dict[Node, int]]


class Lowerer:
    """Keeps the view of each node that is in memory; implements ops.op.Lowering."""

    def __init__(self, graph: Graph, tuned: bool) -> None:
        self.graph, self.tuned = graph, tuned
        self.views: dict[Node, View] = {}
        self.done = Lowered()
        self.copies: dict[Conversion, View] = {}
        self.current = 0

    def run(self) -> Lowered:
        self.done.groups = fuse(self.graph, epilogues=self.tuned)
        self.done.layout = self.layout = layout(self.graph, self.done.groups)
        for node in self.graph.nodes:
            if node.op is None:
                self.place(node)
        self.done.arguments = [self.views[node] for node in self.graph.arguments]
        lowering = {"pointwise": self.pointwise, "reduce": self.reduction, "kernel": self.operator}
        for i, group in enumerate(self.done.groups):
            self.current = i
            lowering[group.kind](group)
        self.current = len(self.done.groups)
        self.done.outputs = [self.operand(node, node) for node in self.graph.outputs]
        late = [(self.views[to], self.operand(to, value)) for to, value in self.layout.late]
        for target, source in late:
            self.copy(target, source)
        return self.done

    def place(self, node: Node) -> View:
        """Memory for an input or a result as the layout says: its own, or the variable's that it updates."""
        strides, home = self.layout.strides[node], self.layout.in_place.get(node)
        if home is not None:
            self.views[node] = self.views[home]
        else:
            argument = node.op is None and node.variable is None
            buffer = Buffer(node.type.size, node.type.dtype, node.variable, argument)
            self.views[node] = View(buffer, node.shape, strides)
        return self.views[node]

    def scratch(self, shape: Shape, *, per_thread: bool = False) -> View:
        return View(Buffer(math.prod(shape), per_thread=per_thread), shape, contiguous(shape))

    def call(
        self,
        body: Callable[..., None],
        outputs: Sequence[View],
        inputs: Sequence[View],
        /,
        plain: bool = False,
        **static: Any,
    ) -> None:
        views = (*outputs, *inputs)
        recipes = [static[name].steps for name in ("epilogue", "prologue") if name in static]
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
            made = replace(x, shape=x.shape[1:], strides=x.strides[1:], offset=x.offset + i * x.strides[0])
        elif node.op is narrow:
            x = self.view(node.inputs[0])
            step = x.strides[node.attributes["axis"]]
            made = replace(x, shape=node.shape, offset=x.offset + step * node.attributes["start"])
        else:
            assert node.op is reshape, f"{node.op} is in no group"
            x = self.operand(node, node.inputs[0])
            made = replace(x, shape=node.shape, strides=self.layout.strides[node])
        self.views[node] = made
        return made

    def operand(self, reader: Node, x: Node) -> View:
        """x as the reader takes it: as it lies, or the copy that the layout has planned."""
        conversion = self.layout.reads.get((reader, x))
        if conversion is None:
            return self.view(x)
        if conversion not in self.copies:
            made = View(Buffer(x.type.size, x.type.dtype), x.shape, conversion.wanted)
            self.copy(made, self.view(x))
            self.copies[conversion] = made
        return self.copies[conversion]

    def copy(self, to: View, source: View) -> None:
        self.over(pointwise.pointwise, to.shape, [to], [source], steps=(), results=(0,))

    def steps(self, nodes: Sequence[Node], ends: Sequence[Node] = (), first: Sequence[Node] = ()) -> Straight:
        """Pointwise nodes in straight-line form. ends: reductions of theirs; first: values with the first slots."""
        readers = list(dict.fromkeys([*nodes, *ends]))
        found = dict.fromkeys(x for node in readers for x in node.inputs if x.op is not constant)
        inputs = [x for x in found if x not in {*readers, *first}]
        slots = {node: i for i, node in enumerate((*first, *inputs))}
        steps: list[expression.Step] = []
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

    def pointwise(self, group: Group) -> None:
        inputs, steps, slots = self.steps(group.members)
        views = [self.operand(group.results[0], x) for x in inputs]
        outputs = [self.place(node) for node in group.results]
        results = tuple(slots[node] for node in group.results)
        self.over(pointwise.pointwise, group.domain, outputs, views, steps=steps, results=results)

    def over(
        self,
        body: Callable[..., None],
        domain: Shape,
        outputs: list[View],
        inputs: list[View],
        steps: tuple[expression.Step, ...],
        results: tuple[int, ...],
    ) -> None:
        views = [*outputs, *inputs]
        strides = [broadcast_strides(v, domain) for v in views]
        shape, strides, _ = merge_axes(domain, strides, strides[0])
        merged = [replace(v, shape=shape, strides=s) for v, s in zip(views, strides, strict=True)]
        self.call(
            body, merged[: len(outputs)], merged[len(outputs) :], outputs=len(outputs), steps=steps, results=results
        )

    def reduction(self, group: Group) -> None:
        inputs, steps, slots = self.steps(group.members, group.results)
        views = [self.operand(group.results[0], x) for x in inputs]
        axes = group.results[0].attributes["axes"]
        largest = next((v for v in views if v.shape == group.domain), None)
        order = largest.strides if largest else contiguous(group.domain)
        flags = tuple(a in axes for a in range(len(group.domain)))
        outputs, out_strides = [], []
        for node in group.results:
            outputs.append(self.place(node))
            kept = iter(contiguous(tuple(n for n, f in zip(group.domain, flags, strict=True) if not f)))
            out_strides.append(tuple(0 if f else next(kept) for f in flags))
        strides = [*out_strides, *(broadcast_strides(v, group.domain) for v in views)]
        shape, strides, gone = merge_axes(group.domain, strides, order, flags)
        if gone == (True,):
            shape, strides, gone = split_axis(shape, strides)
        results = tuple(slots[node.inputs[0]] for node in group.results)
        combine = tuple(node.op.name for node in group.results)  # type: ignore[union-attr]
        self.reduce(outputs, views, shape, strides, gone, steps, results, combine)

    def reduce(
        self,
        outputs: list[View],
        inputs: list[View],
        shape: Shape,
        strides: list[Shape],
        gone: tuple[bool, ...],
        steps: tuple[expression.Step, ...],
        results: tuple[int, ...],
        combine: tuple[str, ...],
    ) -> None:
        """One pass, or two where the first is cut into chunks that threads share."""
        chunks = reduction_chunks(shape, gone)
        kept_size = outputs[0].buffer.size
        n = len(outputs)
        read = [replace(v, shape=shape, strides=s) for v, s in zip(inputs, strides[n:], strict=True)]
        partial = [self.scratch((chunks, kept_size)) for _ in outputs] if chunks > 1 else outputs
        written = [
            replace(v, shape=(chunks, *shape), strides=(kept_size, *s))
            for v, s in zip(partial, strides[:n], strict=True)
        ]
        self.call(
            reduction.reduce,
            written,
            read,
            outputs=n,
            steps=steps,
            results=results,
            reduced=gone,
            combine=combine,
            chunks=chunks,
        )
        if chunks > 1:
            domain = (chunks, kept_size)
            final = [replace(v, shape=(1, *domain), strides=(0, 0, 1)) for v in outputs]
            self.call(
                reduction.reduce,
                final,
                partial,
                outputs=n,
                steps=(),
                results=tuple(range(n)),
                reduced=(True, False),
                combine=combine,
                chunks=1,
            )

    def operator(self, group: Group) -> None:
        node = group.operator
        assert node is not None
        assert node.op is not None
        source = group.source if group.prologue else None
        inputs: list[Any] = [self.source(group, x) if x is source else self.operand(node, x) for x in node.inputs]
        for result in group.results:
            self.place(result)
        if source is not None or group.results != [node]:
            node.op.lower_results(self, self.epilogue(group, node), *inputs, **node.attributes)
        elif self.tuned:
            node.op.lower(self, self.views[node], *inputs, **node.attributes)
        else:
            self.call(node.op.kernel, [self.views[node]], inputs, plain=True, **node.attributes)

    def epilogue(self, group: Group, node: Node) -> EpilogueOutputs:
        """What becomes of an operator's output in the group."""
        sums = [r for r in group.results if r.op is total]
        moments = [r for r in group.results if r.op is channel_moments]
        extras, steps, slots = self.steps(group.members, [*sums, *moments], first=[node])
        stored = [r for r in group.results if r is node or r in group.members]
        return EpilogueOutputs(
            outputs=[self.views[r] for r in stored],
            extras=[self.repeated(self.operand(group.results[0], x), group.domain) for x in extras],
            epilogue=Epilogue(
                steps,
                results=tuple(slots[r] for r in stored),
                sums=tuple(slots[r.inputs[0]] for r in sums),
                moments=slots[moments[0].inputs[0]] if moments else None,
            ),
            sums=[self.views[r] for r in sums],
            moments=self.views[moments[0]] if moments else None,
        )

    def source(self, group: Group, x: Node) -> expression.FusedInput:
        """An operator's input as the group's prologue computes it."""
        inputs, steps, slots = self.steps(group.prologue)
        assert group.operator is not None
        operands = [self.operand(group.operator, node) for node in inputs]
        views = [self.repeated(v, x.shape) for v in operands]
        return expression.FusedInput(views, expression.Prologue(len(views), steps, slots[x]))

    def repeated(self, x: View, domain: Shape) -> View:
        """The view over the whole domain."""
        return replace(x, shape=domain, strides=broadcast_strides(x, domain))


def broadcast_strides(x: View, domain: Shape) -> Shape:
    """Strides over the domain: 0 along axes that x is repeated along."""
    missing = len(domain) - len(x.shape)
    own = [0 if n == 1 else s for n, s in zip(x.shape, x.strides, strict=True)]
    return (*[0] * missing, *own)


def merge_axes(
    shape: Shape, strides: list[Shape], order: Shape, flags: tuple[bool, ...] | None = None
) -> tuple[Shape, list[Shape], tuple[bool, ...]]:
    """Axes sorted as `order` lies in memory, those of size 1 left out, neighbours merged where every array allows
    it.
    """
    flags = flags or (False,) * len(shape)
    axes = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -order[a])
    runs: list[tuple[int, list[int], bool]] = []
    for a in axes:
        steps = [s[a] for s in strides]
        if runs:
            n, outer, flag = runs[-1]
            if flag == flags[a] and all(o == s * shape[a] for o, s in zip(outer, steps, strict=True)):
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
        kept *= -(-shape[last] // (reduction.COLUMN_VECTORS * lanes()))
    first = next(a for a in range(len(shape)) if gone[a])
    if kept >= CHUNKS // 2 or first == last:
        return 1
    total = math.prod(n for a, n in enumerate(shape) if gone[a] or a == last)
    return max(1, min(shape[first], CHUNKS // kept, total // LEAST_PART))

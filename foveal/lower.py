"""Lowering: each fused group becomes kernel calls on views of buffers. Groups and layout plan -> Lowered."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.domain import broadcast_strides, merge_axes, reduction_chunks, split_axis
from foveal.graph import Graph, Node, owner
from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Array
from foveal.ops.kernels import expression, pointwise, reduction, reorder
from foveal.ops.kernels import rows as row_kernels
from foveal.ops.kernels.epilogue import Epilogue, EpilogueOutputs
from foveal.ops.op import KEYED
from foveal.ops.reduce import broadcast_to
from foveal.ops.shape import constant
from foveal.passes.fusion.group import Group, channel_reduction
from foveal.passes.layout import Conversion, LayoutPlan
from foveal.python_call import PythonCall
from foveal.row_line import row_line
from foveal.strides import Shape, contiguous
from foveal.view import Buffer, View


@dataclass(frozen=True)
class KernelCall:
    """A kernel and the views it is called on, outputs first."""

    kernel: Kernel
    views: tuple[View, ...]
    #: how many of the views are outputs
    outputs: int
    #: index of the group whose kernel this is; len(groups) for the copies that end the program
    group: int
    #: the values of the kernel's sizes
    sizes: tuple[int, ...] = ()
    #: the values of the kernel's numbers
    numbers: tuple[float, ...] = ()
    #: what is called in Python before the kernel, which does nothing then
    python: PythonCall | None = None

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernel, then the functions that it calls by address."""
        return self.kernel, *self.kernel.functions

    @property
    def between_shards(self) -> bool:
        """True for a message between the shards of a batch."""
        return self.python is not None and self.python.op.between_shards

    @property
    def written(self) -> tuple[View, ...]:
        return self.views[: self.outputs]

    @property
    def read(self) -> tuple[View, ...]:
        return self.views[self.outputs :]


@dataclass(frozen=True)
class Lowered:
    """The calls in order, and where a program's arguments and outputs lie."""

    calls: list[KernelCall]
    arguments: list[View]
    outputs: list[View]


@dataclass(frozen=True)
class StraightLine:
    """Pointwise nodes in straight-line form: a list of steps, each of which reads slots and writes the next one."""

    #: what is read from memory
    inputs: list[Node]
    steps: tuple[expression.Step, ...]
    #: the slot that holds each node's value
    slots: dict[Node, int]


def nothing(*outputs: Array) -> None:
    """The kernel of outputs without elements."""


def in_python() -> None:
    """The kernel that stands in the table for what is called in Python before it."""


def lower(graph: Graph, groups: Sequence[Group], layout: LayoutPlan, tuned: bool = True) -> Lowered:
    """Return the kernel calls of the groups, in the given order. With `tuned` off, each operator runs its plain
    kernel.
    """
    return Lowerer(graph, groups, layout, tuned).run()


def lower_copy(target: View, source: View, checked: bool) -> KernelCall | None:
    """Return a call that copies an array in another order, or None if there is no kernel for that.

    checked: its second output are largest magnitudes of what it has read; see ops.kernels.reorder.lower.
    """
    lowerer = Lowerer(Graph((), (), ()), (), LayoutPlan(), tuned=True)
    return lowerer.calls[0] if lowerer.reordered(target, source, checked) else None


class Lowerer:
    """Keeps the view of each node that is in memory; implements ops.op.Lowering, which operators call back."""

    def __init__(self, graph: Graph, groups: Sequence[Group], layout: LayoutPlan, tuned: bool) -> None:
        self.graph, self.groups, self.layout, self.tuned = graph, groups, layout, tuned
        self.views: dict[Node, View] = {}
        self.calls: list[KernelCall] = []
        self.copies: dict[Conversion, View] = {}
        self.current_group = 0

    def run(self) -> Lowered:
        for node in self.graph.nodes:
            if node.op is None:
                self.place(node)
        arguments = [self.views[node] for node in self.graph.arguments]
        lower_kind = {
            "pointwise": self.pointwise,
            "reduce": self.reduction,
            "anchored": self.anchored,
            "rows": self.rows,
        }
        unread = self.unread()
        for i, group in enumerate(self.groups):
            self.current_group = i
            lower_kind[group.kind](group)
            for variable, value in unread:
                if owner(value) in group.results:
                    self.copy(self.views[variable], self.operand(variable, value))
        self.current_group = len(self.groups)
        outputs = [self.operand(node, node) for node in self.graph.outputs]
        # All values are looked up before the first variable is overwritten: a look-up may copy the old value.
        late = [pair for pair in self.layout.late if pair not in unread]
        updates = [(self.views[variable], self.operand(variable, value)) for variable, value in late]
        for variable_view, value_view in updates:
            self.copy(variable_view, value_view)
        return Lowered(self.calls, arguments, outputs)

    def unread(self) -> list[tuple[Node, Node]]:
        """Return the updates by a copy that need not wait: of a computed value, to a variable that nobody reads."""
        computed, results = {x for group in self.groups for x in group.results}, set(self.graph.results())
        users, late = self.graph.users, self.layout.late
        return [(v, x) for v, x in late if not users[v] and v not in results and owner(x) in computed]

    def place(self, node: Node) -> View:
        """Give an input or a result memory as the layout says: its own, or that of the variable it updates."""
        strides, variable = self.layout.strides[node], self.layout.in_place.get(node)
        if variable is not None:
            self.views[node] = self.views[variable]
        else:
            is_argument = node.op is None and node.variable is None
            buffer = Buffer(node.type.size, node.type.dtype, node.variable, is_argument)
            self.views[node] = View(buffer, node.shape, strides)
        return self.views[node]

    def prepared_bytes(self, view: View) -> int:
        """Return the bytes of the variables that the program leaves alone; 0 if the view is of none of them."""
        kept = {node.variable: node.type.size for node in self.graph.variables}
        for variable, _ in self.graph.updates:
            kept.pop(variable, None)
        return 4 * sum(kept.values()) if view.buffer.variable in kept else 0

    def scratch(self, shape: Shape, *, per_thread: bool = False) -> View:
        """Return temporary memory in C order, shared by all threads or one copy per thread."""
        return View(Buffer(math.prod(shape), per_thread=per_thread), shape, contiguous(shape))

    def call(
        self,
        body: Callable[..., None],
        outputs: Sequence[View],
        inputs: Sequence[View],
        /,
        plain: bool = False,
        specs: Sequence[ArraySpec] | None = None,
        sizes: Sequence[int] = (),
        numbers: Sequence[float] = (),
        functions: Sequence[Kernel] = (),
        **static: Any,
    ) -> None:
        """Append a kernel: `body` specialised to the views' shapes and strides and to the `static` arguments.

        specs: what it is specialised to in place of the views', with `Size`s where a number is given by the call, in
        `sizes`. numbers: those that the call gives as well. functions: what it calls by address.
        """
        if not any(math.prod(view.shape) for view in outputs):
            body, inputs, specs, sizes, numbers, functions, static = nothing, (), None, (), (), (), {}
        views = (*outputs, *inputs)
        # The code depends on the operators fused into it as well: those of users belong into the cache key.
        fused_parts = [static[name].steps for name in ("epilogue", "prologue") if name in static]
        steps = [step for part in (*fused_parts, static.get("steps", ())) for step in part]
        fused = [KEYED[name] for name in sorted({name for name, *_ in steps})]
        specs = [view.spec for view in views] if specs is None else list(specs)
        # to read, it is no matter how the array was written
        read = specs[len(outputs) :]
        specs[len(outputs) :] = [ArraySpec(s.shape, s.strides, s.dtype) if s.streamed else s for s in read]
        kernel = Kernel(
            body,
            tuple(specs),
            static=tuple(sorted(static.items())),
            plain=plain,
            operators=tuple([op for op in fused if not op.of_package]),
            sizes=len(sizes),
            functions=tuple(functions),
            numbers=len(numbers),
        )
        call = KernelCall(kernel, views, len(outputs), self.current_group, tuple(sizes), tuple(numbers))
        self.calls.append(call)

    def view(self, node: Node) -> View:
        """Return the node's memory; views and constants are made when they are first read."""
        if node in self.views:
            return self.views[node]
        if node.op is constant:
            made = self.scratch(())
            self.call(constant.kernel, [made], [], **node.attributes)
        else:
            assert node.op is not None
            assert node.op.view, f"{node.op} is in no group"
            x = self.operand(node, node.inputs[0])
            offset = x.offset + node.op.view_offset(x.strides, **node.attributes)
            made = View(x.buffer, node.shape, self.layout.strides[node], offset)
        self.views[node] = made
        return made

    def operand(self, reader: Node, x: Node) -> View:
        """Return x as the reader takes it: as it lies, or the copy that the layout has planned.

        The conversions of a pointwise or reduce group are listed under its first result, those of an anchored group
        under its anchor (see passes/layout.py).
        """
        conversion = self.layout.reads.get((reader, x))
        if conversion is None:
            return self.view(x)
        if conversion not in self.copies:
            made = View(Buffer(x.type.size, x.type.dtype), x.shape, conversion.wanted)
            self.copy(made, self.view(x))
            self.copies[conversion] = made
        return self.copies[conversion]

    def copy(self, target: View, source: View) -> None:
        """Copy an array to another one of its shape, whatever the layout of both."""
        if not (self.tuned and self.reordered(target, source)):
            self.pointwise_kernel(target.shape, [target], [source], steps=(), results=(0,))

    def reordered(self, target: View, source: View, checked: bool = False) -> bool:
        """Copy by whole vectors, if there is a kernel for that; see ops.kernels.reorder.lower."""
        shape, strides, _ = merge_axes(target.shape, [target.strides, source.strides], target.strides)
        y, x = (view.over(shape, own) for view, own in zip((target, source), strides, strict=True))
        return reorder.lower(self, y, x, checked)

    def straight_line(
        self, nodes: Sequence[Node], wanted: Sequence[Node] = (), given: Sequence[Node] = ()
    ) -> StraightLine:
        """Return pointwise nodes as steps. Values `wanted` get slots too, and those `given` have the first ones."""
        read = dict.fromkeys([*(x for node in nodes for x in node.inputs), *wanted])
        inputs = [x for x in read if x.op is not constant and x not in {*nodes, *given}]
        slots = {node: i for i, node in enumerate((*given, *inputs))}
        steps: list[expression.Step] = []
        # Step i writes slot first_step + i.
        first_step = len(slots)

        def add_constants(values: Sequence[Node]) -> None:
            """A constant is an immediate operand: a step of its own before the first node that reads it."""
            for x in values:
                if x.op is constant and x not in slots:
                    slots[x] = first_step + len(steps)
                    steps.append(("constant", tuple(x.attributes.items()), ()))

        for node in nodes:
            add_constants(node.inputs)
            if node.op is broadcast_to:
                # every input is read over the whole domain
                slots[node] = slots[node.inputs[0]]
            else:
                assert node.op is not None
                slots[node] = first_step + len(steps)
                operands = tuple(slots[x] for x in node.inputs)
                steps.append((node.op.key, tuple(sorted(node.attributes.items())), operands))
        add_constants(wanted)
        return StraightLine(inputs, tuple(steps), slots)

    def pointwise(self, group: Group) -> None:
        """Lower a group of pointwise nodes to one kernel over its domain."""
        line = self.straight_line(group.members)
        views = [self.operand(group.results[0], x) for x in line.inputs]
        outputs = [self.place(node) for node in group.results]
        results = tuple(line.slots[node] for node in group.results)
        self.pointwise_kernel(group.domain, outputs, views, steps=line.steps, results=results)

    def pointwise_kernel(
        self,
        domain: Shape,
        outputs: list[View],
        inputs: list[View],
        steps: tuple[expression.Step, ...],
        results: tuple[int, ...],
    ) -> None:
        """Call the pointwise kernel on views of the domain, with as few axes as all of them allow."""
        views = [*outputs, *inputs]
        strides = [broadcast_strides(view, domain) for view in views]
        shape, strides, _ = merge_axes(domain, strides, strides[0])
        merged = [view.over(shape, s) for view, s in zip(views, strides, strict=True)]
        pointwise.lower(self, merged[: len(outputs)], merged[len(outputs) :], steps, results)

    def reduction(self, group: Group) -> None:
        """Lower reductions over the same axes of one domain, with the pointwise nodes before them, to one pass."""
        line = self.straight_line(group.members, [node.inputs[0] for node in group.results])
        views = [self.operand(group.results[0], x) for x in line.inputs]
        axes = group.results[0].attributes["axes"]
        is_reduced = tuple(axis in axes for axis in range(len(group.domain)))
        # The pass follows the memory order of the first input that has the whole domain.
        largest = next((view for view in views if view.shape == group.domain), None)
        order = largest.strides if largest else contiguous(group.domain)
        # Outputs lie in C order over the kept axes, with stride 0 along the reduced ones.
        outputs, output_strides = [], []
        for node in group.results:
            outputs.append(self.place(node))
            kept = iter(contiguous(tuple(n for n, r in zip(group.domain, is_reduced, strict=True) if not r)))
            output_strides.append(tuple(0 if r else next(kept) for r in is_reduced))
        strides = [*output_strides, *(broadcast_strides(view, group.domain) for view in views)]
        shape, strides, reduced = merge_axes(group.domain, strides, order, is_reduced)
        if reduced == (True,):
            shape, strides, reduced = split_axis(shape, strides)
        count = len(outputs)
        read = [view.over(shape, s) for view, s in zip(views, strides[count:], strict=True)]
        results = tuple(line.slots[node.inputs[0]] for node in group.results)
        combine = tuple(node.op.name for node in group.results if node.op is not None)
        chunks = reduction_chunks(shape, reduced)
        partial = [self.scratch((chunks, outputs[0].buffer.size)) for _ in outputs] if chunks > 1 else outputs
        self.reduce_chunks(partial, read, strides[:count], reduced, line.steps, results, combine, chunks)
        if chunks > 1:
            self.add_chunks(outputs, partial, combine)

    def reduce_chunks(
        self,
        partial: list[View],
        read: list[View],
        strides: list[Shape],
        reduced: tuple[bool, ...],
        steps: tuple[expression.Step, ...],
        results: tuple[int, ...],
        combine: tuple[str, ...],
        chunks: int,
    ) -> None:
        """Call the reduction over the inputs; with several chunks each writes a row of `partial` [chunks, kept]."""
        # A chunk's row lies kept_size elements after the one before it; within the row, results have their own strides.
        kept_size = partial[0].buffer.size // chunks
        written = [
            view.over((chunks, *read[0].shape), (kept_size, *s)) for view, s in zip(partial, strides, strict=True)
        ]
        reduction.lower(self, written, read, reduced, steps, results, combine)

    def add_chunks(self, outputs: list[View], partial: list[View], combine: tuple[str, ...]) -> None:
        """Combine the rows of `partial` [chunks, kept], in order, into the outputs."""
        chunks, kept_size = partial[0].shape
        final = [view.over((1, chunks, kept_size), (0, 0, 1)) for view in outputs]
        reduction.lower(self, final, partial, (True, False), (), tuple(range(len(outputs))), combine)

    def rows(self, group: Group) -> None:
        """Lower a group of rows to one kernel over its domain."""
        line = row_line(group)
        views = [self.operand(group.results[0], x) for x, _ in line.inputs]
        outputs = [self.place(node) for node in group.results]
        strides = [line.strides(view, view.shape == line.kept) for view in outputs]
        strides += [line.strides(view, per_row) for view, (_, per_row) in zip(views, line.inputs, strict=True)]
        shape, strides, reduced = merge_axes(group.domain, strides, group.order, line.reduced)
        merged = [view.over(shape, own) for view, own in zip([*outputs, *views], strides, strict=True)]
        results = tuple(line.slots[node] for node in group.results)
        row_kernels.lower(self, merged[: len(outputs)], merged[len(outputs) :], reduced, line.steps, results)

    def anchored(self, group: Group) -> None:
        """Let the group's anchor operator choose its kernels, with the group's prologue and epilogue."""
        node = group.anchor
        assert node is not None
        assert node.op is not None
        source = group.source if group.prologue else None
        inputs: list[View | expression.FusedInput] = [
            self.source(group, x) if x is source else self.operand(node, x) for x in node.inputs
        ]
        for result in group.results:
            self.place(result)
        if not node.op.has_kernel:
            self.python(node, [x for x in inputs if isinstance(x, View)])
        # It has a prologue or an epilogue.
        elif source is not None or group.results != [node]:
            node.op.lower_results(self, self.epilogue(group, node), *inputs, **node.attributes)
        elif self.tuned:
            node.op.lower(self, self.views[node], *inputs, **node.attributes)
        else:
            views = [x for x in inputs if isinstance(x, View)]
            self.call(node.op.kernel, [self.views[node]], views, plain=True, **node.attributes)

    def python(self, node: Node, inputs: list[View]) -> None:
        """Add a call of the operator's numpy()."""
        assert node.op is not None
        call = PythonCall(node.op, node.attributes)
        kernel = Kernel(in_python, ())
        views = (self.views[node], *inputs)
        self.calls.append(KernelCall(kernel, views, 1, self.current_group, python=call))

    def epilogue(self, group: Group, node: Node) -> EpilogueOutputs:
        """Return what the anchor's kernels do with its output: steps, what is stored, sums and moments."""
        sums = [r for r in group.results if channel_reduction(r) == "sum"]
        moments = [r for r in group.results if channel_reduction(r) == "moments"]
        weight_grad = group.weight_grad
        # the values that are added up, and those that the gradient in the weights multiplies dy by
        summed = [r.inputs[0] for r in [*sums, *moments]] + ([weight_grad.inputs[1]] if weight_grad else [])
        line = self.straight_line(group.members, summed, given=[node])
        stored = [r for r in group.results if r is node or r in group.members]
        return EpilogueOutputs(
            outputs=[self.views[r] for r in stored],
            extras=[self.repeated(self.operand(group.results[0], x), group.domain) for x in line.inputs],
            epilogue=Epilogue(
                line.steps,
                results=tuple(line.slots[r] for r in stored),
                sums=tuple(line.slots[r.inputs[0]] for r in sums),
                moments=line.slots[moments[0].inputs[0]] if moments else None,
                x=line.slots[weight_grad.inputs[1]] if weight_grad else None,
                taps=math.prod(weight_grad.shape[2:]) if weight_grad else 0,
            ),
            sums=[self.views[r] for r in sums],
            moments=self.views[moments[0]] if moments else None,
            weight_grad=self.views[weight_grad] if weight_grad else None,
            places=[self.views[group.places]] if group.places else [],
        )

    def source(self, group: Group, x: Node) -> expression.FusedInput:
        """Return the anchor's input x as the group's prologue computes it while it is read."""
        line = self.straight_line(group.prologue)
        assert group.anchor is not None
        operands = [self.operand(group.anchor, node) for node in line.inputs]
        views = [self.repeated(view, x.shape) for view in operands]
        return expression.FusedInput(views, expression.Prologue(len(views), line.steps, line.slots[x]))

    def repeated(self, x: View, domain: Shape) -> View:
        """Return the view broadcast over the whole domain."""
        return x.over(domain, broadcast_strides(x, domain))

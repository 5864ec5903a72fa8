"""How each stored node lies in memory, and the conversions between layouts that remain. Graph and groups -> LayoutPlan.

Images lie channels last, filters and their gradients in the order R, S, C, K, all else in C order. A pointwise result
lies as its first input of the same shape does, so a layout spreads from the operator that begins it. A reshape is a
view where the strides allow it. Small arrays that are broadcast over images are copied into the images' memory order. A
new value of a variable is written straight into the variable if no group reads the old value any more. The remaining
conversions are listed: lower.py copies what this plan says, and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from foveal.graph import Graph, Node, owner
from foveal.ops.shape import constant
from foveal.passes.fusion.group import Group, argument_strides
from foveal.strides import Shape, contiguous, dense, filters_last, layout_name, memory_order, ordered, same, usual
from foveal.variable import Variable

# A small array is copied into a kernel's order if the kernel reads each of its elements at least this often: the copy
# gathers each element once, the kernel would gather it each time.
MIN_REPEATS = 4


@dataclass(frozen=True, eq=False)
class Conversion:
    """A value that is needed in another layout than the one it is stored in."""

    node: Node
    #: strides that it is stored with
    stored: Shape
    #: strides that its reader needs
    wanted: Shape
    why: str
    #: True if a kernel that computes something else reads it across its layout. Otherwise it is copied, once for all
    #: readers
    fused: bool = False

    def __str__(self) -> str:
        stored, wanted = (layout_name(self.node.shape, strides) for strides in (self.stored, self.wanted))
        verb = "read" if self.fused else "copied"
        name = self.node.op or self.node.name
        return f"{name} {self.node.type}: {stored} {verb} as {wanted}, {self.why}"


@dataclass
class LayoutPlan:
    """How a graph's values lie in memory."""

    #: of each node in memory, views too, in elements
    strides: dict[Node, Shape] = field(default_factory=dict)
    #: (reader, node) -> the copy of the node that the reader takes; an output reads itself
    reads: dict[tuple[Node, Node], Conversion] = field(default_factory=dict)
    conversions: list[Conversion] = field(default_factory=list)
    #: a variable's new value -> the variable's node, in whose memory it is written
    in_place: dict[Node, Node] = field(default_factory=dict)
    #: (variable, value): updates that are copied after all groups have run
    late: list[tuple[Node, Node]] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"  {len(self.in_place)} updates in place, {len(self.late)} copied"
        return "\n".join([head, *(f"  {conversion}" for conversion in self.conversions)])


def plan_layout(graph: Graph, groups: Sequence[Group]) -> LayoutPlan:
    """Return the layout of a simplified graph whose groups run in this order."""
    return LayoutPlanner(graph, groups).run()


class LayoutPlanner:
    """Visits the groups in order: what a group reads has its layout before what it stores."""

    def __init__(self, graph: Graph, groups: Sequence[Group]) -> None:
        self.graph, self.groups = graph, groups
        self.plan = LayoutPlan(in_place=updates_in_place(graph, groups))
        self.strides = self.plan.strides

    def run(self) -> LayoutPlan:
        users = self.graph.users
        for node in self.graph.nodes:
            if node.variable is not None:
                self.strides[node] = node.variable.strides
            elif node.op is None:
                self.strides[node] = argument_strides(node, users[node])
        plan_kind = {
            "pointwise": self.pointwise,
            "reduce": self.reduction,
            "anchored": self.anchored,
            "rows": self.rows,
        }
        for group in self.groups:
            plan_kind[group.kind](group)
        self.plan_updates()
        self.plan_outputs()
        return self.plan

    def strides_of(self, node: Node) -> Shape:
        """Return the strides of a node; those of views and constants are found when they are first read."""
        if node not in self.strides:
            self.strides[node] = () if node.op is constant else self.strides_of_view(node)
        return self.strides[node]

    def strides_of_view(self, node: Node) -> Shape:
        assert node.op is not None
        assert node.op.view, f"{node.op} is in no group"
        (x,) = node.inputs
        strides = node.op.view_strides(x.shape, self.strides_of(x), **node.attributes)
        if strides is None:
            # The memory order of x does not allow this view. A copy in C order allows every view.
            self.convert(node, x, contiguous(x.shape), f"to be reshaped to {list(node.shape)}")
            strides = node.op.view_strides(x.shape, contiguous(x.shape), **node.attributes)
            assert strides is not None
        return strides

    def convert(self, reader: Node, x: Node, wanted: Shape, why: str) -> None:
        """Let the reader have a copy of x. A copy that another reader has already serves both."""
        for known in self.plan.reads.values():
            if known.node is x and known.wanted == wanted:
                self.plan.reads[reader, x] = known
                return
        made = Conversion(x, self.strides_of(x), wanted, why)
        self.plan.conversions.append(made)
        self.plan.reads[reader, x] = made

    def pointwise(self, group: Group) -> None:
        """Results lie as the variable they update, else as the first input of their shape."""
        inputs = group.inputs()
        input_strides = [self.strides_of(x) for x in inputs]
        for node in group.results:
            if node in self.plan.in_place:
                self.strides[node] = self.strides[self.plan.in_place[node]]
            else:
                assert node.op is not None
                same_shape = (
                    strides
                    for x, strides in zip(inputs, input_strides, strict=True)
                    if x.shape == node.shape and dense(x.shape, strides)
                )
                self.strides[node] = next(same_shape, node.op.strides(node.shape))
        order = self.strides[group.results[0]]
        self.reorder_broadcast(group, inputs, order)
        self.list_crossed(group, inputs, order)

    def reduction(self, group: Group) -> None:
        """Results lie in C order. The kernel follows the memory order of the first input of the whole domain."""
        inputs = group.inputs()
        input_strides = [self.strides_of(x) for x in inputs]
        for node in group.results:
            self.strides[node] = contiguous(node.shape)
        whole = (strides for x, strides in zip(inputs, input_strides, strict=True) if x.shape == group.domain)
        order = next(whole, contiguous(group.domain))
        self.reorder_broadcast(group, inputs, order)
        self.list_crossed(group, inputs, order)

    def rows(self, group: Group) -> None:
        """Results of the whole domain lie in the order that rows are walked in, those of a row each in C order."""
        order = ordered(group.domain, memory_order(group.order))
        for node in group.results:
            self.strides[node] = order if node.shape == group.domain else contiguous(node.shape)
        inputs = group.inputs()
        for x in inputs:
            self.strides_of(x)
        self.reorder_broadcast(group, [x for x in inputs if x.shape != group.kept], order)
        self.list_crossed(group, inputs, order)

    def anchored(self, group: Group) -> None:
        """The anchor's inputs get the layout that its kernels expect; results lie as the anchor says."""
        node = group.anchor
        assert node is not None
        assert node.op is not None
        # the input that the prologue computes, which is not in memory
        computed = group.source if group.prologue else None
        operands = [x for x in node.inputs if x is not computed]
        prologue_inputs = {x for member in group.prologue for x in member.inputs}
        for x in dict.fromkeys([*operands, *group.inputs()]):
            strides = self.strides_of(x)
            full_size = x in prologue_inputs and computed is not None and x.shape == computed.shape
            as_it_lies = (node.op.any_layout and dense(x.shape, strides)) or not node.op.has_kernel
            wanted = self.standard(x) if (x in operands and not as_it_lies) or full_size else strides
            if wanted != strides:
                self.convert(node, x, wanted, f"for {node.op}")
        anchor_strides = node.op.strides(node.shape)
        for result in group.results:
            alike = result.shape == node.shape
            self.strides[result] = anchor_strides if alike else contiguous(result.shape)
        if group.weight_grad:
            self.strides[group.weight_grad] = filters_last(group.weight_grad.shape)
        extras = [x for x in group.inputs() if x not in {*operands, *prologue_inputs}]
        self.reorder_broadcast(group, extras, anchor_strides)
        self.list_crossed(group, extras, anchor_strides)

    def standard(self, x: Node) -> Shape:
        """Return the strides that an operator's kernels take x with.

        Images have neighbouring channels, filters their own layout, other arrays neighbouring last elements. Variables
        are taken as they are. A slice of a larger array is copied, so that its elements lie side by side.
        """
        strides = self.packed(x)
        if len(strides) < 2 or (self.in_variable(x) and not self.is_slice(x)):
            return strides
        if len(strides) == 4 and same(x.shape, strides, filters_last(x.shape)):
            return strides
        neighbours = strides[1] if len(strides) == 4 else strides[-1]
        return strides if neighbours == 1 and dense(x.shape, strides) else usual(x.shape)

    def in_variable(self, x: Node) -> bool:
        """True if x lies in a variable's memory and is not a copy of it."""
        while x.op is not None and x.op.view and (x, x.inputs[0]) not in self.plan.reads:
            x = x.inputs[0]
        return x.variable is not None

    def is_slice(self, x: Node) -> bool:
        """True if x is part of a larger array along some axis, so that there may be gaps between its elements."""
        while x.op is not None and x.op.view and (x, x.inputs[0]) not in self.plan.reads:
            if x.op.slices:
                return True
            x = x.inputs[0]
        return False

    def packed(self, x: Node) -> Shape:
        """Return the strides of a node; of a slice, those of the same memory order without the gaps."""
        strides = self.strides_of(x)
        if not self.is_slice(x):
            return strides
        return ordered(x.shape, sorted(range(len(strides)), key=lambda a: (-strides[a], a)))

    def reorder_broadcast(self, group: Group, inputs: Sequence[Node], order: Shape) -> None:
        """Copy small broadcast inputs into the group's memory order, so that vector loads are contiguous, not gathers.

        order: the strides that the group goes through its domain with.
        """
        domain, size = group.domain, math.prod(group.domain)
        # the axis that vectors run along
        inner = min((a for a, n in enumerate(domain) if n != 1), key=lambda a: order[a], default=0)
        for x in inputs:
            # axes that x does not have, at the front
            missing = len(domain) - len(x.shape)
            strides = self.strides_of(x)
            varies = missing <= inner < len(domain) and x.shape[inner - missing] != 1
            if not varies or strides[inner - missing] == 1 or x.type.size * MIN_REPEATS > size:
                continue
            axes = sorted(range(len(x.shape)), key=lambda a: (-order[a + missing], a))
            wanted = ordered(x.shape, axes)
            self.convert(group.results[0], x, wanted, f"by {group.what()}")

    def list_crossed(self, group: Group, inputs: Sequence[Node], order: Shape) -> None:
        """List the full-size inputs whose memory order differs from the one that the group goes through."""
        for x in inputs:
            if x.shape == group.domain and not same(x.shape, self.packed(x), order):
                why = f"by {group.what()}"
                self.plan.conversions.append(Conversion(x, self.strides[x], order, why, fused=True))

    def plan_updates(self) -> None:
        """List the updates that are copied at the end because they are not written in place."""
        node_of = {node.variable: node for node in self.graph.variables}
        for variable, value in self.graph.updates:
            target = node_of[variable]
            if self.plan.in_place.get(value) is target:
                continue
            strides = self.strides_of(value)
            if self.in_variable(value):
                # Another update may overwrite this value before it is copied, as when two variables are swapped.
                strides = contiguous(value.shape)
                self.convert(target, value, strides, f"before {variable.name} is written")
            why = f"to update {variable.name}"
            self.plan.conversions.append(Conversion(value, strides, variable.strides, why))
            self.plan.late.append((target, value))

    def plan_outputs(self) -> None:
        """Copy outputs that lie in a variable before the variable is overwritten."""
        updated = {variable for variable, _ in self.graph.updates}
        for node in self.graph.outputs:
            self.strides_of(node)
            if self.in_variable(node) and owner(node).variable in updated:
                self.convert(node, node, contiguous(node.shape), "an output that is updated")


def updates_in_place(graph: Graph, groups: Sequence[Group]) -> dict[Node, Node]:
    """Return value -> variable for new values that can be written straight into their variable.

    The group that writes the value has to run after all groups that read the variable.
    """
    node_of: dict[Variable | None, Node] = {node.variable: node for node in graph.variables}
    writer_of = {node: i for i, group in enumerate(groups) for node in group.results}
    # the last group that reads each node's memory
    inputs = [group.inputs() for group in groups]
    last_reader = {owner(x): i for i, read in enumerate(inputs) for x in read}
    outlive = {owner(node) for node in graph.results()}
    in_place: dict[Node, Node] = {}
    for variable, value in graph.updates:
        if value not in writer_of or value in in_place or variable not in node_of:
            continue
        writer, old = writer_of[value], node_of[variable]
        read_later = last_reader.get(old, -1) > writer
        # Through a view a group reads at other indices than the one it writes.
        viewed = any(x is not old and owner(x) is old for x in inputs[writer])
        fits = groups[writer].kind == "pointwise" and groups[writer].domain == variable.shape
        if fits and not read_later and not viewed and old not in outlive:
            in_place[value] = old
    return in_place

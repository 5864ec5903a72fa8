"""How each stored node lies in memory, and the few conversions between layouts that are left. Graph and groups ->
Layout.

Images lie channels last, filters and their gradients as R, S, C, K, all else in C order. A pointwise result lies as its
first input of its size does, so a layout spreads from where an operator begins it. A reshape is a view where the
strides allow it. Small arrays that are repeated over images are turned to their order. A new value of a variable is
written straight into it where nobody reads the old one any more. What is left is listed: lower.py copies what this plan
says, and nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from foveal.graph import Graph, Node, owner
from foveal.ops.concat import narrow
from foveal.ops.shape import constant, index, reshape
from foveal.passes.fusion.group import Group
from foveal.strides import Shape, contiguous, dense, filters_last, layout_name, ordered, reshaped_strides, same, usual
from foveal.variable import Variable

REPEATS = 4  # how often a kernel has to read an array for a copy in its own order to be worth it


@dataclass(frozen=True, eq=False)
class Conversion:
    """A value that somebody needs in another layout than it is stored in.

    fused: read across its layout by a kernel that computes something else; otherwise a copy is made, once for all
    readers.
    """

    node: Node
    given: Shape
    wanted: Shape
    why: str
    fused: bool = False

    def __str__(self) -> str:
        names = [layout_name(self.node.shape, strides) for strides in (self.given, self.wanted)]
        how = "read" if self.fused else "copied"
        what = self.node.op or self.node.name
        return f"{what} {self.node.type}: {names[0]} {how} as {names[1]}, {self.why}"


@dataclass
class Layout:
    """strides: of each node in memory, views too, in elements. reads: (reader, node) -> the copy that it takes of the
    node; an output reads itself.

    in_place: a variable's new value -> the variable's node, in whose memory it is written. late: updates that are
    copied
    when all else is done.
    """

    strides: dict[Node, Shape] = field(default_factory=dict)
    reads: dict[tuple[Node, Node], Conversion] = field(default_factory=dict)
    conversions: list[Conversion] = field(default_factory=list)
    in_place: dict[Node, Node] = field(default_factory=dict)
    late: list[tuple[Node, Node]] = field(default_factory=list)  # (variable, value)

    def __str__(self) -> str:
        head = f"  {len(self.in_place)} updates in place, {len(self.late)} copied"
        return "\n".join([head, *(f"  {conversion}" for conversion in self.conversions)])


def layout(graph: Graph, groups: Sequence[Group]) -> Layout:
    """The layout of a simplified graph whose groups run in this order."""
    return Planner(graph, groups).run()


class Planner:
    """Goes through the groups in order: what a group reads has its layout before what it stores."""

    def __init__(self, graph: Graph, groups: Sequence[Group]) -> None:
        self.graph, self.groups = graph, groups
        self.plan = Layout(in_place=in_place(graph, groups))
        self.strides = self.plan.strides

    def run(self) -> Layout:
        users = self.graph.users()
        for node in self.graph.nodes:
            if node.variable is not None:
                self.strides[node] = node.variable.strides
            elif node.op is None:  # an argument: images that are only flattened stay as they come
                viewed = all(user.op in (reshape, index) for user in users[node])
                self.strides[node] = contiguous(node.shape) if viewed else usual(node.shape)
        place = {"pointwise": self.pointwise, "reduce": self.reduction, "kernel": self.operator}
        for group in self.groups:
            place[group.kind](group)
        self.updates()
        self.outputs()
        return self.plan

    def find(self, node: Node) -> Shape:
        """The strides of a node; of views and constants when they are first read."""
        if node not in self.strides:
            self.strides[node] = () if node.op is constant else self.of_view(node)
        return self.strides[node]

    def of_view(self, node: Node) -> Shape:
        (x,) = node.inputs
        if node.op is index:
            return self.find(x)[1:]
        if node.op is narrow:
            return self.find(x)
        assert node.op is reshape, f"{node.op} is in no group"
        strides = reshaped_strides(x.shape, self.find(x), node.shape)
        if strides is None:
            self.convert(node, x, contiguous(x.shape), f"to be reshaped to {list(node.shape)}")
            return contiguous(node.shape)
        return strides

    def convert(self, reader: Node, x: Node, wanted: Shape, why: str) -> None:
        """Let the reader have a copy of x; one that is there already serves."""
        for known in self.plan.reads.values():
            if known.node is x and known.wanted == wanted:
                self.plan.reads[reader, x] = known
                return
        made = Conversion(x, self.find(x), wanted, why)
        self.plan.conversions.append(made)
        self.plan.reads[reader, x] = made

    def pointwise(self, group: Group) -> None:
        inputs = group.inputs()
        given = [self.find(x) for x in inputs]
        for node in group.results:
            if node in self.plan.in_place:
                self.strides[node] = self.strides[self.plan.in_place[node]]
            else:
                assert node.op is not None
                self.strides[node] = next(
                    (s for x, s in zip(inputs, given, strict=True) if x.shape == node.shape and dense(x.shape, s)),
                    node.op.strides(node.shape),
                )
        order = self.strides[group.results[0]]
        self.turned(group, inputs, order)
        self.crossed(group, inputs, order)

    def reduction(self, group: Group) -> None:
        inputs = group.inputs()
        given = [self.find(x) for x in inputs]
        for node in group.results:
            self.strides[node] = contiguous(node.shape)
        whole = (s for x, s in zip(inputs, given, strict=True) if x.shape == group.domain)
        order = next(whole, contiguous(group.domain))
        self.turned(group, inputs, order)
        self.crossed(group, inputs, order)

    def operator(self, group: Group) -> None:
        node = group.operator
        assert node is not None
        assert node.op is not None
        computed = group.source if group.prologue else None
        operands = [x for x in node.inputs if x is not computed]
        before = {x for member in group.prologue for x in member.inputs}
        for x in dict.fromkeys([*operands, *group.inputs()]):
            given = self.find(x)
            whole = x in before and computed is not None and x.shape == computed.shape
            wanted = self.standard(x) if x in operands or whole else given
            if wanted != given:
                self.convert(node, x, wanted, f"for {node.op}")
        strides = node.op.strides(node.shape)
        for result in group.results:
            alike = result.shape == node.shape
            self.strides[result] = strides if alike else contiguous(result.shape)
        extras = [x for x in group.inputs() if x not in {*operands, *before}]
        self.turned(group, extras, strides)
        self.crossed(group, extras, strides)

    def standard(self, x: Node) -> Shape:
        """Images with neighbouring channels, filters by their own layout, other arrays with neighbouring last elements.

        Variables are taken as they are; parts of a larger array are copied together.
        """
        strides = self.packed(x)
        if len(strides) < 2 or (self.in_variable(x) and not self.part(x)):
            return strides
        if len(strides) == 4 and same(x.shape, strides, filters_last(x.shape)):
            return strides
        neighbours = strides[1] if len(strides) == 4 else strides[-1]
        return strides if neighbours == 1 and dense(x.shape, strides) else usual(x.shape)

    def in_variable(self, x: Node) -> bool:
        """Whether x is a variable's memory, not a copy of it."""
        while x.op is not None and x.op.view and (x, x.inputs[0]) not in self.plan.reads:
            x = x.inputs[0]
        return x.variable is not None

    def part(self, x: Node) -> bool:
        """Whether x is a part of a larger array's memory along some axis."""
        while x.op is not None and x.op.view and (x, x.inputs[0]) not in self.plan.reads:
            if x.op is narrow:
                return True
            x = x.inputs[0]
        return False

    def packed(self, x: Node) -> Shape:
        """The strides of a node; of a part, those that its axes have in the same order without the gaps."""
        strides = self.find(x)
        if not self.part(x):
            return strides
        return ordered(x.shape, sorted(range(len(strides)), key=lambda a: (-strides[a], a)))

    def turned(self, group: Group, inputs: Sequence[Node], order: Shape) -> None:
        """Let the group have copies of small arrays repeated over its domain, where its vectors would gather them."""
        domain, size = group.domain, math.prod(group.domain)
        inner = min((a for a, n in enumerate(domain) if n != 1), key=lambda a: order[a], default=0)
        for x in inputs:
            missing = len(domain) - len(x.shape)
            given = self.find(x)
            varies = missing <= inner < len(domain) and x.shape[inner - missing] != 1
            if not varies or given[inner - missing] == 1 or x.type.size * REPEATS > size:
                continue
            axes = sorted(range(len(x.shape)), key=lambda a: (-order[a + missing], a))
            wanted = ordered(x.shape, axes)
            self.convert(group.results[0], x, wanted, f"by {group.what()}")

    def crossed(self, group: Group, inputs: Sequence[Node], order: Shape) -> None:
        """List the arrays of the whole domain that lie in another order than the group goes through."""
        for x in inputs:
            if x.shape == group.domain and not same(x.shape, self.packed(x), order):
                why = f"by {group.what()}"
                self.plan.conversions.append(Conversion(x, self.strides[x], order, why, fused=True))

    def updates(self) -> None:
        """Values that are not written in place are copied; those in another variable's memory first, aside."""
        nodes = {node.variable: node for node in self.graph.variables}
        for variable, value in self.graph.updates:
            target = nodes[variable]
            if self.plan.in_place.get(value) is target:
                continue
            strides = self.find(value)
            if self.in_variable(value):
                aside = contiguous(value.shape)
                self.convert(target, value, aside, f"before {variable.name} is written")
                strides = aside
            why = f"to update {variable.name}"
            self.plan.conversions.append(Conversion(value, strides, variable.strides, why))
            self.plan.late.append((target, value))

    def outputs(self) -> None:
        """Outputs that lie in a variable are read before that is overwritten."""
        updated = {variable for variable, _ in self.graph.updates}
        for node in self.graph.outputs:
            self.find(node)
            if self.in_variable(node) and owner(node).variable in updated:
                self.convert(node, node, contiguous(node.shape), "an output that is updated")


def in_place(graph: Graph, groups: Sequence[Group]) -> dict[Node, Node]:
    """Values to be written into their variable at once: the writer runs after all who read the variable."""
    nodes: dict[Variable | None, Node] = {node.variable: node for node in graph.variables}
    maker = {node: i for i, group in enumerate(groups) for node in group.results}
    last = {owner(x): i for i, group in enumerate(groups) for x in group.inputs()}  # to read it
    outlive = {owner(node) for node in graph.results()}
    found: dict[Node, Node] = {}
    for variable, value in graph.updates:
        if value not in maker or value in found or variable not in nodes:
            continue
        group, old = groups[maker[value]], nodes[variable]
        read_later = last.get(old, -1) > maker[value]
        # through a view a group reads at other indices than the one it writes
        viewed = any(x is not old and owner(x) is old for x in group.inputs())
        fits = group.kind == "pointwise" and group.domain == variable.shape
        if fits and not read_later and not viewed and old not in outlive:
            found[value] = old
    return found

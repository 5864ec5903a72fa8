"""The straight-line program of a group of rows: what each row's passes compute, and how arrays lie along its domain."""

from dataclasses import dataclass, field

from foveal.domain import broadcast_strides
from foveal.graph import Node
from foveal.ops.kernels.expression import Step
from foveal.ops.loss import one_hot
from foveal.ops.reduce import Reduction, broadcast_to
from foveal.ops.shape import constant, reshape
from foveal.passes.fusion.group import Group
from foveal.strides import Shape
from foveal.view import View


@dataclass
class RowLine:
    """Nodes as steps, of which each reads slots and writes the next one; reductions are steps too."""

    domain: Shape
    #: for each axis of the domain, True if it is reduced
    reduced: tuple[bool, ...]
    #: what is read, and whether its axes are those of the domain that are kept, in place of the domain's last ones
    inputs: dict[tuple[Node, bool], int] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    #: the slot of each node that is computed, and of each constant
    slots: dict[Node, int] = field(default_factory=dict)

    @property
    def kept(self) -> Shape:
        """The shape of what has an element for each row."""
        return tuple(n for n, is_reduced in zip(self.domain, self.reduced, strict=True) if not is_reduced)

    def strides(self, view: View, per_row: bool) -> Shape:
        """The strides over the domain of an array with the kept axes, or one that is broadcast over the domain."""
        if not per_row:
            return broadcast_strides(view, self.domain)
        kept = iter(broadcast_strides(view, self.kept))
        return tuple(0 if is_reduced else next(kept) for is_reduced in self.reduced)

    def is_per_row(self, reader: Node) -> bool:
        """True if a node reads arrays along the kept axes."""
        return reader.op is one_hot or (reader.shape == self.kept and not isinstance(reader.op, Reduction))

    def read(self, reader: Node, x: Node) -> int:
        """The slot of what a node reads."""
        return self.slots[x] if x in self.slots else self.inputs[x, self.is_per_row(reader)]

    def add(self, node: Node) -> None:
        """Add a node, whose inputs are known, as the next step."""
        for x in node.inputs:
            if x.op is constant and x not in self.slots:
                self.append(x, "constant", tuple(x.attributes.items()), ())
        operands = tuple(self.read(node, x) for x in node.inputs)
        if node.op is broadcast_to or node.op is reshape:
            # the same value, read over the whole domain, or with other axes of size 1
            self.slots[node] = operands[0]
        elif isinstance(node.op, Reduction) or node.op is one_hot:
            assert node.op is not None
            self.append(node, node.op.key, (), operands)
        else:
            assert node.op is not None
            self.append(node, node.op.key, tuple(sorted(node.attributes.items())), operands)

    def append(self, node: Node, name: str, attributes: tuple[tuple[str, object], ...], operands: Shape) -> None:
        """Let a step compute a node."""
        self.slots[node] = len(self.inputs) + len(self.steps)
        self.steps = (*self.steps, (name, attributes, operands))


def row_line(group: Group) -> RowLine:
    """The straight-line program of a group of rows."""
    axes, inside = group.axes, set(group.members)
    line = RowLine(group.domain, tuple(axis in axes for axis in range(len(group.domain))))
    for node in group.members:
        for x in node.inputs:
            if x not in inside and x.op is not constant:
                line.inputs.setdefault((x, line.is_per_row(node)), len(line.inputs))
    for node in group.members:
        line.add(node)
    return line

"""Group: the nodes that become one kernel, or the kernels of one operator."""

from dataclasses import dataclass, field

from foveal.graph import Node
from foveal.ops.elementwise import Pointwise
from foveal.ops.reduce import broadcast_to
from foveal.ops.shape import constant


@dataclass(eq=False)
class Group:
    """members: pointwise nodes computed inside, in order. results: nodes that are stored (a reduction's are its sums).

    kind: "pointwise", "reduce", or "kernel": then `operator` is the node whose kernels these are. Their epilogue
    computes
    the members; among the results may be sums and moments of theirs. prologue: pointwise nodes computed while the
    operator
    reads its input `source`.
    """

    domain: tuple[int, ...]
    members: list[Node] = field(default_factory=list)
    results: list[Node] = field(default_factory=list)
    kind: str = "pointwise"
    operator: Node | None = None
    prologue: list[Node] = field(default_factory=list)

    @property
    def source(self) -> Node | None:
        """The input of the operator that may be computed while it is read."""
        if self.operator is None or self.operator.op is None:
            return None
        position = self.operator.op.prologue(**self.operator.attributes)
        return None if position is None else self.operator.inputs[position]

    def readers(self) -> list[Node]:
        """The nodes computed, each after what it reads of the others."""
        first = [*self.prologue, self.operator] if self.operator else []
        return list(dict.fromkeys([*first, *self.members, *self.results]))

    def inputs(self) -> list[Node]:
        """What the group reads from memory; constants are left out where they are no operand of an operator."""
        readers = self.readers()
        own = set(self.operator.inputs) if self.operator else set()
        found = dict.fromkeys(x for node in readers for x in node.inputs)
        inside = set(readers)
        return [x for x in found if x not in inside and (x.op is not constant or x in own)]

    def flops(self) -> int:
        """Multiplications and additions of the operator, where it counts them."""
        return sum(
            node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
            for node in self.readers()
            if node.op is not None
        )

    def what(self) -> str:
        """The operators computed, and the types of what is stored."""
        inside = " ".join(str(n.op) for n in self.readers())
        return f"{inside} -> {', '.join(str(n.type) for n in self.results)}"

    def __str__(self) -> str:
        return f"{self.kind}: {self.what()}"


def is_pointwise(node: Node) -> bool:
    return isinstance(node.op, Pointwise) or node.op is broadcast_to

"""Group: the nodes that become one kernel, or the kernels of one anchor operator."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from foveal.graph import Node
from foveal.ops.conv import conv2d_weight_grad
from foveal.ops.elementwise import Pointwise
from foveal.ops.pool_max import max_pool2d_place
from foveal.ops.reduce import Reduction, broadcast_to
from foveal.ops.shape import constant
from foveal.strides import Shape, contiguous, usual


@dataclass(eq=False)
class Group:
    """The nodes that become one kernel; for an anchored group, the kernels of its anchor operator."""

    #: the shape that the group's kernel goes through
    domain: tuple[int, ...]
    #: pointwise nodes computed inside, in order; of a group of rows all that is computed
    members: list[Node] = field(default_factory=list)
    #: nodes that are stored: members, the anchor, and reductions of members (sums, maxima, moments; of a depthwise
    #: convolution's gradient in x, the gradient in its weights; of a max pooling, the places of its maxima)
    results: list[Node] = field(default_factory=list)
    #: "pointwise": one loop nest over the domain. "reduce": one pass over the domain, whose results are reductions.
    #: "anchored": the kernels of the operator `anchor`, whose epilogue computes the members. "rows": passes over each
    #: row of the domain
    kind: Literal["pointwise", "reduce", "anchored", "rows"] = "pointwise"
    anchor: Node | None = None
    #: pointwise nodes computed while the anchor reads its input `source`
    prologue: list[Node] = field(default_factory=list)
    #: of a group of rows: the strides whose order its kernel walks in; rows lie along the innermost axes
    order: tuple[int, ...] = ()

    @property
    def source(self) -> Node | None:
        """The input of the anchor that can be computed while it is read."""
        if self.anchor is None or self.anchor.op is None:
            return None
        position = self.anchor.op.prologue(*(x.shape for x in self.anchor.inputs), **self.anchor.attributes)
        return None if position is None else self.anchor.inputs[position]

    @property
    def weight_grad(self) -> Node | None:
        """The gradient in the weights that the anchor, a depthwise convolution's gradient in x, computes as well."""
        others = (node for node in self.results if node is not self.anchor and node.op is conv2d_weight_grad)
        return next(others, None) if self.anchor else None

    @property
    def places(self) -> Node | None:
        """The places of the maxima that the anchor, a max pooling, finds as well."""
        others = (node for node in self.results if node is not self.anchor and node.op is max_pool2d_place)
        return next(others, None) if self.anchor else None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the domain that its reductions go along; they all go along the same."""
        axes: tuple[int, ...] = next(n.attributes["axes"] for n in self.readers() if isinstance(n.op, Reduction))
        return axes

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of what has an element for each row: the domain without the axes that are reduced."""
        axes = self.axes
        return tuple(n for axis, n in enumerate(self.domain) if axis not in axes)

    def reads_in_epilogue(self, user: Node, node: Node) -> bool:
        """True if the epilogue reads the node for a user: a member of the group, or its gradient in the weights."""
        return user in self.members or (user is self.weight_grad and user.inputs[1] is node)

    def readers(self) -> list[Node]:
        """Return the nodes that are computed, each after those of the others that it reads."""
        first = [*self.prologue, self.anchor] if self.anchor else []
        return list(dict.fromkeys([*first, *self.members, *self.results]))

    def inputs(self) -> list[Node]:
        """Return what the group reads from memory. Constants are immediate operands, except those of the anchor."""
        readers = self.readers()
        inside, anchor_inputs = set(readers), set(self.anchor.inputs) if self.anchor else set()
        read = dict.fromkeys(x for node in readers for x in node.inputs)
        return [x for x in read if x not in inside and (x.op is not constant or x in anchor_inputs)]

    def flops(self) -> int:
        """Return the multiplications and additions of the operators that count them."""
        return sum(
            node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
            for node in self.readers()
            if node.op is not None
        )

    def what(self) -> str:
        """Return the operators computed, and the types of what is stored."""
        inside = " ".join(str(n.op) for n in self.readers())
        return f"{inside} -> {', '.join(str(n.type) for n in self.results)}"

    def __str__(self) -> str:
        return f"{self.kind}: {self.what()}"


def channel_reduction(node: Node) -> Literal["sum", "moments"] | None:
    """Return what an epilogue can accumulate for the node, if it is a reduction per channel."""
    return None if node.op is None else node.op.channel_reduction


def argument_strides(node: Node, users: Iterable[Node]) -> Shape:
    """The strides of an argument. Images that are only flattened or indexed stay in C order, as they are given."""
    only_viewed = all(user.op is not None and user.op.view and not user.op.slices for user in users)
    return contiguous(node.shape) if only_viewed else usual(node.shape)


def is_pointwise(node: Node) -> bool:
    return (isinstance(node.op, Pointwise) and node.op.has_scalar) or node.op is broadcast_to

"""Receptive fields: which rows and columns of the image each value reads.

Two answers for each axis of the image. The exact one is a set for each position of the value, which knows of padding,
dilation, and what strides skip; for a network with branches it is their union along that axis. The other is the line of
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill 2019), section 2:
position i reads `size` positions from `start + stride * i` on, as if the padding were part of the image; after a window
of k taps with stride u, dilation d and padding p before,

    start' = start - p stride,  size' = size + (k - 1) d stride,  stride' = stride u.

Where values are repeated or spread out (transposed convolution) the line bounds what is read, its numbers are
fractions.

Branches whose strides differ have no such line (section 3, "alignment issues"); then the exact sets speak alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import prod
from operator import or_
from typing import Any

from foveal.explain.windows import windows_of
from foveal.graph import Graph, Node
from foveal.ops.elementwise import Pointwise
from foveal.ops.pad import source
from foveal.trace import trace

Number = int | Fraction


@dataclass(frozen=True)
class Line:
    """Position i reads `size` positions of the image from start + stride i on."""

    start: Number
    size: Number
    stride: Number

    def widened(self, count: int) -> "Line":
        """Of `count` neighbours taken together."""
        return replace(self, size=self.size + (count - 1) * self.stride)


@dataclass(frozen=True)
class Reach:
    """What a value reads along one axis of the image.

    axis: the value's own axis that runs along it; None where every element reads the same. masks: a set of positions
    for
    each position on `axis`, as the bits of an int. line: see above, None where there is none.
    """

    axis: int | None
    masks: tuple[int, ...]
    line: Line | None

    @property
    def union(self) -> int:
        return reduce(or_, self.masks, 0)

    def collapsed(self) -> "Reach":
        """Of all positions taken together."""
        if self.axis is None:
            return self
        return Reach(None, (self.union,), self.line and self.line.widened(len(self.masks)))

    def on(self, axis: int | None) -> "Reach":
        return replace(self, axis=axis)


Reaches = list[Reach | None]  # of an operator's inputs, along one axis of the image
Rule = Callable[[Node, Reaches], Reach | None]


def image_reach(size: int, axis: int) -> Reach:
    """Each position of the image reads itself."""
    return Reach(axis, tuple(1 << i for i in range(size)), Line(0, 1, 1))


def joined(reaches: Sequence[Reach]) -> Reach:
    """The union, position by position. Values that run along different axes, or none, are taken whole."""
    axes = {r.axis for r in reaches if r.axis is not None}
    if len(axes) != 1:
        reaches = [r.collapsed() for r in reaches]
        return Reach(None, (reduce(or_, (r.union for r in reaches)),), joined_lines(reaches))
    axis = axes.pop()
    count = max(len(r.masks) for r in reaches if r.axis is not None)
    masks = [r.masks * (count // len(r.masks)) for r in reaches]
    return Reach(axis, tuple(reduce(or_, at) for at in zip(*masks, strict=True)), joined_lines(reaches))


def joined_lines(reaches: Sequence[Reach]) -> Line | None:
    lines = [r.line for r in reaches]
    if len({r.axis for r in reaches}) > 1 or None in lines:
        return None
    known = [line for line in lines if line is not None]
    if len({line.stride for line in known}) > 1:
        return None
    start = min(line.start for line in known)
    return Line(start, max(line.start + line.size for line in known) - start, known[0].stride)


def pointwise(node: Node, inputs: Reaches) -> Reach | None:
    """Operands broadcast: axes are counted from the right, an axis of size 1 is repeated."""
    rank, found = len(node.shape), []
    for x, r in zip(node.inputs, inputs, strict=True):
        if r is None:
            continue
        if r.axis is not None and x.shape[r.axis] == 1 != node.shape[r.axis + rank - len(x.shape)]:
            r = r.collapsed()
        found.append(r if r.axis is None else r.on(r.axis + rank - len(x.shape)))
    return joined(found) if found else None


def window(node: Node, inputs: Reaches) -> Reach | None:
    """Convolution and pooling."""
    r = inputs[0]
    if r is None:
        return collapse(node, inputs)
    if r.axis is None or r.axis == 0:
        return r
    w = windows_of(node).get(r.axis)
    if w is None:
        return r.collapsed()
    masks = tuple(reduce(or_, (r.masks[i] for i in w.reads(p)), 0) for p in range(w.outputs))
    line = r.line and Line(
        r.line.start - w.before * r.line.stride, r.line.size + (w.reach - 1) * r.line.stride, r.line.stride * w.u
    )
    return Reach(r.axis, masks, line)


def transposed(node: Node, inputs: Reaches) -> Reach | None:
    """Transposed convolution: output h reads p where p u + t d - before = h. Its line bounds what it reads."""
    assert node.op is not None
    r, how = inputs[0], node.op.arguments(**node.attributes)
    if r is None or r.axis is None or r.axis == 0:
        return collapse(node, inputs) if r is None else r
    if r.axis == 1:
        return r.collapsed()
    a = r.axis - 2
    u, d, before, k = how["stride"][a], how["dilation"][a], how["padding"][2 * a], node.inputs[1].shape[r.axis]
    masks = []
    for h in range(node.shape[r.axis]):
        at = [h + before - t * d for t in range(k)]
        read = [i // u for i in at if i % u == 0 and 0 <= i // u < len(r.masks)]
        masks.append(reduce(or_, (r.masks[i] for i in read), 0))
    back = Fraction(d * (k - 1), u)  # how far before (h + before) / u the first p can lie
    line = r.line and Line(
        r.line.start + (Fraction(before, u) - back) * r.line.stride,
        r.line.size + back * r.line.stride,
        Fraction(r.line.stride) / u,
    )
    return Reach(r.axis, tuple(masks), line)


def reduction(node: Node, inputs: Reaches) -> Reach | None:
    """Sums, means and maxima over `axes`."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    axes, keepdims = node.attributes["axes"], node.attributes["keepdims"]
    if r.axis in axes:
        return r.collapsed()
    return r if keepdims else r.on(r.axis - sum(a < r.axis for a in axes))


def product(node: Node, inputs: Reaches) -> Reach | None:
    """Matrix products: rows and columns stay, what is summed over is taken whole."""
    rank, found = len(node.shape), []
    for x, r, turned, kept in zip(
        node.inputs, inputs, (node.attributes["ta"], not node.attributes["tb"]), (-2, -1), strict=True
    ):
        if r is None:
            continue
        if r.axis is not None and r.axis >= len(x.shape) - 2:
            own = len(x.shape) - (1 if turned else 2)  # rows of a, columns of b
            r = r.on(rank + kept) if r.axis == own else r.collapsed()
        found.append(r)
    return joined(found) if found else None


def moved(node: Node, inputs: Reaches) -> Reach | None:
    """Reshapes. The axis is followed where it stays, or is merged or split with its neighbours inside of it."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    old, new = node.inputs[0].shape, node.shape
    count, step = old[r.axis], prod(old[r.axis + 1 :])
    for axis, size in enumerate(new):
        inner = prod(new[axis + 1 :])
        if inner * size == step * count and size > 1:
            return spread(r, axis, size)
    return r.collapsed()


def spread(r: Reach, axis: int, size: int) -> Reach:
    """The same range of memory cut into `size` positions."""
    count = len(r.masks)
    if size % count == 0:
        by = size // count
        return Reach(axis, tuple(r.masks[i // by] for i in range(size)), repeated_line(r.line, by))
    if count % size == 0:
        by = count // size
        parts = tuple(reduce(or_, r.masks[i * by : i * by + by]) for i in range(size))
        line = r.line and replace(r.line.widened(by), stride=r.line.stride * by)
        return Reach(axis, parts, line)
    return r.collapsed()


def repeated_line(line: Line | None, by: int) -> Line | None:
    """Of positions that come `by` times each: the line that bounds them."""
    if line is None or by == 1:
        return line
    step = Fraction(line.stride) / by
    return Line(line.start - (by - 1) * step, line.size + (by - 1) * step, step)


def repeated(node: Node, inputs: Reaches) -> Reach | None:
    return pointwise(node, inputs)


def indexed(node: Node, inputs: Reaches) -> Reach | None:
    """x[i] along the first axis."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    return r.on(r.axis - 1) if r.axis else Reach(None, (r.masks[node.attributes["i"]],), None)


def placed(node: Node, inputs: Reaches) -> Reach | None:
    (r,) = inputs
    return r if r is None or r.axis is None else r.on(r.axis + 1)


def adapted(node: Node, inputs: Reaches) -> Reach | None:
    """Pooling to a given size: output p of P reads from floor(p H / P) to ceil((p + 1) H / P)."""
    (r,) = inputs
    if r is None or r.axis is None or r.axis < 2:
        return r if r is None or r.axis != 1 else r.collapsed()
    n, count = len(r.masks), node.shape[r.axis]
    spans = [(p * n // count, -(-(p + 1) * n // count)) for p in range(count)]
    masks = tuple(reduce(or_, r.masks[a:b]) for a, b in spans)
    if r.line is None or n % count:
        return Reach(r.axis, masks, None)
    size = n // count
    return Reach(r.axis, masks, replace(r.line.widened(size), stride=r.line.stride * size))


def neighbours(node: Node, inputs: Reaches) -> Reach | None:
    """Sums over neighbouring channels."""
    (r,) = inputs
    return r.collapsed() if r is not None and r.axis == 1 else r


def concatenated(node: Node, inputs: Reaches) -> Reach | None:
    """One after another along `axis`."""
    found, axis = [r for r in inputs if r is not None], node.attributes["axis"]
    if all(r.axis != axis for r in found):
        return joined(found)
    masks: list[int] = []
    for x, r in zip(node.inputs, inputs, strict=True):
        if r is None or r.axis != axis:
            masks += [0 if r is None else r.union] * x.shape[axis]
        else:
            masks += r.masks
    return Reach(axis, tuple(masks), None)


def narrowed(node: Node, inputs: Reaches) -> Reach | None:
    """A part along `axis`."""
    (r,), how = inputs, node.attributes
    if r is None or r.axis != how["axis"]:
        return r
    first = how["start"]
    line = r.line and replace(r.line, start=r.line.start + first * r.line.stride)
    return Reach(r.axis, r.masks[first : first + how["length"]], line)


def widened(node: Node, inputs: Reaches) -> Reach | None:
    """Zeros around what is given."""
    (r,), how = inputs, node.attributes
    if r is None or r.axis != how["axis"]:
        return r
    first, count = how["start"], len(r.masks)
    line = r.line and replace(r.line, start=r.line.start - first * r.line.stride)
    return Reach(r.axis, (0,) * first + r.masks + (0,) * (how["size"] - first - count), line)


def bordered(node: Node, inputs: Reaches) -> Reach | None:
    """A border around the image. What it mirrors or repeats is in the sets; the line takes it as a part of the
    image.
    """
    (r,), how = inputs, node.attributes
    if r is None or r.axis is None or r.axis < 2:
        return r
    n, before = len(r.masks), how["padding"][2 * (r.axis - 2)]
    shown = [source(p, before, n, how["mode"]) for p in range(node.shape[r.axis])]
    masks = tuple(r.masks[int(i)] if valid else 0 for i, valid in shown)
    line = r.line and replace(r.line, start=r.line.start - before * r.line.stride)
    return Reach(r.axis, masks, line)


def reordered(node: Node, inputs: Reaches) -> Reach | None:
    """The same axes in another order."""
    (r,) = inputs
    return r if r is None or r.axis is None else r.on(node.attributes["order"].index(r.axis))


def turned(node: Node, inputs: Reaches) -> Reach | None:
    """Rows and columns from the last to the first."""
    (r,) = inputs
    return r if r is None or r.axis is None or r.axis < 2 else Reach(r.axis, r.masks[::-1], None)


def products(node: Node, inputs: Reaches) -> Reach | None:
    """A matrix product for each l: l, rows of a and columns of b stay."""
    found = []
    for r, summed in zip(inputs, (2, 1), strict=True):
        if r is not None:
            found.append(r.collapsed() if r.axis == summed else r)
    return joined(found) if found else None


def unfolded(node: Node, inputs: Reaches) -> Reach | None:
    """im2col and col2im: the axis of columns runs along rows and columns of the image at once."""
    (r,) = inputs
    return r if r is None or r.axis in (None, 0) else r.collapsed()


def collapse(node: Node, inputs: Reaches) -> Reach | None:
    """Every element reads all that the inputs read."""
    found = [r.collapsed() for r in inputs if r is not None]
    return joined(found) if found else None


RULES: dict[str, Rule] = {
    "conv2d_input_grad": transposed,
    "sum": reduction,
    "max": reduction,
    "mean": reduction,
    "matmul": product,
    "reshape": moved,
    "broadcast_to": repeated,
    "index": indexed,
    "place": placed,
    "channel_moments": collapse,
    "adaptive_mean": adapted,
    "adaptive_avg_pool2d": adapted,
    "adaptive_max_pool2d": adapted,
    "adaptive_max_index": adapted,
    "channel_sums": neighbours,
    "take_pixels": collapse,
    "put_pixels": collapse,
    "max_unpool2d": collapse,
    "concatenate": concatenated,
    "narrow": narrowed,
    "widen": widened,
    "pad": bordered,
    "permute": reordered,
    "rotate180": turned,
    "batch_matmul": products,
    "im2col": unfolded,
    "col2im": unfolded,
}


def rule_of(node: Node) -> Rule | None:
    """How an operator passes on what its inputs read; None where that is not known."""
    assert node.op is not None
    if node.op.name in RULES:
        return RULES[node.op.name]
    if isinstance(node.op, Pointwise):
        return pointwise
    return window if windows_of(node) else None


def expanded(node: Node) -> Graph:
    """A composite as a graph of the operators it is made of, on arguments of its inputs' types."""

    def function(*symbols: Any) -> Any:
        assert node.op is not None
        return node.op.expand(*symbols, **node.attributes)

    return trace(function, *(x.type for x in node.inputs))


class Fields:
    """What nodes reach along one axis of the image. `unknown`: operators without a rule, taken to mix everything."""

    def __init__(self) -> None:
        self.unknown: set[str] = set()
        self.expansions: dict[Node, Graph] = {}

    def expansion(self, node: Node) -> Graph:
        if node not in self.expansions:
            self.expansions[node] = expanded(node)
        return self.expansions[node]

    def of(self, node: Node, inputs: Reaches) -> Reach | None:
        if all(r is None for r in inputs):
            return None
        rule = rule_of(node)
        if rule is not None:
            return rule(node, inputs)
        assert node.op is not None
        if node.op.composite:
            return self.through(self.expansion(node), inputs)
        self.unknown.add(node.op.name)
        return collapse(node, inputs)

    def through(self, graph: Graph, inputs: Reaches) -> Reach | None:
        """What the graph's first output reads, where its arguments read `inputs`."""
        known: dict[Node, Reach | None] = dict(zip(graph.arguments, inputs, strict=True))
        for node in graph.nodes:
            if node.op is not None:
                known[node] = self.of(node, [known.get(x) for x in node.inputs])
        return known.get(graph.outputs[0])

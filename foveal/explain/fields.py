"""Receptive fields: which rows and columns of the image each value of a network reads.

There are two answers for each axis of the image.

The exact one (`Reach.masks`) is a set of positions of the image for each position of the value. It accounts for
padding, dilation and positions that strides skip. For a network with branches it is the union over the branches along
that axis.

The other one (`Line`) is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill 2019), section 2: position i reads `size` positions from `start + stride * i` on, as if the padding were part
of the image. After a window of k taps with stride u, dilation d and p positions of padding before,

    start' = start - p stride,  size' = size + (k - 1) d stride,  stride' = stride u.

Where values are repeated or spread out (transposed convolution) the line is a bound of what is read, and its numbers
are fractions. Branches whose strides differ have no such line (section 3, "alignment issues"); then only the exact sets
are known. A value whose elements all read the same, as after a fully connected layer or a global pooling, has no
position to count padding from: its line is what it reads of the image itself, from the first to the last position.

Each operator has a rule, in RULES, that takes what its inputs read and returns what its output reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import ceil, floor, prod
from operator import or_

from foveal.explain.windows import windows_of
from foveal.graph import Graph, Node
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Tensor
from foveal.ops.pad import source
from foveal.trace import trace

Number = int | Fraction

# A reshape that repeats positions is followed up to this many; beyond it all are taken together, as of a large image
# that is flattened.
MAX_POSITIONS = 1 << 16


@dataclass(frozen=True)
class Line:
    """Position i reads `size` positions of the image from start + stride * i on."""

    start: Number
    size: Number
    stride: Number

    def spanning(self, count: int) -> "Line":
        """Return the line of `count` neighbouring positions taken together."""
        return replace(self, size=self.size + (count - 1) * self.stride)

    @property
    def largest(self) -> int:
        """The most whole positions of the image that one position can read."""
        # Where the numbers are fractions, positions begin at different distances from a whole one, again and again.
        starts = [self.start + i * self.stride for i in range(Fraction(self.stride).denominator)]
        return max(floor(start + self.size - 1) - ceil(start) + 1 for start in starts)


@dataclass(frozen=True)
class Reach:
    """What a value reads along one axis of the image."""

    # The value's own axis that runs along the image's axis; None if all of its elements read the same.
    axis: int | None
    # For each position on `axis` the set of positions of the image, as the bits of an int; one set if axis is None.
    masks: tuple[int, ...]
    # The line that describes the sets; None if there is none.
    line: Line | None

    @property
    def union(self) -> int:
        """The positions of the image that any position reads."""
        return reduce(or_, self.masks, 0)

    def collapsed(self) -> "Reach":
        """Return the reach of all positions taken together."""
        return self if self.axis is None else same_for_all(self.union)

    def on(self, axis: int | None) -> "Reach":
        """Return the same reach along another axis of the value."""
        return replace(self, axis=axis)


# What an operator's inputs read along one axis of the image; None for an input that does not depend on the image.
Reaches = list[Reach | None]
Rule = Callable[[Node, Reaches], Reach | None]


def same_for_all(positions: int) -> Reach:
    """Return the reach of a value whose elements all read these positions of the image, the bits of an int."""
    first = (positions & -positions).bit_length() - 1
    return Reach(None, (positions,), Line(first, positions.bit_length() - first, 0) if positions else None)


def image_reach(size: int, axis: int) -> Reach:
    """Return the reach of the image itself: each position reads itself."""
    return Reach(axis, tuple(1 << i for i in range(size)), Line(0, 1, 1))


def joined(reaches: Sequence[Reach]) -> Reach:
    """Return the union of several reaches, position by position.

    If they run along different axes of the value, or along none, they are collapsed first. A reach of one position
    is broadcast.
    """
    axes = {r.axis for r in reaches if r.axis is not None}
    if len(axes) != 1:
        return same_for_all(reduce(or_, (r.union for r in reaches)))
    axis = axes.pop()
    count = max(len(r.masks) for r in reaches if r.axis is not None)
    masks = [r.masks * (count // len(r.masks)) for r in reaches]
    return Reach(axis, tuple(reduce(or_, sets) for sets in zip(*masks, strict=True)), joined_lines(reaches))


def joined_lines(reaches: Sequence[Reach]) -> Line | None:
    """Return the line of a union; None if an operand has none, or if axes or strides differ."""
    lines = [r.line for r in reaches]
    if len({r.axis for r in reaches}) > 1 or None in lines:
        return None
    known = [line for line in lines if line is not None]
    if len({line.stride for line in known}) > 1:
        return None
    start = min(line.start for line in known)
    return Line(start, max(line.start + line.size for line in known) - start, known[0].stride)


def pointwise(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of pointwise operators, whose operands broadcast: axes are counted from the right.

    An operand's axis of size 1 that is repeated is collapsed.
    """
    rank, operands = len(node.shape), []
    for x, r in zip(node.inputs, inputs, strict=True):
        if r is None:
            continue
        if r.axis is not None and x.shape[r.axis] == 1 != node.shape[r.axis + rank - len(x.shape)]:
            r = r.collapsed()
        operands.append(r if r.axis is None else r.on(r.axis + rank - len(x.shape)))
    return joined(operands) if operands else None


def window(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of convolution and pooling."""
    r = inputs[0]
    if r is None:
        return collapse(node, inputs)
    # Images of a batch are independent.
    if r.axis is None or r.axis == 0:
        return r
    # All channels are summed, so there is no window along their axis.
    w = windows_of(node).get(r.axis)
    # A window that reads all of its input, once, is a global operator.
    if w is None or (w.outputs == 1 and w.reads_all):
        return r.collapsed()
    masks = tuple(reduce(or_, (r.masks[i] for i in w.reads(p)), 0) for p in range(w.outputs))
    line = r.line and Line(
        start=r.line.start - w.before * r.line.stride,
        size=r.line.size + (w.reach - 1) * r.line.stride,
        stride=r.line.stride * w.stride,
    )
    return Reach(r.axis, masks, line)


def transposed(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of transposed convolution: output h reads the positions p with p * u + t * d - before = h for a tap t.

    Its line is a bound of what is read.
    """
    assert node.op is not None
    r, attributes = inputs[0], node.op.arguments(**node.attributes)
    if r is None or r.axis is None or r.axis == 0:
        return collapse(node, inputs) if r is None else r
    if r.axis == 1:
        return r.collapsed()
    # Stride, dilation, padding and taps along this axis, which is the a-th of rows and columns.
    a = r.axis - 2
    u, d, before = attributes["stride"][a], attributes["dilation"][a], attributes["padding"][2 * a]
    taps = node.inputs[1].shape[r.axis]
    masks = []
    for h in range(node.shape[r.axis]):
        # Of h + before - t d = p u only those multiples of u count for which p lies in the input.
        multiples = [h + before - t * d for t in range(taps)]
        read = [i // u for i in multiples if i % u == 0 and 0 <= i // u < len(r.masks)]
        masks.append(reduce(or_, (r.masks[i] for i in read), 0))
    # How far before (h + before) / u the first p can lie.
    back = Fraction(d * (taps - 1), u)
    line = r.line and Line(
        start=r.line.start + (Fraction(before, u) - back) * r.line.stride,
        size=r.line.size + back * r.line.stride,
        stride=Fraction(r.line.stride) / u,
    )
    return Reach(r.axis, tuple(masks), line)


def reduction(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of sums, means and maxima over `axes`."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    axes, keepdims = node.attributes["axes"], node.attributes["keepdims"]
    if r.axis in axes:
        return r.collapsed()
    return r if keepdims else r.on(r.axis - sum(a < r.axis for a in axes))


def matrix_product(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of matrix products: rows of a and columns of b stay, the axis that is summed over is collapsed."""
    rank, operands = len(node.shape), []
    # For a: its rows are the last axis if it is transposed, and become the output's rows. For b: its columns are the
    # last axis unless it is transposed, and become the output's columns.
    lies_last = (node.attributes["ta"], not node.attributes["tb"])
    for x, r, last, output_axis in zip(node.inputs, inputs, lies_last, (-2, -1), strict=True):
        if r is None:
            continue
        if r.axis is not None and r.axis >= len(x.shape) - 2:
            remaining = len(x.shape) - (1 if last else 2)
            r = r.on(rank + output_axis) if r.axis == remaining else r.collapsed()
        operands.append(r)
    return joined(operands) if operands else None


def reshaped(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of reshapes: the axis is followed where it stays, or is merged or split with the axes inside of it."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    old, new = node.inputs[0].shape, node.shape
    count, step = old[r.axis], prod(old[r.axis + 1 :])
    # An axis of the output that covers the same range of memory as the followed axis takes its place.
    for axis, size in enumerate(new):
        inner = prod(new[axis + 1 :])
        if inner * size == step * count and size > 1:
            return resampled(r, axis, size)
    return r.collapsed()


def resampled(r: Reach, axis: int, size: int) -> Reach:
    """Return the reach of the same range of memory if it is cut into `size` positions."""
    count = len(r.masks)
    # Each position becomes several.
    if size % count == 0 and size <= MAX_POSITIONS:
        times = size // count
        return Reach(axis, tuple(r.masks[i // times] for i in range(size)), repeated_line(r.line, times))
    # Several positions become one.
    if count % size == 0:
        times = count // size
        masks = tuple(reduce(or_, r.masks[i * times : (i + 1) * times]) for i in range(size))
        line = r.line and replace(r.line.spanning(times), stride=r.line.stride * times)
        return Reach(axis, masks, line)
    return r.collapsed()


def repeated_line(line: Line | None, times: int) -> Line | None:
    """Return the line that bounds what is read if each position is repeated `times` times."""
    if line is None or times == 1:
        return line
    step = Fraction(line.stride) / times
    return Line(line.start - (times - 1) * step, line.size + (times - 1) * step, step)


def indexed(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of x[i] along the first axis."""
    (r,) = inputs
    if r is None or r.axis is None:
        return r
    return r.on(r.axis - 1) if r.axis else same_for_all(r.masks[node.attributes["i"]])


def placed(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of the gradient of x[i]: the input becomes part i along a new first axis."""
    (r,) = inputs
    return r if r is None or r.axis is None else r.on(r.axis + 1)


def adaptive(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of pooling to a given size: output p of P reads from floor(p H / P) up to ceil((p + 1) H / P), excluded."""
    (r,) = inputs
    if r is None or r.axis is None or r.axis < 2:
        return r if r is None or r.axis != 1 else r.collapsed()
    length, count = len(r.masks), node.shape[r.axis]
    if count == 1:
        return r.collapsed()
    spans = [(p * length // count, -(-(p + 1) * length // count)) for p in range(count)]
    masks = tuple(reduce(or_, r.masks[start:end]) for start, end in spans)
    # Windows of different sizes have no line.
    if r.line is None or length % count:
        return Reach(r.axis, masks, None)
    size = length // count
    return Reach(r.axis, masks, replace(r.line.spanning(size), stride=r.line.stride * size))


def neighbouring_channels(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of sums over neighbouring channels."""
    (r,) = inputs
    return r.collapsed() if r is not None and r.axis == 1 else r


def concatenated(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of concatenation along `axis`: positions of one input follow those of another."""
    axis = node.attributes["axis"]
    known = [r for r in inputs if r is not None]
    if all(r.axis != axis for r in known):
        return joined(known)
    masks: list[int] = []
    for x, r in zip(node.inputs, inputs, strict=True):
        if r is None or r.axis != axis:
            masks += [0 if r is None else r.union] * x.shape[axis]
        else:
            masks += r.masks
    return Reach(axis, tuple(masks), None)


def narrowed(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of `narrow` and `strided`: `length` positions along `axis` from `start` on, every `step`-th."""
    (r,), attributes = inputs, node.attributes
    if r is None or r.axis != attributes["axis"]:
        return r
    start, step = attributes["start"], attributes.get("step", 1)
    line = r.line and replace(r.line, start=r.line.start + start * r.line.stride, stride=r.line.stride * step)
    return Reach(r.axis, r.masks[start::step][: attributes["length"]], line)


def widened(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of `widen`: zeros before and after the input along `axis`."""
    (r,), attributes = inputs, node.attributes
    if r is None or r.axis != attributes["axis"]:
        return r
    start = attributes["start"]
    zeros_after = attributes["size"] - start - len(r.masks)
    line = r.line and replace(r.line, start=r.line.start - start * r.line.stride)
    return Reach(r.axis, (0,) * start + r.masks + (0,) * zeros_after, line)


def padded(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of a border around the image.

    The sets know which positions the border mirrors or repeats; the line takes the border as a part of the image.
    """
    (r,), attributes = inputs, node.attributes
    if r is None or r.axis is None or r.axis < 2:
        return r
    length, before = len(r.masks), attributes["padding"][2 * (r.axis - 2)]
    shown = [source(p, before, length, attributes["mode"]) for p in range(node.shape[r.axis])]
    masks = tuple(r.masks[int(i)] if valid else 0 for i, valid in shown)
    line = r.line and replace(r.line, start=r.line.start - before * r.line.stride)
    return Reach(r.axis, masks, line)


def permuted(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of a permutation of the axes."""
    (r,) = inputs
    return r if r is None or r.axis is None else r.on(node.attributes["order"].index(r.axis))


def rotated(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of a rotation by 180 degrees: rows and columns from the last to the first."""
    (r,) = inputs
    return r if r is None or r.axis is None or r.axis < 2 else Reach(r.axis, r.masks[::-1], None)


def flipped(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of `flip`: some axes from the last position to the first."""
    (r,) = inputs
    return r if r is None or r.axis not in node.attributes["axis"] else Reach(r.axis, r.masks[::-1], None)


def batch_matrix_product(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of a matrix product per part of the first axis: that axis, rows of a and columns of b stay."""
    operands = []
    # The axis that is summed over is the last of a and the middle one of b.
    for r, summed in zip(inputs, (2, 1), strict=True):
        if r is not None:
            operands.append(r.collapsed() if r.axis == summed else r)
    return joined(operands) if operands else None


def columns(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of im2col and col2im: the axis of windows runs along rows and columns at once, so only the batch stays."""
    (r,) = inputs
    return r if r is None or r.axis in (None, 0) else r.collapsed()


def collapse(node: Node, inputs: Reaches) -> Reach | None:
    """Rule of operators that mix everything: each element reads all that the inputs read."""
    collapsed = [r.collapsed() for r in inputs if r is not None]
    return joined(collapsed) if collapsed else None


# By the operator's name. Pointwise operators, convolutions, poolings and composites need no row (see `rule_of`).
RULES: dict[str, Rule] = {
    "conv2d_input_grad": transposed,
    "sum": reduction,
    "max": reduction,
    "mean": reduction,
    "matmul": matrix_product,
    "reshape": reshaped,
    "broadcast_to": pointwise,
    "index": indexed,
    "place": placed,
    "channel_moments": collapse,
    "adaptive_mean": adaptive,
    "adaptive_avg_pool2d": adaptive,
    "adaptive_max_pool2d": adaptive,
    "adaptive_max_index": adaptive,
    "channel_sums": neighbouring_channels,
    "take_pixels": collapse,
    "put_pixels": collapse,
    "max_unpool2d": collapse,
    "concatenate": concatenated,
    "narrow": narrowed,
    "strided": narrowed,
    "flip": flipped,
    "stop_gradient": pointwise,
    "widen": widened,
    "pad": padded,
    "permute": permuted,
    "rotate180": rotated,
    "batch_matmul": batch_matrix_product,
    "im2col": columns,
    "col2im": columns,
}


def rule_of(node: Node) -> Rule | None:
    """Return the rule of a node's operator; None if there is none."""
    assert node.op is not None
    if node.op.name in RULES:
        return RULES[node.op.name]
    if isinstance(node.op, Pointwise):
        return pointwise
    return window if windows_of(node) else None


def expanded(node: Node) -> Graph:
    """Return a composite as a graph of the operators that it consists of, on arguments of its inputs' types."""

    def expand(*symbols: Tensor) -> Tensor:
        assert node.op is not None
        return node.op.expand(*symbols, **node.attributes)

    return trace(expand, *(x.type for x in node.inputs))


class Fields:
    """Computes what nodes reach along one axis of the image, and remembers what it needs again."""

    def __init__(self) -> None:
        # Names of operators without a rule; they are assumed to mix everything.
        self.unknown: set[str] = set()
        # Composites as graphs.
        self.expansions: dict[Node, Graph] = {}

    def expansion(self, node: Node) -> Graph:
        """Return a composite as a graph of the operators that it consists of."""
        if node not in self.expansions:
            self.expansions[node] = expanded(node)
        return self.expansions[node]

    def of(self, node: Node, inputs: Reaches) -> Reach | None:
        """Return what a node reads if its inputs read `inputs`; None if none of them depends on the image."""
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
        """Return what the graph's first output reads if its arguments read `inputs`."""
        known: dict[Node, Reach | None] = dict(zip(graph.arguments, inputs, strict=True))
        for node in graph.nodes:
            if node.op is not None:
                known[node] = self.of(node, [known.get(x) for x in node.inputs])
        return known.get(graph.outputs[0])

"""explain(model, input_shape): a summary layer by layer, from the types of a trace.

Nothing of the image's size is allocated and nothing is compiled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import cast

from foveal.arguments import checked
from foveal.errors import ShapeError
from foveal.explain import costs
from foveal.explain.costs import BYTES, InputShape, LinearCost
from foveal.explain.fields import Fields
from foveal.explain.model import Model, modes_restored, output_node, output_shape, own_variables, trains
from foveal.explain.reach import Reach, image_reach
from foveal.explain.rows import Extent, Row, Unread
from foveal.explain.summary import Summary
from foveal.explain.windows import AxisWindow, fixes, windows_of
from foveal.graph import Node
from foveal.ops.op import Type
from foveal.strides import Shape
from foveal.trace import LayerCall, tracing
from foveal.variable import Variable

# Operators without a row of their own.
HIDDEN = ("constant", "index")


# Rows and columns of an image, or steps of a sequence, at most: what is read of it is known for each position, which
# takes time and memory that grow with the square of its length: up to 0.7 GB at this one.
MAX_LENGTH = 1 << 14
# Channels, or images of a batch, at most.
MAX_COUNT = 10**6


@checked
def explain(model: Model, input_shape: InputShape, batch: int = 1, memory: bool = True, fields: bool = True) -> Summary:
    """Return shapes, costs and receptive fields of `model` in evaluation mode.

    model: a Module; it may have been built inside nn.init.without_values(). input_shape: of one image, (C, H, W), of at
    most 1,000,000 channels and 16,384 rows and columns. batch: images at once. memory: plan a program's memory as well.
    fields: find receptive fields, which takes longest for large images. Raises ShapeError for other shapes, and for
    those that the model refuses.
    """
    shape = batch_shape(input_shape, batch)
    model.name_parameters()
    with modes_restored(model):
        model.eval()
        with tracing() as recording:
            image = recording.argument(Type(shape), "x")
            # What random layers draw from: seed and step.
            recording.key = recording.argument(Type((4,), "int32"), "key")
            model(image)
            summary = Explainer(model, image.node, recording.call, fields).summary()
    return replace(summary, memory=costs.planned_memory(model, Type(shape))) if memory else summary


def batch_shape(input_shape: Sequence[int] | int, batch: int) -> Shape:
    """Return [N, C, H, W] from an image's shape and the number of images, after checking both."""
    sizes = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    valid = all(isinstance(n, int) and n > 0 for n in (*sizes, batch))
    if not sizes or not valid:
        raise ShapeError(
            f"input_shape {input_shape!r}, batch {batch!r}: give the sizes of one image without the batch, such as"
            " (3, 224, 224): channels, rows, columns, whole numbers of 1 or more"
        )
    channels, *lengths = sizes
    if max(channels, batch) > MAX_COUNT or max(lengths, default=0) > MAX_LENGTH:
        raise ShapeError(
            f"an input of {'x'.join(map(str, sizes))} in a batch of {batch}: at most {MAX_COUNT:,} channels and images"
            f" of {MAX_LENGTH:,} rows and columns can be explained; the costs of larger ones grow with their area"
        )
    return (batch, *sizes)


class Explainer:
    """Makes a summary from the calls that a trace has recorded, layer by layer."""

    def __init__(self, model: Model, image: Node, calls: LayerCall, fields: bool) -> None:
        self.model, self.image, self.calls = model, image, calls
        # Dotted names of all modules, by identity.
        self.names = {id(module): name for name, module in model.named_modules()}
        self.fields = Fields()
        # The axes of the image after batch and channels, and per axis what each node reads.
        self.axes = range(2, len(image.shape)) if fields else range(0)
        self.reaches: list[dict[Node, Reach | None]] = [
            {image: image_reach(image.shape[axis], axis)} for axis in self.axes
        ]
        # Parameters that a row has counted, and modules that were called.
        self.counted: set[Variable] = set()
        self.called: set[int] = set()
        self.rows: list[Row] = []
        # The nodes that read each node.
        self.users: dict[Node, list[Node]] = {}

    def summary(self) -> Summary:
        """Return all rows and the totals."""
        nodes = list(nodes_of(self.calls))
        for node in nodes:
            for x in dict.fromkeys(node.inputs):
                self.users.setdefault(x, []).append(node)
            # What the node reads follows from what its inputs read.
            for reach in self.reaches:
                reach[node] = self.fields.of(node, [reach.get(x) for x in node.inputs])
        for part in self.calls.parts:
            self.add(part, 0)
        variables = [v for _, v in self.model.named_variables()]
        parameters = list(dict.fromkeys(v for v in variables if trains(v) is not None))
        buffers = [v for v in dict.fromkeys(variables) if trains(v) is None]
        return Summary(
            model=type(self.model).__name__,
            input=self.image.shape,
            rows=tuple(self.rows),
            parameters=sum(p.size for p in parameters),
            trainable=sum(p.size for p in parameters if trains(p)),
            buffers=sum(b.size for b in buffers),
            macs=sum(map(self.macs, nodes)),
            activation_bytes=sum(node.type.size * BYTES for node in nodes if has_memory(node)),
            memory=None,
            unknown=tuple(sorted(self.fields.unknown)),
            unused=self.unused(),
            field=self.rows[0].field if self.rows else (),
        )

    def unused(self) -> tuple[str, ...]:
        """Return the names of modules of which nothing was called; of nested ones the outermost."""
        names: list[str] = []
        for name, module in self.model.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in names)
            called = any(id(part) in self.called for _, part in module.named_modules())
            held = [v for _, v in module.named_variables() if trains(v) is not None]
            if not inside and not called and not self.counted.issuperset(held):
                names.append(name)
        return tuple(names)

    def macs(self, node: Node) -> int:
        """Return a node's multiply-adds."""
        return costs.macs_of(node, self.fields.expansion)

    def add(self, part: Node | LayerCall, depth: int) -> None:
        """Add the rows of an operator, or of a layer's call and all that is inside of it."""
        if isinstance(part, Node):
            self.add_operator(part, depth)
            return
        layer = called_layer(part)
        self.called.add(id(layer))
        layers = any(isinstance(inner, LayerCall) for inner in part.parts)
        self.rows.append(self.layer_row(part, depth, layers))
        if not layers:
            return
        # Parameters that a container holds itself.
        for name, variable in own_variables(layer):
            if trains(variable) is not None and variable not in self.counted:
                self.add_parameter(f"{self.prefix(layer)}{name}", variable, depth + 1)
        for inner in part.parts:
            self.add(inner, depth + 1)

    def prefix(self, module: Model) -> str:
        """Return what stands before the names of a module's parts."""
        name = self.names.get(id(module), "")
        return f"{name}." if name else ""

    def layer_row(self, call: LayerCall, depth: int, layers: bool) -> Row:
        """Return the row of a layer's call. layers: True if rows of its own layers follow."""
        nodes = list(nodes_of(call))
        variables = held_by(called_layer(call), nodes, layers)
        parameters = [v for v in variables if trains(v) is not None]
        # A container's parameters are counted again by the rows of its parts.
        new = [v for v in parameters if v not in self.counted]
        if not layers:
            self.counted |= set(new)
        row = Row(
            name=self.names.get(id(call.layer), "") or "(model)",
            kind=type(call.layer).__name__,
            depth=depth,
            holds=layers,
            shape=output_shape(call.result),
            parameters=sum(v.size for v in new),
            trainable=sum(v.size for v in new if trains(v)),
            formula="",
            buffers=sum(v.size for v in variables if trains(v) is None),
            macs=sum(map(self.macs, nodes)),
            macs_formula=None,
            field=self.extents(output_node(call.result)),
            unread=(),
            dense=None,
            shared=bool(parameters) and not new,
        )
        if layers:
            return row
        # What belongs to operators stands in the row of the innermost layer alone.
        return replace(
            row,
            formula=costs.parameter_formula([(v.name.rsplit(".", 1)[-1], v) for v in new]) if new else "",
            macs_formula=self.macs_formula(nodes),
            unread=self.unread(nodes),
            dense=self.dense(nodes),
        )

    def add_operator(self, node: Node, depth: int) -> None:
        """Add the row of an operator that a container calls itself."""
        assert node.op is not None
        if node.op.name in HIDDEN:
            return
        # Parameters that it reads and that no layer's row has counted.
        held = [x.variable for x in node.inputs if x.variable is not None and trains(x.variable) is not None]
        new = [v for v in dict.fromkeys(held) if v not in self.counted]
        self.counted |= set(new)
        self.rows.append(
            Row(
                name="",
                kind=node.op.name,
                depth=depth,
                holds=False,
                shape=node.shape,
                parameters=sum(v.size for v in new),
                trainable=sum(v.size for v in new if trains(v)),
                formula=costs.parameter_formula([(v.name, v) for v in new]) if new else "",
                buffers=0,
                macs=self.macs(node),
                macs_formula=self.macs_formula([node]),
                field=self.extents(node),
                unread=self.unread([node]),
                dense=self.dense([node]),
            )
        )

    def add_parameter(self, name: str, variable: Variable, depth: int) -> None:
        """Add the row of a container's own parameter, which belongs to none of its layers."""
        # It computes nothing, so all that is said of operators is empty.
        self.counted.add(variable)
        self.rows.append(
            Row(
                name=name,
                kind="Parameter",
                depth=depth,
                holds=False,
                shape=variable.shape,
                parameters=variable.size,
                trainable=variable.size if trains(variable) else 0,
                formula=costs.parameter_formula([(name, variable)]),
                buffers=0,
                macs=0,
                macs_formula=None,
                field=(),
                unread=(),
                dense=None,
            )
        )

    def macs_formula(self, nodes: list[Node]) -> str | None:
        """Return how the multiply-adds are computed if one operator does them all."""
        working = [node for node in nodes if self.macs(node)]
        return costs.macs_formula(working[0]) if len(working) == 1 else None

    def extents(self, node: Node | None) -> tuple[Extent, ...]:
        """Return the receptive field of a value, per axis of the image; () if it does not depend on the image."""
        if node is None:
            return ()
        extents = []
        for axis, reach in zip(self.axes, self.reaches, strict=True):
            r = reach.get(node)
            if r is None:
                return ()
            extents.append(Extent(self.image.shape[axis], r.line, r.masks, r.axis is not None))
        return tuple(extents)

    def dense(self, nodes: list[Node]) -> LinearCost | None:
        """Return what a fully connected layer in the place of a convolution or pooling would cost."""
        for node in nodes:
            if windows_of(node):
                return costs.linear_cost(node.inputs[0].shape[1:], prod(node.shape[1:]))
        return None

    def unread(self, nodes: list[Node]) -> tuple[Unread, ...]:
        """Return what the windows of each of the operators leave unread."""
        return tuple(lost for node in nodes if (lost := self.unread_by(node)) is not None)

    def unread_by(self, node: Node) -> Unread | None:
        """Return what an operator's windows leave unread, and how to fix it; None if they read everything."""
        windows = windows_of(node)
        unread = tuple(tuple(w.unread()) for w in windows.values())
        if not any(unread):
            return None
        # Another operator reads a position if it has no windows, or if its windows do not leave that position out.
        x = node.inputs[0]
        others = [windows_of(user) for user in self.users.get(x, []) if user is not node]
        elsewhere = all(
            not lost or any(not other or set(lost).isdisjoint(other[axis].unread()) for other in others)
            for axis, lost in zip(windows, unread, strict=True)
        )
        assert node.op is not None
        changes = fixes(list(windows.values()), lambda changed: accepts(node, changed))
        return Unread(node.op.name, tuple(windows.values()), unread, elsewhere, tuple(changes))


def accepts(node: Node, windows: Sequence[AxisWindow]) -> bool:
    """Return True if the node's operator accepts such windows and gives as many outputs as they say."""
    assert node.op is not None
    # The operator's arguments and the shapes of its inputs with these windows.
    attributes = node.op.arguments(**node.attributes)
    attributes["stride"] = tuple(w.stride for w in windows)
    attributes["padding"] = tuple(side for w in windows for side in (w.before, w.after))
    if "dilation" in attributes:
        attributes["dilation"] = tuple(w.dilation for w in windows)
    shapes = [x.shape for x in node.inputs]
    shapes[0] = (*shapes[0][:2], *(w.length for w in windows))
    taps = tuple(w.taps for w in windows)
    if "kernel_size" in attributes:
        attributes["kernel_size"] = taps
        # Layers refuse more padding than half a window, so that no window lies outside of the image.
        if any(2 * max(w.before, w.after) > w.reach for w in windows):
            return False
    else:
        shapes[1] = (*shapes[1][: -len(taps)], *taps)
    try:
        shape = node.op.shape(*shapes, **node.op.normalise(*map(Type, shapes), **attributes))
    except (ShapeError, TypeError):
        return False
    return tuple(shape[2:]) == tuple(w.outputs for w in windows)


def called_layer(call: LayerCall) -> Model:
    """Return the layer of a call inside of a model's."""
    return cast(Model, call.layer)


def nodes_of(call: LayerCall) -> Iterator[Node]:
    """Yield every operator of a call and of the calls inside of it, in order."""
    for part in call.parts:
        if isinstance(part, Node):
            yield part
        else:
            yield from nodes_of(part)


def has_memory(node: Node) -> bool:
    """Return True if a value takes memory of its own."""
    return node.op is not None and not node.op.view and node.op.name != "constant"


def held_by(module: Model, nodes: list[Node], layers: bool) -> list[Variable]:
    """Return the variables of a layer: with all its parts if it has some, else its own and what its operators read."""
    if layers:
        return list(dict.fromkeys(v for _, v in module.named_variables()))
    read = [x.variable for node in nodes for x in node.inputs if x.variable is not None]
    return list(dict.fromkeys([*(v for _, v in own_variables(module)), *read]))

"""A model layer by layer, from shapes alone: nothing of the image's size is allocated and nothing is compiled."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from foveal.errors import ShapeError
from foveal.explain import costs
from foveal.explain.costs import BYTES, LinearCost
from foveal.explain.fields import Fields, Reach, image_reach
from foveal.explain.rows import Extent, Row, Summary, Unread
from foveal.explain.windows import Window, mends, windows_of
from foveal.graph import Node
from foveal.ops.op import Type
from foveal.strides import Shape
from foveal.trace import Call, Symbol, tracing
from foveal.variable import Variable

HIDDEN = ("constant", "index")  # operators without a row of their own


def explain(model: Any, input_shape: Sequence[int] | int, batch: int = 1, memory: bool = True) -> Summary:
    """Shapes, costs and receptive fields of `model` on images of `input_shape`, (C, H, W), in evaluation mode.

    model: a Module, which may have been built in nn.init.without_values(). memory: whether to plan a run's memory as
    well,
    which takes longer than all the rest.
    """
    shape = checked(input_shape, batch)
    model.name_parameters()
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        model.eval()
        with tracing() as recording:
            image = recording.argument(Type(shape), "x")
            recording.key = recording.argument(Type((4,), "int32"), "key")
            model(image)
            made = Explainer(model, image.node, recording.call).summary()
    finally:
        for module, mode in modes:
            module.training = mode
    return replace(made, memory=costs.planned(model, Type(shape))) if memory else made


def checked(input_shape: Sequence[int] | int, batch: int) -> Shape:
    """[N, C, H, W] of an image's shape."""
    sizes = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    whole = all(isinstance(n, int) and n > 0 for n in (*sizes, batch))
    if not sizes or not whole:
        raise ShapeError(
            f"input_shape {input_shape!r}, batch {batch!r}: give the sizes of one image without the batch, such as"
            " (3, 224, 224): channels, rows, columns, whole numbers of 1 or more"
        )
    return (batch, *sizes)


class Explainer:
    """Walks through the calls of a trace."""

    def __init__(self, model: Any, image: Node, calls: Call) -> None:
        self.model, self.image, self.calls = model, image, calls
        self.names = {id(module): name for name, module in model.named_modules()}
        self.fields = Fields()
        self.axes = range(2, len(image.shape))
        self.reaches: list[dict[Node, Reach | None]] = [
            {image: image_reach(image.shape[axis], axis)} for axis in self.axes
        ]
        self.counted: set[Variable] = set()
        self.called: set[int] = set()
        self.rows: list[Row] = []
        self.users: dict[Node, list[Node]] = {}

    def summary(self) -> Summary:
        nodes = list(nodes_of(self.calls))
        for node in nodes:
            for x in dict.fromkeys(node.inputs):
                self.users.setdefault(x, []).append(node)
            for reach in self.reaches:
                reach[node] = self.fields.of(node, [reach.get(x) for x in node.inputs])
        for part in self.calls.parts:
            self.add(part, 0)
        variables = [v for _, v in self.model.named_variables()]
        parameters = list(dict.fromkeys(v for v in variables if trains(v) is not None))
        buffers = [v for v in dict.fromkeys(variables) if trains(v) is None]
        return Summary(
            type(self.model).__name__,
            self.image.shape,
            tuple(self.rows),
            sum(p.size for p in parameters),
            sum(p.size for p in parameters if trains(p)),
            sum(b.size for b in buffers),
            sum(map(self.macs, nodes)),
            sum(node.type.size * BYTES for node in nodes if stored(node)),
            None,
            tuple(sorted(self.fields.unknown)),
            self.unused(),
            self.rows[0].field if self.rows else (),
        )

    def unused(self) -> tuple[str, ...]:
        """Modules with parameters of which nothing was called; of nested ones the outermost."""
        found: list[str] = []
        for name, module in self.model.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            called = any(id(part) in self.called for _, part in module.named_modules())
            held = [v for _, v in module.named_variables() if trains(v) is not None]
            if not inside and not called and not self.counted.issuperset(held):
                found.append(name)
        return tuple(found)

    def macs(self, node: Node) -> int:
        return costs.macs_of(node, self.fields.expansion)

    def add(self, part: Node | Call, depth: int) -> None:
        if isinstance(part, Node):
            self.add_operator(part, depth)
            return
        self.called.add(id(part.layer))
        layers = any(isinstance(inner, Call) for inner in part.parts)
        self.rows.append(self.layer_row(part, depth, layers))
        if not layers:
            return
        for name, variable in own_variables(part.layer):
            if trains(variable) is not None and variable not in self.counted:
                self.add_parameter(f"{self.prefix(part.layer)}{name}", variable, depth + 1)
        for inner in part.parts:
            self.add(inner, depth + 1)

    def prefix(self, module: Any) -> str:
        name = self.names.get(id(module), "")
        return f"{name}." if name else ""

    def layer_row(self, call: Call, depth: int, layers: bool) -> Row:
        """A layer; with `layers` one whose parts follow in rows of their own."""
        nodes = list(nodes_of(call))
        variables = held_by(call.layer, nodes, layers)
        parameters = [v for v in variables if trains(v) is not None]
        new = [v for v in parameters if v not in self.counted]
        if not layers:
            self.counted |= set(new)
        name = self.names.get(id(call.layer), "")
        made = Row(
            name=name or "(model)",
            kind=type(call.layer).__name__,
            depth=depth,
            holds=layers,
            shape=shape_of(call.result),
            parameters=sum(v.size for v in new),
            trainable=sum(v.size for v in new if trains(v)),
            formula="",
            buffers=sum(v.size for v in variables if trains(v) is None),
            macs=sum(map(self.macs, nodes)),
            macs_formula=None,
            field=self.extents(output_of(call.result)),
            unread=(),
            dense=None,
            shared=bool(parameters) and not new,
        )
        if layers:
            return made
        return replace(
            made,
            formula=costs.parameter_formula([(last(v.name), v) for v in new]) if new else "",
            macs_formula=self.formula(nodes),
            unread=self.unread(nodes),
            dense=self.dense(nodes),
        )

    def add_operator(self, node: Node, depth: int) -> None:
        assert node.op is not None
        if node.op.name in HIDDEN:
            return
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
                macs_formula=self.formula([node]),
                field=self.extents(node),
                unread=self.unread([node]),
                dense=self.dense([node]),
            )
        )

    def add_parameter(self, name: str, variable: Variable, depth: int) -> None:
        """A container's own parameter, which belongs to none of its layers."""
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

    def formula(self, nodes: list[Node]) -> str | None:
        """Of the one operator that multiplies."""
        working = [node for node in nodes if self.macs(node)]
        return costs.macs_formula(working[0]) if len(working) == 1 else None

    def extents(self, node: Node | None) -> tuple[Extent, ...]:
        """The receptive field of a value, per axis of the image."""
        if node is None:
            return ()
        found = []
        for axis, reach in zip(self.axes, self.reaches, strict=True):
            r = reach.get(node)
            if r is None:
                return ()
            found.append(Extent(self.image.shape[axis], r.line, r.masks, r.axis is not None))
        return tuple(found)

    def dense(self, nodes: list[Node]) -> LinearCost | None:
        """For a convolution or pooling."""
        for node in nodes:
            if windows_of(node):
                return costs.linear_cost(node.inputs[0].shape[1:], prod(node.shape[1:]))
        return None

    def unread(self, nodes: list[Node]) -> tuple[Unread, ...]:
        return tuple(found for node in nodes if (found := self.unread_by(node)) is not None)

    def unread_by(self, node: Node) -> Unread | None:
        windows = windows_of(node)
        left = tuple(tuple(w.unread()) for w in windows.values())
        if not any(left):
            return None
        x = node.inputs[0]
        others = [user for user in self.users.get(x, []) if user is not node]
        elsewhere = all(
            not lost
            or any(not windows_of(user) or set(lost).isdisjoint(windows_of(user)[axis].unread()) for user in others)
            for axis, lost in zip(windows, left, strict=True)
        )
        assert node.op is not None
        tried = mends(list(windows.values()), lambda ws: takes(node, ws))
        return Unread(node.op.name, tuple(windows.values()), left, elsewhere, tuple(tried))


def takes(node: Node, windows: Sequence[Window]) -> bool:
    """Whether the operator accepts such windows and gives as many outputs as they say."""
    assert node.op is not None
    how = node.op.arguments(**node.attributes)
    how["stride"] = tuple(w.u for w in windows)
    how["padding"] = tuple(side for w in windows for side in (w.before, w.after))
    if "dilation" in how:
        how["dilation"] = tuple(w.d for w in windows)
    shapes = [x.shape for x in node.inputs]
    shapes[0] = (*shapes[0][:2], *(w.n for w in windows))
    taps = tuple(w.k for w in windows)
    size = next((word for word in ("kernel_size", "size") if word in how), None)
    if size is not None:
        how[size] = taps
        if any(2 * max(w.before, w.after) > w.reach for w in windows):
            return False  # layers refuse it, so that no window lies outside of the image
    else:
        shapes[1] = (*shapes[1][: -len(taps)], *taps)
    try:
        given = [Type(shape) for shape in shapes]
        shape = node.op.shape(*shapes, **node.op.normalise(*given, **how))
    except (ShapeError, TypeError):
        return False
    return tuple(shape[2:]) == tuple(w.outputs for w in windows)


def nodes_of(call: Call) -> Iterator[Node]:
    """Every operator of a call, in order."""
    for part in call.parts:
        if isinstance(part, Node):
            yield part
        else:
            yield from nodes_of(part)


def stored(node: Node) -> bool:
    """Whether a value takes memory of its own."""
    return node.op is not None and not node.op.view and node.op.name != "constant"


def trains(variable: Variable) -> bool | None:
    """Whether a parameter is trained; None for a buffer."""
    found: bool | None = getattr(variable, "trainable", None)
    return found


def held_by(module: Any, nodes: list[Node], layers: bool) -> list[Variable]:
    """What a layer holds: with all its parts where it has some, else its own and what its operators read."""
    if layers:
        return list(dict.fromkeys(v for _, v in module.named_variables()))
    read = [x.variable for node in nodes for x in node.inputs if x.variable is not None]
    return list(dict.fromkeys([*(v for _, v in own_variables(module)), *read]))


def last(name: str) -> str:
    """Of a dotted name."""
    return name.rsplit(".", 1)[-1]


def own_variables(module: Any) -> list[tuple[str, Variable]]:
    """What a module holds itself, by name."""
    return [(name, v) for name, v in vars(module).items() if isinstance(v, Variable)]


def output_of(result: Any) -> Node | None:
    found = costs.first_of(result)
    return found.node if isinstance(found, Symbol) else None


def shape_of(result: Any) -> Shape:
    node = output_of(result)
    return () if node is None else node.shape

"""What training sees: statistics of activations, gradients and parameters, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.api import Compiled
from foveal.arguments import checked
from foveal.autodiff import gradients
from foveal.display import Table, Tables
from foveal.errors import ArgumentError, ShapeError, StateError
from foveal.explain.measured import LossFunction, TracedLosses, checked_pair, parts
from foveal.explain.model import Model, main_output, modes_restored
from foveal.graph import Node
from foveal.kinds import AnyNumber
from foveal.plotting import COLOURS, blank, short
from foveal.strides import Ndarray, Shape
from foveal.trace import LayerCall, Symbol, current

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Images at once: the activations and gradients of all layers are in memory.
BATCH = 64
# Activation functions that let nothing, or next to nothing, of a negative input through, by the operator and, where
# several operators compute them, by the layer.
RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "hardswish", "PReLU", "SELU", "CELU")
# Lowest and highest value of activation functions that are flat at both ends.
BOUNDED = {"sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "erf": (-1.0, 1.0)}
BOUNDED |= {"Softsign": (-1.0, 1.0)}
# Where legends stand: they would cover points inside.
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "fontsize": 7}
ABOVE |= {"frameon": False, "columnspacing": 1.0, "handlelength": 1.2}
# A value is saturated that lies so near one of them, as a share of the range between them.
NEAR = 0.02


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer's output a, and of the gradient dL/da, over all images, units and positions."""

    #: The dotted name of the layer, and its class; for an activation function that a layer's forward calls, the layer's
    #: name and the operator.
    name: str
    kind: str
    #: Of the output of one image.
    shape: Shape
    #: Mean and standard deviation of the values.
    mean: AnyNumber
    std: AnyNumber
    #: The share of values that are exactly 0.
    zeros: AnyNumber
    #: Channels, or features: the second axis.
    units: int
    #: How many of them are above 0 for no image and at no position, after ReLU and its like; None for other layers.
    dead: int | None
    #: The share of values at the flat ends of sigmoid, tanh, clip and their like; None for other layers.
    saturated: AnyNumber | None
    #: Mean and standard deviation of the gradient of the mean loss over all images.
    gradient_mean: AnyNumber
    gradient_std: AnyNumber


@dataclass(frozen=True)
class ParameterStatistics:
    """Statistics of one parameter w, and of the gradient g = dL/dw."""

    name: str
    shape: Shape
    mean: AnyNumber
    std: AnyNumber
    #: ||w||, the root of the sum of squares.
    norm: AnyNumber
    gradient_mean: AnyNumber
    gradient_std: AnyNumber
    #: ||g||.
    gradient_norm: AnyNumber
    #: ||g|| / ||w||; times the learning rate it is what a step of plain SGD changes. NaN where w is 0.
    gradient_ratio: AnyNumber
    #: ||w - w'|| / ||w'|| with the values w' before an update, where they were given.
    update_ratio: AnyNumber | None


@dataclass(frozen=True, repr=False)
class Statistics(Tables):
    """What `statistics` returns: a row for each layer and for each parameter; it shows itself as two tables."""

    #: The class of the network.
    model: str
    #: The mean loss, and the number of images it is of.
    loss: AnyNumber
    images: int
    layers: tuple[LayerStatistics, ...]
    parameters: tuple[ParameterStatistics, ...]

    def layer(self, name: str) -> LayerStatistics:
        """Return the first row of the layer of that name. Raises ShapeError where there is none."""
        return found(self.layers, name, "layer")

    def parameter(self, name: str) -> ParameterStatistics:
        """Return the row of the parameter of that name. Raises ShapeError where there is none."""
        return found(self.parameters, name, "parameter")

    def tables(self) -> Iterator[Table]:
        """Yield the table of the layers and that of the parameters."""
        yield (
            f"{self.model}: loss {self.loss:.4g} on {self.images:,} images; g is the gradient of the loss",
            ("layer", "output", "mean", "std", "zeros", "dead", "saturated", "mean of g", "std of g"),
            [
                (
                    f"{r.name} {r.kind}".strip(),
                    "x".join(map(str, r.shape)),
                    f"{r.mean:.3g}",
                    f"{r.std:.3g}",
                    f"{r.zeros:.1%}",
                    "-" if r.dead is None else f"{r.dead}/{r.units}",
                    "-" if r.saturated is None else f"{r.saturated:.1%}",
                    f"{r.gradient_mean:.2e}",
                    f"{r.gradient_std:.2e}",
                )
                for r in self.layers
            ],
        )
        updated = any(r.update_ratio is not None for r in self.parameters)
        yield (
            "",
            ("parameter w", "shape", "|w|", "|g|", "std of g", "|g|/|w|") + ("update/|w|",) * updated,
            [
                (
                    r.name,
                    "x".join(map(str, r.shape)),
                    f"{r.norm:.3g}",
                    f"{r.gradient_norm:.2e}",
                    f"{r.gradient_std:.2e}",
                    f"{r.gradient_ratio:.2e}",
                )
                + ((f"{r.update_ratio:.2e}",) if r.update_ratio is not None else ())
                for r in self.parameters
            ],
        )


def found(rows: Sequence[Any], name: str, what: str) -> Any:
    """Return the first row of that name. Raises ShapeError where there is none."""
    for row in rows:
        if row.name == name:
            return row
    names = ", ".join(dict.fromkeys(row.name for row in rows))
    raise ShapeError(f"there are no statistics of a {what} {name!r}; there are those of {names}")


@checked
def statistics(
    net: Model,
    images: ArrayLike,
    labels: ArrayLike,
    loss: LossFunction,
    training: bool = False,
    before: Mapping[str, Any] | None = None,
) -> Statistics:
    """Return statistics of what a network computes on images, and of the gradients of its mean loss, layer by layer.

        print(explain.statistics(net, images, labels, nn.CrossEntropyLoss()))

    net: a network, images [N, ...] to outputs. images: as the network takes them, normalised. labels: a target for each
    image. loss: one of nn, or a function (output, target) written with operators; a mean over the images. training:
    False for a network as it answers, whose images are taken in parts; True as it is trained, with the statistics of
    this one batch in a batch norm, and dropout. Running statistics stay as they are. before: the parameters by name,
    as `net.state_dict()`, before an update whose size is wanted.

    A unit (a channel, a feature) of a ReLU is dead if it is above 0 for none of the images and at no position: then
    its gradient is 0, and so is that of the filter before it (Glorot, Bordes and Bengio 2011). A value of a sigmoid or
    a tanh is saturated within 2 % of the range from an end, where its slope is nearly 0 (Glorot and Bengio 2010).

    Raises DataError for images and labels that do not fit, ShapeError for a loss that is no number, StateError where
    `before` lacks a parameter, NumericsError for NaN in the images.
    """
    x, y = checked_pair("statistics", images, labels)
    net.name_parameters()
    measured = Measured(net, loss)
    with modes_restored(net):
        (net.train if training else net.eval)()
        for part in parts(len(x), len(x) if training else BATCH):
            measured.add(x[part], y[part], len(x))
    return measured.result(before)


class Sums:
    """Number, sum and sum of squares of values that come in parts, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Ndarray) -> None:
        wide = values.astype(np.float64)
        self.count += wide.size
        self.total += float(wide.sum())
        self.squares += float(np.square(wide).sum())

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def std(self) -> float:
        return float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))


class Output:
    """One layer's output, and what has been added up of it."""

    def __init__(self, name: str, kind: str, symbol: Symbol) -> None:
        self.name, self.kind, self.symbol = name, kind, symbol
        self.values, self.slopes, self.zeros, self.flat = Sums(), Sums(), 0, 0
        self.floor, self.ends = flat_ends(kind, symbol.node)
        # [units], True for each that was active
        self.active = np.zeros(symbol.shape[1] if len(symbol.shape) > 1 else 1, bool)

    def add(self, values: Ndarray, slopes: Ndarray) -> None:
        """Count a part of the images: values [n, units, ...] and the gradients in them."""
        self.values.add(values)
        self.slopes.add(slopes)
        self.zeros += int((values == 0).sum())
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        if self.floor is not None:
            self.active |= (values > self.floor).any(axes)
        for end, margin in self.ends:
            self.flat += int((abs(values - end) <= margin).sum())

    def row(self) -> LayerStatistics:
        return LayerStatistics(
            self.name,
            self.kind,
            self.symbol.shape[1:],
            self.values.mean,
            self.values.std,
            self.zeros / self.values.count,
            len(self.active),
            None if self.floor is None else int((~self.active).sum()),
            self.flat / self.values.count if self.ends else None,
            self.slopes.mean,
            self.slopes.std,
        )


def flat_ends(kind: str, node: Node) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """Return what the value of a dead unit is at most, and the ends near which values are saturated, with how near."""
    name = "" if node.op is None else node.op.name
    if name in RECTIFIERS or kind in RECTIFIERS:
        return 0.0, ()
    low, high = BOUNDED.get(name) or BOUNDED.get(kind) or (np.nan, np.nan)
    floor: float | None = None
    if name == "clip":
        low, high = float(node.attributes["low"]), float(node.attributes["high"])
        # What is cut off at 0 is a rectifier there, and flat at its other end.
        floor = 0.0 if low == 0 else None
    near = NEAR * (high - low)
    return floor, tuple((end, near) for end in (low, high) if np.isfinite(near) and (end != 0 or floor is None))


class Measured:
    """Runs a network and its gradients on parts of the images, and adds up."""

    def __init__(self, net: Model, loss: LossFunction) -> None:
        self.net, self.loss = net, loss
        self.names = {id(module): name for name, module in net.named_modules()}
        self.parameters = list(dict.fromkeys(net.parameters()))
        self.losses, self.total, self.images = TracedLosses(), 0.0, 0
        # What was found when the network was first traced, and the gradients of the parameters so far.
        self.outputs: list[Output] = []
        self.slopes = [np.zeros(p.shape) for p in self.parameters]
        self.compiled = Compiled(self.traced)

    def traced(self, x: Symbol, y: Symbol, key: Symbol) -> list[Any]:
        """Return the loss, all outputs, and the gradients in them and in the parameters."""
        recording = current()
        recording.key = key
        result = self.net(x)
        outputs = list(self.found(recording.call.parts[-1]))
        value = self.losses.loss("statistics", self.loss, result, y)
        slopes = gradients(value, [*(o.symbol for o in outputs), *(recording.lift(p) for p in self.parameters)])
        # Without the updates the running statistics stay as they are.
        recording.updates.clear()
        self.outputs = self.outputs or outputs
        return [value, *(o.symbol for o in outputs), *slopes]

    def found(self, part: object) -> Iterator[Output]:
        """Yield the outputs within a call, each value once, in the order of the computation."""
        seen: set[Node] = set()
        for name, kind, symbol in self.values_of(part):
            # What only has another shape has the same statistics.
            same = symbol.node in seen or symbol.node.op is None or symbol.node.op.view
            if symbol.dtype == np.float32 and not same and symbol.shape:
                seen.add(symbol.node)
                yield Output(name, kind, symbol)

    def values_of(self, part: object) -> Iterator[tuple[str, str, Symbol]]:
        """Yield name, kind and value of the layers that call no other layers, and of activation functions beside."""
        assert isinstance(part, LayerCall)
        name = self.names.get(id(part.layer), "")
        if not any(isinstance(inner, LayerCall) for inner in part.parts):
            value = main_output(part.result)
            if value is not None:
                yield name, type(part.layer).__name__, value
            return
        for inner in part.parts:
            if isinstance(inner, LayerCall):
                yield from self.values_of(inner)
            elif inner.op is not None and (inner.op.name in RECTIFIERS or inner.op.name in (*BOUNDED, "clip")):
                yield name, inner.op.name, Symbol(current(), inner)

    def add(self, x: Ndarray, y: Ndarray, count: int) -> None:
        """Add a part of `count` images in all."""
        key = np.zeros(4, np.int32)
        self.compiled.program(x, y, key)
        self.losses.check(y)
        value, *rest = self.compiled(x, y, key)
        # The loss is the mean over this part.
        share = len(x) / count
        self.total += share * float(value)
        self.images += len(x)
        outputs = len(self.outputs)
        for i, output in enumerate(self.outputs):
            output.add(rest[i], rest[outputs + i] * np.float64(share))
        for total, slope in zip(self.slopes, rest[2 * outputs :], strict=True):
            total += share * slope.astype(np.float64)

    def result(self, before: Mapping[str, Any] | None) -> Statistics:
        """Return the rows."""
        if not self.outputs:
            raise ShapeError(f"statistics: {type(self.net).__name__} has no layers to be measured")
        rows = []
        for p, g in zip(self.parameters, self.slopes, strict=True):
            w, norm = p.data.astype(np.float64), float(np.linalg.norm(p.data.astype(np.float64)))
            length = float(np.linalg.norm(g))
            ratio = None if before is None else update_ratio(p.name, w, before)
            numbers = float(w.mean()), float(w.std()), norm, float(g.mean()), float(g.std()), length
            rows.append(ParameterStatistics(p.name, p.shape, *numbers, length / norm if norm else np.nan, ratio))
        layers = tuple(output.row() for output in self.outputs)
        return Statistics(type(self.net).__name__, self.total, self.images, layers, tuple(rows))


def update_ratio(name: str, w: Ndarray, before: Mapping[str, Any]) -> float:
    """Return ||w - w'|| / ||w'||. Raises StateError where there is no w' of that name and shape."""
    old = np.asarray(before.get(name, ()), np.float64)
    if old.shape != w.shape:
        raise StateError(
            f"statistics: before has no {name} of shape {list(w.shape)}; give net.state_dict() of before the update"
        )
    norm = float(np.linalg.norm(old))
    return float(np.linalg.norm(w - old)) / norm if norm else float("nan")


@checked
def plot_statistics(found: Statistics, title: str = "") -> Figure:
    """Return a figure of `statistics`: activations, shares, gradients and gradient/weight, from the first layer down.

    A bar from mean - std to mean + std for each layer's output; the shares of values that are 0, of units that are dead
    and of values that are saturated; the standard deviation of the gradient in each output; and ||g|| / ||w|| of each
    parameter of two or more axes, with update/weight where it is known. Raises PackageError without Matplotlib.

        explain.plot_statistics(explain.statistics(net, x, y, nn.CrossEntropyLoss())).savefig("statistics.png")
    """
    if not isinstance(found, Statistics):
        raise ArgumentError("plot_statistics: give what explain.statistics returned")
    layers = found.layers
    matrices = [p for p in found.parameters if len(p.shape) > 1] or list(found.parameters)
    rows = max(len(layers), len(matrices), 6)
    figure = blank(9, 2.2 + 0.44 * rows, title)
    (first, second), (third, fourth) = figure.subplots(2, 2)
    places = np.arange(len(layers))
    first.errorbar([r.mean for r in layers], places, xerr=[r.std for r in layers], fmt="o", color=COLOURS[0], ms=4)
    first.set(xlabel="activation: mean, std")
    names = [short(f"{r.name} {r.kind}".strip()) for r in layers]
    shares: dict[str, list[float]] = {
        "zeros": [r.zeros for r in layers],
        "dead units": [(r.dead or 0) / r.units for r in layers],
        "saturated": [r.saturated or 0.0 for r in layers],
    }
    for i, (name, values) in enumerate(shares.items()):
        second.barh(places + 0.26 * (i - 1), values, 0.26, color=COLOURS[i], label=name)
    second.set(xlabel="share", xlim=(0, 1))
    second.legend(**ABOVE)
    logarithmic(third, [r.gradient_std for r in layers], places, "std of the gradient", "")
    logarithmic(fourth, [p.gradient_ratio for p in matrices], np.arange(len(matrices)), "norms", "gradient / weight")
    if any(p.update_ratio for p in matrices):
        ratios = np.array([p.update_ratio or np.nan for p in matrices])
        fourth.plot(ratios, np.arange(len(matrices)), "s", color=COLOURS[1], ms=4, label="update / weight")
        decades(fourth, np.array([*ratios, *(p.gradient_ratio or np.nan for p in matrices)]))
    fourth.legend(**ABOVE)
    for axis, labels in ((first, names), (second, names), (third, names), (fourth, [short(p.name) for p in matrices])):
        axis.set_yticks(np.arange(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.grid(alpha=0.25, axis="x")
    return figure


def logarithmic(axis: Axes, values: Sequence[float], places: Ndarray, label: str, name: str) -> None:
    """Draw positive numbers on a logarithmic scale; what is 0 is left out, and the label says how many are."""
    shown = np.array([value if value > 0 else np.nan for value in values])
    left = int((~(np.array(values) > 0)).sum())
    axis.plot(shown, places, "o" if name else "o-", color=COLOURS[0], ms=4, linewidth=0.8, label=name)
    axis.set(xlabel=f"{label}{f' ({left} are 0)' if left else ''}")
    decades(axis, shown)


def decades(axis: Axes, values: Ndarray) -> None:
    """Let an axis go from one power of ten to another, so that there are ticks, around numbers above 0 or NaN."""
    if np.isfinite(values).any():
        low, high = np.floor(np.log10(np.nanmin(values))), np.ceil(np.log10(np.nanmax(values)))
        axis.set(xscale="log", xlim=(10.0**low, 10.0 ** max(high, low + 1)))

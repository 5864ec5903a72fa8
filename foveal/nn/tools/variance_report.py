"""What starting values do: the variance of activations and gradients, layer by layer, before anything is trained.

Through a layer with fan-in n whose weights have variance v, the second moment of activations grows by n v, halved by
relu (He et al. 2015, eq. 7-10); backwards fan-out takes n's place (Glorot and Bengio 2010, eq. 5-6). Where the product
over all layers is far from 1, signals vanish or explode, and with them the gradients that training needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foveal.api import Compiled, as_argument
from foveal.autodiff import gradients
from foveal.display import Table, table, text_table
from foveal.errors import DataError, ShapeError
from foveal.handover import check_finite
from foveal.nn.module import Module
from foveal.strides import Ndarray, Shape
from foveal.trace import LayerCall, Symbol, current

# of the normal numbers that stand for the gradient of a loss in the model's output
SEED = 0


@dataclass(frozen=True)
class Activations:
    """Statistics of one layer's output, over all images, channels and positions.

    name, kind: of the layer, and its class. shape: of the output, with the batch. mean, variance: of its values.
    zeros: the share of values that are exactly 0. gradient_variance: of dL / d output, for a loss L whose gradient in
    the model's output is drawn from N(0, 1).
    """

    name: str
    kind: str
    shape: Shape
    mean: float
    variance: float
    zeros: float
    gradient_variance: float


@dataclass(frozen=True, repr=False)
class VarianceReport:
    """A row for each call of a layer that has no layers inside, in the order of the computation; `str` is a table."""

    model: str
    rows: tuple[Activations, ...]

    @property
    def growth(self) -> float:
        """The last layer's variance over the first's."""
        return ratio(self.rows[-1].variance, self.rows[0].variance)

    @property
    def gradient_growth(self) -> float:
        """The variance of the gradient in the first layer's values over that in the last's."""
        return ratio(self.rows[0].gradient_variance, self.rows[-1].gradient_variance)

    def row(self, name: str) -> Activations:
        """Return the first row of the layer with this dotted name. Raises ShapeError where there is none."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(row.name for row in self.rows))
            raise ShapeError(f"the report of {self.model} has no layer {name!r}; it has {known}")
        return found

    def table(self) -> Table:
        """Return the heading, the columns and the rows of the table."""
        rows = [
            (
                f"{r.name} {r.kind}".strip(),
                "x".join(map(str, r.shape[1:])),
                f"{r.mean:.2e}",
                f"{r.variance:.2e}",
                f"{r.zeros:.0%}",
                f"{r.gradient_variance:.2e}",
            )
            for r in self.rows
        ]
        return "", ("layer", "output", "mean", "variance", "zeros", "gradient's variance"), rows

    def note(self) -> str:
        """Return what the table comes to."""
        return (
            f"from the first layer to the last: variance times {self.growth:.2g}; from the last to the first:"
            f" gradient's variance times {self.gradient_growth:.2g}"
        )

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        _, columns, rows = self.table()
        return f"{text_table(columns, rows)}\n\n{self.note()}"

    def _repr_html_(self) -> str:
        _, columns, rows = self.table()
        return table(columns, rows, notes=[self.note()])


def ratio(a: float, b: float) -> float:
    """a / b, and NaN where b is 0."""
    return a / b if b else float("nan")


def variance_report(model: Module, x: ArrayLike) -> VarianceReport:
    """Measure how large the activations of `model`, and their gradients, are on a batch `x`, layer by layer.

    x: [N, ...], as the model takes it. A few dozen images are enough; all activations are held in memory at once. The
    model runs as it is, in training or evaluation mode, and its running statistics stay as they are. Raises DataError
    for an empty batch, NumericsError for NaN in it, ShapeError where the model has no layers or returns several arrays.
    """
    images = as_argument(x, "the batch of variance_report")
    if images.size == 0:
        raise DataError(f"the batch of variance_report is empty (shape {images.shape}); give one image or more")
    check_finite(images, "the batch of variance_report")
    model.name_parameters()
    names = {id(module): name for name, module in model.named_modules()}
    # filled while the model is traced: the calls whose results are measured
    calls: list[LayerCall] = []

    def measured(batch: Symbol, output_gradient: Symbol, key: Symbol) -> list[Symbol]:
        """All layers' results, then the gradients in them."""
        recording = current()
        recording.key = key
        y = model(batch)
        calls[:] = [call for call in leaves(recording.call) if isinstance(call.result, Symbol)]
        if not calls or not isinstance(y, Symbol):
            raise ShapeError(
                f"variance_report takes a model of layers that returns one array; {type(model).__name__} has"
                f" {len(calls)} layer(s) and returned {type(y).__name__}"
            )
        # Without the updates the running statistics stay as they are.
        recording.updates.clear()
        values = [call.result for call in calls]
        return [*values, *gradients(y, values, dy=output_gradient)]

    # the model's output shape, [N, classes]
    shape = model.summary(images.shape[1:], batch=len(images)).rows[0].shape
    output_gradient = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    results = Compiled(measured)(images, output_gradient, np.zeros(4, np.int32))
    rows = [
        measurement(names.get(id(call.layer), ""), call, value, slope)
        for call, value, slope in zip(calls, results[: len(calls)], results[len(calls) :], strict=True)
    ]
    return VarianceReport(type(model).__name__, tuple(rows))


def leaves(call: LayerCall) -> Iterator[LayerCall]:
    """Yield the calls of layers that call no other layers, in their order."""
    inner = [part for part in call.parts if isinstance(part, LayerCall)]
    if not inner and call.layer is not None:
        yield call
    for part in inner:
        yield from leaves(part)


def measurement(name: str, call: LayerCall, value: Ndarray, slope: Ndarray) -> Activations:
    """The row of a layer: name, its call, its values, and the gradient in them, of the same shape."""
    # The squares of small values leave the range of float32.
    wide = value.astype(np.float64)
    return Activations(
        name,
        type(call.layer).__name__,
        value.shape,
        float(wide.mean()),
        float(wide.var()),
        float((value == 0).mean()),
        float(slope.astype(np.float64).var()),
    )

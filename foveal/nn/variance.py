"""What starting values do: the variance of activations and gradients, layer by layer, before anything is trained.

Through a layer with fan_in n whose weights have variance v, the second moment of activations grows by n v, halved by
relu (He et al. 2015, eq. 7-10); backwards fan_out takes n's place (Glorot and Bengio 2010, eq. 5-6). Where the product
over all layers is far from 1, signals vanish or explode, and with them the gradients that training lives on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from foveal.api import Compiled, as_argument, check_finite
from foveal.autodiff import gradients
from foveal.errors import DataError, ShapeError
from foveal.nn.module import Module
from foveal.strides import Ndarray, Shape
from foveal.trace import LayerCall, Symbol, current

SEED = 0  # of the numbers that outputs are weighed with


@dataclass(frozen=True)
class Activations:
    """What one layer gave, over all images, channels and positions.

    zeros: the share of values that are exactly 0. gradient_variance: of d L / d activation, for a loss L whose gradient
    in
    the model's output is drawn from N(0, 1).
    """

    name: str
    kind: str
    shape: Shape
    mean: float
    variance: float
    zeros: float
    gradient_variance: float


@dataclass(frozen=True)
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
        """The first row of that name."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(row.name for row in self.rows))
            raise ShapeError(f"the report of {self.model} has no layer {name!r}; it has {known}")
        return found

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("layer")
        for name in ("output", "mean", "variance", "zeros", "gradient's variance"):
            table.add_column(name, justify="right")
        for r in self.rows:
            table.add_row(
                f"{r.name} {r.kind}".strip(),
                "x".join(map(str, r.shape[1:])),
                f"{r.mean:.2e}",
                f"{r.variance:.2e}",
                f"{r.zeros:.0%}",
                f"{r.gradient_variance:.2e}",
            )
        stream = StringIO()
        Console(file=stream, width=120, highlight=False, color_system=None).print(table)
        lines = [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]
        return "\n".join(
            [
                *lines,
                "",
                f"from the first layer to the last: variance times {self.growth:.2g}; from the last to the first:"
                f" gradient's variance times {self.gradient_growth:.2g}",
            ]
        )


def ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def variance_report(model: Module, x: Any) -> VarianceReport:
    """How large the activations of `model`, and their gradients, are on a batch `x`, layer by layer.

    x: [N, ...], as the model takes it; some dozen images are enough, for all activations are held at once. The model
    runs
    as it is, in training or evaluation mode; its running statistics stay. DataError for an empty batch, NumericsError
    for
    NaN in it, ShapeError where the model has no layers or returns several arrays.
    """
    images = as_argument(x, "the batch of variance_report")
    if images.size == 0:
        raise DataError(f"the batch of variance_report is empty (shape {images.shape})")
    check_finite(images, "the batch of variance_report")
    model.name_parameters()
    names = {id(module): name for name, module in model.named_modules()}
    calls: list[LayerCall] = []

    def measured(batch: Any, weights: Any, key: Any) -> list[Any]:
        recording = current()
        recording.key = key
        y = model(batch)
        calls[:] = [call for call in leaves(recording.call) if isinstance(call.result, Symbol)]
        if not calls or not isinstance(y, Symbol):
            raise ShapeError(
                f"variance_report takes a model of layers that returns one array; {type(model).__name__} has"
                f" {len(calls)} layer(s) and returned {type(y).__name__}"
            )
        recording.updates.clear()  # of running statistics
        values = [call.result for call in calls]
        return [*values, *gradients(y, values, dy=weights)]

    shape = model.summary(images.shape[1:], batch=len(images)).rows[0].shape
    weights = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    found = Compiled(measured)(images, weights, np.zeros(4, np.int32))
    rows = [
        measurement(names.get(id(call.layer), ""), call, value, slope)
        for call, value, slope in zip(calls, found[: len(calls)], found[len(calls) :], strict=True)
    ]
    return VarianceReport(type(model).__name__, tuple(rows))


def leaves(call: LayerCall) -> Iterator[LayerCall]:
    """The calls of layers that call no others."""
    inner = [part for part in call.parts if isinstance(part, LayerCall)]
    if not inner and call.layer is not None:
        yield call
    for part in inner:
        yield from leaves(part)


def measurement(name: str, call: LayerCall, value: Ndarray, slope: Ndarray) -> Activations:
    wide = value.astype(np.float64)  # squares of small values leave float32's range
    return Activations(
        name,
        type(call.layer).__name__,
        value.shape,
        float(wide.mean()),
        float(wide.var()),
        float((value == 0).mean()),
        float(slope.astype(np.float64).var()),
    )

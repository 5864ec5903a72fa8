"""Pictures of what a network has learnt and computes, as Matplotlib figures: filters and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ArgumentError, ShapeError
from foveal.explain.model import modes_restored
from foveal.nn.conv import Convolution, ConvTranspose1d, ConvTranspose2d
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.plotting import blank, short
from foveal.strides import Ndarray, Shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# Pictures at most: of filters, of the channels of one layer, of layers.
MAX_FILTERS, MAX_CHANNELS, MAX_LAYERS = 256, 16, 12
# Inches of one small picture, and pictures in a row at most.
TILE, PER_ROW = 0.62, 16
COLOUR = 3


def plot_filters(layer: Module, name: str | None = None, shape: Sequence[int] | None = None, title: str = "") -> Figure:
    """Return a figure of the filters of a convolution, or of the templates of a fully connected layer.

    layer: a layer, or a network, of which the layer called `name` is drawn, the first convolution if not given. Filters
    [K, 3, R, S] are drawn in colour, zero as grey; of all others each slice [R, S] by itself, on one scale, blue below
    zero and red above: a row for each filter, a column for each channel; of more than 256, those of the first filters,
    which the title says. shape: (C, H, W) of the images that a fully connected layer sees, which it cannot know: then
    each of its rows is drawn as an image. Raises ArgumentError for a layer that has no filters, PackageError without
    Matplotlib.

        nn.plot_filters(net, "features.0").savefig("filters.png")
    """
    found_name, found = found_layer(layer, name)
    weights = filters_of(found, shape)
    K, C, R, S = weights.shape
    in_colour = C == COLOUR
    # Filters that fit into the figure, [n, R, S] or [n, R, S, 3], and how many are in a row.
    if in_colour or C == 1:
        pictures = weights[:MAX_FILTERS].transpose(0, 2, 3, 1)
        columns = min(PER_ROW, ceil(sqrt(len(pictures))))
    else:
        columns = min(C, MAX_FILTERS)
        pictures = weights[: max(1, MAX_FILTERS // columns), :columns].reshape(-1, R, S, 1)
    largest = float(np.abs(weights).max()) or 1.0
    drawn = f", {len(pictures)} slices drawn" if len(pictures) < (K if in_colour or C == 1 else K * C) else ""
    text = f"{found_name} {type(found).__name__}: {K} filters of {C}x{R}x{S}{drawn}".strip()
    figure = blank(*size(len(pictures), columns, bar=True), title or short(text, 70))
    if in_colour:
        tiles(figure, pictures / (2 * largest) + 0.5, columns, 0.0, 1.0, "gray")
    else:
        tiles(figure, pictures, columns, -largest, largest, "RdBu_r", "weight")
    return figure


def found_layer(layer: Module, name: str | None) -> tuple[str, Module]:
    """Return the layer that is meant, and its name: that of the name, or the first one with filters."""
    modules = dict(layer.named_modules())
    if name is not None:
        if name not in modules:
            raise ArgumentError(
                f"plot_filters: {type(layer).__name__} has no layer {name!r}; it has {', '.join(filter(None, modules))}"
            )
        return name, modules[name]
    for found_name, module in modules.items():
        weight = getattr(module, "weight", None)
        if module is layer and len(modules) == 1:
            return found_name, module
        if weight is not None and len(weight.shape) in (3, 4):
            return found_name, module
    raise ArgumentError(
        f"plot_filters: {type(layer).__name__} has no convolution; of a fully connected layer give its name and the"
        " shape of its images, such as shape=(3, 32, 32)"
    )


def filters_of(layer: Module, shape: Sequence[int] | None) -> Ndarray:
    """Return a layer's filters [K, C, R, S]; those of one dimension have R = 1."""
    weight = getattr(layer, "weight", None)
    kind = type(layer).__name__
    if weight is None or len(weight.shape) not in (2, 3, 4):
        raise ArgumentError(f"plot_filters: {kind} has no filters to be drawn; give a convolution, or its name")
    values = np.array(weight.data)
    if isinstance(layer, Linear):
        if shape is None:
            raise ArgumentError(
                "plot_filters: a fully connected layer does not know the images that it sees; give their shape, such as"
                " shape=(3, 32, 32)"
            )
        sizes = tuple(shape)
        if len(sizes) != 3 or prod(sizes) != values.shape[1]:
            raise ShapeError(f"plot_filters: shape is {sizes}, and each row has {values.shape[1]} weights, C * H * W")
        return values.reshape(-1, *sizes)
    # [K, C, S] has one row.
    values = values[:, :, None] if values.ndim == 3 else values
    # Transposed convolutions hold [C, K, R, S].
    return values.swapaxes(0, 1) if isinstance(layer, ConvTranspose1d | ConvTranspose2d) else values


def size(count: int, columns: int, bar: bool = False) -> tuple[float, float]:
    """Return the inches of a figure of so many small pictures. bar: a colour scale stands beside them."""
    return max(4.4, columns * TILE + 0.4) + 1.0 * bar, max(1.6, ceil(count / columns) * TILE + 0.7)


def tiles(
    figure: Figure | SubFigure, pictures: Ndarray, columns: int, low: float, high: float, colours: str, label: str = ""
) -> None:
    """Draw pictures [n, R, S, 1 or 3] next to each other, on one scale, as one image with white lines between them."""
    n, R, S, C = pictures.shape
    rows = ceil(n / columns)
    # NaN, which is drawn as nothing, between the pictures and after the last one.
    gap = max(1, round(max(R, S) / 12))
    sheet = np.full((rows * (R + gap) - gap, columns * (S + gap) - gap, C), np.nan)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (R + gap), i % columns * (S + gap)
        sheet[top : top + R, left : left + S] = picture
    axis = figure.subplots()
    if C == COLOUR:
        # Colours have no NaN: what is transparent is nothing.
        opaque = ~np.isnan(sheet[..., :1])
        sheet = np.concatenate([np.where(opaque, sheet, 0.0), opaque], axis=2)
        axis.imshow(sheet, interpolation="nearest")
    else:
        image = axis.imshow(sheet[..., 0], cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        if label:
            figure.colorbar(image, ax=axis, label=label, shrink=0.8)
    axis.set_axis_off()


def plot_feature_maps(
    net: Module, x: ArrayLike, names: Sequence[str] | None = None, channels: int = MAX_CHANNELS, title: str = ""
) -> Figure:
    """Return a figure of what layers compute for an image: a row for each layer, a picture for each channel.

    x: one image [C, H, W], or a batch [N, C, H, W], of which the first is drawn. names: the layers, by dotted name; all
    that return images if not given; of more than 12 the convolutions, and of these each n-th, which the title says.
    channels: so many of each layer are drawn. Each layer has its own scale, from its lowest value, dark, to its
    highest; both stand above it. A layer without rows and columns, such as the last, is one strip. The network computes
    in evaluation mode, and is left in the mode that it was in. Raises ArgumentError for a name that there is not,
    PackageError without Matplotlib.
    """
    if channels < 1:
        raise ArgumentError(f"plot_feature_maps: channels is {channels}, it has to be 1 or more")
    batch = np.asarray(x)
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim < 2 or not len(batch):
        raise ShapeError(f"plot_feature_maps: x has shape {np.shape(x)}; give one image [C, H, W], or a batch of them")
    batch = batch[:1]
    with modes_restored(net):
        net.eval()
        found = net.activations(batch, names)
    # Of a layer that returned several arrays, or was called several times, the last one.
    values = {k: np.asarray(v[-1] if isinstance(v, list | tuple) else v)[0] for k, v in found.items()}
    if names is None:
        values = {k: v for k, v in values.items() if v.ndim == 3} or values
        # Of many layers the convolutions say most.
        if len(values) > MAX_LAYERS:
            modules = dict(net.named_modules())
            values = {k: v for k, v in values.items() if isinstance(modules[k], Convolution)} or values
    if not values:
        raise ArgumentError(f"plot_feature_maps: {type(net).__name__} has no layers below it; give it as a Sequential")
    every = ceil(len(values) / MAX_LAYERS) if names is None else 1
    chosen = list(values.items())[::every]
    if every > 1 and not title:
        title = f"{len(chosen)} of {len(values)} layers"
    kinds = {name: type(module).__name__ for name, module in net.named_modules()}
    columns = min(channels, max(len(v) if v.ndim == 3 else 1 for _, v in chosen), PER_ROW)
    heights = [1.5 if v.ndim != 3 else ceil(min(len(v), channels) / columns) + 0.6 for _, v in chosen]
    figure = blank(max(5.5, columns * TILE + 1.2), 0.75 * sum(heights) + 0.5 * bool(title), title)
    parts = np.atleast_1d(np.array(figure.subfigures(len(chosen), 1, height_ratios=heights), dtype=object))
    for part, (name, value) in zip(parts, chosen, strict=True):
        drawn = f", {channels} drawn" if value.ndim == 3 and len(value) > channels else ""
        sizes: Shape = value.shape
        span = f"{value.min():.3g} to {value.max():.3g}"
        text = f"{short(name)} {kinds.get(name, '')}: {'x'.join(map(str, sizes))}{drawn}, {span}".strip()
        part.suptitle(text, fontsize=9, x=0.01, ha="left")
        pictures = value[:channels, :, :, None] if value.ndim == 3 else value.reshape(1, 1, -1, 1)
        tiles(part, pictures, columns if value.ndim == 3 else 1, float(value.min()), float(value.max()), "viridis")
        if value.ndim != 3:
            part.axes[0].set_aspect("auto")
    return figure

"""What the views of a network on images have in common: images and classes that are asked for, programs, results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.api import Compiled, as_argument
from foveal.errors import NumericsError, ShapeError
from foveal.explain.model import Model, main_output
from foveal.kinds import shown
from foveal.plotting import png
from foveal.strides import Ndarray
from foveal.trace import LayerCall, Symbol, current
from foveal.watch import own_attributes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]
Classes = NDArray[np.int32]

# What random layers draw from, if there are some that do so in evaluation mode.
KEY = np.zeros(4, np.int32)
# The numbers of images that programs are compiled for: one is quick, and more than the last take several rounds.
ROUNDS = (1, 4, 8, 16)


class Result:
    """Base of what a view has found: arrays as fields, and a figure of them, which a notebook shows.

    A class defines `figure`. All arrays begin with an axis of the images, also where one image was given.
    """

    @property
    def arrays(self) -> dict[str, Ndarray]:
        """The arrays by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def figure(self) -> Figure:
        """Return a figure; each class defines it. Raises PackageError without Matplotlib."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in self.arrays.items())
        return f"{type(self).__name__}({shapes})"

    def _repr_png_(self) -> bytes:
        return png(self.figure())


def images_of(call: str, image: ArrayLike) -> Floats:
    """Return images [N, C, H, W] of one image or a batch; raise ShapeError for other shapes and dtypes."""
    batch = as_argument(image, f"{call}: image")
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim != 4 or not len(batch):
        raise ShapeError(f"{call}: image has shape {np.shape(image)}; give one image [C, H, W] or a batch [N, C, H, W]")
    return batch.astype(np.float32, copy=False)


def chosen_classes(call: str, net: Model, batch: Ndarray, target: ArrayLike | None) -> Classes:
    """Return a class number for each image: the given ones, or those that the network predicts."""
    scores = logits(call, net, batch)
    if target is None:
        return scores.argmax(1).astype(np.int32)
    wanted = np.asarray(target)
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1 or (wanted.ndim and len(wanted) != len(batch)):
        raise ShapeError(
            f"{call}: target has shape {wanted.shape} and dtype {wanted.dtype}; give one class number, or"
            f" one for each of the {len(batch)} images"
        )
    if not ((wanted >= 0) & (wanted < scores.shape[1])).all():
        raise ShapeError(f"{call}: target {wanted.max()} is none of the {scores.shape[1]} classes, which count from 0")
    return np.broadcast_to(wanted, len(batch)).astype(np.int32)


def logits(call: str, net: Model, batch: Ndarray) -> Floats:
    """Return what a classifier in evaluation mode answers, [N, K]."""
    found = in_rounds(lambda x: [first_output(call, net(x))], batch)[0]
    if found.ndim != 2:
        raise ShapeError(f"{call}: the network returned shape {found.shape} for images; it has to be [N, classes]")
    wrong = np.flatnonzero(~np.isfinite(found).all(1))
    if len(wrong):
        raise NumericsError(
            f"{call}: the network returned NaN or infinity for image {wrong[0]} ({len(wrong)} of {len(found)}), so that"
            " there is nothing to be seen; look at its parameters by statistics"
        )
    return found


def first_output(call: str, result: object) -> Ndarray:
    """Return the first array of what a network returned, as `main_output` does of a trace."""
    while isinstance(result, tuple | list) and result:
        result = result[0]
    if result is None or isinstance(result, tuple | list | Mapping):
        raise ShapeError(
            f"{call}: the network returned {shown(result)}; it has to return logits [N, classes], first if there are"
            " others"
        )
    return np.asarray(result)


def in_rounds(function: Callable[..., list[Ndarray]], *arrays: Ndarray) -> list[Ndarray]:
    """Return the results of a function of images, computed for at most ROUNDS[-1] of them at a time.

    Rounds that are not full are filled up with the last image, so that few programs are compiled.
    """
    count = len(arrays[0])
    size = next((size for size in ROUNDS if size >= count), ROUNDS[-1])
    found = []
    for start in range(0, count, size):
        places = np.minimum(np.arange(start, start + size), count - 1)
        found.append([part[: count - start] for part in function(*(array[places] for array in arrays))])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def kept(net: Model, key: Hashable, function: Callable[..., Any]) -> Compiled:
    """Return the function, compiled; it is kept with the network under the key, as programs of its calls are."""
    own: dict[str, Any] = own_attributes(net)
    programs: dict[Hashable, Compiled] = own.setdefault("_views", {})
    if key not in programs:
        programs[key] = Compiled(function)
    return programs[key]


def traced(net: Model, x: Symbol, key: Symbol) -> tuple[Symbol, LayerCall]:
    """Trace the network on x [N, C, H, W]; return its first output, and its call. key: int32 [4]."""
    current().key = key
    net.name_parameters()
    output = main_output(net(x))
    call = current().call.parts[-1]
    assert isinstance(call, LayerCall)
    if output is None:
        raise ShapeError(f"{type(net).__name__} returned no array first, which views look at: it has to be an output")
    return output, call

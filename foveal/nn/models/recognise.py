"""Which model a file of weights belongs to, by the names and shapes of its arrays."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foveal.errors import ShapeError, StateError
from foveal.names import bare
from foveal.nn.init import without_values
from foveal.nn.models.blocks import Size
from foveal.nn.models.registry import MODELS
from foveal.nn.models.weights import same_values, timms_weights, translated, under
from foveal.nn.module import Module
from foveal.nn.stored import COUNTER, State, common_prefix, opened
from foveal.strides import Shape

# models that an error lists
CANDIDATES = 3
# channels of images at most; a file that is damaged may say any number
MAX_CHANNELS = 64


def stored_shapes(path: str | Path) -> dict[str, Shape]:
    """The shapes of the arrays of a safetensors file, by name; the arrays are not read."""
    with opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def recognised(path: str | Path, *, size: Size | None = None) -> tuple[str, int]:
    """Return the name of the model whose weights a safetensors file holds, and the number of channels of its images.

    size: (rows, columns) of the images, on which the shapes of a few models depend; that of the paper if not given. The
    last layer does not count, as it depends on the number of classes. No two models fit the same file, except that
    GoogLeNet takes one with auxiliary classifiers too.

    Raises DataError where there is no such file, StateError that lists the nearest models where none fits.
    """
    stored = stored_shapes(path)
    shares: dict[str, float] = {}
    # the models that the file is called after come first, since each takes some milliseconds
    for name in sorted(MODELS, key=lambda name: bare(name) not in bare(Path(path).stem)):
        shares[name], channels = fit(name, size, stored)
        if shares[name] == 1.0:
            return name, channels
    nearest = sorted(shares, key=lambda name: -shares[name])[:CANDIDATES]
    listed = ", ".join(f"{name} ({shares[name]:.0%} of the entries fit)" for name in nearest if shares[name] > 0)
    images = "" if size is None else f" for images of {size[0]}x{size[1]}"
    raise StateError(
        f"{path}: holds the weights of none of the models here{images}, going by the names and shapes of its"
        f" {len(stored)} arrays; nearest: {listed or 'none has a name in common'}. Models whose weights are read are"
        " listed by print(foveal.nn.models.table())"
    )


def fit(name: str, size: Size | None, stored: Mapping[str, Shape]) -> tuple[float, int]:
    """Return the share of entries in which a model and a file agree, 1 if they fit, and the channels of the images."""
    model = without_memory(name, 3, size)
    # arrays without memory, since what translates names takes arrays
    state: State = {key: np.broadcast_to(np.float32(0), shape) for key, shape in stored.items()}
    names = [key for key, _ in model.named_variables()]
    prefix = common_prefix(list(state), {*names, *timms_weights(model)})
    state = translated(model, {key.removeprefix(prefix): value for key, value in state.items()})[1]
    # the filters of the first convolution, [K, C, R, S], say how many channels C the images have
    first = first_filters(model)
    channels = state[first].shape[1] if first in state and state[first].ndim == 4 else 3
    if channels != 3 and 0 < channels < MAX_CHANNELS:
        model = without_memory(name, channels, size)
    shapes = {key: variable.shape for key, variable in model.named_variables()}
    heads = getattr(model, "heads", ())
    ignorable = (*heads, *getattr(model, "optional", ()))
    needed = {key for key in shapes if not under(key, heads) and not key.endswith(COUNTER)}
    found = {key for key in state if not under(key, ignorable) and not key.endswith(COUNTER)}
    same = {
        key for key in needed & found if state[key].shape == shapes[key] or same_values(state[key].shape, shapes[key])
    }
    return len(same) / max(1, len(needed | found)), channels


@functools.cache
def without_memory(name: str, channels: int, size: Size | None) -> Module:
    """A model of that name, whose parameters have shapes and no values; size: as in `recognised`."""
    entry = MODELS[name]
    rows, columns = entry.image[1:] if size is None else size
    with without_values():
        # too small an image for this model says nothing about the file
        try:
            return entry.build(channels, (rows, columns), 2)
        except ShapeError:
            return entry.build(channels, entry.image[1:], 2)


def first_filters(model: Module) -> str:
    """The name of the filters that see the image: the first parameter with four axes."""
    return next(name for name, variable in model.named_variables() if len(variable.shape) == 4)

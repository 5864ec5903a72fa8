"""What layers for sequences share: a sequence [N, C, L] is computed as an image [N, C, 1, L] of one row.

Conv1d, MaxPool1d and the others whose names end in 1d derive from the layers for images. `as_images` and `as_sequences`
convert the arrays, `one_row` and `one_row_padding` the hyper-parameters.
"""

import numpy as np

from foveal.errors import ShapeError
from foveal.nn.arguments import Pair, Sides, SingleLike
from foveal.ops.op import Tensor


def as_images(layer: str, x: Tensor) -> Tensor:
    """Sequences [N, C, L] as images [N, C, 1, L]. Raise ShapeError, with the layer's name, for other ranks."""
    if len(x.shape) != 3:
        raise ShapeError(f"{layer}: takes sequences [N, C, L], got shape {x.shape}")
    return x.reshape(*x.shape[:2], 1, x.shape[2])


def as_sequences(y: Tensor) -> Tensor:
    """Images [N, C, 1, L] as sequences [N, C, L]."""
    return y.reshape(*y.shape[:2], y.shape[3])


def one_row(value: SingleLike, row: int, what: str) -> Pair:
    """A hyper-parameter of sequences, an int or a tuple of one, as (row, value) for images of one row.

    row: what the rows get, 1 for sizes, strides and dilations, 0 for paddings. what: the name in the ShapeError that is
    raised for anything else.
    """
    items = value if isinstance(value, tuple | list) else (value,)
    if len(items) != 1 or not isinstance(items[0], int | np.integer):
        raise ShapeError(f"{what} is {value!r}, it has to be an int; sequences have one axis")
    return row, items[0]


def one_row_padding(value: SingleLike | Pair, what: str) -> Sides:
    """The padding of sequences as (top, bottom, left, right) of images of one row; above and below nothing is added.

    value: an int or (before, after). what: the name in the ShapeError that is raised for anything else.
    """
    items = value if isinstance(value, tuple | list) else (value,)
    if len(items) not in (1, 2) or not all(isinstance(item, int | np.integer) for item in items):
        raise ShapeError(f"{what} is {value!r}, it has to be an int or (before, after)")
    return 0, 0, items[0], items[-1]

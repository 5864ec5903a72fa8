"""What modules hold: Parameter, which is trained, Buffer, which is not, and Counter."""

from typing import TYPE_CHECKING, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from foveal.kinds import as_flag
from foveal.names import ARRAY_METHODS, missing
from foveal.strides import Ndarray
from foveal.variable import Variable
from foveal.watch import note_read, note_write


class Parameter(Variable):
    """A Variable that optimisers train. trainable = False freezes it; requires_grad is another name for that flag.

    value: the starting values, an array of any shape; they are stored as float32.
    """

    def __init__(self, value: ArrayLike, name: str = "", trainable: bool = True) -> None:
        super().__init__(value, name)
        self.trainable = trainable

    # Type checkers would take every attribute for one that exists.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            # Only what does not exist gets here.
            raise AttributeError(missing(type(self).__name__, name, ARRAY_METHODS), name=name, obj=self)

    @property
    def trainable(self) -> bool:
        """Whether a training step changes it. A step that is compiled already follows a change."""
        note_read(self, "trainable")
        flag: bool = self.__dict__["_trainable"]
        return flag

    @trainable.setter
    def trainable(self, flag: bool) -> None:
        flag = as_flag(flag, f"{self!r}: trainable")
        same = self.__dict__.get("_trainable") is flag
        self.__dict__["_trainable"] = flag
        if not same:
            note_write(self, "trainable")

    @property
    def requires_grad(self) -> bool:
        """PyTorch's name of `trainable`."""
        return self.trainable

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self.trainable = flag

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `trainable`, and return the parameter."""
        self.trainable = requires_grad
        return self


class Buffer(Variable):
    """A Variable that belongs to the state but is not trained, such as running statistics."""


class Counter(Buffer):
    """A whole number, such as the number of batches seen.

    Programs hold it as float32, which counts exactly up to 2^24; `data` gives it as int64.
    """

    def __init__(self) -> None:
        super().__init__(np.zeros(()))

    @property
    def data(self) -> Ndarray:
        return super().data.astype(np.int64)

    @data.setter
    def data(self, value: ArrayLike) -> None:
        self.assign(value)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Ndarray:
        return np.array(self.data, dtype=dtype)

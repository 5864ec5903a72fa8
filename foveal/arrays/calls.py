"""The operators by name, and whether this thread records them."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from foveal.strides import Shape

# Calls of operators by name. The operators enter themselves; ops/op.py has the same dictionary as OPS.
CALLS: dict[str, Callable[..., Any]] = {}


class HasShape(Protocol):
    """Anything with a shape: a Tensor, a Variable, a NumPy array."""

    @property
    def shape(self) -> Shape: ...


# What an operator is called on: traced values and variables while a function is traced, else NumPy arrays; or numbers.
Operand = HasShape | float


class Recorded(threading.local):
    """What records the operators that this thread calls; see ops/op.py."""

    recording: Any = None


RECORDED = Recorded()


def is_recording() -> bool:
    """True while this thread traces a function: operators give Tensors then, and NumPy arrays elsewhere."""
    return RECORDED.recording is not None

"""Calls of operators without a kernel: while a program runs, their numpy() is called in Python, between native calls.

The native threads are not in a program meanwhile, so that numpy() may do what it likes: raise, be interrupted, fork,
run other programs.
"""

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.errors import warn
from foveal.ops.op import Operator
from foveal.ops.own import checked_result
from foveal.strides import Ndarray

# the operators of which a warning has said that they run in Python
_told: "weakref.WeakSet[Operator]" = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class PythonCall:
    """An operator, and the attributes that its numpy() is called with."""

    op: Operator
    attributes: Mapping[str, Any]

    def run(self, y: Ndarray, inputs: Sequence[Ndarray]) -> None:
        """Write into y what numpy() returns for copies of the inputs. Raises what numpy() raises."""
        copies = [np.array(x, order="C") for x in inputs]
        started = time.perf_counter()
        try:
            # What cannot be computed is NaN or infinite, as in kernels.
            with np.errstate(all="ignore"):
                found = self.op.numpy(*copies, **self.attributes)
        except Exception as error:
            error.add_note(f"raised by numpy() of the operator {self.op}, which a program called")
            raise
        seconds = time.perf_counter() - started
        with np.errstate(all="ignore"):
            y[...] = checked_result(self.op, found, y.shape, copies)
        self.tell(seconds, y)

    def tell(self, seconds: float, y: Ndarray) -> None:
        """Warn, once for each operator, that it runs in Python, and say what that costs."""
        if self.op in _told or self.op.between_shards:
            return
        _told.add(self.op)
        warn(
            f"the operator {self.op} has no kernel, so programs call its numpy() in Python, {seconds * 1e3:.2g} ms for"
            f" shape {list(y.shape)} just now, while native threads wait. A kernel is native and fused with its"
            " neighbours: derive from ops.Pointwise and define scalar(self, x), or define kernel(self, y, x), see"
            " help(foveal.ops.Pointwise) and examples/own_kernel.py"
        )

"""Values through which no gradient goes."""

from typing import Any

from foveal.ops.op import Case, HasShape, Operator, Type
from foveal.strides import Ndarray, Shape


class StopGradient(Operator):
    """y = x, of x's shape, whose gradient is 0: what is computed with y takes x as given

    For targets that a network computes itself. PyTorch's detach, JAX's stop_gradient. x may be integers. A view.
    """

    name, arity, view, differentiable = "stop_gradient", 1, True, False
    cases = (Case(((3, 4),), smooth=False), Case(((2, 3, 4, 5),), smooth=False))

    def normalise(self, x: HasShape) -> dict[str, Any]:
        return {}

    def type(self, *inputs: Type, **attributes: Any) -> Type:
        return inputs[0]

    def shape(self, x: Shape) -> Shape:
        return x

    def view_strides(self, x: Shape, strides: Shape) -> Shape:
        return strides

    def numpy(self, x: Ndarray) -> Ndarray:
        return x


stop_gradient = StopGradient()

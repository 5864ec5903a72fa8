"""Stochastic gradient descent, with momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013, equations 3 and 4).

As PyTorch defines them, so that recipes carry over: the rate stands outside of the velocity.
"""

from typing import ClassVar, Unpack

from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.optim.hyper import BELOW_ONE, NUMBER, ParameterGroup, Parameters, Range
from foveal.optim.optimizer import CommonOptions, Optimizer, TracedState
from foveal.optim.scalars import TracedScalars


class SGD(Optimizer, name="sgd"):
    """p <- p - lr g"""

    default_lr = 0.2

    # All others by name: PyTorch's third argument is a momentum, which optim.Momentum has.
    def __init__(self, parameters: Parameters, lr: float, **common: Unpack[CommonOptions]) -> None:
        super().__init__(parameters, lr, **common)

    def takes_share(self, group: ParameterGroup) -> bool:
        return True

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        return p - now["lr"] * g, {}


class Momentum(Optimizer, name="momentum"):
    """v <- mu v + (1 - dampening) g;  p <- p - lr v.  With nesterov: p <- p - lr (g + mu v)

    The first step takes g without dampening, as PyTorch's does.
    """

    default_lr = 0.02
    state_names: ClassVar[tuple[str, ...]] = ("velocity",)
    ranges: dict[str, Range] = {"momentum": BELOW_ONE, "dampening": NUMBER}
    static: tuple[str, ...] = ("nesterov",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        dampening: float = 0.0,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.momentum, self.dampening, self.nesterov = float(momentum), float(dampening), nesterov
        if nesterov and dampening:
            raise ShapeError(
                f"{type(self).__name__}: Nesterov's momentum is defined without dampening, which is {dampening:g};"
                " set it to 0, or use plain momentum"
            )
        super().__init__(parameters, lr, **common)

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        scale = 1.0 if step == 1 else 1.0 - group["dampening"]
        return {"lr": group["lr"], "momentum": group["momentum"], "scale": scale}

    def takes_share(self, group: ParameterGroup) -> bool:
        return True

    def structure(self) -> tuple[object, ...]:
        return super().structure() + tuple(bool(group["dampening"]) for group in self.groups)

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        dampened = g * now["scale"] if group["dampening"] else g
        v = now["momentum"] * state["velocity"] + dampened
        direction = g + now["momentum"] * v if group["nesterov"] else v
        return p - now["lr"] * direction, {"velocity": v}


class Nesterov(Momentum, name="nesterov"):
    """v <- mu v + g;  p <- p - lr (g + mu v)"""

    def __init__(
        self, parameters: Parameters, lr: float, momentum: float = 0.9, **common: Unpack[CommonOptions]
    ) -> None:
        super().__init__(parameters, lr, momentum, nesterov=True, **common)

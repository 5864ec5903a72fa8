"""Stochastic gradient descent, with momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013, equations 3 and 4).

As PyTorch defines them, so that recipes carry over: the rate stands outside of the velocity.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

from foveal.errors import ShapeError
from foveal.optim.hyper import BELOW_ONE, NUMBER, Group, Range
from foveal.optim.optimizer import Common, Lifted, Optimizer


class SGD(Optimizer):
    """p <- p - lr g"""

    def update(self, p: Any, g: Any, state: dict[str, Any], now: Lifted, group: Group) -> tuple[Any, dict[str, Any]]:
        return p - now["lr"] * g, {}


class Momentum(Optimizer):
    """v <- mu v + (1 - dampening) g;  p <- p - lr v.  With nesterov: p <- p - lr (g + mu v)

    The first step takes all of g, as PyTorch's does.
    """

    state_names: ClassVar[tuple[str, ...]] = ("velocity",)
    ranges: ClassVar[dict[str, Range]] = {"momentum": BELOW_ONE, "dampening": NUMBER}
    static: ClassVar[tuple[str, ...]] = ("nesterov",)

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        dampening: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        self.momentum, self.dampening, self.nesterov = float(momentum), float(dampening), nesterov
        if nesterov and dampening:
            raise ShapeError(
                f"{type(self).__name__}: Nesterov's momentum is defined without dampening, which is {dampening:g};"
                " set it to 0, or use plain momentum"
            )
        super().__init__(parameters, lr, **common)

    def values(self, step: int, group: Group) -> dict[str, float]:
        take = 1.0 if step == 1 else 1.0 - group["dampening"]
        return {"lr": group["lr"], "momentum": group["momentum"], "take": take}

    def structure(self) -> tuple[Any, ...]:
        return super().structure() + tuple(bool(group["dampening"]) for group in self.groups)

    def update(self, p: Any, g: Any, state: dict[str, Any], now: Lifted, group: Group) -> tuple[Any, dict[str, Any]]:
        taken = g * now["take"] if group["dampening"] else g
        v = now["momentum"] * state["velocity"] + taken
        ahead = g + now["momentum"] * v if group["nesterov"] else v
        return p - now["lr"] * ahead, {"velocity": v}


class Nesterov(Momentum):
    """v <- mu v + g;  p <- p - lr (g + mu v)"""

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.9, **common: Unpack[Common]) -> None:
        super().__init__(parameters, lr, momentum, nesterov=True, **common)

"""Stochastic gradient descent, with momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013).

As PyTorch defines them, so that recipes carry over.
"""

from collections.abc import Iterable
from typing import Any

from foveal.graph import Variable
from foveal.optim.optimizer import Optimizer


class SGD(Optimizer):
    """p <- p - lr g"""

    def update(
        self, p: Any, g: Any, state: dict[str, Any], now: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return p - now["lr"] * g, {}


class Momentum(Optimizer):
    """v <- mu v + g;  p <- p - lr v.  With nesterov: p <- p - lr (g + mu v)"""

    state_names = ("velocity",)
    scalar_names = ("lr", "momentum")

    def __init__(
        self, parameters: Iterable[Variable], lr: float, momentum: float = 0.9, nesterov: bool = False,
        weight_decay: float = 0.0, decoupled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr, weight_decay, decoupled)
        self.check("momentum", momentum, 0 <= momentum < 1)
        self.momentum, self.nesterov = float(momentum), nesterov

    def values(self, step: int) -> dict[str, float]:
        return {"lr": self.lr, "momentum": self.momentum}

    def update(
        self, p: Any, g: Any, state: dict[str, Any], now: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        v = now["momentum"] * state["velocity"] + g
        ahead = g + now["momentum"] * v if self.nesterov else v
        return p - now["lr"] * ahead, {"velocity": v}

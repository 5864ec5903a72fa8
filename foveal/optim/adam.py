"""Adam (Kingma and Ba 2015, algorithm 1), in PyTorch's form."""

from collections.abc import Iterable
from typing import Any

from foveal import ops
from foveal.graph import Variable
from foveal.optim.optimizer import Optimizer


class Adam(Optimizer):
    """m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  p <- p - lr mhat / (sqrt(vhat) + eps)

    mhat = m / (1 - b1^t), vhat = v / (1 - b2^t). With decoupled weight decay this is AdamW.
    """

    state_names = ("mean", "square")
    scalar_names = ("lr", "rate", "spread")

    def __init__(
        self, parameters: Iterable[Variable], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr, weight_decay, decoupled)
        for beta in betas:
            self.check("betas", beta, 0 <= beta < 1)
        self.check("eps", eps, eps > 0)
        self.betas, self.eps = betas, eps

    def values(self, step: int) -> dict[str, float]:
        b1, b2 = self.betas
        return {"lr": self.lr, "rate": self.lr / (1 - b1**step), "spread": (1 - b2**step) ** -0.5}

    def update(
        self, p: Any, g: Any, state: dict[str, Any], now: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        b1, b2 = self.betas
        m = state["mean"] * b1 + g * (1 - b1)
        v = state["square"] * b2 + g * g * (1 - b2)
        return p - now["rate"] * m / (ops.sqrt(v) * now["spread"] + self.eps), {
            "mean": m,
            "square": v,
        }

"""Lookahead: k steps forward, one step back (Zhang et al. 2019, algorithm 1)."""

from typing import Any

from foveal import ops
from foveal.errors import ShapeError
from foveal.optim.combined import Wrapper
from foveal.optim.optimizer import Update


class Lookahead(Wrapper):
    """Every k steps of the inner optimiser: slow <- slow + alpha (p - slow);  p <- slow. At first slow = p.

        step = foveal.compile_step(net, loss, optim.Lookahead(optim.SGD(net.parameters(), lr=0.1)))

    The inner optimiser's state is left as it is at that moment, as in the paper's experiments.
    """

    def __init__(self, inner: Update, k: int = 5, alpha: float = 0.5) -> None:
        if not isinstance(k, int) or k < 1:
            raise ShapeError(f"Lookahead: k is {k!r}, it has to be a whole number of 1 or more")
        if not 0 < alpha <= 1:
            raise ShapeError(f"Lookahead: alpha is {alpha}, it has to be more than 0 and at most 1")
        self.k, self.alpha = k, float(alpha)
        super().__init__(inner)

    def begin(self) -> None:
        super().begin()
        self.scalars.set("first", self.steps == 1)
        self.scalars.set("alpha", self.alpha)
        self.scalars.set("back", self.steps % self.k == 0)

    def follow(self, old: Any, new: Any, copy: Any) -> tuple[Any, Any]:
        now = self.scalars.lifted()
        slow = ops.where(now["first"], old, copy)
        slow = ops.where(now["back"], slow + now["alpha"] * (new - slow), slow)
        return ops.where(now["back"], slow, new), slow

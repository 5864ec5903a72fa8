"""Lookahead: k steps forward, one step back (Zhang et al. 2019, algorithm 1)."""

from collections.abc import Iterable
from typing import Any

from foveal import ops
from foveal.errors import ShapeError
from foveal.kinds import Steps
from foveal.ops.op import Tensor
from foveal.optim.combined import Wrapper
from foveal.optim.hyper import Parameters
from foveal.optim.optimizer import UpdateRule
from foveal.optim.sgd import Nesterov
from foveal.variable import Variable


class Lookahead(Wrapper, name="lookahead"):
    """Every k steps of the inner optimiser: slow <- slow + alpha (p - slow);  p <- slow. At first slow = p.

        step = foveal.compile_step(net, loss, optim.Lookahead(optim.SGD(net.parameters(), lr=0.1)))

    The inner optimiser's state is left as it is at that moment, as in the paper's experiments. What the algorithm
    returns are the slow weights: `averaged()` puts them into the model for testing, `swap()` for good. alpha may follow
    a schedule, `optimizer.schedule(alpha=...)`; `schedule.lookahead` is one. statistics: what goes back beside the
    parameters, such as the running statistics of batch norms, net.buffers().
    """

    default_lr = 0.05

    @classmethod
    def build(cls, parameters: Parameters, **options: Any) -> UpdateRule:
        """Return Lookahead around Nesterov's momentum, which takes the options."""
        return cls(Nesterov(parameters, **options))

    def __init__(
        self, inner: UpdateRule, k: Steps = 5, alpha: float = 0.5, statistics: Iterable[Variable] = ()
    ) -> None:
        if not isinstance(k, int) or k < 1:
            raise ShapeError(f"Lookahead: k is {k!r}, it has to be a whole number of 1 or more")
        self.k, self.alpha = k, float(alpha)
        super().__init__(inner, statistics)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "alpha" and not 0 < value <= 1:
            raise ShapeError(f"Lookahead: alpha is {value}, it has to be more than 0 and at most 1")
        super().__setattr__(name, value)

    def begin(self) -> None:
        super().begin()
        self.scalars.set("first", self.steps == 1)
        self.scalars.set("alpha", self.alpha)
        self.scalars.set("back", self.steps % self.k == 0)

    def follow(self, old: Tensor, new: Tensor, copy: Tensor) -> tuple[Tensor, Tensor]:
        now = self.scalars.traced()
        # The copy holds the slow weights, from the second step on.
        slow = ops.where(now["first"], old, copy)
        slow = ops.where(now["back"], slow + now["alpha"] * (new - slow), slow)
        return ops.where(now["back"], slow, new), slow

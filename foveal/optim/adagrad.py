"""Rates that adapt to each element's gradients: Adagrad (Duchi et al. 2011) and RMSprop (Tieleman and Hinton 2012).

Both are written in PyTorch's form.
"""

from collections.abc import Mapping
from typing import ClassVar, Unpack

from foveal import ops
from foveal.kinds import FLOAT32_MAX
from foveal.ops.op import Tensor
from foveal.optim.hyper import BELOW_ONE, DECAY, POSITIVE, ParameterGroup, Parameters, Range
from foveal.optim.optimizer import CommonOptions, Optimizer, TracedState
from foveal.optim.scalars import TracedScalars


class Adagrad(Optimizer, name="adagrad"):
    """s <- s + g^2;  p <- p - lr / (1 + (t-1) lr_decay) g / (sqrt(s) + eps)

    Duchi et al. 2011, figure 1 with a diagonal matrix. initial_accumulator: s before the first step.
    """

    default_lr = 0.02
    state_names: ClassVar[tuple[str, ...]] = ("sum",)
    ranges: dict[str, Range] = {"lr_decay": DECAY}
    static: tuple[str, ...] = ("eps",)
    fixed_ranges: Mapping[str, Range] = {"eps": POSITIVE}

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        initial_accumulator: float = 0.0,
        eps: float = 1e-10,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.check("initial_accumulator", initial_accumulator, DECAY)
        self.lr_decay, self.eps = float(lr_decay), float(eps)
        self.initial_accumulator = float(initial_accumulator)
        super().__init__(parameters, lr, **common)

    def initial_value(self, name: str) -> float:
        return self.initial_accumulator

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        rate = group["lr"] / (1 + (step - 1) * group["lr_decay"])
        return {"lr": group["lr"], "rate": rate}

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        # Many squares may be more than float32 holds; with an infinite sum the parameter would never move again.
        total = ops.minimum(state["sum"] + g * g, FLOAT32_MAX)
        return p - now["rate"] * g / (ops.sqrt(total) + group["eps"]), {"sum": total}


class RMSprop(Optimizer, name="rmsprop"):
    """s <- alpha s + (1-alpha) g^2;  p <- p - lr g / (sqrt(s) + eps)

    Tieleman and Hinton 2012, slide 29. centered: s - mean(g)^2, the variance, in place of s (Graves 2013, equations 38
    to 45). momentum: v <- mu v + g / (sqrt(s) + eps);  p <- p - lr v.
    """

    default_lr = 1e-3
    ranges: dict[str, Range] = {"momentum": BELOW_ONE, "alpha": BELOW_ONE}
    static: tuple[str, ...] = ("eps", "centered")
    fixed_ranges: Mapping[str, Range] = {"eps": POSITIVE}

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.alpha, self.eps, self.momentum = float(alpha), float(eps), float(momentum)
        self.centered = centered
        super().__init__(parameters, lr, **common)

    def states(self, group: ParameterGroup) -> tuple[str, ...]:
        mean = ("mean",) if group["centered"] else ()
        return ("square", *mean, *(("velocity",) if group["momentum"] else ()))

    def structure(self) -> tuple[object, ...]:
        return super().structure() + tuple(bool(group["momentum"]) for group in self.groups)

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        alpha = group["alpha"]
        return {"lr": group["lr"], "momentum": group["momentum"], "alpha": alpha, "1-alpha": 1 - alpha}

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        new = {"square": state["square"] * now["alpha"] + g * g * now["1-alpha"]}
        spread = new["square"]
        if group["centered"]:
            new["mean"] = state["mean"] * now["alpha"] + g * now["1-alpha"]
            # Rounding may make the variance negative, and its root NaN.
            spread = ops.maximum(spread - new["mean"] * new["mean"], 0.0)
        step = g / (ops.sqrt(spread) + group["eps"])
        if group["momentum"]:
            step = new["velocity"] = state["velocity"] * now["momentum"] + step
        return p - now["lr"] * step, new

"""LAMB: Adam with a rate per layer, for large batches (You et al. 2020, algorithm 2)."""

from typing import Unpack

from foveal import ops
from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.optim.adam import Moments
from foveal.optim.hyper import DECAY, ParameterGroup, Parameters
from foveal.optim.optimizer import CommonOptions, TracedState
from foveal.optim.scalars import TracedScalars
from foveal.trace import current


class LAMB(Moments, name="lamb"):
    """u = mhat / (sqrt(vhat) + eps) + lambda p;  p <- p - lr phi(|p|) / |u| u

    |.| is the norm over all of a parameter; where |p| or |u| is 0, the ratio is 1. phi(z) = min(max(z, low), high) with
    `bounds` = (low, high), else phi(z) = z. adapt: False, e.g. for a group of biases and norms, for a ratio of 1.
    Weight decay, lambda, is part of u.
    """

    default_lr = 0.01
    static: tuple[str, ...] = ("eps", "bounds", "adapt")
    decays = False

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        bounds: tuple[float, float] | None = None,
        adapt: bool = True,
        **common: Unpack[CommonOptions],
    ) -> None:
        check_bounds(bounds)
        if common.get("decoupled"):
            raise ShapeError("LAMB: weight decay is part of its update; leave `decoupled` out")
        self.bounds, self.adapt = bounds, adapt
        super().__init__(parameters, lr, betas, eps, **common)

    def takes_share(self, group: ParameterGroup) -> bool:
        # Where the rate adapts, the update is as long as the rate says, whatever its parts are.
        return not group["adapt"]

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        b1, b2 = group["betas"]
        corrected = {"unbias": 1 / (1 - b1**step), "spread": (1 - b2**step) ** -0.5}
        return super().values(step, group) | corrected

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        new = self.moments(g, state, now)
        spread = ops.sqrt(new["square"]) * now["spread"] + group["eps"]
        u = now["unbias"] * new["mean"] / spread
        if group["weight_decay"]:
            u = u + now["weight_decay"] * p
        return p - now["lr"] * self.trust_ratio(p, u, group) * u, new

    def trust_ratio(self, p: Tensor, u: Tensor, group: ParameterGroup) -> Tensor | float:
        """Return phi(|p|) / |u|, a scalar."""
        if not group["adapt"]:
            return 1.0
        p_norm, u_norm = ops.sqrt(ops.sum(p * p)), ops.sqrt(ops.sum(u * u))
        current().require_finite("the norm of a parameter", p_norm)
        current().require_finite("the norm of an update", u_norm)
        if group["bounds"] is not None:
            check_bounds(group["bounds"])
            low, high = group["bounds"]
            p_norm = ops.minimum(ops.maximum(p_norm, low), high)
        # A norm of 0 is false for `where`.
        ratio = ops.where(p_norm, ops.where(u_norm, p_norm / u_norm, 1.0), 1.0)
        # A small update of a large parameter has a ratio that float32 cannot hold.
        current().require_finite("the trust ratio of an update", ratio)
        return ratio


def check_bounds(bounds: tuple[float, float] | None) -> None:
    """Raise ShapeError unless the bounds of a norm are None or (low, high)."""
    if bounds is not None and not (bounds[0] in DECAY and bounds[0] < bounds[1]):
        raise ShapeError(
            f"LAMB: bounds is {bounds}, it has to be (low, high) with 0 <= low < high, and low below {DECAY.high:g}"
        )

"""Muon: momentum whose matrix is made orthogonal before it is applied.

Jordan et al. 2024, kellerjordan.github.io/posts/muon.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Unpack

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.optim.adam import AdamW
from foveal.optim.combined import Combined
from foveal.optim.hyper import (
    BELOW_ONE,
    POSITIVE,
    GroupOptions,
    ParameterGroup,
    Parameters,
    Range,
    descriptions,
    variables,
)
from foveal.optim.optimizer import CommonOptions, Optimizer, TracedState, UpdateRule
from foveal.optim.scalars import TracedScalars
from foveal.trace import current

# r for filters or a matrix of that many rows and columns, by the name of `adjust`.
RATIOS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}
# a, b, c of the polynomial, chosen by Jordan et al. for a steep slope at 0.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Far more than the singular values of a matrix that is nearly orthogonal.
LARGEST_VALUE = 1e3


def orthogonal(x: Tensor, steps: int, coefficients: tuple[float, float, float], eps: float) -> Tensor:
    """Return about U V^T for the matrix x = U S V^T [rows, columns], by Newton-Schulz iteration of degree five.

    x <- x / |x|, then `steps` times  x <- a x + (b A + c A A) x  with A = x x^T, which brings all singular values
    close to 1 (into 0.7 .. 1.2). If x has more rows than columns, x <- a x + x (b A + c A A) with the smaller
    A = x^T x.
    """
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    norm = ops.sqrt(ops.sum(x * x))
    # An infinite norm would scale x to 0.
    current().require_finite("the norm of an update", norm)
    x = x / ops.maximum(norm, eps)
    for _ in range(steps):
        gram = ops.matmul(x, x, ta=tall, tb=not tall)
        gram = gram * b + ops.matmul(gram, gram) * c
        x = x * a + (ops.matmul(x, gram) if tall else ops.matmul(gram, x))
    return x


def check_iteration(steps: int, coefficients: tuple[float, float, float]) -> None:
    """Raise ShapeError for numbers of steps outside of 1 to 99, and for coefficients that lead away from 1.

    Each singular value s goes its own way, s <- a s + b s^3 + c s^5, from between 0 and 1; rounding adds a little.
    """
    if not 1 <= steps < 100:
        raise ShapeError(f"Muon: ns_steps is {steps}, it has to be from 1 to 99")
    a, b, c = coefficients
    s = np.linspace(0.0, 1.01, 10001)
    for _ in range(steps):
        s = np.clip(a * s + b * s**3 + c * s**5, -LARGEST_VALUE, LARGEST_VALUE)
    if abs(s).max() >= LARGEST_VALUE:
        raise ShapeError(
            f"Muon: with coefficients {tuple(coefficients)} and ns_steps {steps} singular values grow beyond"
            f" {LARGEST_VALUE:g} instead of close to 1; take the default, {COEFFICIENTS}"
        )


class Muon(Optimizer, name="muon"):
    """v <- mu v + g;  u = v, or with nesterov g + mu v;  p <- p - lr r orthogonal(u)

    For matrices [K, ...], filters [K, C, R, S] as [K, C R S]; other parameters belong to another optimiser, see `muon`.
    r = sqrt(max(1, K / columns)); with adjust="match_rms_adamw" 0.2 sqrt(max(K, columns)), for AdamW's rates (Liu et
    al. 2025, equation 4). Weight decay is decoupled.
    """

    default_lr = 0.02
    state_names: ClassVar[tuple[str, ...]] = ("velocity",)
    ranges: dict[str, Range] = {"momentum": BELOW_ONE}
    fixed_ranges: Mapping[str, Range] = {"eps": POSITIVE}
    static: tuple[str, ...] = ("nesterov", "coefficients", "eps", "ns_steps", "adjust")

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        adjust: str = "original",
        **common: Unpack[CommonOptions],
    ) -> None:
        if adjust not in RATIOS:
            raise ShapeError(f"Muon: adjust {adjust!r} is not one of {', '.join(RATIOS)}")
        check_iteration(ns_steps, coefficients)
        self.momentum, self.nesterov, self.ns_steps = float(momentum), nesterov, ns_steps
        self.coefficients, self.eps, self.adjust = tuple(coefficients), eps, adjust
        # Weight decay is decoupled unless the caller says otherwise.
        options: CommonOptions = {"decoupled": True, **common}
        super().__init__(parameters, lr, **options)
        for p in self.parameters:
            if len(p.shape) < 2:
                raise ShapeError(
                    f"Muon: parameter {p.name} {list(p.shape)} is no matrix, and only matrices can be made orthogonal;"
                    " optim.muon(net.parameters(), lr) gives such parameters to AdamW"
                )

    @classmethod
    def build(cls, parameters: Parameters, **options: Any) -> UpdateRule:
        """Return Muon for matrices and filters, and AdamW for the rest; see `muon`."""
        return muon(parameters, **options)

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        return {"lr": group["lr"], "momentum": group["momentum"]}

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        v = now["momentum"] * state["velocity"] + g
        direction = g + now["momentum"] * v if group["nesterov"] else v
        rows, columns = p.shape[0], math.prod(p.shape[1:])
        # [K, C, R, S] as [K, C R S]
        check_iteration(group["ns_steps"], group["coefficients"])
        matrix = orthogonal(direction.reshape(rows, columns), group["ns_steps"], group["coefficients"], group["eps"])
        ratio = RATIOS[group["adjust"]](rows, columns)
        return p - now["lr"] * (matrix.reshape(*p.shape) * ratio), {"velocity": v}


def of_axes(group: GroupOptions, wanted: Callable[[int], bool]) -> GroupOptions:
    """Return a group with those of its parameters whose number of axes is wanted; Muon refuses one without any."""
    if "params" not in group:
        return group
    return {**group, "params": [p for p in variables("muon", group["params"]) if wanted(len(p.shape))]}


def muon(
    parameters: Parameters,
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    rest_lr: float | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> Combined:
    """Return Muon for all matrices and filters, and AdamW for the other parameters (biases, norms).

    rest_lr: AdamW's rate, a tenth of `lr` unless given. A schedule of lr drives both. clip_norm, clip_value: as in
    Optimizer, of all gradients together.
    """
    groups = descriptions(parameters)
    matrices = [of_axes(group, lambda axes: axes > 1) for group in groups]
    others = [of_axes(group, lambda axes: axes <= 1) for group in groups]
    rest_lr = lr / 10 if rest_lr is None else rest_lr
    parts: list[Optimizer] = [Muon(matrices, lr, momentum, weight_decay=weight_decay)]
    if any(group.get("params") for group in others):
        parts.append(AdamW(others, rest_lr, weight_decay=weight_decay))
    return Combined(*parts, clip_norm=clip_norm, clip_value=clip_value)

"""Muon: momentum whose matrix is made orthogonal before it is applied.

Jordan et al. 2024, kellerjordan.github.io/posts/muon.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Unpack

from foveal import ops
from foveal.errors import ShapeError
from foveal.optim.adam import AdamW
from foveal.optim.combined import Combined
from foveal.optim.hyper import BELOW_ONE, POSITIVE, Group, Range
from foveal.optim.optimizer import Common, Lifted, Optimizer
from foveal.variable import Variable

RATIOS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # chosen by Jordan et al. for a steep slope at 0


def orthogonal(x: Any, steps: int, coefficients: tuple[float, float, float], eps: float) -> Any:
    """About U V^T, where x = U S V^T, a matrix [rows, columns]: Newton-Schulz with a polynomial of degree five

    x <- x / |x|, then `steps` times  x <- a x + (b A + c A A) x  with A = x x^T, which pulls all singular values
    towards 1
    (into 0.7 .. 1.2). Where x has more rows than columns, x <- a x + x (b A + c A A) with the smaller A = x^T x.
    """
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x / ops.maximum(ops.sqrt(ops.sum(x * x)), eps)
    for _ in range(steps):
        gram = ops.matmul(x, x, ta=tall, tb=not tall)
        gram = gram * b + ops.matmul(gram, gram) * c
        x = x * a + (ops.matmul(x, gram) if tall else ops.matmul(gram, x))
    return x


class Muon(Optimizer):
    """v <- mu v + g;  u = v, or with nesterov g + mu v;  p <- p - lr r orthogonal(u)

    For matrices [K, ...], filters [K, C, R, S] as [K, C R S]; other parameters belong to another optimiser, see `muon`.
    r = sqrt(max(1, K / columns)); with adjust="match_rms_adamw" 0.2 sqrt(max(K, columns)), for AdamW's rates (Liu et
    al.
    2025, equation 4). Weight decay is decoupled.
    """

    state_names: ClassVar[tuple[str, ...]] = ("velocity",)
    ranges: ClassVar[dict[str, Range]] = {"momentum": BELOW_ONE}
    static: ClassVar[tuple[str, ...]] = ("nesterov", "coefficients", "eps", "ns_steps", "adjust")

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        adjust: str = "original",
        **common: Unpack[Common],
    ) -> None:
        self.check("eps", eps, POSITIVE)
        if adjust not in RATIOS:
            raise ShapeError(f"Muon: adjust {adjust!r} is not one of {', '.join(RATIOS)}")
        if not 1 <= ns_steps < 100:
            raise ShapeError(f"Muon: ns_steps is {ns_steps}, it has to be from 1 to 99")
        self.momentum, self.nesterov, self.ns_steps = float(momentum), nesterov, ns_steps
        self.coefficients, self.eps, self.adjust = tuple(coefficients), eps, adjust
        options: Common = {"decoupled": True, **common}
        super().__init__(parameters, lr, **options)
        for p in self.parameters:
            if len(p.shape) < 2:
                raise ShapeError(
                    f"Muon: parameter {p.name} {list(p.shape)} is no matrix, and only matrices can be made orthogonal;"
                    " optim.muon(net.parameters(), lr) gives such parameters to AdamW"
                )

    def values(self, step: int, group: Group) -> dict[str, float]:
        return {"lr": group["lr"], "momentum": group["momentum"]}

    def update(self, p: Any, g: Any, state: dict[str, Any], now: Lifted, group: Group) -> tuple[Any, dict[str, Any]]:
        v = now["momentum"] * state["velocity"] + g
        ahead = g + now["momentum"] * v if group["nesterov"] else v
        rows, columns = p.shape[0], math.prod(p.shape[1:])
        matrix = ahead.reshape(rows, columns)
        made = orthogonal(matrix, group["ns_steps"], group["coefficients"], group["eps"])
        ratio = RATIOS[group["adjust"]](rows, columns)
        return p - now["lr"] * (made.reshape(*p.shape) * ratio), {"velocity": v}


def muon(
    parameters: Iterable[Variable],
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.0,
    rest_lr: float | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> Combined:
    """Muon for all matrices and filters, AdamW for the other parameters (biases, norms) with the rate `rest_lr`.

    rest_lr is a tenth of `lr` unless given. A schedule of lr drives both.
    """
    parameters = list(parameters)
    matrices = [p for p in parameters if len(p.shape) > 1]
    others = [p for p in parameters if len(p.shape) <= 1]
    rest_lr = lr / 10 if rest_lr is None else rest_lr
    parts: list[Optimizer] = [Muon(matrices, lr, momentum, weight_decay=weight_decay)]
    if others:
        parts.append(AdamW(others, rest_lr, weight_decay=weight_decay))
    return Combined(*parts, clip_norm=clip_norm, clip_value=clip_value)

"""Adam (Kingma and Ba 2015, algorithm 1), AdamW and NAdam, in PyTorch's form."""

from collections.abc import Mapping
from typing import ClassVar, Unpack

from foveal import ops
from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.optim.hyper import BELOW_ONE, POSITIVE, ParameterGroup, Parameters, Range
from foveal.optim.optimizer import CommonOptions, Optimizer, TracedState
from foveal.optim.scalars import TracedScalars


class Moments(Optimizer):
    """Base of optimisers that keep the first two moments of the gradient, each as an exponential average:

    m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  mhat = m / (1 - b1^t);  vhat = v / (1 - b2^t)
    """

    default_lr = 2e-3
    state_names: ClassVar[tuple[str, ...]] = ("mean", "square")
    ranges: dict[str, Range] = {"betas": BELOW_ONE}
    static: tuple[str, ...] = ("eps",)
    fixed_ranges: Mapping[str, Range] = {"eps": POSITIVE}

    def __init__(
        self, parameters: Parameters, lr: float, betas: tuple[float, float], eps: float, **common: Unpack[CommonOptions]
    ) -> None:
        if len(betas) != 2:
            raise ShapeError(f"{type(self).__name__}: betas is {betas}, it has to be two numbers")
        self.betas, self.eps = (float(betas[0]), float(betas[1])), float(eps)
        super().__init__(parameters, lr, **common)

    @property
    def momentum(self) -> float:
        """The first of the betas, under the name that schedules of momentum use."""
        return self.betas[0]

    @momentum.setter
    def momentum(self, value: float) -> None:
        self.betas = value, self.betas[1]

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        b1, b2 = group["betas"]
        return {"lr": group["lr"], "b1": b1, "1-b1": 1 - b1, "b2": b2, "1-b2": 1 - b2}

    def moments(self, g: Tensor, state: TracedState, now: TracedScalars) -> TracedState:
        """Return m and v after this step, under the names "mean" and "square"."""
        return {
            "mean": state["mean"] * now["b1"] + g * now["1-b1"],
            "square": state["square"] * now["b2"] + g * g * now["1-b2"],
        }


class Adam(Moments, name="adam"):
    """p <- p - lr mhat / (sqrt(vhat) + eps). With decoupled weight decay this is AdamW.

    bias_correction: False for mhat = m and vhat = v. amsgrad: the largest v so far in place of v (Reddi et al. 2018,
    algorithm 2).
    """

    static: tuple[str, ...] = ("eps", "bias_correction", "amsgrad")

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        bias_correction: bool = True,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.amsgrad, self.bias_correction = amsgrad, bias_correction
        super().__init__(parameters, lr, betas, eps, **common)

    def states(self, group: ParameterGroup) -> tuple[str, ...]:
        return (*self.state_names, "largest") if group["amsgrad"] else self.state_names

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        b1, b2 = group["betas"] if group["bias_correction"] else (0.0, 0.0)
        # With the corrections taken out of the arrays: rate = lr / (1 - b1^t), spread = 1 / sqrt(1 - b2^t).
        corrected = {"rate": group["lr"] / (1 - b1**step), "spread": (1 - b2**step) ** -0.5}
        return super().values(step, group) | corrected

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        new = self.moments(g, state, now)
        square = new["square"]
        if group["amsgrad"]:
            square = new["largest"] = ops.maximum(state["largest"], square)
        spread = ops.sqrt(square) * now["spread"] + group["eps"]
        return p - now["rate"] * new["mean"] / spread, new


class AdamW(Adam, name="adamw"):
    """Adam with decoupled weight decay, p <- p - lr lambda p (Loshchilov and Hutter 2019, algorithm 2).

    weight_decay is 0.01 unless given.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        bias_correction: bool = True,
        **common: Unpack[CommonOptions],
    ) -> None:
        options: CommonOptions = {"decoupled": True, "weight_decay": 1e-2, **common}
        super().__init__(parameters, lr, betas, eps, amsgrad, bias_correction, **options)


class NAdam(Moments, name="nadam"):
    """Adam with Nesterov's momentum (Dozat 2016, algorithm 2 with the momentum of section 3):

    mu_t = b1 (1 - 0.96^(t psi) / 2);  M_t = mu_1 ... mu_t
    p <- p - lr ((1-mu_t) / (1-M_t) g + mu_(t+1) / (1-M_(t+1)) m) / (sqrt(vhat) + eps)

    psi is `momentum_decay`.
    """

    ranges: dict[str, Range] = {"betas": BELOW_ONE, "momentum_decay": POSITIVE._replace(exclusive=False)}

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum_decay: float = 4e-3,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.momentum_decay = float(momentum_decay)
        # For each psi the products M_0, M_1, ... without the powers of b1, as far as they were needed.
        self.products: dict[float, list[float]] = {}
        super().__init__(parameters, lr, betas, eps, **common)

    def product(self, psi: float, step: int) -> float:
        """Return the product of 1 - 0.96^(t psi) / 2 for t from 1 to `step`."""
        products = self.products.setdefault(psi, [1.0])
        while len(products) <= step:
            products.append(products[-1] * (1 - 0.5 * 0.96 ** (len(products) * psi)))
        return products[step]

    def values(self, step: int, group: ParameterGroup) -> dict[str, float]:
        (b1, b2), psi, lr = group["betas"], group["momentum_decay"], group["lr"]
        # mu_t and mu_(t+1), then M_t and M_(t+1)
        mu, next_mu = (b1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in (step, step + 1))
        product, next_product = (b1**t * self.product(psi, t) for t in (step, step + 1))
        return super().values(step, group) | {
            "gradient": lr * (1 - mu) / (1 - product),
            "mean": lr * next_mu / (1 - next_product),
            "spread": (1 - b2**step) ** -0.5,
        }

    def update(
        self, p: Tensor, g: Tensor, state: TracedState, now: TracedScalars, group: ParameterGroup
    ) -> tuple[Tensor, TracedState]:
        new = self.moments(g, state, now)
        spread = ops.sqrt(new["square"]) * now["spread"] + group["eps"]
        return p - (now["gradient"] * g + now["mean"] * new["mean"]) / spread, new

"""Averages of the parameters over the steps, which often test better than the last ones.

The training step's program updates them; `averaged()` puts them into the model for testing, `swap()` for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from foveal.api import Compiled
from foveal.errors import ShapeError
from foveal.kinds import Steps
from foveal.nn.module import Module
from foveal.ops.op import Tensor
from foveal.optim.combined import Wrapper
from foveal.optim.hyper import BELOW_ONE
from foveal.optim.optimizer import UpdateRule
from foveal.strides import Ndarray
from foveal.structure import call_on
from foveal.variable import Variable


class Average(Wrapper):
    """Base of averages of the parameters: a <- a + w (p - a) after each step.

    w is `weight(number)`, where `number` counts the steps that are averaged, from 1; w = 0 leaves a step out.
    statistics: variables that are averaged as parameters are; whole numbers among them stay as they are.
    """

    def number(self) -> int:
        """Return the number of the present step among those that are averaged, from 1; 0 if it is left out."""
        return self.steps

    def weight(self, number: int) -> float:
        """Return w for the step of that number, from 2; the first has weight 1."""
        raise NotImplementedError

    def begin(self) -> None:
        super().begin()
        number = self.number()
        self.scalars.set("weight", (1.0 if number == 1 else self.weight(number)) if number else 0.0)

    def follow(self, old: Tensor, new: Tensor, copy: Tensor) -> tuple[Tensor, Tensor]:
        return new, copy + self.scalars.traced()["weight"] * (new - copy)


class EMA(Average):
    """Exponential moving average: a <- decay a + (1 - decay) p after every step; at first a = p.

    Polyak and Juditsky 1992. statistics: what is averaged beside the parameters, the running statistics of batch norms:
    those of the last steps belong to the last parameters, and not to an average of them, unless the rate is low.

    average = optim.EMA(optim.Adam(net.parameters()), decay=0.999, statistics=net.buffers())
    step = foveal.compile_step(net, loss, average)
    ...
    with average.averaged():
        evaluate(net)
    """

    def __init__(self, inner: UpdateRule, decay: float = 0.999, statistics: Iterable[Variable] = ()) -> None:
        if decay not in BELOW_ONE:
            raise ShapeError(f"EMA: decay is {decay}, it has to be {BELOW_ONE}")
        self.decay = float(decay)
        super().__init__(inner, statistics)

    def weight(self, number: int) -> float:
        return 1 - self.decay


class SWA(Average):
    """Stochastic weight averaging: the mean of the parameters after every `every` steps from step `start` on.

    Izmailov et al. 2018, algorithm 1: with a constant or cyclical rate in that part of the run, and with the steps of
    an epoch, or of a cycle, for `every`. The running statistics of batch norms do not belong to the averages: use
    `update_bn` inside of `averaged()`.
    """

    def __init__(self, inner: UpdateRule, start: Steps = 0, every: Steps = 1) -> None:
        if start < 0 or every < 1:
            raise ShapeError(f"SWA: start is {start} and every is {every}; they have to be at least 0 and at least 1")
        self.start, self.every = start, every
        super().__init__(inner)

    def count(self) -> int:
        return max(0, self.steps - self.start) // self.every

    def number(self) -> int:
        past = self.steps - self.start
        return past // self.every if past > 0 and past % self.every == 0 else 0

    def weight(self, number: int) -> float:
        return 1 / number


def update_bn(net: Module, batches: Iterable[Ndarray | tuple[Any, object]]) -> None:
    """Set the running statistics of batch norms to the mean of those of the batches, as torch.optim.swa_utils does.

    batches: images x [N, C, H, W], or pairs (x, labels), where x may be several inputs in a tuple or a dict. All should
    have one shape, as each shape is compiled. Raises ShapeError if there are none. After an error the statistics are as
    they were.
    """
    # Several kinds of layers keep running statistics; they have these names in common.
    norms: list[Any] = [m for _, m in net.named_modules() if hasattr(m, "running_mean")]
    if not norms:
        return
    modes = [(m, m.training) for _, m in net.named_modules()]
    momenta = [m.momentum for m in norms]
    statistics = [v for m in norms for v in (m.running_mean, m.running_var, m.num_batches_tracked)]
    before = [np.array(v.data) for v in statistics]
    # Sums over the batches, in double precision: [C] for each norm.
    means = [np.zeros(m.running_mean.shape) for m in norms]
    variances = [np.zeros(m.running_var.shape) for m in norms]
    count = 0
    try:
        net.train()
        net.name_parameters()
        # With momentum 1 the running statistics are those of the last batch alone.
        for m in norms:
            m.momentum = 1.0
        forward = Compiled(net.keyed)
        for batch in batches:
            x = batch[0] if isinstance(batch, tuple | list) else batch
            count += 1
            # The key of random operators: (seed, seed, step, step).
            key = np.array([0, 0, count, 0], np.int32)
            call_on(lambda *inputs, key=key, **named: forward(*inputs, key, **named), x)
            for i, m in enumerate(norms):
                means[i] += m.running_mean.data
                variances[i] += m.running_var.data
    except BaseException:
        # What one batch had left is the mean of nothing.
        for v, value in zip(statistics, before, strict=True):
            v.data = value
        raise
    finally:
        # The network gets its momenta and modes back, also after an error.
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        for m, mode in modes:
            m.training = mode
    if count == 0:
        raise ShapeError("update_bn: there are no batches to take the statistics of")
    for m, mean, variance in zip(norms, means, variances, strict=True):
        m.running_mean.data, m.running_var.data = mean / count, variance / count
        m.num_batches_tracked.data = count

"""Normalisation."""

from typing import Any

import numpy as np

from foveal import ops
from foveal.nn.module import Buffer, Module, Parameter, check_positive
from foveal.trace import current


class BatchNorm2d(Module):
    """y = weight (x - mean) / sqrt(var + eps) + bias per channel; statistics of the batch in training, running ones else

    running = (1 - momentum) running + momentum batch, with the unbiased variance, as PyTorch does. x [N, C, ...].
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        check_positive("BatchNorm2d", num_features=num_features)
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))
        self.num_batches_tracked = Buffer(np.zeros((), np.int64))

    def forward(self, x: Any) -> Any:
        if not self.training:
            return ops.batch_norm_inference(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        y = ops.batch_norm(x, self.weight, self.bias, eps=self.eps)
        moments, count = ops.channel_moments(x), float(np.prod(x.shape) / x.shape[1])
        self.follow(self.running_mean, moments[0])
        self.follow(self.running_var, moments[1] * (count / (count - 1.0)))
        return y

    def follow(self, running: Buffer, value: Any) -> None:
        recording = current()
        old = recording.lift(running)
        recording.assign(running, old * (1.0 - self.momentum) + value * self.momentum)

    def describe(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"

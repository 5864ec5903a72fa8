"""A network is trained with Foveal and with PyTorch, from the same weights on the same batches; losses are compared.

The optimiser is SGD with momentum at a constant rate, after WARM_UP steps at a tenth of it. Both runs are the same
mathematics rounded differently, and training amplifies rounding: at a rate of 0.1 single losses differ by a few per
cent after thirty steps, as they do between PyTorch's own two memory formats. So means are compared.

This file is imported only to compare; it needs PyTorch.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

import foveal
from foveal import nn, optim
from foveal.bench import against_torch, torch_models
from foveal.bench.timing import CHANNELS_LAST
from foveal.data import Dataset, Loader, augmentation
from foveal.nn import models
from foveal.strides import Ndarray

MOMENTUM = 0.9
# Steps at a tenth of the rate: with starting weights a full rate makes the loss jump.
WARM_UP = 10

# (images, labels, learning rate) -> loss of one training step.
TrainStep = Callable[[Ndarray, Ndarray, float], float]


def foveal_step(net: nn.Module, threads: int) -> TrainStep:
    """Return a training step of `net` in Foveal."""
    optimizer = optim.Momentum(net.parameters(), lr=0.1, momentum=MOMENTUM)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads=threads)

    def train(x: Ndarray, labels: Ndarray, lr: float) -> float:
        """Do one step on a batch; return its loss."""
        optimizer.lr = lr
        return float(step(x, labels).loss)

    return train


def torch_step(net: torch.nn.Module, state: Mapping[str, Ndarray]) -> TrainStep:
    """Return the same step of `net` in PyTorch, channels last, from the parameters `state`."""
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    # PyTorch's types lack this argument.
    net = net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=MOMENTUM)

    def train(x: Ndarray, labels: Ndarray, lr: float) -> float:
        """Do one step on a batch; return its loss."""
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        output = net(against_torch.tensor(x, CHANNELS_LAST))
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(labels))
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
        return float(loss.detach())

    return train


def curves(
    data: Dataset,
    *,
    model: str = "resnet20",
    batch_size: int = 128,
    lr: float = 0.1,
    augment: str | None = None,
    seed: int = 0,
    threads: int = 2,
) -> Iterator[tuple[float, float]]:
    """Yield the losses of (Foveal, PyTorch) step by step, epoch after epoch, without an end."""
    # Two networks, one set of batches.
    classes = len(data.classes)
    net = models.build(model, channels=data.channels, size=data.size, classes=classes, seed=seed)
    twin = torch_models.build(model, channels=data.channels, size=data.size, classes=classes)
    loader = Loader(
        data.images_train,
        data.y_train,
        batch_size,
        mean=data.mean,
        std=data.std,
        seed=seed,
        shuffle=True,
        drop_last=True,
        augment=augmentation(augment, data.size),
    )
    # PyTorch starts from the weights that Foveal drew.
    ours, theirs = foveal_step(net, threads), torch_step(twin, net.state_dict())
    step = epoch = 0
    while True:
        for x, labels in loader.epoch(epoch):
            rate = lr if step >= WARM_UP else lr / 10
            with against_torch.session(threads, gradients=True):
                losses = ours(x, labels, rate), theirs(x, labels, rate)
            yield losses
            step += 1
        epoch += 1


def means(losses: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the mean loss of Foveal, that of PyTorch, and their difference as a share of PyTorch's."""
    ours, theirs = np.mean(losses, axis=0).tolist()
    return ours, theirs, ours / theirs - 1


def rows(losses: Iterator[tuple[float, float]], steps: int, every: int) -> Iterator[tuple[int, float, float, float]]:
    """Train for a number of steps; yield the step and the means of `every` steps: both losses, and their difference."""
    recent: list[tuple[float, float]] = []
    for step in range(1, steps + 1):
        recent.append(next(losses))
        if step % every == 0 or step == steps:
            yield step, *means(recent)
            recent = []


def table(losses: Iterator[tuple[float, float]], steps: int, every: int) -> Iterator[str]:
    """Train for a number of steps; yield a heading, and a line for the means of `every` steps."""
    yield f"{'step':>7} {'foveal':>9} {'torch':>9} {'difference':>11}"
    for step, ours, theirs, difference in rows(losses, steps, every):
        yield f"{step:7} {ours:9.4f} {theirs:9.4f} {difference:+11.2%}"

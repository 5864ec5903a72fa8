"""Train a network with Foveal and with PyTorch, from the same weights on the same batches, and print both losses.

usage: python bench/loss_curve.py DATA [--model resnet20] [--epochs 1] [--batch-size 128] [--lr 0.1] [--every 50] ...

DATA is what `foveal train` takes. The optimiser is SGD with momentum at a constant rate, after WARM_UP steps at a tenth
of it. The two are the same mathematics rounded differently, and training amplifies rounding: at a rate of 0.1 single
losses are a few per cent apart after thirty steps, as they are between PyTorch's own two memory formats. So means are
compared.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import foveal
from foveal import nn, optim
from foveal.data import Dataset, Loader, augmentation, load
from foveal.errors import FovealError
from foveal.nn import models

try:
    from foveal.bench import against_torch
except ModuleNotFoundError:
    raise SystemExit("loss_curve: PyTorch is not installed; pip install -e '.[compare]'") from None

MOMENTUM = 0.9
WARM_UP = 10  # at a tenth of the rate: starting weights and a full rate throw the loss about

Train = Callable[[Any, Any, float], float]  # (images, labels, learning rate) -> loss


def with_foveal(net: nn.Module, threads: int) -> Train:
    optimizer = optim.Momentum(net.parameters(), lr=0.1, momentum=MOMENTUM)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads=threads)

    def train(x: Any, labels: Any, lr: float) -> float:
        optimizer.lr = lr
        return float(step(x, labels).loss)

    return train


def with_torch(net: Any, state: dict[str, Any]) -> Train:
    """The same step in PyTorch, channels last. `net` has the parameter names of `state`."""
    torch, mode = against_torch.torch, against_torch.CHANNELS_LAST
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    net = net.train().to(memory_format=against_torch.FORMATS[mode])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=MOMENTUM)

    def train(x: Any, labels: Any, lr: float) -> float:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        output = net(against_torch.tensor(x, mode))
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(labels))
        loss.backward()
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
    """The losses of (Foveal, PyTorch) step by step, epoch after epoch, without an end."""
    classes = len(data.classes)
    net = models.build(model, channels=data.channels, size=data.size, classes=classes, seed=seed)
    twin = against_torch.MODELS[model](data.x_train[:1], classes)
    loader = Loader(
        data.x_train,
        data.y_train,
        batch_size,
        mean=data.mean,
        std=data.std,
        seed=seed,
        shuffle=True,
        drop_last=True,
        augment=augmentation(augment, data.size),
    )
    ours, theirs = with_foveal(net, threads), with_torch(twin, net.state_dict())
    step = epoch = 0
    while True:
        for x, labels in loader.epoch(epoch):
            rate = lr if step >= WARM_UP else lr / 10
            with against_torch.session(threads, gradients=True):
                pair = ours(x, labels, rate), theirs(x, labels, rate)
            yield pair
            step += 1
        epoch += 1


def means(losses: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Foveal's mean loss, PyTorch's, and how far the first lies above the second, as a share of it."""
    ours, theirs = np.mean(losses, axis=0).tolist()
    return ours, theirs, ours / theirs - 1


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(list(against_torch.MODELS)), default="resnet20")
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--lr", type=float, default=0.1, show_default=True)
@click.option("--augment", type=click.Choice(["shift", "crop+flip"]))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--every", type=click.IntRange(min=1), default=50, show_default=True, help="Steps a line, averaged.")
def main(data: Path, epochs: int, every: int, **how: Any) -> None:
    """Train with Foveal and with PyTorch on DATA and print both losses, each the mean of --every steps."""
    try:
        dataset = load(data)
    except FovealError as error:
        raise click.ClickException(str(error)) from None
    steps = epochs * (len(dataset.x_train) // how["batch_size"])
    both = curves(dataset, **how)
    click.echo(f"{dataset}; {steps} steps of {how['batch_size']} images")
    click.echo(f"{'step':>7} {'foveal':>9} {'torch':>9} {'difference':>11}")
    recent: list[tuple[float, float]] = []
    for step in range(1, steps + 1):
        recent.append(next(both))
        if step % every == 0 or step == steps:
            ours, theirs, apart = means(recent)
            click.echo(f"{step:7} {ours:9.4f} {theirs:9.4f} {apart:+11.2%}")
            recent = []


if __name__ == "__main__":
    main()

"""foveal train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveal.cli.options import POSITIVE, Name, threads_option


@click.command()
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--epochs", type=POSITIVE, help="Passes through the training images.")
@click.option("--batch-size", type=POSITIVE, help="Images per step.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate; with one-cycle at its peak.")
@click.option("--optimizer", type=Name("foveal.optim"), help="Rule of the update.")
@click.option(
    "--schedule", type=Name("foveal.optim.schedule"), help="How the rate changes over the run.  [default: one-cycle]"
)
@click.option(
    "--momentum",
    type=click.FloatRange(0, 1, max_open=True),
    help="Momentum; Adam's first beta.  [default: the optimizer's]",
)
@click.option(
    "--momentum-low",
    type=click.FloatRange(0, 1, max_open=True),
    help="Cycle the momentum against the rate, down to this at its peak.",
)
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Weight decay.")
@click.option(
    "--clip-norm", type=click.FloatRange(min=0, min_open=True), help="Largest norm of all gradients together."
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    help="Test and keep the moving average of the parameters with this decay, e.g. 0.999.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of weights, order, augmentation and dropout.",
)
@threads_option
@click.option(
    "--memory",
    type=click.Choice(["fast", "low"]),
    default="fast",
    show_default=True,
    help="low: compute cheap values again for the gradients instead of keeping them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model, the log and the metrics.  [default: runs/<data>]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(data: str, out: Path | None, **options: Any) -> None:
    """Train a network on DATA.

    DATA is `digits`, a folder of MNIST or Fashion-MNIST IDX files, a folder of CIFAR-10's or
    CIFAR-100's binary version, or an .npz file with x_train, y_train, x_test and y_test. What is
    not given is chosen by the size of the images. An older run in the same folder is kept: its
    files move to earlier-1 (earlier-2, ...) inside it.
    """
    from foveal.data.readers import load
    from foveal.train.loop import train as run

    dataset = load(data)
    run(dataset, out=out or Path("runs") / dataset.name, **options)

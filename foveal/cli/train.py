"""foveal train and foveal tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveal.cli.options import POSITIVE, Name, json_option, threads_option


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


@click.command()
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--optimizer", type=Name("foveal.optim"), help="Rule of the update.")
@click.option("--batch-size", type=POSITIVE, help="Images per step.  [default: measured]")
@click.option("--epochs", type=POSITIVE, help="Of the training that is to follow.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="As for train.")
@threads_option
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds that it may take, more or less.",
)
@click.option("--steps", type=POSITIVE, help="Of each short run.  [default: by the budget]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the numbers and the picture.  [default: runs/<data>/tune]",
)
@json_option
def tune(data: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Find learning rate, batch size, momentum and weight decay for DATA.

    By L. N. Smith's method (arXiv:1803.09820): a range test of the rate, the speed of batches, and
    short runs that are compared on training images held out for it. Prints what was found, why, and
    the command that trains with it; tune.json holds all numbers, tune.png shows them where
    matplotlib is installed. Speeds are measured, so another run may find something else; with
    --batch-size and --steps the same seed finds the same.
    """
    from foveal.data.readers import load
    from foveal.train.tune import save
    from foveal.train.tune import tune as run

    def tell(line: str) -> None:
        click.echo(line, err=as_json)

    dataset = load(data)
    found = run(dataset, tell=tell, **options)
    command = found.command(data)
    written = save(found, out or Path("runs") / dataset.name / "tune", command)
    if as_json:
        click.echo(written[0].read_text(encoding="utf-8"), nl=False)
        return
    click.echo(f"{found.seconds:.0f} s in all; see {' and '.join(map(str, written))}")
    if len(written) == 1:
        click.echo("There is no picture, as matplotlib is not installed: pip install 'foveal[plot]'")
    click.echo(f"Train with:\n\n    {command}\n")

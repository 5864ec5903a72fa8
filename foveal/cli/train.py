"""foveal train."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.calibrate import finish
from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.folders_options import folder_options, read_data
from foveal.cli.options import (
    ABOVE_ZERO,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    DataCommand,
    Name,
    echo,
    json_option,
    show_json,
    threads_option,
)

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset


@click.command(cls=DataCommand)
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--epochs", type=POSITIVE, help="Passes through the training images.  [default: by image size]")
@click.option("--batch-size", type=POSITIVE, help="Images per step.  [default: by image size]")
@click.option(
    "--lr",
    type=ABOVE_ZERO,
    help="Learning rate; the highest one if the schedule is one-cycle.  [default: by image size or optimizer]",
)
@click.option("--optimizer", type=Name("foveal.optim"), help="How parameters are updated.  [default: by image size]")
@click.option(
    "--schedule",
    type=Name("foveal.optim.schedule"),
    help="How the learning rate changes over the run.  [default: one-cycle]",
)
@click.option("--momentum", type=FRACTION, help="Momentum, or Adam's first beta.  [default: the optimizer's]")
@click.option(
    "--momentum-low",
    type=FRACTION,
    help="Cycle the momentum against the learning rate, down to this value where the rate is highest.",
)
@click.option("--weight-decay", type=NOT_NEGATIVE, help="Weight decay.  [default: by image size]")
@click.option("--clip-norm", type=ABOVE_ZERO, help="Scale all gradients together so that their norm is at most this.")
@click.option(
    "--ema",
    type=FRACTION,
    help="Test and store an exponential moving average of the parameters with this decay, e.g. 0.999.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of starting weights, order of images, augmentation and dropout.",
)
@threads_option
@click.option(
    "--memory",
    type=click.Choice(["fast", "low"]),
    default="fast",
    show_default=True,
    help="low: compute cheap values again for the gradients instead of storing them.",
)
@click.option(
    "--accumulate",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Batches per update: their gradients are added up, as of one larger batch.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model, the log and the metrics.  [default: runs/<data>]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--compile-only", is_flag=True, help="Fill the kernel cache with what this run needs, and end.")
@folder_options
@data_dir_option
@json_option
def train(
    data: str, out: Path | None, as_json: bool, compile_only: bool, images: dict[str, Any], **options: Any
) -> None:
    """Train a network on DATA.

    Options that are not given are chosen by the size of the images. An older run in the same folder is kept: its files
    move to earlier-1 (earlier-2, ...) inside it.

    --json prints what metrics.json holds, with "out", the folder, and "log", the lines of log.jsonl. With
    --compile-only: "programs", each with its kernels, "compiled", "from_cache", "seconds" and "kept".
    """
    from foveal.kernel.runtime import prepare

    # while the data are read
    prepare()
    from foveal.train.loop import train as run

    dataset = read_data(data, images, quiet=options["quiet"], err=as_json)
    if compile_only:
        show_compiled(dataset, as_json, options)
        return
    folder = out or Path("runs") / dataset.name
    # The JSON has standard output to itself.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        run(dataset, out=folder, **options)
        finish(folder, dataset)
    if as_json:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        show_json({**metrics, "out": str(folder), "log": [json.loads(line) for line in log]})


def show_compiled(dataset: Dataset, as_json: bool, options: dict[str, Any]) -> None:
    """Compile what a run needs, and say what that was."""
    from foveal.train.compile_only import compile_only
    from foveal.train.settings import Options

    quiet = options.pop("quiet")
    made = compile_only(dataset, Options(**options))
    if as_json:
        show_json(made.as_json())
    elif not quiet:
        echo(str(made))

"""foveal tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.options import ABOVE_ZERO, POSITIVE, SEED, DataCommand, Name, echo, json_option, threads_option


@click.command(cls=DataCommand)
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option(
    "--optimizer",
    type=Name("foveal.optim"),
    help="How parameters are updated.  [default: by network and number of the images]",
)
@click.option("--batch-size", type=POSITIVE, help="Images per step.  [default: measured]")
@click.option(
    "--epochs",
    type=POSITIVE,
    help="Epochs of the training that will use the result.  [default: by image size and number]",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed, as for foveal train.")
@threads_option
@click.option(
    "--budget", type=ABOVE_ZERO, default=120.0, show_default=True, help="Seconds that this should take, about."
)
@click.option(
    "--workers",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Processes that make short runs side by side, each with its share of the cores, or with --threads.",
)
@click.option("--steps", type=POSITIVE, help="Training steps of each short run.  [default: as the budget allows]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the numbers and the picture.  [default: runs/<data>/tune]",
)
@data_dir_option
@json_option
def tune(data: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Find learning rate, batch size, momentum and weight decay for DATA.

    The method is L. N. Smith's (arXiv:1803.09820): a range test of the learning rate, the speed of several batch sizes,
    and short runs that are compared on training images held out for this. Prints what was chosen, what it was compared
    with, and the command that trains with it. tune.json holds all numbers; tune.png shows them if matplotlib is
    installed. Speeds are measured, so another run may choose differently; with --batch-size and --steps the same seed
    always gives the same result, with any number of workers and threads.

    --workers 4 makes up to four short runs at once, in processes of their own, so that more or longer ones fit into the
    budget; each holds a network. Range tests and speeds take all cores, as the training does.

    --json prints what tune.json holds: "command", the choices ("lr", "batch_size", "momentum", "momentum_low",
    "weight_decay", "steps"), and what they were chosen from ("range_test", "speeds", "rates", "momenta", "decays").
    """
    from foveal.data.readers import load
    from foveal.train.tune import save
    from foveal.train.tune import tune as run

    def report(line: str) -> None:
        # JSON goes to stdout alone, so that it can be piped.
        echo(line, err=as_json)

    dataset = load(data)
    findings = run(dataset, report=report, **options)
    command = findings.command(data)
    written = save(findings, out or Path("runs") / dataset.name / "tune", command)
    if as_json:
        click.echo(written[0].read_text(encoding="utf-8"), nl=False)
        return
    echo(f"{findings.seconds:.0f} s in all; see {' and '.join(map(str, written))}")
    if len(written) == 1:
        echo("There is no picture, as matplotlib is not installed: pip install 'foveal[plot]'")
    echo(f"Train with:\n\n    {command}\n")

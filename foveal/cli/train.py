"""foveal train."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.augment_options import augment_options, tta_of_run_option
from foveal.cli.calibrate import finish
from foveal.cli.data import check_before, check_option
from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.folders_options import expected_by, folder_options, learned_before, read_data
from foveal.cli.options import (
    ABOVE_ZERO,
    COUNT_LIMIT,
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
from foveal.cli.ranks_options import ranks_of_job, ranks_options
from foveal.cli.recipes_options import RATE, recipe_options
from foveal.cli.report_options import Reporting, report_options
from foveal.cli.resume_options import Call, call_of, resume_options
from foveal.cli.weights_options import weights_options
from foveal.errors import warn

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset
    from foveal.data.scanning.image_files import ImageFiles
    from foveal.distributed import Ranks


@click.command(cls=DataCommand)
@click.argument("data", required=False)
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--epochs", type=POSITIVE, help="Passes through the images.  [default: by their size and number]")
@click.option("--batch-size", type=POSITIVE, help="Images per step.  [default: by size and number of the images]")
@click.option(
    "--lr",
    type=RATE,
    help="Learning rate; the highest one if the schedule is one-cycle. auto: by a range test before the run.  [default:"
    " by image size and number, or optimizer]",
)
@click.option(
    "--optimizer",
    type=Name("foveal.optim"),
    help="How parameters are updated.  [default: by network and number of the images]",
)
@click.option(
    "--schedule",
    type=Name("foveal.optim.schedule"),
    help="How the learning rate changes over the run.  [default: by preset, else one-cycle]",
)
@click.option("--momentum", type=FRACTION, help="Momentum, or Adam's first beta.  [default: the optimizer's]")
@click.option(
    "--momentum-low",
    type=FRACTION,
    help="Cycle the momentum against the learning rate, down to this value where the rate is highest.",
)
@click.option("--weight-decay", type=NOT_NEGATIVE, help="Weight decay.  [default: by image size and number]")
@click.option("--clip-norm", type=ABOVE_ZERO, help="Scale all gradients together so that their norm is at most this.")
@click.option(
    "--ema",
    type=FRACTION,
    help="Test and store an exponential moving average of the parameters with this decay, e.g. 0.999; of 0 it is the"
    " parameters themselves.  [default: by preset, network and number of the images]",
)
@click.option(
    "--lookahead",
    type=FRACTION,
    help="Every 5 steps the parameters go back to a moving average, whose decay per step grows to this, e.g. 0.95.",
)
@click.option(
    "--norm-bias-lr",
    type=ABOVE_ZERO,
    help="Rate of the biases of batch norms, as a multiple of the others' rate.  [default: by preset, else 1]",
)
@click.option(
    "--whiten",
    type=click.IntRange(0, COUNT_LIMIT),
    help="The first layer whitens patches of the training images; its bias is trained in so many epochs.  [default: by"
    " preset; 0 leaves it out]",
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
@ranks_options
@augment_options
@tta_of_run_option
@weights_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model, the log and the metrics.  [default: runs/<data>]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@report_options
@click.option("--compile-only", is_flag=True, help="Fill the kernel cache with what this run needs, and end.")
@recipe_options
@folder_options
@resume_options
@check_option
@data_dir_option
@json_option
def train(
    data: str | None,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    compile_only: bool,
    images: dict[str, Any],
    checked: bool,
    rank_timeout: float | None,
    elastic: bool,
    **options: Any,
) -> None:
    """Train a network on DATA, or go on with a run: foveal train --resume RUN.

    Options that are not given are chosen by size and number of the images, and said. An older run in the same folder
    is kept: its files move to earlier-1 (earlier-2, ...) inside it. In the end report.html shows how it went;
    `foveal watch` shows it meanwhile, `foveal report` writes it again, `foveal runs` compares runs.

    Whatever ends the process, --resume goes on with the run, to the bits of a run that was never stopped. The first
    Ctrl-C, and SIGTERM, let the step end and save, the second Ctrl-C ends at once.

    --json prints what metrics.json holds, with "out", the folder, and "log", the lines of log.jsonl. With
    --compile-only: "programs", each with its kernels, "compiled", "from_cache", "seconds" and "kept".
    """
    # Minutes are those of the whole command.
    began = time.perf_counter()
    from foveal.kernel.runtime import prepare

    # while the data are read
    prepare()
    with ranks_of_job(rank_timeout, elastic) as ranks:
        call = ranks.computed(lambda: call_of(click.get_current_context(), data, out, resume, options, images))
        folder = call.out or Path()
        if not call.ended:
            made = trained(call, ranks, resume, began, as_json, compile_only, checked)
            if made is None:
                return
            folder = made
        elif ranks.first and not call.options["quiet"]:
            echo(f"{folder}: the run has ended; there is nothing left to do.", err=as_json)
    # Rank 0 speaks for all.
    if as_json and ranks.first:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        show_json({**metrics, "out": str(folder), "log": [json.loads(line) for line in log]})


def trained(
    call: Call, ranks: Ranks, resume: Path | None, began: float, as_json: bool, compile_only: bool, checked: bool
) -> Path | None:
    """Train, and write what belongs to a run; return its folder, None where nothing was trained."""
    from foveal.distributed.launch import launched
    from foveal.train.loop import train as run
    from foveal.train.run_file import end

    silent = call.options["quiet"] or not ranks.first
    report, tensorboard = call.options.pop("report"), call.options.pop("tensorboard")
    like = expected_by(call.options["pretrained"] or call.options["weights"])
    # One size for all ranks, which may have other numbers of threads.
    choose = partial(size_for, call, ranks)
    dataset = read_data(call.data, call.images, quiet=silent, err=as_json, like=like, choose=choose)
    if (learned := learned_before(call.options["weights"], dataset)) is not None:
        warn(learned)
    if dataset.preprocessing is not None:
        # A run that goes on does not choose again.
        call.command["options"]["image_size"] = dataset.size
    # Without a launcher and without shards nothing of ranks is asked for.
    options = call.options | ({"ranks": ranks} if launched() else {})
    if compile_only:
        show_compiled(dataset, as_json and ranks.first, options | {"quiet": silent})
        return None
    folder = call.out or Path("runs") / dataset.name
    findings = None
    if checked and resume is None:
        # What another rank may have to write once rank 0 is gone.
        check = partial(check_before, dataset, strict=call.images["strict"], quiet=silent, err=as_json)
        findings = ranks.computed(check)
    reporting = Reporting(folder, report, tensorboard, findings)
    # The JSON has standard output to itself.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        given = {"command": call.command, "callbacks": reporting.callbacks, **options}
        run(dataset, out=folder, resume=resume, began=began, **given)

        def finished() -> None:
            finish(folder, dataset, reporting.recorder.run.held_out)
            reporting.finish(dataset, quiet=call.options["quiet"])
            # Only now: what is killed before this goes on with `--resume`, and ends with all files.
            end(folder)

        if ranks.elastic is not None:
            # Another rank does so where rank 0 is gone meanwhile.
            ranks.computed(finished)
        elif ranks.first:
            finished()
    return folder if ranks.first else None


def size_for(call: Call, ranks: Ranks, files: ImageFiles) -> tuple[int, int]:
    """Return rows and columns that images are resized to where no option says it: by their sizes, number and time."""
    import foveal
    from foveal.train.recipes import image_size

    sizes, options = files.sizes[files.rows("train")], call.options
    threads = options["threads"] or foveal.get_threads()
    return ranks.computed(lambda: image_size(sizes, options["minutes"], options["preset"], threads))


def show_compiled(dataset: Dataset, as_json: bool, options: dict[str, Any]) -> None:
    """Compile what a run needs, and say what that was."""
    from foveal.train.compile_only import compile_only
    from foveal.train.settings import TrainOptions

    quiet = options.pop("quiet")
    options.pop("checkpoint_minutes")
    made = compile_only(dataset, TrainOptions(**options))
    if as_json:
        show_json(made.as_json())
    elif not quiet:
        echo(str(made))

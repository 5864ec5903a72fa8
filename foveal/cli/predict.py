"""foveal predict."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.answers import FORMATS
from foveal.cli.augment_options import tta_option
from foveal.cli.options import (
    POSITIVE,
    classes_in,
    code_option,
    echo,
    json_option,
    run_argument,
    set_threads,
    threads_option,
)
from foveal.cli.photos import Photos
from foveal.cli.streams import Stream, without_library_lines

if TYPE_CHECKING:
    from rich.status import Status

    from foveal.train.classifier import Classifier

# Classes that are shown of each image.
TOP = 3
# Seconds after which a terminal shows how far the work is, and between two updates.
_QUIET_SECONDS, _EVERY = 1.0, 0.2


@click.command()
@run_argument
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option("--top", type=POSITIVE, default=TOP, show_default=True, help="Classes that are told of each image.")
@click.option(
    "--none-below",
    type=click.FloatRange(0, 1),
    metavar="P",
    help='Answer "none of these" where the most probable class is less probable than this.  [default: the thresholds'
    " of the model file, if it has some]",
)
@click.option(
    "--paths-from",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Also answer the images whose paths stand in this file, one on a line or between zero bytes; - for standard"
    " input.",
)
@threads_option
@code_option
@tta_option
@json_option
@click.option("--jsonl", is_flag=True, help="Print a line of JSON for each image, as soon as it is answered.")
@click.option("--csv", is_flag=True, help="Print comma-separated values, a row for each image as it is answered.")
@click.pass_context
@without_library_lines()
def predict(ctx: click.Context, /, run: Path, images: tuple[str, ...], **options: Any) -> None:
    """Classify each IMAGE with the model of RUN.

    An IMAGE is a file; a folder, whose images are answered, those of the folders in it too; a pattern in quotes, such
    as 'photos/**/*.jpg'; or - for an image on standard input. In folders, files are images by the ends of their names;
    others are counted and left out.

    Images are PNG, JPEG, GIF, BMP, TIFF, WebP, PPM or AVIF, whatever their names say, of up to 50 megapixels (JPEG:
    120); of an animation or a file with pages the first image counts. They are read as the images that the model was
    trained on, as the model file says. Nothing is inverted: a model trained on MNIST expects white on black.
    Logits are divided by the temperature of the model file (`foveal calibrate`). A model that was trained with --tta
    answers by the mean over several views of an image, which takes as many times as long; --tta none leaves that out.

    --json prints a list with an entry for each image: "image" (- for standard input), "class", "probability", "none",
    true where the class is "none of these", and "top", the most probable classes, each with "class" and "probability".
    --jsonl prints the same entries, one on a line; --csv the columns image, class, probability, none, top_1,
    probability_1 and so on. Any number of images takes a bounded amount of memory.

    An image that cannot be read is named on standard error and left out. The status is then 1, or 2 if none can be
    read.

    A network of one's own is built from its class, which has to be imported: --code mynet.py.
    """
    kind = output_format(options)
    photos = Photos(images, options["paths_from"])
    from foveal.train.checkpoint import load_net
    from foveal.train.classifier import Classifier

    set_threads(options["threads"])
    classifier = Classifier(*load_net(run, cls=classes_in(options["code"])))
    # A model that is not for image files is refused before any is read.
    _ = classifier.preprocessing
    if options["none_below"] and classifier.description.temperature == 1:
        echo(
            f"Note: probabilities are as the network gives them; `foveal calibrate {run} DATA` finds out how far they"
            " can be trusted.",
            err=True,
        )
    answered, unreadable = print_answers(classifier, photos, kind, options, ctx.find_object(Stream))
    if photos.left_out:
        files = "file that is no image" if photos.left_out == 1 else "files that are no images"
        were = "was" if photos.left_out == 1 else "were"
        echo(f"{photos.left_out:,} {files}, or hidden, {were} left out.", err=True)
    if not answered:
        ctx.exit(2)
    if unreadable or photos.failed:
        ctx.exit(1)


def print_answers(
    classifier: Classifier, photos: Photos, kind: str, options: dict[str, Any], output: Stream | None
) -> tuple[int, int]:
    """Print the answers to all photos; return how many were answered, and how many could not be read.

    output: standard output; if it cannot be written any more, the rest is not answered.
    """
    answered, unreadable = 0, 0
    asked = {name: options[name] for name in ("top", "none_below", "tta")}
    # Answers that are printed at once on a terminal show the progress themselves.
    hidden = FORMATS[kind].at_once and sys.stdout.isatty()
    with Progress(hidden) as progress, FORMATS[kind](progress.pause) as answers:
        for answer in classifier.stream(photos, **asked):
            if answer.error is None:
                answers.add(answer)
                answered += 1
                progress.show(answered)
            else:
                progress.pause()
                echo(f"Error: {answer.error}", err=True)
                unreadable += 1
            if output is not None and output.error is not None:
                break
        if answered:
            answers.end()
    return answered, unreadable


def output_format(options: dict[str, Any]) -> str:
    """Return the name of the format that is asked for, of which there may be one."""
    asked = [name for name, option in (("json", "as_json"), ("jsonl", "jsonl"), ("csv", "csv")) if options[option]]
    if len(asked) > 1:
        raise click.UsageError(f"--{asked[0]} and --{asked[1]} are given; choose one.")
    return asked[0] if asked else "table"


class Progress:
    """How many images are answered, in a line of the terminal that standard error goes to, if it takes long."""

    def __init__(self, hidden: bool) -> None:
        self.hidden = hidden or not sys.stderr.isatty()
        self.began = self.shown = time.perf_counter()
        self.stack = ExitStack()
        self.status: Status | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.pause()

    def show(self, count: int) -> None:
        """Say that so many images are answered."""
        now = time.perf_counter()
        if self.hidden or now - self.began < _QUIET_SECONDS or now - self.shown < _EVERY:
            return
        self.shown = now
        text = f"{count:,} images answered, {count / (now - self.began):,.0f} a second"
        if self.status is None:
            from rich.console import Console

            self.status = self.stack.enter_context(Console(stderr=True).status(text))
        self.status.update(text)

    def pause(self) -> None:
        """Take the line away, until it is shown again."""
        self.stack.close()
        self.status = None

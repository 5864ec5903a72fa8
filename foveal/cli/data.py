"""foveal data: a data set before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.folders_options import folder_options_of_run, read_data
from foveal.cli.options import (
    POSITIVE,
    SEED,
    TWO_OR_MORE,
    DataCommand,
    echo,
    json_option,
    run_argument,
    set_threads,
    show_json,
    show_table,
    threads_option,
)
from foveal.cli.preview import preview
from foveal.errors import DataError

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset
    from foveal.data.scanning.image_files import ImageFiles

html_option = click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a page with pictures of the examples: one file, which needs nothing else.",
)


@click.group("data")
def commands() -> None:
    """Look at a data set: what is wrong with it, which labels are likely wrong, how it is augmented."""


commands.add_command(preview)


@commands.command(cls=DataCommand)
@click.argument("data")
@click.option("--group-by", metavar="PATTERN", help="Image files: as for `foveal train`, what belongs together.")
@click.option("--strict", is_flag=True, help="End with status 1 if there are errors among the findings.")
@html_option
@json_option
@click.pass_context
def check(ctx: click.Context, data: str, group_by: str | None, strict: bool, html: Path | None, as_json: bool) -> None:
    """Say what is wrong with DATA, which images, and what to do about it.

    Every image is looked at once. Found are files that cannot be read, are truncated, hostile or named wrongly; copies,
    exact and near, within a class, in two parts (a leak) and in two classes; classes that are absent from a part, small
    or much larger than others; blank and outlying images; mixed sizes, shapes and channels.

    An error makes results wrong, or images be left out; a warning costs accuracy as a rule; a note is worth a look. The
    status is 0, whatever is found, and with --strict 1 if there are errors.

    --json prints "data", "images", "left_out", "parts", "classes", "size", "grey", "means", "findings" (each with
    "kind", "severity", "count", "text", "way_out", "groups" and, of the first groups of images, "examples"), "errors",
    "warnings", "notes" and "seconds".
    """
    from foveal.doctor import check as checked

    findings = checked(opened(data, group_by), quiet=as_json)
    if html is not None:
        findings.write_html(html)
    if as_json:
        show_json(findings.as_json())
    else:
        echo(str(findings))
        if html is not None:
            echo(f"The page with pictures is {html}.")
    if strict and findings.errors:
        ctx.exit(1)


@commands.command("label-errors", cls=DataCommand)
@run_argument
@click.argument("data")
@click.option(
    "--method",
    type=click.Choice(["training", "probe"]),
    default="training",
    show_default=True,
    help="Train the run's network anew without each fold, or a linear classifier on its features, which takes seconds.",
)
@click.option("--folds", type=TWO_OR_MORE, default=4, show_default=True, help="Folds of the cross-validation.")
@click.option("--epochs", type=POSITIVE, help="Epochs of each training.  [default: half of the run's, or 8]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the folds and the trainings.")
@threads_option
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page with pictures.  [default: RUN/label-errors.html]",
)
@click.option(
    "--csv", type=click.Path(path_type=Path, dir_okay=False), help="The table.  [default: RUN/label-errors.csv]"
)
@folder_options_of_run
@json_option
def label_errors(
    run: Path,
    data: str,
    threads: int | None,
    html: Path | None,
    csv: Path | None,
    images: dict[str, Any],
    as_json: bool,
    **options: Any,
) -> None:
    """Find the training images of DATA whose labels are likely wrong, with the network of RUN.

    Each is judged by networks that were not trained on it (confident learning: Northcutt, Jiang and Chuang 2021).
    Writes a page with their pictures and a CSV of image, part, given, likely, p_given, p_likely, the most likely errors
    first.

    --method probe finds few of them if the network has learned its images by heart, as after many epochs.

    --json prints "data", "method", "folds", "images", "share" (of labels that are estimated to be wrong), "classes",
    "joint" (rows are labels), "errors", "seconds", "html" and "csv".
    """
    from foveal.cli.evaluate import reading
    from foveal.doctor import label_errors as find
    from foveal.train.checkpoint import load_run

    set_threads(threads)
    dataset = read_data(data, images, err=as_json, like=reading(load_run(run)[0]), run=run)
    found = find(run, dataset, quiet=as_json, **options)
    folder = run if run.is_dir() else run.parent
    html, csv = html or folder / "label-errors.html", csv or folder / "label-errors.csv"
    found.write_csv(csv)
    found.write_html(html)
    if as_json:
        show_json({**found.as_json(), "html": str(html), "csv": str(csv)})
        return
    for heading, columns, rows in found.tables():
        echo(heading)
        if rows:
            show_table(columns, rows)
    echo(f"See {html} and {csv}.")


def opened(data: str, group_by: str | None = None) -> ImageFiles | Dataset:
    """Return what DATA names: image files, which are listed and not decoded, or arrays."""
    from foveal.data import readers

    if readers.holds_images(data):
        named: dict[str, Any] = {} if group_by is None else {"group_by": group_by}
        return readers.scan_images(Path(data), **named)
    if group_by is not None:
        raise DataError(f"--group-by is for image files, and {data} holds none, or arrays; leave it out")
    return readers.load(data)


check_option = click.option(
    "--check/--no-check",
    "checked",
    default=True,
    show_default=True,
    help="Image files: look for copies, leaks, small classes and more before the training, as `foveal data check`"
    " does. With --strict an error stops.",
)


def check_before(dataset: Dataset, *, strict: bool, quiet: bool, err: bool) -> dict[str, Any] | None:
    """Check the images of files before they are trained on: say it in brief, and return what doctor.json is to hold.

    Arrays are not checked: None. strict: True to raise DataError if there are errors. err: True to say it on standard
    error.
    """
    from foveal.doctor import check as checked

    if dataset.files is None:
        return None
    findings = checked(dataset, quiet=quiet)
    if not quiet:
        for line in findings.brief():
            echo(line, err=err)
    if strict and findings.errors:
        grave = "; ".join(finding.text for finding in findings.findings if finding.severity == "error")
        raise DataError(f"{dataset.name}: {grave} `foveal data check` says which images; leave out --strict to go on")
    return findings.as_json()

"""foveal report, foveal runs and foveal watch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.evaluate import reading
from foveal.cli.folders_options import folder_options_of_run, read_data
from foveal.cli.options import (
    classes_in,
    code_option,
    echo,
    json_option,
    run_argument,
    set_threads,
    show_json,
    threads_option,
)
from foveal.cli.report_options import size_of

# What runs can be sorted by, as in foveal.report.runs, which is imported when the command runs.
KEYS = ("date", "run", "data", "model", "accuracy", "loss", "epochs", "seconds", "size")


@click.command()
@run_argument
@click.argument("data", required=False)
@threads_option
@code_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@folder_options_of_run
@data_dir_option
@json_option
def report(
    run: Path,
    data: str | None,
    threads: int | None,
    code: tuple[str, ...],
    quiet: bool,
    images: dict[str, Any],
    as_json: bool,
) -> None:
    """Write report.html of RUN, one file that needs nothing else.

    With DATA the model is measured anew, and images are shown: the worst mistakes with Grad-CAM, feature maps. Without
    it, what predictions.npz holds from the last time is used.

    --json prints "report", its path, and "bytes".

    A network of one's own is built from its class, which has to be imported: --code mynet.py.
    """
    from foveal.report import write
    from foveal.train.checkpoint import load_net, load_run
    from foveal.train.held_out import held_out_of

    set_threads(threads)
    net = load_net(run, cls=classes_in(code))[0] if code else None
    dataset = None
    if data is not None:
        dataset = read_data(data, images, quiet=quiet, err=as_json, like=reading(load_run(run)[0]), run=run)
    own = None if dataset is None else held_out_of(run, dataset)
    path = write(run, net, dataset, validation=own, quiet=quiet or as_json)
    if as_json:
        show_json({"report": str(path), "bytes": path.stat().st_size})
    elif not quiet:
        echo(f"The report is at {path} ({size_of(path)}).")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--sort", type=click.Choice(KEYS), default="date", show_default=True, help="What the runs are sorted by.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the table, and with the curves of the runs in the same figures, to this file.",
)
@json_option
def runs(folder: Path, sort: str, html: Path | None, as_json: bool) -> None:
    """Compare the runs in FOLDER, which is runs if not given.

    The newest, the most accurate and else the smallest come first. Runs that are damaged or have not ended are there
    too, and say so.

    --json prints a list with a dict for each run: "run", its path in FOLDER, "state", "accuracy" and "loss" on "part",
    "epochs" of "planned", "seconds", "model", "data", "size" of the model file in bytes, "date", and "problem", what is
    damaged. What is not known is null.
    """
    from foveal.report import compare

    found = compare(folder, sort)
    if html is not None:
        found.write_html(html)
    if as_json:
        show_json(list(found.rows))
        return
    # Not as boxes: a terminal of 80 columns would break each cell of so many.
    echo(str(found))
    for row in found.rows:
        if row["problem"]:
            echo(f"{row['run']}: {row['problem']}")
    if html is not None:
        echo(f"The curves are in {html} ({size_of(html)}).")


@click.command()
@run_argument
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port.  [default: one that is free]")
@json_option
def watch(run: Path, port: int, as_json: bool) -> None:
    """Serve the report of RUN on 127.0.0.1 while the run goes on, until Ctrl-C.

    The page renews itself. RUN may not be there yet: the page then waits for the run to begin. Programs of this machine
    alone can ask for it.

    --json prints "url" as soon as the page is served.
    """
    from foveal.report.watch import watch as serve

    with serve(run, port) as live:
        if as_json:
            show_json({"url": live.url})
        else:
            echo(f"The report of {run} is at {live.url} until you press Ctrl-C.")
        try:
            live.thread.join()
        except KeyboardInterrupt:
            # This is how it ends.
            echo("", err=True)

"""Options of `foveal train` about the report, and what is done for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from foveal.cli.options import echo

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset
    from foveal.train.callbacks import Callback

Command = TypeVar("Command", bound=Callable[..., Any])


def report_options(function: Command) -> Command:
    """Add --no-report and --tensorboard to a command, which gets `report` and `tensorboard`."""
    tensorboard = click.option(
        "--tensorboard", is_flag=True, help="Write TensorBoard's event files too, into the folder tensorboard."
    )
    report = click.option("--report/--no-report", default=True, help="Write report.html in the end.  [default: report]")
    return report(tensorboard(function))


class Reporting:
    """What a training writes for its report: steps while it goes on, and the page in the end."""

    def __init__(self, folder: Path, report: bool, tensorboard: bool, findings: dict[str, Any] | None) -> None:
        from foveal.report import Recorder, TensorBoard

        self.folder, self.report = folder, report
        self.recorder = Recorder(folder, findings)
        self.callbacks: list[Callback] = [self.recorder]
        if tensorboard:
            self.callbacks.append(TensorBoard(folder / "tensorboard"))

    def finish(self, data: Dataset, quiet: bool) -> None:
        """Write the report of the run that has just ended. The model is there already, whatever fails here."""
        if not self.report:
            return
        from foveal.errors import FovealError
        from foveal.report import write

        run = self.recorder.run
        try:
            path = write(self.folder, run.net, data, validation=run.held_out, quiet=quiet)
        except (FovealError, MemoryError) as error:
            echo(f"The report could not be written: {error}; `foveal report {self.folder}` tries again.", err=True)
            return
        if not quiet:
            echo(f"The report is at {path} ({size_of(path)}).")


def size_of(path: Path) -> str:
    """Return the size of a file as text."""
    size = os.path.getsize(path)
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"

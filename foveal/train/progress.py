"""What a person sees of a run."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from foveal.train.checkpoint import RunFolder
    from foveal.train.loop import Tally, Training


class Report:
    """What a person sees: a live bar on a terminal, else a line per epoch, and a table at the end.

    With `quiet`, nothing.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.console: Console = Console(quiet=quiet, highlight=False)
        self.progress: Progress | None = None
        self.epochs = 0
        self.test = ""

    def begin(self, training: Training) -> None:
        s, steps = training.settings, len(training.loader)
        self.epochs = s.epochs
        self._line(str(training.data))
        self._line(
            f"{s.model or type(training.net).__name__}: {training.parameters:,} parameters, "
            f"{s.epochs} x {steps} steps of {s.batch_size} images, {s.optimizer}, lr {s.lr:g} "
            f"({s.schedule}), "
            f"{s.threads} thread{'s' * (s.threads > 1)}, seed {s.seed}"
        )
        if not self.console.quiet:
            self._line(f"memory: {training.footprint}")
        if self.console.is_terminal and not self.console.quiet:
            self.progress = _progress(self.console)
            self.progress.add_task("", total=s.epochs * steps, speed=0.0, loss="", epoch="compiling")

    def __enter__(self) -> None:
        if self.progress is not None:
            self.progress.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.progress is not None:
            self.progress.stop()

    def step(self, training: Training, tally: Tally) -> None:
        if self.progress is None:
            return
        means = tally.means()
        self.progress.update(
            self.progress.task_ids[0],
            advance=1,
            epoch=f"epoch {training.epoch}/{self.epochs}",
            loss=f"loss {means['loss']:.4f}  accuracy {means['accuracy']:.2%}{self.test}",
            speed=training.clock.speed(),
        )

    def epoch(self, line: dict[str, Any]) -> None:
        train, test = line["train"], line["test"]
        self.test = f"  test {test['accuracy']:.2%}"
        if self.progress is None:
            self._line(
                f"epoch {line['epoch']}/{self.epochs}: loss {train['loss']:.4f}, accuracy "
                f"{train['accuracy']:.2%}; test loss {test['loss']:.4f}, accuracy "
                f"{test['accuracy']:.2%}; {line['images_per_second']:,.0f} images/s"
            )

    def end(self, metrics: dict[str, Any], folder: RunFolder | None) -> None:
        from rich.table import Table

        table = Table("", "loss", "accuracy", "images")
        for part in ("train", "test"):
            values = metrics[part]
            row = f"{values['loss']:.4f}", f"{values['accuracy']:.2%}"
            table.add_row(part, *row, f"{metrics[f'{part}_images']:,}")
        self.console.print(table)
        self._line(f"{metrics['seconds']:.1f} s in all, {metrics['images_per_second']:,.0f} images/s")
        if folder is not None:
            if folder.earlier is not None:
                self._line(f"The run that was there before is now in {folder.earlier}.")
            self._line(f"The model is at {folder.model}.")

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[loss]}  {task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,  # drawing takes a core away from the native threads
    )

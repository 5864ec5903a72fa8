"""What a person sees of a run while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from foveal.arena import Footprint
from foveal.kernel.compile import statistics
from foveal.kernel.progress import kept
from foveal.names import printable
from foveal.train.history import AVERAGED, PARTS, in_order
from foveal.train.run_folder import RunFolder
from foveal.train.settings import Settings
from foveal.train.tally import EpochLog, Tally

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# The share of the time spent waiting for batches of which something is said.
WAITING = 0.03
# Fewer seconds of waiting are not worth a word.
WORTH = 2.0


class ProgressDisplay:
    """Shows a run: a live bar on a terminal, else a line per epoch, and a table at the end.

    quiet: True to show nothing.
    """

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.console: Console = Console(quiet=quiet, highlight=False)
        # The live bar, None until a run begins on a terminal.
        self.progress: Progress | None = None
        self.epochs = 0
        # The accuracy after the last epoch, as text for the bar.
        self.test = ""
        # How many kernels this process had compiled before, and when.
        self.compiled, self.started = statistics.compiled, time.perf_counter()

    def note(self, text: str) -> None:
        """Show a line."""
        self._line(text)

    def begin(
        self,
        data: str,
        settings: Settings,
        network: str,
        steps: int | None,
        footprint: Callable[[], Footprint | None],
        done: int | None,
        ranks: int = 1,
    ) -> None:
        """Show what is going to be trained.

        data, network: name and size. steps: training steps in an epoch; None where that is not known. footprint:
        computes the memory of a step, which compiles it, None where that is not known; called only if something is
        shown. done: steps that a run which goes on has behind it. ranks: how many share the steps.
        """
        s = settings
        self.epochs = s.epochs
        self._line(data)
        batches = f" x {s.accumulate} batches" if s.accumulate > 1 else f" in {s.shards} shards" if s.shards else ""
        batches += f" on {ranks} ranks" if ranks > 1 else ""
        # What is tested and kept is then an average.
        average = "" if s.ema is None else f", EMA {s.ema:g}"
        average += "" if s.lookahead is None else f", lookahead {s.lookahead:g}"
        self._line(
            f"{network}, {s.epochs} x {'?' if steps is None else steps} steps of {s.batch_size or '?'} images{batches},"
            f" {s.optimizer}, lr {s.lr:g} ({s.schedule}){average},"
            f" {s.threads} thread{'s' * (s.threads > 1)}, seed {s.seed}"
        )
        if not self.console.quiet and (memory := footprint()) is not None:
            self._line(f"memory: {memory}")
        if is_live(self.console) and not self.console.quiet:
            self.progress = _progress(self.console)
            total = None if steps is None else s.epochs * steps
            self.progress.add_task("", total=total, completed=done or 0, speed=0.0, loss="", epoch="compiling")

    def __enter__(self) -> None:
        # What the first step needs is compiled by now, as its memory was asked for.
        # In a notebook the compilation has left a line of its own.
        if (compiled := statistics.compiled - self.compiled) and not self.console.is_jupyter:
            seconds = time.perf_counter() - self.started
            self._line(f"{compiled} kernel{'s' * (compiled > 1)} compiled in {seconds:.1f} s, {kept()}")
        if self.progress is not None:
            self.progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()

    def step(self, epoch: int, tally: Tally, speed: float) -> None:
        """Advance the bar by one step. epoch counts from 1; speed: images per second."""
        if self.progress is None:
            return
        self.progress.update(
            self.progress.task_ids[0],
            advance=1,
            epoch=f"epoch {epoch}/{self.epochs}",
            loss=f"{in_words(tally.means(), '  ')}{self.test}",
            speed=speed,
        )

    def epoch(self, line: EpochLog) -> None:
        """Show an epoch, given its line of log.jsonl."""
        parts = {name: part for name, part in line.items() if name in PARTS[1:] and isinstance(part, dict)}
        scores = {
            name: score("accuracy", part["accuracy"]) if "accuracy" in part else f"loss {score('loss', part['loss'])}"
            for name, part in parts.items()
        }
        self.test = "".join(f"  {name} {score}" for name, score in scores.items())
        if self.progress is None:
            measured = "".join(f"; {name} {in_words(part)}" for name, part in parts.items())
            self._line(
                f"epoch {line['epoch']}/{self.epochs}: {in_words(line['train'])}{measured};"
                f" {line['images_per_second']:,.0f} images/s"
            )

    def end(self, metrics: dict[str, Any], folder: RunFolder | None, waiting: float = 0.0) -> None:
        """Show the table of results, and where the files are. waiting: the share of the time that batches took."""
        from rich.table import Table

        parts = [part for part in PARTS if part in metrics]
        names = sorted({name for part in parts for name in metrics[part]}, key=in_order)
        table = Table("", *names, "images")
        for part in parts:
            values, images = metrics[part], metrics[f"{part}_images"]
            row = (score(name, values[name]) if name in values else "" for name in names)
            table.add_row(part, *row, "" if images is None else f"{images:,}")
        self.console.print(table)
        if AVERAGED in metrics:
            self._line(averaged(metrics))
        self._line(f"{metrics['seconds']:.1f} s in all, {metrics['images_per_second']:,.0f} images/s")
        if waiting > WAITING and waiting * metrics["seconds"] > WORTH:
            self._line(
                f"Training waited for its images {waiting:.0%} of the time: smaller images, a cache of decoded ones, or"
                " less augmentation would make it faster."
            )
        if folder is not None:
            if folder.earlier is not None:
                self._line(f"The run that was there before is now in {folder.earlier}.")
            best = f", of epoch {metrics['best_epoch']}, the best by validation" if "best_epoch" in metrics else ""
            self._line(f"The model is at {folder.model}{best}.")

    def _line(self, text: str) -> None:
        self.console.print(printable(text), soft_wrap=True, markup=False)


def score(name: str, value: float) -> str:
    """Return a measure as text."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"


def in_words(measures: Mapping[str, float], between: str = ", ") -> str:
    """Return measures with their names as text."""
    return between.join(f"{name} {score(name, measures[name])}" for name in sorted(measures, key=in_order))


def averaged(metrics: Mapping[str, Any]) -> str:
    """Return accuracies, or losses, of the model by itself and with its test-time augmentation, as text."""
    found, told = metrics[AVERAGED], []
    for part in (part for part in PARTS if part in found):
        name = "accuracy" if "accuracy" in found[part] else "loss"
        plain, over = (score(name, measures[part][name]) for measures in (metrics, found))
        told.append(f"{part} {name} {plain}, averaged over {found['count']} views {over}")
    return "; ".join(told)


def is_live(console: Console) -> bool:
    """Return whether a bar can be drawn anew: on a terminal, and in a notebook that has the widgets for it."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def _progress(console: Console) -> Progress:
    """Return the live bar: epoch, bar, loss, speed, time left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[loss]}  {task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(),
        console=console,
        # Drawing takes a core away from the native threads, so it is done 4 times a second and no more.
        refresh_per_second=4,
    )

"""The picture of a training: losses, scores and rates by epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from foveal.arguments import checked
from foveal.errors import DataError
from foveal.kinds import name_kind, shown
from foveal.plotting import COLOURS, blank, short, whole_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = "log.jsonl"
# What a line of a log holds beside values that are drawn.
NOT_DRAWN = ("epoch", "step", "seconds", "images_per_second", "loss_scale")
# Panels next to each other at most.
COLUMNS = 3

# What a training returns has more to it than a mapping, so it is not checked as one.
History = Annotated[Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path, "of a training"]
name_kind(History, "what train.train returns, lines by epoch, or the folder of a run", object)

# Values by epoch, by the name of the panel and of the line.
Panels = dict[str, dict[str, list[float]]]


@checked
def plot_history(history: History, title: str = "") -> Figure:
    """Return a figure with a panel for each value of a training by epoch: loss, accuracy, learning rate and others.

    history: what `train.train` returns; or a mapping such as {"train": {"loss": [...], "accuracy": [...]}, "test":
    {...}, "lr": [...]}, lists by epoch; or lines by epoch, {"epoch": 1, "train": {"loss": 0.5}, ...}; or the path of a
    run's folder, or of its log.jsonl. Train and test are two lines of one panel. Raises DataError for what is none of
    these, PackageError without Matplotlib.

        metrics.plot_history("runs/fashion").savefig("history.png")
    """
    if isinstance(history, str | Path):
        title = title or str(Path(history).name)
        history = lines_of(Path(history))
    # What a training returns has its epochs beside the numbers of its end.
    history = getattr(history, "lines", history)
    whole = list(history.values()) if isinstance(history, Mapping) else history
    if any(hasattr(one, "lines") for one in whole):
        raise DataError("plot_history: these are several trainings; draw one after the other, plot_history(history)")
    panels = by_epoch(history) if isinstance(history, Mapping) else by_line(history)
    if not panels:
        raise DataError(
            f"plot_history: {shown(history)} holds no values by epoch; give what train.train returns, lines such as"
            ' {"epoch": 1, "train": {"loss": 0.5}}, or the folder of a run'
        )
    # The loss comes first, rates come last.
    names = sorted(panels, key=lambda name: (name == "lr", name != "loss"))
    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    figure = blank(4.2 * columns, 3.3 * rows, title)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, name in zip(axes, names, strict=False):
        for i, (part, values) in enumerate(panels[name].items()):
            epochs = np.arange(1, len(values) + 1)
            # A single epoch is a point.
            mark = "o" if len(values) == 1 else "."
            axis.plot(epochs, values, marker=mark, color=COLOURS[i % len(COLOURS)], label=short(part) or None)
        axis.set(xlabel="epoch", ylabel="learning rate" if name == "lr" else short(name))
        axis.grid(alpha=0.25)
        whole_steps(axis.xaxis)
        if len(epochs) == 1:
            axis.set_xticks([1])
        if any(panels[name]):
            axis.legend(fontsize=8)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return figure


def lines_of(path: Path) -> list[Mapping[str, Any]]:
    """Return the lines of a run's log."""
    file = path / LOG if path.is_dir() else path
    try:
        lines: list[Mapping[str, Any]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise DataError(f"plot_history: there is no {file}; give the folder of a run, or its {LOG}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"plot_history: {file} cannot be read as lines of JSON: {error}") from None
    return lines


def by_line(lines: Sequence[Mapping[str, Any]]) -> Panels:
    """Return values by epoch of lines that hold one epoch each; NaN where a line lacks a value."""
    panels: Panels = {}
    if not isinstance(lines, list | tuple) or not all(isinstance(line, Mapping) for line in lines):
        return panels
    for i, line in enumerate(lines):
        for part, value in line.items():
            if part in NOT_DRAWN:
                continue
            # Numbers of a part, {"train": {"loss": 0.5}}, or of the epoch, {"lr": 0.1}.
            given = value.items() if isinstance(value, Mapping) else [(part, value)]
            for name, number in given:
                if is_number(number):
                    key = part if isinstance(value, Mapping) else ""
                    row = panels.setdefault(name, {}).setdefault(key, [float("nan")] * len(lines))
                    row[i] = float(number)
    return panels


def by_epoch(history: Mapping[str, Any]) -> Panels:
    """Return values by epoch of a mapping of lists."""
    panels: Panels = {}
    for part in history:
        value = history[part]
        given = value.items() if isinstance(value, Mapping) else [(part, value)]
        for name, numbers in given:
            if name not in NOT_DRAWN and not isinstance(numbers, str) and is_list(numbers):
                key = part if isinstance(value, Mapping) else ""
                panels.setdefault(name, {})[key] = [float("nan") if n is None else float(n) for n in numbers]
    return panels


def is_list(value: Any) -> bool:
    """Return True for a list of numbers, None among them where an epoch has none."""
    if not isinstance(value, Sequence | np.ndarray) or not len(value):
        return False
    return all(n is None or is_number(n) for n in value)


def is_number(value: Any) -> bool:
    """Return True for a number that can be drawn."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)

"""The picture of what `foveal tune` found: needs matplotlib (`pip install 'foveal[plot]'`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from foveal.train.tune import Findings, RangeTest, Trial

LINE, CHOSEN, FAINT = "#1f5fa8", "#c8401e", "#a9c1dd"
TICKS = 8  # labels that fit below one panel


def plot(found: Findings, path: Path) -> None:
    """A panel for each stage, the chosen value in another colour."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    figure.suptitle(f"{found.data}: {found.model}, {found.optimizer}, seed {found.seed}")
    if found.range_test is not None:
        rates(axes[0, 0], found.range_test, found.lr)
    speeds(axes[0, 1], found)
    trials(
        axes[1, 0],
        found.rates + found.momenta,
        lambda t: f"lr {t.lr:g}" + momentum(t),
        (found.lr, found.momentum, found.momentum_low),
        lambda t: (t.lr, t.momentum, t.momentum_low),
        f"rate and momentum, {found.steps} steps each",
    )
    trials(
        axes[1, 1],
        sorted(found.decays, key=lambda t: t.weight_decay),
        lambda t: f"{t.weight_decay:g}",
        found.weight_decay,
        lambda t: t.weight_decay,
        "weight decay",
    )
    figure.savefig(path, dpi=110)


def momentum(trial: Trial) -> str:
    if trial.momentum is None:
        return ""
    low = "" if trial.momentum_low is None else f"\nto {trial.momentum_low:g}"
    return f"\nm {trial.momentum:g}{low}"


def rates(axis: Any, test: RangeTest, chosen: float) -> None:
    """Loss against the rate, where it is below the value at which the test stops."""
    axis.plot(test.rates, test.losses, color=FAINT, linewidth=1, label="loss of each step")
    axis.plot(test.rates, test.smoothed, color=LINE, linewidth=2, label="smoothed")
    for name, rate, style in (
        ("valley", test.valley, ":"),
        ("steepest", test.steepest, "--"),
        ("lowest", test.lowest, "-."),
    ):
        axis.axvline(rate, color="grey", linestyle=style, label=f"{name} {rate:.2g}")
    axis.axvline(chosen, color=CHOSEN, linewidth=2, label=f"chosen {chosen:g}")
    axis.set_xscale("log")
    axis.set_ylim(0, 1.3 * max(test.smoothed[: max(10, len(test.smoothed) // 2)]))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.set_title("range test of the rate")
    axis.legend(fontsize=8)


def speeds(axis: Any, found: Findings) -> None:
    axis.set_title("batch size")
    if not found.speeds:
        axis.text(0.5, 0.5, f"given: {found.batch_size}", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    sizes = list(found.speeds)
    colours = [CHOSEN if size == found.batch_size else LINE for size in sizes]
    axis.bar([str(size) for size in sizes], list(found.speeds.values()), color=colours)
    axis.set_xlabel("images per step")
    axis.set_ylabel("images/s")


def trials(
    axis: Any, runs: list[Trial], name: Callable[[Trial], str], chosen: Any, what: Callable[[Trial], Any], title: str
) -> None:
    """Loss on the images held out, of each short run."""
    runs = list(dict.fromkeys(runs))
    finite = [t.loss for t in runs if t.loss is not None]
    axis.set_title(title)
    axis.set_ylabel("loss on images held out")
    if not finite:
        return
    top = min(max(finite), 4 * min(finite)) * 1.15
    for place, trial in enumerate(runs):
        colour = CHOSEN if what(trial) == chosen else LINE
        height = top if trial.loss is None else min(trial.loss, top)
        axis.plot([place], [height], "o", color=colour, markersize=8)
        if height == top:
            words = "diverged" if trial.loss is None else "off the scale"
            axis.annotate(words, (place, 0.97 * top), ha="center", va="top", fontsize=7, rotation=90)
    axis.set_xticks(range(len(runs)), [name(t) for t in runs], fontsize=7 if len(runs) > TICKS else 9)
    axis.set_ylim(0, top * 1.05)
    axis.grid(axis="y", alpha=0.3)

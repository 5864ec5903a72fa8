"""The picture of the findings of `foveal tune`; needs matplotlib (`pip install 'foveal[plot]'`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foveal.train.findings import Findings, RangeTest, Trial

# Blue for what was measured, red for what was chosen, light blue for single steps.
LINE, CHOSEN, FAINT = "#1f5fa8", "#c8401e", "#a9c1dd"
# So many labels of full size fit below one panel.
TICKS = 8


def plot(findings: Findings, path: Path) -> None:
    """Write a PNG with a panel for each stage, the chosen value in another colour."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    # [2, 2] panels: range test, batch sizes; rates and momenta, weight decays
    axes = figure.subplots(2, 2)
    figure.suptitle(f"{findings.data}: {findings.model}, {findings.optimizer}, seed {findings.seed}")
    if findings.range_test is not None:
        rates(axes[0, 0], findings.range_test, findings.lr)
    speeds(axes[0, 1], findings)
    trials(
        axes[1, 0],
        findings.rates + findings.momenta,
        lambda t: f"lr {t.lr:g}" + momentum(t),
        lambda t: (t.lr, t.momentum, t.momentum_low),
        (findings.lr, findings.momentum, findings.momentum_low),
        f"rate and momentum, {findings.steps} steps each",
    )
    trials(
        axes[1, 1],
        sorted(findings.decays, key=lambda t: t.weight_decay),
        lambda t: f"{t.weight_decay:g}",
        lambda t: t.weight_decay,
        findings.weight_decay,
        "weight decay",
    )
    figure.savefig(path, dpi=110, format="png")


def momentum(trial: Trial) -> str:
    """Return the lines of a label that show a trial's momentum."""
    if trial.momentum is None:
        return ""
    low = "" if trial.momentum_low is None else f"\nto {trial.momentum_low:g}"
    return f"\nm {trial.momentum:g}{low}"


def rates(axis: Axes, test: RangeTest, chosen: float) -> None:
    """Draw the loss against the rate, with the suggested rates and the chosen one as vertical lines."""
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
    # The losses at the end, where training diverges, would squeeze the rest together.
    axis.set_ylim(0, 1.3 * max(test.smoothed[: max(10, len(test.smoothed) // 2)]))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.set_title("range test of the rate")
    axis.legend(fontsize=8)


def speeds(axis: Axes, findings: Findings) -> None:
    """Draw images per second as a bar for each batch size, or say that the batch size was given."""
    axis.set_title("batch size")
    if not findings.speeds:
        axis.text(0.5, 0.5, f"given: {findings.batch_size}", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    sizes = list(findings.speeds)
    colours = [CHOSEN if size == findings.batch_size else LINE for size in sizes]
    axis.bar([str(size) for size in sizes], list(findings.speeds.values()), color=colours)
    axis.set_xlabel("images per step")
    axis.set_ylabel("images/s")


def trials(
    axis: Axes,
    runs: list[Trial],
    label: Callable[[Trial], str],
    value: Callable[[Trial], object],
    chosen: object,
    title: str,
) -> None:
    """Draw the loss of each short run on the images that are held out.

    label: the text below a run. value: what is chosen between; runs where it equals `chosen` get the colour of that.
    """
    runs = list(dict.fromkeys(runs))
    finite = [t.loss for t in runs if t.loss is not None]
    axis.set_title(title)
    axis.set_ylabel("loss on images held out")
    if not finite:
        return
    # Above 0, also where all losses are 0.
    top = max(min(max(finite), 4 * min(finite)) * 1.15, 1e-9)
    # A run above the scale stands at the top, with a word that says why.
    for position, trial in enumerate(runs):
        colour = CHOSEN if value(trial) == chosen else LINE
        height = top if trial.loss is None else min(trial.loss, top)
        axis.plot([position], [height], "o", color=colour, markersize=8)
        if height == top:
            words = "diverged" if trial.loss is None else "off the scale"
            axis.annotate(words, (position, 0.97 * top), ha="center", va="top", fontsize=7, rotation=90)
    axis.set_xticks(range(len(runs)), [label(t) for t in runs], fontsize=7 if len(runs) > TICKS else 9)
    axis.set_ylim(0, top * 1.05)
    axis.grid(axis="y", alpha=0.3)

"""The options of `foveal train` that concern recipes: how long, how well, by which part, and for which classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from foveal.cli.options import ABOVE_ZERO, COUNT_LIMIT, FRACTION, FiniteRange, with_options

Command = TypeVar("Command", bound=Callable[..., Any])
# Five weeks; more is a slip of the finger.
MOST_MINUTES = 50_000


class Rate(FiniteRange):
    """A learning rate, or the word "auto"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)

    def _describe_range(self) -> str:
        return f"auto, or {super()._describe_range()}"


RATE = Rate(ABOVE_ZERO.min, ABOVE_ZERO.max)

OPTIONS = (
    click.option(
        "--preset",
        type=click.Choice(["fast", "best", "airbench94"]),
        help="fast: fewer steps. best: more steps, and averages of the parameters and of views. airbench94: the recipe"
        " of K. Jordan (2024) for CIFAR-10, with its network.",
    ),
    click.option(
        "--minutes",
        type=FiniteRange(0, MOST_MINUTES, min_open=True),
        help="Choose network and epochs so that the run ends in about that time. What is chosen is said, with"
        " the options that repeat the run.",
    ),
    click.option(
        "--validation",
        type=FiniteRange(0, 1, min_open=True, max_open=True),
        help="Hold out this share of the training images, such as 0.1, with the same share of each class, to compare"
        " epochs by.  [default: the validation part of the data]",
    ),
    click.option(
        "--patience",
        type=click.IntRange(0, COUNT_LIMIT),
        help="End after so many epochs without a better validation accuracy, and keep the best epoch.  [default: all"
        " epochs; the best one is kept where the data bring a validation part]",
    ),
    click.option("--balance", is_flag=True, help="Let classes with few images count more (class-balanced focal loss)."),
    click.option(
        "--label-smoothing",
        type=FRACTION,
        help="Spread this share of each target over all classes, e.g. 0.1.  [default: by preset]",
    ),
)


def recipe_options(command: Command) -> Command:
    """Give a command the options of this file."""
    return with_options(command, OPTIONS)

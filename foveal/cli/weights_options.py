"""Options of `foveal train` about weights that a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from foveal.cli.options import COUNT_LIMIT, with_options

Command = TypeVar("Command", bound=Callable[..., Any])


def weights_options(command: Command) -> Command:
    """Give a command the options --weights, --pretrained and --freeze-epochs."""
    options = (
        click.option(
            "--weights",
            metavar="FILE",
            help="Start from the weights in a .safetensors file, with torchvision's names or timm's, or from those of a"
            " run. The model is recognised; the last layer starts anew, unless it is a run's on the same classes.",
        ),
        click.option(
            "--pretrained",
            metavar="NAME",
            help="Start from weights of the Hugging Face hub, such as resnet18, which are downloaded once. Address,"
            ' licence and checksum are shown first. Needs pip install "foveal[hub]".',
        ),
        click.option(
            "--freeze-epochs",
            type=click.IntRange(0, COUNT_LIMIT),
            help="Train the last layer alone in so many epochs at the start, then all layers, the first ones at"
            " lower rates.  [default: a quarter of the epochs where weights are given and the last layer starts anew]",
        ),
    )
    return with_options(command, options)

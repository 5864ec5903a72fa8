"""Options about how images are varied, in training and when a model is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from foveal.cli.options import Name, with_options

Function = TypeVar("Function", bound=Callable[..., Any])


class TableName(Name):
    """One of the names that are the keys of a table, or "none"."""

    def __init__(self, module: str, table: str) -> None:
        super().__init__(module)
        self.table = table

    def names(self) -> Collection[str]:
        """Return the names that can be given."""
        return [*getattr(importlib.import_module(self.module), self.table), "none"]


AUGMENT = TableName("foveal.data.augment", "AUGMENTATIONS")
flip_option = click.option(
    "--flip/--no-flip",
    default=None,
    help="Whether a mirror image is of the same class; not so for text, digits and traffic signs.  [default: by the"
    " name of DATA: not for mnist, digits, svhn and the like]",
)


tta_option = click.option(
    "--tta",
    type=TableName("foveal.train.views", "VIEWS"),
    help="Test-time augmentation: average over each image and its mirror image, or the image moved to four sides.",
)


def augment_options(function: Function) -> Function:
    """Give a command the options --augment, --flip/--no-flip and --mix."""
    options = (
        click.option("--augment", type=AUGMENT, help="Random changes of training images.  [default: by image size]"),
        flip_option,
        click.option(
            "--mix",
            type=TableName("foveal.data.transforms.mixing", "MIXINGS"),
            help="Mix each training image, and its label, with another one.  [default: none]",
        ),
    )
    return with_options(function, options)

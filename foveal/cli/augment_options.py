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


VIEWS = TableName("foveal.train.views", "VIEWS")
tta_option = click.option(
    "--tta",
    type=VIEWS,
    help="Test-time augmentation: average over each image and its mirror image, or the image moved to four sides, or"
    " both, or moved to two sides and mirrored; an answer takes 2, 5, 10 or 6 times as long.  [default: what the model"
    " file says]",
)
# Of a command that makes a model.
tta_of_run_option = click.option(
    "--tta",
    type=VIEWS,
    help="Test-time augmentation that the model is stored with: commands that use it average over each image and its"
    " mirror image, or the image moved to four sides, or both, or moved to two sides and mirrored; each answer takes 2,"
    " 5, 10 or 6 times as long.  [default: crops+flip with --preset best, shifts+flip with airbench94, crops where no"
    " mirror images are trained on, else none]",
)


def augment_options(function: Function) -> Function:
    """Give a command the options --augment, --flip/--no-flip and --mix."""
    options = (
        click.option(
            "--augment", type=AUGMENT, help="Random changes of training images.  [default: by image size and number]"
        ),
        flip_option,
        click.option(
            "--mix",
            type=TableName("foveal.data.transforms.mixing", "MIXINGS"),
            help="Mix each training image, and its label, with another one.  [default: none]",
        ),
    )
    return with_options(function, options)

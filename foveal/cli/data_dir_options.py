"""The option of commands on DATA that says where named data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

import click


def kept(ctx: click.Context, param: click.Parameter, folder: Path | None) -> None:
    """Let data sets be looked for in a folder, for this process and those that it starts."""
    if folder is not None:
        from foveal.data.download import VARIABLE

        os.environ[VARIABLE] = str(folder)


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    callback=kept,
    expose_value=False,
    help="Where DATA is looked for, and kept, if it is a name such as mnist; the same as FOVEAL_DATA."
    "  [default: ~/.cache/foveal/data]",
)

"""foveal data: what is in a data set, before anything is trained on it."""

from __future__ import annotations

import click

from foveal.cli.preview import preview


@click.group(name="data")
def commands() -> None:
    """Look at a data set before training on it."""


commands.add_command(preview)

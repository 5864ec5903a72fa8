"""The option of commands on DATA that says where named data sets lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def data_dir_option(command: Command) -> Command:
    """Give a command the option --data-dir; the command finds its value in the environment, as `data.load` does."""

    @wraps(command)
    def with_folder(*args: Any, data_dir: Path | None, **kwargs: Any) -> Any:
        if data_dir is not None:
            look_in(data_dir, kwargs["data"])
        return command(*args, **kwargs)

    option = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where DATA is looked for, and kept, if it is a name such as mnist; the same as FOVEAL_DATA."
        "  [default: ~/.cache/foveal/data]",
    )
    return option(with_folder)  # type: ignore[return-value]


def look_in(folder: Path, name: str | None) -> None:
    """Let a named data set be looked for in a folder. Raises ArgumentError for data that have no name."""
    from foveal.data.remote.download import NAMED, VARIABLE
    from foveal.errors import ArgumentError

    # Without a name a run goes on with what it was started with.
    if name is not None and (name not in NAMED or Path(name).exists()):
        raise ArgumentError(f"--data-dir is for the names {', '.join(NAMED)}, and {name} is none of them; leave it out")
    os.environ[VARIABLE] = str(folder)

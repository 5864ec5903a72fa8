"""foveal docs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from foveal.cli.options import echo, json_option, show_json
from foveal.errors import PackageError

# What builds the pages, in a checkout: into a folder of the package, with which a wheel carries them.
BUILD = (
    "python -m pip install --upgrade pip",
    "python -m pip install -e . --group docs",
    "python -m sphinx -W --keep-going -j auto docs foveal/pages",
)


@click.command()
@click.option("--path", "only_path", is_flag=True, help="Print where the pages are, and open nothing.")
@json_option
def docs(only_path: bool, as_json: bool) -> None:
    """Open the documentation: the course, how-to pages and the reference, in a browser.

    --json prints "index", the path of the first page, null where no pages are built, and "build", the commands that
    build them; it opens nothing.
    """
    import webbrowser

    index = Path(str(files("foveal"))) / "pages" / "index.html"
    found = index.is_file()
    if as_json:
        show_json({"index": str(index) if found else None, "build": BUILD})
        return
    if not found:
        raise PackageError(
            "the pages of the documentation are not in this installation; in a checkout, they are built by\n    "
            + "\n    ".join(BUILD)
        )
    echo(str(index))
    if not only_path:
        webbrowser.open(index.as_uri())

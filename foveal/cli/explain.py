"""foveal explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from foveal.cli.model_argument import to_explain
from foveal.cli.options import POSITIVE, TWO_OR_MORE, echo, json_option, show_json
from foveal.cli.view_options import given_options, show_view, view_options
from foveal.errors import ArgumentError

if TYPE_CHECKING:
    from foveal.nn.module import Module

# Columns of the table at least, also when it is piped.
MIN_WIDTH = 110


@click.command()
@click.argument("model", metavar="RUN|MODEL")
@click.option("--input", "image", metavar="CxHxW", help="One image, such as 3x224x224.  [default: the model's]")
@click.option("--classes", type=TWO_OR_MORE, help="Outputs.  [default: 10, or 1000 from 64x64 on]")
@click.option("--batch", type=POSITIVE, help="Images in a batch.  [default: 1]")
@click.option("--depth", type=click.IntRange(min=0), help="Show nested layers down to this depth.  [default: all]")
@view_options
@json_option
def explain(
    model: str,
    image: str | None,
    classes: int | None,
    batch: int | None,
    depth: int | None,
    view: dict[str, Any],
    as_json: bool,
) -> None:
    """Show what RUN or MODEL costs and sees, layer by layer, without running it; or, by --view, look into it.

    It is a name that `foveal train --model` takes, or a run: its folder, or its model file. The table shows for each
    layer the shape and bytes of its output, its parameters and how they are counted, multiply-adds, and its receptive
    field: how many rows and columns of the image one output sees, how far apart the fields of neighbouring outputs lie,
    and where the first one starts. `if dense` is the number of parameters that a fully connected layer in its place
    would have. Below the table stands which pixels the strides never read, and what to change so that all are read.

    --view draws one view of the network into a file, and prints its path; the view kernels is printed, and is a page
    with --out FILE.html. Images are read as those that the network was trained on. A model by its name is not trained.

    --json prints the totals ("parameters", "trainable", "macs", "memory", "field", ...), "layers", a row each, and
    "fitting_sizes", images that all layers read completely. Of a view it prints "view", "out", "trained", and "arrays",
    of each its "shape", "min", "max" and "mean".
    """
    if view["view"] is not None:
        for option, value in (("--batch", batch), ("--depth", depth)):
            if value is not None:
                raise ArgumentError(f"{option} is for the table; leave it out, or --view")
        show_view(model, image, classes, view, as_json)
        return
    if given := given_options(view):
        raise ArgumentError(f"--{given[0]} is for a view; leave it out, or name one by --view")
    show_costs(model, image, classes, batch or 1, depth, as_json)


def show_costs(
    model: str, image: str | None, classes: int | None, batch: int, depth: int | None, as_json: bool
) -> None:
    """Print the table of a model, or its JSON."""
    import shutil
    import sys

    from foveal.explain import explain as summarize
    from foveal.explain.explainer import batch_shape
    from foveal.explain.sizes import fitting_sizes, skipped
    from foveal.nn import init, models

    name, sizes, classes = to_explain(model, image, classes)
    # Before the model is built for them.
    batch_shape(sizes, batch)

    def make(shape: tuple[int, ...]) -> Module:
        # Starting values do not matter here, and drawing them for a large model takes time.
        with init.without_values():
            return models.build(name, channels=shape[0], size=(shape[1], shape[2]), classes=classes)

    summary = summarize(make(sizes), sizes, batch)
    fitting = fitting_sizes(make, sizes) if any(skipped(summary)) else []
    if as_json:
        show_json({**summary.as_json(), "fitting_sizes": fitting})
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    echo(summary.table(depth, max(width, MIN_WIDTH)))
    if fitting:
        near = " and ".join("x".join(map(str, shape)) for shape in fitting)
        echo(f"near {sizes[1]}x{sizes[2]}, images of {near} leave nothing unread in any layer")

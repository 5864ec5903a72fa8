"""The command line: foveal train | tune | evaluate | predict | explain | bench | doctor.

Each command imports what it needs when it runs, so that `foveal --help` answers at once.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal import __version__
from foveal.errors import DataError, FovealError, ShapeError

if TYPE_CHECKING:
    from foveal.train.checkpoint import Run

INTERRUPTED = 130  # 128 + SIGINT, as shells count
PREDICT_BATCH = 16  # one shape, so one compiled program, for any number of images
TOP = 3
LEAST_WIDTH = 110  # columns of the table of `foveal explain`, also where it is piped


class Commands(click.Group):
    """A group that loads some commands on first use, and tells a FovealError in one message."""

    lazy = {
        "bench": ("foveal.bench.command", "bench", "Time models and operators, also against torch.")
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.commands, *self.lazy])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return super().get_command(ctx, name)
        module, attribute, _ = self.lazy[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        helps |= {name: text for name, (_, _, text) in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(helps.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FovealError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            click.echo(f"\n{interrupt}" if str(interrupt) else "\nInterrupted.", err=True)
            ctx.exit(INTERRUPTED)


class Name(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """One of a list of names that is only imported when a value or the help needs it."""

    name = "name"

    def __init__(self, module: str) -> None:
        self.module = module

    def names(self) -> Sequence[str]:
        found: Sequence[str] = importlib.import_module(self.module).NAMES
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        known = {_bare(name): name for name in self.names()}
        if _bare(value) not in known:
            self.fail(f"{value!r} is not one of {', '.join(self.names())}.", param, ctx)
        return known[_bare(value)]


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_POSITIVE = click.IntRange(min=1)
_threads = click.option("--threads", type=_POSITIVE, help="Native threads.  [default: all cores]")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and no table.")
_run = click.argument("run", type=click.Path(path_type=Path))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Train and use convolutional networks, compiled to native code at run time."""


@main.command()
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--epochs", type=_POSITIVE, help="Passes through the training images.")
@click.option("--batch-size", type=_POSITIVE, help="Images per step.")
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    help="Learning rate; with one-cycle at its peak.",
)
@click.option("--optimizer", type=Name("foveal.optim"), help="Rule of the update.")
@click.option(
    "--schedule",
    type=Name("foveal.optim.schedule"),
    help="How the rate changes over the run.  [default: one-cycle]",
)
@click.option(
    "--momentum",
    type=click.FloatRange(0, 1, max_open=True),
    help="Momentum; Adam's first beta.  [default: the optimizer's]",
)
@click.option(
    "--momentum-low",
    type=click.FloatRange(0, 1, max_open=True),
    help="Cycle the momentum against the rate, down to this at its peak.",
)
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Weight decay.")
@click.option(
    "--clip-norm",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest norm of all gradients together.",
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    help="Test and keep the moving average of the parameters with this decay, e.g. 0.999.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of weights, order, augmentation and dropout.",
)
@_threads
@click.option(
    "--memory",
    type=click.Choice(["fast", "low"]),
    default="fast",
    show_default=True,
    help="low: compute cheap values again for the gradients instead of keeping them.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model, the log and the metrics.  [default: runs/<data>]",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def train(data: str, out: Path | None, **options: Any) -> None:
    """Train a network on DATA.

    DATA is `digits`, a folder of MNIST or Fashion-MNIST IDX files, a folder of CIFAR-10's or
    CIFAR-100's binary version, or an .npz file with x_train, y_train, x_test and y_test. What is
    not given is chosen by the size of the images. An older run in the same folder is kept: its
    files move to earlier-1 (earlier-2, ...) inside it.
    """
    from foveal.data.readers import load
    from foveal.train.loop import train as run

    dataset = load(data)
    run(dataset, out=out or Path("runs") / dataset.name, **options)


@main.command()
@click.argument("data")
@click.option("--model", type=Name("foveal.nn.models"), help="Network.  [default: by image size]")
@click.option("--optimizer", type=Name("foveal.optim"), help="Rule of the update.")
@click.option("--batch-size", type=_POSITIVE, help="Images per step.  [default: measured]")
@click.option("--epochs", type=_POSITIVE, help="Of the training that is to follow.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="As for train."
)
@_threads
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds that it may take, more or less.",
)
@click.option("--steps", type=_POSITIVE, help="Of each short run.  [default: by the budget]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the numbers and the picture.  [default: runs/<data>/tune]",
)
@_json
def tune(data: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Find learning rate, batch size, momentum and weight decay for DATA.

    By L. N. Smith's method (arXiv:1803.09820): a range test of the rate, the speed of batches, and
    short runs that are compared on training images held out for it. Prints what was found, why, and
    the command that trains with it; tune.json holds all numbers, tune.png shows them where
    matplotlib is installed. Speeds are measured, so another run may find something else; with
    --batch-size and --steps the same seed finds the same.
    """
    from foveal.data.readers import load
    from foveal.train.tune import save
    from foveal.train.tune import tune as run

    def tell(line: str) -> None:
        click.echo(line, err=as_json)

    dataset = load(data)
    found = run(dataset, tell=tell, **options)
    command = found.command(data)
    written = save(found, out or Path("runs") / dataset.name / "tune", command)
    if as_json:
        click.echo(written[0].read_text(encoding="utf-8"), nl=False)
        return
    click.echo(f"{found.seconds:.0f} s in all; see {' and '.join(map(str, written))}")
    if len(written) == 1:
        click.echo(
            "There is no picture, as matplotlib is not installed: pip install 'foveal[plot]'"
        )
    click.echo(f"Train with:\n\n    {command}\n")


@main.command()
@_run
@click.argument("data")
@_threads
@click.option(
    "--threshold", "target", metavar="CLASS", help="Pick a threshold of this class's probability."
)
@click.option(
    "--by",
    metavar="RULE",
    default="f1",
    show_default=True,
    help="What --threshold aims at: f1, precision=0.9, recall=0.9, or cost=1:5 (of a false positive"
    " : of a false negative).",
)
@_json
def evaluate(
    run: Path, data: str, threads: int | None, target: str | None, by: str, as_json: bool
) -> None:  # fmt: skip
    """Test the model of RUN on the test images of DATA.

    Shows loss, accuracy and calibration, precision, recall and F1 of each class, and, up to 20
    classes, which are taken for which; --json has all of it.
    """
    from foveal.data.readers import load
    from foveal.metrics.curves import parse_rule
    from foveal.metrics.tables import tables
    from foveal.train.checkpoint import load_net
    from foveal.train.metrics import predict, report, threshold_report

    _set_threads(threads)
    net, trained = load_net(run)
    dataset = load(data)
    trained.check(dataset)
    chosen = None if target is None else _class_number(target, trained.classes)
    rule = parse_rule(by)
    logits = predict(net, dataset.x_test, mean=trained.mean, std=trained.std)
    found = {
        "data": dataset.name,
        "images": len(dataset.x_test),
        **report(logits, dataset.y_test, trained.classes),
    }
    if chosen is not None:
        picked = threshold_report(logits, dataset.y_test, chosen, rule)
        found["threshold"] = {"class": trained.classes[chosen], "by": by, **picked}
    if as_json:
        click.echo(json.dumps(found))
        return
    for heading, columns, rows in tables(found):
        if heading:
            click.echo(heading)
        _table(columns, rows)


def _class_number(name: str, classes: Sequence[str]) -> int:
    """Of a class, given by its name or its number."""
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise DataError(f"--threshold {name}: the model knows the classes {', '.join(classes)}")


@main.command()
@_run
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_threads
@_json
def predict(run: Path, images: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Say what is on each IMAGE, by the model of RUN.

    Images are turned upright, made grey or RGB and resized as the model needs. Nothing is inverted:
    a model trained on MNIST expects white on black.
    """
    from foveal.train.checkpoint import load_net

    _set_threads(threads)
    net, trained = load_net(run)
    results = [
        {"image": image, **top[0], "top": top}
        for image, top in zip(images, _classify(net, trained, images), strict=True)
    ]
    if as_json:
        click.echo(json.dumps(results))
        return
    rows = [
        (image if rank == 0 else "", entry["class"], f"{entry['probability']:.2%}")
        for image, result in zip(images, results, strict=True)
        for rank, entry in enumerate(result["top"])
    ]
    _table(("image", "class", "probability"), rows)


def _classify(net: Any, run: Run, images: Sequence[str]) -> list[list[dict[str, Any]]]:
    """For each image file the TOP classes, most probable first."""
    import numpy as np

    from foveal.data.loader import filled
    from foveal.data.readers import UNIT, read_image
    from foveal.metrics import log_softmax
    from foveal.train.metrics import predict

    low, high = run.value_range
    if (low, high) != UNIT:
        raise DataError(
            f"the model was trained on pixels from {low:g} to {high:g}, image files hold 0 to 1 "
            "(bytes / 255): train it on uint8 images or on floats between 0 and 1"
        )
    x = np.stack([read_image(image, run.channels, *run.size) for image in images])
    logits = np.concatenate(
        [
            predict(net, filled(part, PREDICT_BATCH), mean=run.mean, std=run.std)[: len(part)]
            for part in (x[i : i + PREDICT_BATCH] for i in range(0, len(x), PREDICT_BATCH))
        ]
    )
    probability = np.exp(log_softmax(logits))
    order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
    return [
        [{"class": run.classes[k], "probability": float(row[k])} for k in ranks]
        for row, ranks in zip(probability, order, strict=True)
    ]


@main.command()
@click.argument("model")
@click.option(
    "--input",
    "image",
    metavar="CxHxW",
    help="One image, such as 3x224x224.  [default: the model's]",
)
@click.option(
    "--classes", type=click.IntRange(min=2), help="Outputs.  [default: 10, or 1000 from 64x64 on]"
)
@click.option("--batch", type=_POSITIVE, default=1, show_default=True, help="Images at once.")
@click.option(
    "--depth", type=click.IntRange(min=0), help="How deep nested layers are shown.  [default: all]"
)
@_json
def explain(
    model: str, image: str | None, classes: int | None, batch: int, depth: int | None, as_json: bool
) -> None:  # fmt: skip
    """Show what MODEL costs and sees, layer by layer, without running it.

    MODEL is a name that `foveal train --model` takes, or the folder of a run. Per layer: the shape
    and bytes of its output, its parameters and how they are counted, multiply-adds, and its
    receptive field: how many rows and columns of the image one output sees, how far apart those of
    neighbours lie, where the first one starts. `if dense` is how many parameters a fully connected
    layer in its place would have. Then: what strides never read, and how to mend it.
    """
    import shutil
    import sys

    from foveal.explain import explain as look
    from foveal.explain.sizes import fitting_sizes, skipped
    from foveal.nn import init, models

    name, sizes, classes = _to_explain(model, image, classes)

    def make(shape: tuple[int, ...]) -> Any:
        with init.without_values():
            return models.build(name, channels=shape[0], size=(shape[1], shape[2]), classes=classes)

    summary = look(make(sizes), sizes, batch)
    fitting = fitting_sizes(make, sizes) if any(skipped(summary)) else []
    if as_json:
        click.echo(json.dumps({**summary.as_json(), "fitting_sizes": fitting}))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    click.echo(summary.table(depth, max(width, LEAST_WIDTH)))
    if fitting:
        near = " and ".join("x".join(map(str, shape)) for shape in fitting)
        click.echo(
            f"near {sizes[1]}x{sizes[2]}, images of {near} leave nothing unread in any layer"
        )


def _to_explain(
    model: str, image: str | None, classes: int | None
) -> tuple[str, tuple[int, int, int], int]:
    """Name, image and classes of a model to build; those of a run where MODEL is one."""
    from foveal.nn import models
    from foveal.train.checkpoint import load_run

    name = _known_model(model)
    if name is not None:
        sizes = models.MODELS[name].image if image is None else _image_sizes(image)
        return name, sizes, classes or (1000 if min(sizes[1:]) >= 64 else 10)
    if not Path(model).exists():
        raise DataError(
            f"{model}: no model has this name and there is no such run; models are"
            f" {', '.join(models.NAMES)}"
        )
    run, _ = load_run(model)
    if run.model is None:
        raise DataError(
            f"{model}: was trained with a network of its own; call summary(input_shape) on that"
        )
    sizes = (run.channels, *run.size) if image is None else _image_sizes(image)
    return run.model, sizes, classes or len(run.classes)


def _known_model(name: str) -> str | None:
    """The name as `nn.models` has it."""
    from foveal.nn import models

    try:
        return models.canonical(name)
    except ShapeError:
        return None


def _image_sizes(text: str) -> tuple[int, int, int]:
    """Channels, rows and columns from 3x224x224."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ShapeError(
            f"--input {text!r}: give channels, rows and columns of one image, such as 3x224x224"
        )
    channels, rows, columns = map(int, parts)
    return channels, rows, columns


@main.command()
@click.option("--clear-cache", is_flag=True, help="Delete the compiled programs kept on disk.")
def doctor(clear_cache: bool) -> None:
    """Show what Foveal finds on this machine, and try whether compiled code works."""
    from foveal.kernel import cache

    if clear_cache:
        files, size = cache.size()
        cache.clear()
        click.echo(f"Deleted {files} files, {size / 1e6:.1f} MB, from {cache.directory()}.")
        return
    _table(("", ""), [*_machine().items(), *_versions().items()])
    if not cache.writable():
        click.echo("The cache cannot be written: every process will compile its kernels again.")
    click.echo(_self_test())


def _machine() -> dict[str, str]:
    import os

    import foveal
    from foveal.kernel import cache, target

    host = target.host()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    files, size = cache.size()
    return {
        "CPU": host.name,
        "vector width": f"{32 * host.lanes} bits = {host.lanes} float32",
        "vector registers": str(host.registers),
        "cores available": str(cores),
        "threads used": str(foveal.get_threads()),
        "cache": str(cache.directory()),
        "cache size": f"{files} files, {size / 1e6:.1f} MB",
    }


def _versions() -> dict[str, str]:
    import platform

    import llvmlite
    import numpy as np
    from llvmlite import binding

    return {
        "foveal": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "llvmlite": llvmlite.__version__,
        "LLVM": ".".join(map(str, binding.llvm_version_info)),
    }


def _self_test() -> str:
    """Compile a small convolution, run it and compare it with NumPy."""
    import time

    import numpy as np

    from foveal import nn

    conv = nn.Conv2d(3, 9, 3, padding=1)
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 11), dtype=np.float32)
    started = time.perf_counter()
    y = np.asarray(conv(x))
    seconds = time.perf_counter() - started
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    state = conv.state_dict()
    expected = np.einsum("ncpqrs,kcrs->nkpq", windows, state["weight"])
    expected += state["bias"][:, None, None]
    error = float(np.abs(y - expected).max())
    if not error < 1e-4:
        raise click.ClickException(
            f"compiled code is wrong on this machine: a convolution is off by {error:g}. "
            "Please report it with the table above; `foveal doctor --clear-cache` may help"
        )
    return f"Self-test: a convolution compiled and ran right in {seconds * 1e3:.0f} ms."


def _set_threads(threads: int | None) -> None:
    import foveal

    if threads is not None:
        foveal.set_threads(threads)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, since names may hold rich's markup
    Console().print(table)

"""The options of `foveal explain` about a view, making the view, and writing it to a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.options import SEED, classes_in, code_option, echo, set_threads, show_json, threads_option, with_options
from foveal.cli.view_training import VIEWS
from foveal.cli.views import Request, Shown, View
from foveal.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foveal.nn.module import Module
    from foveal.train.checkpoint import ModelDescription

#: What a file's ending says about its content.
ENDINGS = (".png", ".svg", ".html")
# The options that a view may take, as its row names them, and those that any view takes.
_OF_VIEWS = ("layer", "unit", "class", "image", "data", "stage", "seed")
_OF_ALL = ("out", "force", "threads", "code")

_OPTIONS = (
    click.option(
        "--view",
        type=click.Choice(list(VIEWS)),
        help=f"Draw it instead: {'; '.join(f'{name}, {view.help}' for name, view in VIEWS.items())}.",
    ),
    click.option(
        "--image", "images", multiple=True, metavar="FILE", help="View: an image; may be given several times."
    ),
    click.option("--data", metavar="DATA", help="View: where its images come from.  [default: the run's own data]"),
    click.option("--layer", metavar="NAME", help="View: of this layer, named as in the table."),
    click.option("--unit", type=click.IntRange(0), metavar="N", help="View: of this channel of the layer, from 0."),
    click.option("--class", "wanted", metavar="NAME", help="View: for this class.  [default: the predicted one]"),
    click.option(
        "--stage",
        type=click.Choice(["equation", "loop", "source", "ir", "assembly"]),
        help="View: one stage of the code.  [default: all]",
    ),
    click.option("--seed", type=SEED, help="View: of its random numbers.  [default: 0]"),
    click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=f"View: the file that is written, {', '.join(ENDINGS)}.  [default: explain-VIEW in RUN, or here]",
    ),
    click.option("--force", is_flag=True, help="View: overwrite the file."),
    threads_option,
    code_option,
)
# The names that the command gets as one argument, `view`.
NAMES = ("view", "images", "data", "layer", "unit", "wanted", "stage", "seed", "out", "force", "threads", "code")


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a view, which it gets as the dict `view`."""
    from functools import wraps

    @wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        return command(*args, view={name: kwargs.pop(name) for name in NAMES}, **kwargs)

    return with_options(gathered, _OPTIONS)


def given_options(options: Mapping[str, Any]) -> list[str]:
    """Return the options of views that are given, by their names on the command line."""
    names = {"images": "image", "wanted": "class"}
    return [names.get(name, name) for name in NAMES[1:] if options[name] not in (None, (), False)]


def show_view(source: str, image: str | None, classes: int | None, options: dict[str, Any], as_json: bool) -> None:
    """Draw a view of RUN or MODEL, write it to a file, and print the file's path.

    image, classes: as to `foveal explain`, for a model by its name. Raises ArgumentError for options that the view does
    not take, and FovealError for what is not there, before anything is computed.
    """
    name, view = options["view"], VIEWS[options["view"]]
    for option in given_options(options):
        if option in _OF_VIEWS and option not in view.takes:
            taken = ", ".join(f"--{one}" for one in _OF_VIEWS if one in view.takes) or "none of them"
            raise ArgumentError(f"--{option}: the view {name} does not take it, but {taken}; leave it out")
    if options["images"] and options["data"]:
        raise ArgumentError("--image and --data are both given; the images come from one of them")
    printed = view.printed and options["out"] is None
    out = None if printed else place(source, name, view, options["out"], options["force"])
    set_threads(options["threads"])
    net, description, trained = network(source, image, classes, options["code"])
    if not trained:
        echo(f"{source} is not trained: its weights are random numbers.", err=True)
    request = Request(
        source,
        net,
        description,
        trained,
        layer=checked_layer(net, options["layer"]),
        unit=options["unit"],
        target=None if options["wanted"] is None else class_number(options["wanted"], description.classes),
        images=options["images"],
        data=options["data"],
        stage=options["stage"],
        seed=options["seed"] or 0,
        page=out is not None and out.suffix.lower() == ".html",
        tell=lambda line: echo(line, err=True),
    )
    shown = view.draw(request)
    if out is not None:
        # Of what is printed elsewhere the page has all, to be unfolded.
        write(replace(shown, text="") if view.printed else shown, out, f"{name} of {source}")
    if as_json:
        arrays = {key: measures(array) for key, array in shown.arrays.items()}
        show_json({"view": name, "out": out and str(out), "trained": trained, "arrays": arrays, **shown.facts})
        return
    if shown.text and (out is None or not view.printed):
        echo(shown.text)
    if out is not None:
        echo(f"The view is at {out}.")


def place(source: str, name: str, view: View, out: Path | None, force: bool) -> Path:
    """Return the path of the file to write. Raises ArgumentError for one that is there, or ends otherwise."""
    if out is None:
        out = (Path(source) if Path(source).is_dir() else Path()) / f"explain-{name}{view.ending}"
    if out.suffix.lower() not in ENDINGS:
        raise ArgumentError(f"--out {out}: ends in none of {', '.join(ENDINGS)}")
    # What has no figure is known before it is computed.
    if view.ending == ".html" and out.suffix.lower() != ".html":
        raise ArgumentError(f"--out {out}: this view is a page of text; give a name that ends in .html")
    if out.exists() and not force:
        raise ArgumentError(f"{out} is there already; --force overwrites it, --out FILE chooses another")
    return out


def network(
    source: str, image: str | None, classes: int | None, code: tuple[str, ...]
) -> tuple[Module, ModelDescription, bool]:
    """Return the network of a run, or of a model by its name, its description, and whether it is trained."""
    from foveal.cli.model_argument import known_model, to_explain
    from foveal.nn import models
    from foveal.train.checkpoint import ModelDescription, load_net

    if known_model(source) is None and Path(source).exists():
        if image is not None or classes is not None:
            raise ArgumentError("--input and --classes are for a model by its name; a run has its own")
        return *load_net(source, cls=classes_in(code)), True
    name, (channels, *size), count = to_explain(source, image, classes)
    net = models.build(name, channels=channels, size=(size[0], size[1]), classes=count, seed=0)
    described = ModelDescription(
        model=name,
        data="no data",
        channels=channels,
        size=(size[0], size[1]),
        classes=tuple(map(str, range(count))),
        mean=(0.0,),
        std=(1.0,),
        value_range=(0.0, 1.0),
    )
    return net.eval(), described, False


def checked_layer(net: Module, layer: str | None) -> str | None:
    """Return the name of a layer; raise ArgumentError that names those that are like it if there is no such one."""
    from foveal.explain.model import near

    names = [name for name, _ in net.named_modules() if name]
    if layer is None or layer in names:
        return layer
    raise ArgumentError(f"--layer {layer}: {type(net).__name__} has no such layer; {near(layer, names)}")


def class_number(name: str, classes: tuple[str, ...]) -> int:
    """Return the number of a class from its name or its number. Raises DataError if there is no such class."""
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise DataError(f"--class {name}: the model knows the classes {', '.join(classes)}")


def measures(array: NDArray[Any]) -> dict[str, Any]:
    """Return the shape of an array, and the least, the largest and the mean of its values."""
    if not array.size:
        return {"shape": list(array.shape)}
    values = {"min": array.min(), "max": array.max(), "mean": array.mean(dtype="float64")}
    return {"shape": list(array.shape), **{key: float(value) for key, value in values.items()}}


def write(shown: Shown, out: Path, title: str) -> None:
    """Write what a view has found, whole or not at all. Raises DataError if that fails."""
    from foveal.display import escaped
    from foveal.files import write_whole
    from foveal.report import page
    from foveal.train.files import writing

    ending = out.suffix.lower()
    stream = io.BytesIO()
    if shown.figure is not None:
        kind = "png" if ending == ".html" else ending[1:]
        shown.figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    content = stream.getvalue()
    if ending == ".html":
        inside = "" if shown.figure is None else page.picture(content, "png", title)
        inside += f"<pre>{escaped(shown.text)}</pre>" if shown.text else ""
        sections = [page.Section("view", title, inside + shown.html)]
        content = page.document(title, "", sections, "").encode("utf-8", "xmlcharrefreplace")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)

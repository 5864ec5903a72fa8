"""The views of `foveal explain` that look into a training and into a layer's code, and the table of all views.

Losses and statistics are those of cross-entropy on images that the run was trained on, spread evenly over them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli.image_views import VIEWS as OF_IMAGES
from foveal.cli.views import Request, Shown, View
from foveal.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foveal.display import Tables
    from foveal.train.kept_states import KeptStates

# Training images of a view, and points along each side of a surface.
IMAGES, POINTS = 256, 15
# Images that are looked for, and how many similar ones are shown beside each.
QUERIES, SIMILAR = 6, 8
# Pictures that a query is compared with, at most: the first ones of the training data.
MOST_COMPARED = 50_000


def training_images(request: Request) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return training images, normalised, and the numbers of their classes as the network has them."""
    import numpy as np

    from foveal.data.statistics import Normalisation

    data = request.dataset
    numbers = request.description.check(data)
    count = len(data.y_train)
    # Folders are sorted by class, so that the first ones would all be of one.
    rows = np.unique(np.linspace(0, count - 1, min(IMAGES, count)).astype(int))
    pixels: Any = np.asarray(data.images_train[rows])
    return Normalisation(request.description.mean, request.description.std)(pixels), numbers[data.y_train[rows]]


def tell_work(request: Request, points: int, images: int) -> None:
    """Say how often the loss is computed, which takes minutes for large images."""
    request.tell(f"computing the loss of {images:,} images at {points:,} points, which takes minutes for large images")


def table_of(found: Tables, *lines: str) -> str:
    """Return what is printed of a result, with sentences below it."""
    return "\n".join([repr(found), *lines])


def statistics(request: Request) -> Shown:
    """Show activations and gradients layer by layer."""
    from dataclasses import asdict

    import numpy as np

    from foveal import explain, nn

    x, y = training_images(request)
    found = explain.statistics(request.net, x, y, nn.CrossEntropyLoss())
    arrays = {
        f"{name} of layers": np.array([getattr(row, name) for row in found.layers], np.float64)
        for name in ("mean", "std", "zeros", "gradient_std")
    }
    facts = {"loss": found.loss, "images": found.images, "layers": [asdict(row) for row in found.layers]}
    facts["parameters"] = [asdict(row) for row in found.parameters]
    return Shown(explain.plot_statistics(found), arrays, facts, text=table_of(found))


def similar(request: Request) -> Shown:
    """Show images beside the training images that are most similar to them by features."""
    import numpy as np

    from foveal import explain, train

    photos, data = request.photos(QUERIES), request.dataset
    known: Any = np.asarray(data.images_train[:MOST_COMPARED])
    scale = {"mean": request.description.mean, "std": request.description.std}
    of_known, of_photos = (train.features(request.net, x, **scale, layer=request.layer) for x in (known, photos.pixels))
    found = explain.similar(of_known, of_photos, count=min(SIMILAR, len(known)))
    names = [data.classes[label] for label in data.y_train[: len(known)]]
    figure = explain.plot_similar(found, known, photos.pixels, names=names)
    lines = [
        f"{name}: {', '.join(f'{names[j]} ({s:.2f})' for j, s in zip(*one, strict=True))}"
        for name, one in zip(photos.names, zip(found.indices, found.similarities, strict=True), strict=True)
    ]
    return Shown(figure, {"indices": found.indices, "similarities": found.similarities}, text="\n".join(lines))


def landscape(request: Request) -> Shown:
    """Show the loss around the trained network along two random directions that are normalised by filters."""
    from foveal import explain, nn

    x, y = training_images(request)
    tell_work(request, POINTS**2, len(x))
    found = explain.loss_landscape(request.net, x, y, nn.CrossEntropyLoss(), points=POINTS, seed=request.seed)
    facts = {"loss": found.loss, "images": found.images, "seed": request.seed}
    return Shown(explain.plot_loss_landscape(found), {"losses": found.losses}, facts, text=table_of(found))


def path(request: Request) -> Shown:
    """Show the way of a run: on the plane through what it has kept, or else the straight line from its start."""
    from foveal import explain, nn, train

    if not request.trained:
        raise DataError(f"{request.source}: a model by its name has no way of a training; give a run")
    source = Path(request.source)
    # A run is also named by the file of its model.
    kept = train.kept_states(source if source.is_dir() else source.parent)
    names = list(kept.states)
    if len(names) < 2:
        raise DataError(f"{request.source}: there is no way to be drawn. {' '.join(kept.missing)}")
    x, y = training_images(request)
    facts = {"states": names, "missing": list(kept.missing)}
    if len(names) > 2:
        tell_work(request, POINTS**2 + len(names), len(x))
        way = explain.loss_path(request.net, x, y, nn.CrossEntropyLoss(), kept.states, points=POINTS)
        arrays = {"points": way.points, "losses": way.losses, "surface": way.surface}
        return Shown(explain.plot_loss_path(way), arrays, facts, text=table_of(way, *kept.missing))
    first, last = names
    line = explain.loss_line(request.net, x, y, nn.CrossEntropyLoss(), kept.states[first], kept.states[last])
    figure = explain.plot_loss_line(line, f"the straight line from {first} (0) to {last} (1)")
    return Shown(figure, {"losses": line.losses}, facts, text=table_of(line, *of_two(kept)))


def of_two(kept: KeptStates) -> list[str]:
    """Return sentences on why a run of two states has no plane."""
    first, last = kept.states
    return [
        f"The run holds two different states, {first} and {last}: a plane goes through three, and this is the straight"
        " line between them. A run keeps its last checkpoint and the one before it; for a longer way keep"
        " net.state_dict() in a callback, and draw it with explain.loss_path.",
        *kept.missing,
    ]


def kernels(request: Request) -> Shown:
    """Show the code of layers, from the equation to assembly, as text, or as a page that unfolds."""
    import numpy as np

    from foveal import explain

    x = np.random.default_rng(0).standard_normal((1, *request.shape)).astype(np.float32)
    found = explain.kernels(request.net, x, request.layer)
    if request.layer is None and request.stage is None:
        text = table_of(
            found, "--layer NAME shows the stages of a layer, --stage one of them; --out FILE.html has all."
        )
    else:
        text = found.text(request.stage)
    layers = [
        {
            "layers": [name for name, _ in group.layers],
            "computes": group.computes,
            "kernels": [str(call) for call in group.calls],
            "seconds": group.seconds,
            "rate": group.rate,
            "unit": "GFLOP/s" if group.flops else "GB/s",
            "share": group.share,
        }
        for group in found
    ]
    # A page has all stages, which take a while to be made.
    return Shown(None, facts={"layers": layers}, text=text, html=found._repr_html_() if request.page else "")


#: By the name that `--view` takes.
VIEWS: dict[str, View] = {
    **OF_IMAGES,
    "statistics": View("activations and gradients of layers: dead units, saturation", statistics, frozenset({"data"})),
    "similar": View(
        "images beside the training images most similar to them", similar, frozenset({"image", "data", "layer"})
    ),
    "landscape": View("the loss around the trained network", landscape, frozenset({"data", "seed"})),
    "path": View("the way of a run on the surface of the loss", path, frozenset({"data"})),
    "kernels": View(
        "the code of layers, printed; with --out as a page",
        kernels,
        frozenset({"layer", "stage"}),
        ending=".html",
        printed=True,
    ),
}

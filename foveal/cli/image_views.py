"""The views of `foveal explain --view` on images: what each of them draws, and its row in VIEWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foveal.cli.view_images import Photos
from foveal.cli.views import Request, Shown, View

if TYPE_CHECKING:
    from foveal.explain.panels import Panel

# Images that are drawn where none are named; those that are searched for what activates a unit; channels of a layer;
# units that are drawn where none is named.
FEW, SEARCHED, CHANNELS, UNITS = 3, 2000, 64, 6
# Images that a unit is shown with, and steps of integrated gradients.
PER_UNIT, STEPS = 8, 64


def filters(request: Request) -> Shown:
    """Draw the filters [K, C, R, S] of the first convolution, or of the layer that is named."""
    from foveal.nn import plots

    name, layer = plots.found_layer(request.net, request.layer)
    # Of a fully connected layer that sees the images, each row is drawn as one.
    weights = plots.filters_of(layer, request.shape)
    figure = plots.plot_filters(request.net, name, request.shape)
    return Shown(figure, {"filters": weights}, {"layer": name})


def maps(request: Request) -> Shown:
    """Draw what layers compute for one image: all that return images, or the one that is named."""
    import numpy as np

    from foveal.nn import plots
    from foveal.plotting import short

    photos = request.photos(1)
    names = None if request.layer is None else [request.layer]
    channels = CHANNELS if names else plots.MAX_CHANNELS
    untrained = "" if request.trained else ", not trained"
    title = f"What layers compute of {photos.short(0)}: {short(request.source, 40)}{untrained}"
    figure = plots.plot_feature_maps(request.net, photos.x[:1], names, channels, title)
    found = request.net.activations(photos.x[:1], names)
    # Of a layer that was called several times, or returned several arrays, the last one.
    arrays = {name: np.asarray(v[-1] if isinstance(v, list | tuple) else v) for name, v in found.items()}
    return Shown(figure, arrays, {"image": photos.names[0]})


def cam(request: Request) -> Shown:
    """Draw Grad-CAM, guided backpropagation and guided Grad-CAM, a row for each image."""
    from foveal import explain
    from foveal.errors import ShapeError
    from foveal.explain.panels import Panel, over

    photos, net = request.photos(FEW), request.net
    found = explain.saliency(net, photos.x, request.target)
    arrays = {"cam": explain.grad_cam(net, photos.x, found.target, request.layer)}
    try:
        variants = {
            "guided": explain.guided_backpropagation(net, photos.x, found.target),
            "guided_cam": explain.guided_grad_cam(net, photos.x, found.target, request.layer),
        }
        text = ""
    except ShapeError as error:
        # A network without a ReLU has no guided gradients.
        variants, text = {}, f"Grad-CAM alone: {error}"
    pictures = in_colour(photos)
    at = f", at {request.layer}" if request.layer else ""
    rows = []
    for i, picture in enumerate(pictures):
        row = [
            Panel(picture, photos.short(i)),
            Panel(over(picture, arrays["cam"][i]), f"{answer(request, found, i)}: Grad-CAM"),
        ]
        rows.append([*row, *(one.panel(i, one.method[0].lower() + one.method[1:]) for one in variants.values())])
    arrays |= {name: one.values for name, one in variants.items()}
    return Shown(
        sheet(request, rows, f"What speaks for the class{at}"), arrays, facts(request, photos, found.target), text
    )


def occlusion(request: Request) -> Shown:
    """Draw how the probability of the class drops where a patch covers the image, a row for each image."""
    from foveal import explain
    from foveal.explain.panels import Panel

    photos = request.photos(FEW)
    found = explain.occlusion(request.net, photos.x, request.target)
    rows = []
    for i, picture in enumerate(in_colour(photos)):
        named = f"{request.description.classes[found.target[i]]}, {found.probability[i]:.1%}"
        rows.append([Panel(picture, photos.short(i)), found.panel(i, f"{named}: drop when covered")])
    arrays = {name: found.arrays[name] for name in ("probability", "occluded", "heat")}
    size = "x".join(map(str, found.size))
    return Shown(sheet(request, rows, f"Occlusion by {size}"), arrays, facts(request, photos, found.target))


def gradients(request: Request) -> Shown:
    """Draw the gradient of the class's logit in each pixel, and integrated gradients, a row for each image."""
    from foveal import explain
    from foveal.explain.panels import Panel

    photos = request.photos(FEW)
    plain = explain.saliency(request.net, photos.x, request.target)
    found = explain.integrated_gradients(request.net, photos.x, plain.target, steps=STEPS)
    rows = []
    for i, picture in enumerate(in_colour(photos)):
        titles = answer(request, plain, i) + ": gradient", f"integrated: sum {found.values[i].sum():.3g}"
        rows.append([Panel(picture, photos.short(i)), plain.panel(i, titles[0]), found.panel(i, titles[1])])
    arrays: dict[str, Any] = {"gradient": plain.values, "integrated": found.values, "score": found.score}
    arrays |= {"baseline_score": found.baseline_score, "gap": found.gap}
    text = (
        "Red speaks for the class, blue against it. The integrated gradients of an image sum to its logit less that of"
        f" an image of the mean colour, up to {found.gap.max():.2g}."
    )
    return Shown(sheet(request, rows, "Gradients"), arrays, facts(request, photos, plain.target), text)


def fields(request: Request) -> Shown:
    """Draw on an image what an output of a layer can read, how much it does, and what none ever reads."""
    from foveal import explain

    photos = request.photos(FEW)
    field = explain.receptive_field(request.net, photos.x, request.layer, unit=request.unit)
    covered = explain.coverage(request.net, photos.x, field.layer)
    rows = [field.panels(photos.pixels[:1]), covered.panels(photos.pixels[:1])]
    top, bottom, left, right = field.box
    text = (
        f"Output {field.at} of {field.layer} can read {bottom - top + 1}x{right - left + 1} pixels (solid frame). Its"
        f" effective field, in the broken frame, has as many pixels as a square of side {field.effective_size:.1f}."
        f"\n{covered}"
    )
    arrays = {"field": field.mask, "effective": field.effective, "count": covered.count, "unread": covered.unread}
    told: dict[str, Any] = {
        "layer": field.layer,
        "at": list(field.at),
        "box": list(field.box),
        "notes": list(covered.notes),
    }
    told["effective_size"] = field.effective_size
    return Shown(sheet(request, rows, f"What {field.layer} reads"), arrays, told, text)


def images(request: Request) -> Shown:
    """Draw the images that activate units of a layer most, cut out where the units read them."""
    from foveal import explain
    from foveal.explain.explainer import explain as summarize
    from foveal.explain.plots import drawn_row

    photos = request.photos(SEARCHED)
    layer = request.layer or drawn_row(summarize(request.net, request.shape, memory=False), None).name
    units = None if request.unit is None else [request.unit]
    found = explain.activating_images(request.net, photos.x, layer, units, PER_UNIT)
    if units is None:
        # Of all units a few, spread evenly.
        few = found.unit[:: max(1, len(found.unit) // UNITS)][:UNITS].tolist()
        found = explain.activating_images(request.net, photos.x, layer, few, PER_UNIT)
    names = [[photos.names[i] for i in line] for line in found.index.tolist()]
    told = {"layer": layer, "unit": found.unit.tolist(), "searched": len(photos.x), "images": names}
    told["box"] = found.box.tolist()
    text = f"{len(photos.x):,} images were searched for what activates {layer} most."
    return Shown(found.figure(photos.pixels), {"activation": found.activation}, told, text)


def in_colour(photos: Photos) -> list[Any]:
    """Return images as they are drawn, [H, W, 3] each."""
    from foveal.explain.panels import drawn_images

    return drawn_images(photos.x, photos.pixels)


def answer(request: Request, found: Any, i: int) -> str:
    """Return the class of image i, as a title."""
    from foveal.plotting import short

    return short(request.description.classes[found.target[i]])


def sheet(request: Request, rows: list[list[Panel]], title: str) -> Any:
    """Return the figure, whose title says of which network it is."""
    from foveal.explain.panels import sheet as drawn
    from foveal.plotting import short

    return drawn(rows, f"{title}: {short(request.source, 40)}{'' if request.trained else ', not trained'}")


def facts(request: Request, photos: Photos, target: Any) -> dict[str, Any]:
    """Return what --json prints of images and their classes."""
    classes = [request.description.classes[k] for k in target]
    return {"images": photos.names, "classes": classes, "layer": request.layer}


_IMAGES = frozenset({"image", "data"})

#: By the name that `--view` takes.
VIEWS: dict[str, View] = {
    "filters": View("the filters of the first convolution, or of --layer", filters, frozenset({"layer"})),
    "maps": View("what layers compute for an image", maps, _IMAGES | {"layer"}),
    "cam": View("Grad-CAM, guided too: what speaks for a class", cam, _IMAGES | {"layer", "class"}),
    "occlusion": View("how much a class needs each part", occlusion, _IMAGES | {"class"}),
    "gradients": View("gradients in the pixels, integrated too", gradients, _IMAGES | {"class"}),
    "fields": View("what an output reads, and what none does", fields, _IMAGES | {"layer", "unit"}),
    "images": View("those that activate a unit most", images, _IMAGES | {"layer", "unit"}),
}

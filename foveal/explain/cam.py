"""Grad-CAM: which places of an image speak for a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", 2017.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal import ops
from foveal.arguments import checked
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.explain.asked import KEY, chosen_classes, images_of, in_rounds, kept, traced
from foveal.explain.model import Model, main_output, modes_restored, near
from foveal.trace import LayerCall, Symbol, calls_within, current

Floats = NDArray[np.float32]


@checked
def grad_cam(
    net: Model, image: ArrayLike, target: ArrayLike | None = None, layer: str | None = None, upsample: bool = True
) -> Floats:
    """Return a map of the places that speak for a class, from 0 (none) to 1: [H, W] of an image, [N, H, W] of a batch.

        heat = explain.grad_cam(net, image)                  # for the class that the network predicts
        heat = explain.grad_cam(net, images, labels)         # for the classes that are right

    net: a classifier, images [N, C, H, W] to logits [N, K], of any architecture that has a layer with rows and columns;
    it computes in evaluation mode. image: [C, H, W], or a batch [N, C, H, W], normalised as the network takes it.
    target: the class, or one for each image; the predicted ones if not given. layer: the dotted name of the layer whose
    outputs A [N, K, P, Q] are looked at; if not given, the last one that has more than one place and is no pooling.
    upsample: False to return the map as the layer has it, [P, Q].

    With the gradients of the logit y_c, the weights are a_k = mean_{p,q} dy_c / dA[k,p,q], and the map is
    relu(sum_k a_k A[k,p,q]) (eq. 1 and 2), divided by its largest value; it is 0 where nothing speaks for the class.
    Between the places of the layer values are interpolated linearly. Raises ShapeError for other shapes, for a class
    that there is not, and where no layer is left to look at.
    """
    batch = images_of("grad_cam", image)
    with modes_restored(net):
        net.eval()
        wanted = chosen_classes("grad_cam", net, batch, target)
        program = kept(net, ("grad_cam", layer), lambda x, y, key: activations_and_weights(net, layer, x, y, key))
        A, a = in_rounds(lambda x, y: program(x, y, KEY), batch, wanted)
    # [N, P, Q], and the same as a share of the largest value of each image.
    heat = np.maximum(np.einsum("nkpq,nk->npq", A, a), 0)
    largest = heat.max((1, 2), keepdims=True)
    heat = np.divide(heat, largest, out=np.zeros_like(heat), where=largest > 0)
    if upsample:
        heat = np.stack([enlarged(one, batch.shape[2:]) for one in heat])
    return (heat if np.ndim(image) == 4 else heat[0]).astype(np.float32)


def activations_and_weights(net: Model, layer: str | None, x: Symbol, classes: Symbol, key: Symbol) -> list[Any]:
    """Trace the network on x [N, C, H, W]; return a layer's outputs A [N, K, P, Q] and the mean slopes [N, K] there.

    key: int32 [4], what random layers draw from, if there are some that do so in evaluation mode.
    """
    logits, call = traced(net, x, key)
    A = looked_at(net, call, layer)
    # The logits of one class for each image; images do not read each other, so their sum has the slopes of all.
    y = ops.sum(logits * ops.one_hot(classes, classes=logits.shape[1]))
    (slope,) = gradients(current().lift(y), [A])
    return [A, slope.mean(axis=(2, 3))]


def looked_at(net: Model, call: LayerCall, layer: str | None, what: str = "grad_cam") -> Symbol:
    """Return the outputs of the layer of that name, or of the last one that is to be looked at."""
    if layer is not None:
        named = called(net, call, layer, what)
        if len(named.shape) == 4 and named.dtype == np.float32:
            return named
    found: Symbol | None = None
    for one in calls_within(call) if layer is None else ():
        result = main_output(one.result)
        if result is None or len(result.shape) != 4 or result.dtype != np.float32:
            continue
        # What a pooling computes has fewer places than what it reads; a container that ends with one returns the same.
        op = result.node.op
        if prod(result.shape[2:]) > 1 and (op is None or "pool" not in op.name):
            found = result
    if found is None:
        raise not_called(net, layer, what)
    return found


def called(net: Model, call: LayerCall, layer: str, what: str) -> Symbol:
    """Return what the layer of that name returned when it was called last. Raises ShapeError if it was not called."""
    names = {id(module): name for name, module in net.named_modules()}
    results = [main_output(one.result) for one in calls_within(call) if names.get(id(one.layer)) == layer]
    if not results or results[-1] is None:
        raise not_called(net, layer, what)
    return results[-1]


def not_called(net: Model, layer: str | None, what: str) -> ShapeError:
    """Return the error that a network calls no such layer."""
    names = [name for name, _ in net.named_modules()]
    named, hint = "" if layer is None else f" {layer!r}", "explain(net, shape) lists the layers with their shapes"
    if layer is not None and layer not in names:
        hint = near(layer, names)
    return ShapeError(
        f"{what}: {type(net).__name__} calls no layer{named} whose outputs have rows and columns to look at; {hint}"
    )


def enlarged(heat: Floats, size: tuple[int, ...]) -> Floats:
    """Return a map [P, Q] at the size of the image, (rows, columns), interpolated linearly."""
    from PIL import Image

    rows, columns = size
    picture = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.clip(np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR)), 0, 1)

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
from foveal.api import Compiled, as_argument
from foveal.arguments import checked
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.explain.model import Model, main_output, modes_restored
from foveal.strides import Ndarray
from foveal.trace import LayerCall, Symbol, calls_within, current
from foveal.watch import own_attributes

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
    batch = as_argument(image, "grad_cam: image")
    single = batch.ndim == 3
    batch = batch[None] if single else batch
    if batch.ndim != 4:
        raise ShapeError(
            f"grad_cam: image has shape {np.shape(image)}; give one image [C, H, W] or a batch [N, C, H, W]"
        )
    with modes_restored(net):
        net.eval()
        wanted = chosen_classes(net, batch, target)
        # One program for each layer that was asked for, kept with the network as those of its activations are.
        own: dict[str, Any] = own_attributes(net)
        kept: dict[str | None, Compiled] = own.setdefault("_grad_cam", {})
        if layer not in kept:
            kept[layer] = Compiled(lambda x, y, key: activations_and_weights(net, layer, x, y, key))
        A, a = kept[layer](batch, wanted, np.zeros(4, np.int32))
    # [N, P, Q], and the same as a share of the largest value of each image.
    heat = np.maximum(np.einsum("nkpq,nk->npq", A, a), 0)
    largest = heat.max((1, 2), keepdims=True)
    heat = np.divide(heat, largest, out=np.zeros_like(heat), where=largest > 0)
    if upsample:
        heat = np.stack([enlarged(one, batch.shape[2:]) for one in heat])
    return (heat[0] if single else heat).astype(np.float32)


def chosen_classes(net: Model, batch: Ndarray, target: ArrayLike | None) -> NDArray[np.int32]:
    """Return a class number for each image."""
    logits: Ndarray = np.asarray(net(batch))  # type: ignore[arg-type]
    if logits.ndim != 2:
        raise ShapeError(f"grad_cam: the network returned shape {logits.shape} for images; it has to be [N, classes]")
    if target is None:
        return logits.argmax(1).astype(np.int32)
    wanted = np.asarray(target)
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1 or (wanted.ndim and len(wanted) != len(batch)):
        raise ShapeError(
            f"grad_cam: target has shape {wanted.shape} and dtype {wanted.dtype}; give one class number, or"
            f" one for each of the {len(batch)} images"
        )
    if not ((wanted >= 0) & (wanted < logits.shape[1])).all():
        raise ShapeError(
            f"grad_cam: target {wanted.max()} is none of the {logits.shape[1]} classes, which count from 0"
        )
    return np.broadcast_to(wanted, len(batch)).astype(np.int32)


def activations_and_weights(net: Model, layer: str | None, x: Symbol, classes: Symbol, key: Symbol) -> list[Any]:
    """Trace the network on x [N, C, H, W]; return a layer's outputs A [N, K, P, Q] and the mean slopes [N, K] there.

    key: int32 [4], what random layers draw from, if there are some that do so in evaluation mode.
    """
    current().key = key
    net.name_parameters()
    logits = main_output(net(x))
    call = current().call.parts[-1]
    assert logits is not None
    assert isinstance(call, LayerCall)
    A = looked_at(net, call, layer)
    # The logits of one class for each image; images do not read each other, so their sum has the slopes of all.
    y = ops.sum(logits * ops.one_hot(classes, classes=logits.shape[1]))
    (slope,) = gradients(current().lift(y), [A])
    return [A, slope.mean(axis=(2, 3))]


def looked_at(net: Model, call: LayerCall, layer: str | None) -> Symbol:
    """Return the outputs of the layer of that name, or of the last one that is to be looked at."""
    names = {id(module): name for name, module in net.named_modules()}
    found: Symbol | None = None
    for one in calls_within(call):
        result = main_output(one.result)
        if result is None or len(result.shape) != 4 or result.dtype != np.float32:
            continue
        # What a pooling computes has fewer places than what it reads; a container that ends with one returns the same.
        op = result.node.op
        last = prod(result.shape[2:]) > 1 and (op is None or "pool" not in op.name)
        if last if layer is None else names.get(id(one.layer)) == layer:
            found = result
    if found is None:
        named = "" if layer is None else f" {layer!r}"
        raise ShapeError(
            f"grad_cam: {type(net).__name__} calls no layer{named} whose outputs have rows and columns to look at;"
            " explain(net, shape) lists the layers with their shapes"
        )
    return found


def enlarged(heat: Floats, size: tuple[int, ...]) -> Floats:
    """Return a map [P, Q] at the size of the image, (rows, columns), interpolated linearly."""
    from PIL import Image

    rows, columns = size
    picture = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.clip(np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR)), 0, 1)

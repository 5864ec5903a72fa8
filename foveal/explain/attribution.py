"""Which pixels of an image speak for a class, by gradients: as they are, guided, times Grad-CAM, and integrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal import ops
from foveal.autodiff import walk
from foveal.errors import ShapeError, warn
from foveal.explain.asked import KEY, Classes, Floats, Result, chosen_classes, images_of, in_rounds, kept, traced
from foveal.explain.cam import grad_cam
from foveal.explain.model import Model, modes_restored
from foveal.explain.panels import Panel, about_grey, drawn_images, sheet, signed
from foveal.graph import Node, order
from foveal.ops.op import Tensor
from foveal.strides import Ndarray
from foveal.trace import Symbol, current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The share of f(x) - f(baseline) by which a sum of integrated gradients may miss it without a warning.
ENOUGH = 0.05
# Steps of a path at most.
MAX_STEPS = 10_000


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """What each pixel of some images says for a class; shown as a figure in a notebook.

    found = explain.guided_backpropagation(net, image)
    found.values  # [1, C, H, W]
    found.figure().savefig("guided.png")
    """

    #: How it was computed, as a heading.
    method: str
    #: [N, C, H, W]: the images, as the network took them.
    image: Floats
    #: [N, C, H, W]: a number for each pixel and channel.
    values: Floats
    #: int32 [N]: the classes.
    target: Classes
    #: [N]: the logit y_c of the class c of each image.
    score: Floats

    def figure(self, pixels: ArrayLike | None = None, names: Sequence[str] | None = None) -> Figure:
        """Return a figure with a row for each image: itself, and what its pixels say.

        pixels: [N, C, H, W], the images before they were normalised; the network's input is drawn if not given. names:
        of the classes of the network. Guided gradients are drawn as an image, zero as grey; others summed over the
        channels, what speaks against the class blue, what speaks for it red. Raises ShapeError for other pixels.
        """
        rows = []
        for i, picture in enumerate(drawn_images(self.image, pixels)):
            rows.append([Panel(picture, self.named(i, names)), self.panel(i)])
        return sheet(rows, self.method)

    def named(self, i: int, names: Sequence[str] | None = None) -> str:
        """Return the class of an image as a text."""
        k = int(self.target[i])
        return f"class {k}" if names is None else str(names[k])

    def panel(self, i: int, title: str = "") -> Panel:
        """Return the picture of the values of image i."""
        return (about_grey if "uided" in self.method else signed)(self.values[i], title)


@dataclass(frozen=True, eq=False, repr=False)
class IntegratedGradients(Attribution):
    """Integrated gradients, and what their sums are to be."""

    #: [N, C, H, W]: where the paths begin.
    baseline: Floats
    #: [N]: the logit of the class at the baseline.
    baseline_score: Floats

    @property
    def gap(self) -> NDArray[np.float64]:
        """[N]: how far the sum of the values is from f(x) - f(baseline), which it has to be (completeness)."""
        total = self.values.sum((1, 2, 3), dtype=np.float64)
        return np.abs(total - (self.score.astype(np.float64) - self.baseline_score))


def saliency(net: Model, image: ArrayLike, target: ArrayLike | None = None) -> Attribution:
    """Return the gradient of the class's logit in each pixel, dy_c / dx [N, C, H, W].

    It says which pixels, moved by a little, change the logit most. Simonyan, Vedaldi and Zisserman, "Deep Inside
    Convolutional Networks", 2014, section 3. net, image, target: as `grad_cam` takes them, of which the errors are too.
    """
    return by_gradient("saliency", "Gradient of the logit", net, image, target, None)


def guided_backpropagation(net: Model, image: ArrayLike, target: ArrayLike | None = None) -> Attribution:
    """Return guided gradients [N, C, H, W]: those of which each ReLU passes on what is above zero alone.

        explain.guided_backpropagation(net, image, target=3).figure()

    Where the gradient passes a ReLU y = max(x, 0), it is dx = dy where x > 0 and dy > 0, else 0; the plain gradient
    keeps dy < 0. Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All Convolutional Net",
    2015, section 3.4. It shows edges that the network answers to, and depends little on the class: Adebayo et al.,
    "Sanity Checks for Saliency Maps", 2018.

    net, image, target: as `grad_cam` takes them. ReLUs are those of nn.ReLU, nn.ReLU6 and ops.relu; of other
    activations the gradient is passed on as it is. Raises ShapeError for a network without any ReLU, where it would be
    the plain gradient, and as `grad_cam` does.
    """
    return by_gradient("guided_backpropagation", "Guided backpropagation", net, image, target, guided)


def guided_grad_cam(
    net: Model, image: ArrayLike, target: ArrayLike | None = None, layer: str | None = None
) -> Attribution:
    """Return guided gradients times Grad-CAM, [N, C, H, W]: edges, where they speak for the class.

    Selvaraju et al., "Grad-CAM", 2017, section 3.2: the map of `grad_cam(net, image, target, layer)`, at the size of
    the image, times `guided_backpropagation(net, image, target)`, whose errors it has. layer: that of the map.
    """
    found = by_gradient("guided_grad_cam", "Guided Grad-CAM", net, image, target, guided)
    heat = grad_cam(net, found.image, found.target, layer)
    return Attribution(found.method, found.image, found.values * heat[:, None], found.target, found.score)


def integrated_gradients(
    net: Model, image: ArrayLike, target: ArrayLike | None = None, baseline: ArrayLike | None = None, steps: int = 64
) -> IntegratedGradients:
    """Return integrated gradients [N, C, H, W]: what each pixel adds to the logit on the way from a baseline.

        found = explain.integrated_gradients(net, image)
        found.values.sum(), found.score - found.baseline_score  # both are the same, up to found.gap

    Of the logit f of the class, with x' the baseline, (x_i - x'_i) times the mean of df / dx_i on the straight line
    from x' to x; the mean is one of `steps` points, each in the middle of its part. Their sum is f(x) - f(x')
    (completeness): Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", 2017, eq. 1 and proposition
    1. A FovealWarning says where it misses that by more than 5 %; more steps bring it nearer.

    net, image, target: as `grad_cam` takes them. baseline: an image [C, H, W], or one for each, [N, C, H, W]; 0 if not
    given, which is the mean colour where images are normalised. Raises ShapeError for a baseline of another shape, for
    less than 1 or more than 10,000 steps, and as `grad_cam` does.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ShapeError(f"integrated_gradients: steps is {steps}, it has to be from 1 to {MAX_STEPS:,}")
    batch = images_of("integrated_gradients", image)
    start = np.zeros_like(batch) if baseline is None else images_of("integrated_gradients: baseline", baseline)
    if start.shape not in (batch.shape, (1, *batch.shape[1:])):
        raise ShapeError(
            f"integrated_gradients: baseline has shape {start.shape}; give one image as large as the others,"
            f" {list(batch.shape[1:])}, or one for each of the {len(batch)}"
        )
    start = np.broadcast_to(start, batch.shape)
    with modes_restored(net):
        net.eval()
        wanted = chosen_classes("integrated_gradients", net, batch, target)
        values = np.empty(batch.shape, np.float32)
        # The middle of each part of the path, [steps, 1, 1, 1].
        share = ((np.arange(steps) + 0.5) / steps).astype(np.float32)[:, None, None, None]
        for i, k in enumerate(wanted):
            path = start[i] + share * (batch[i] - start[i])
            slopes, _ = slopes_and_scores(net, path, np.full(steps, k, np.int32), None)
            values[i] = (batch[i] - start[i]) * slopes.mean(0, dtype=np.float64)
        _, score = slopes_and_scores(net, batch, wanted, None)
        _, at_start = slopes_and_scores(net, start, wanted, None)
    found = IntegratedGradients("Integrated gradients", batch, values, wanted, score, np.array(start), at_start)
    missed = found.gap / np.maximum(np.abs(score.astype(np.float64) - at_start), 1e-6)
    if (missed > ENOUGH).any():
        warn(
            f"integrated_gradients: sums miss f(x) - f(baseline) by up to {missed.max():.1%} with {steps} steps; take"
            " more steps"
        )
    return found


def by_gradient(
    call: str,
    method: str,
    net: Model,
    image: ArrayLike,
    target: ArrayLike | None,
    changed: Callable[[Node, Tensor], Tensor] | None,
) -> Attribution:
    """Return what gradients say; changed: what is passed on in place of them."""
    batch = images_of(call, image)
    with modes_restored(net):
        net.eval()
        wanted = chosen_classes(call, net, batch, target)
        slopes, score = slopes_and_scores(net, batch, wanted, changed)
    return Attribution(method, batch, slopes, wanted, score)


def slopes_and_scores(
    net: Model, batch: Ndarray, classes: Classes, changed: Callable[[Node, Tensor], Tensor] | None
) -> tuple[Floats, Floats]:
    """Return the gradient of the logit of each image's class in the image, [N, C, H, W], and these logits [N]."""

    def function(x: Symbol, wanted: Symbol, key: Symbol) -> list[Any]:
        output, _ = traced(net, x, key)
        if changed is not None and not any(map(is_rectifier, order([output.node]))):
            raise ShapeError(
                f"guided backpropagation is about how gradients pass a ReLU, and {type(net).__name__} has none; use"
                " integrated_gradients, which is for any network"
            )
        of_class = ops.sum(output * ops.one_hot(wanted, classes=output.shape[1]), axis=1)
        # Images do not read each other, so the slopes of the sum are those of each logit.
        y = current().lift(ops.sum(of_class))
        slopes = walk(y, {x.node}, current().lift(1.0), changed=changed).get(x.node)
        return [x * 0.0 if slopes is None else slopes, of_class]

    program = kept(net, ("slopes", changed), function)
    slopes, scores = in_rounds(lambda x, k: program(x, k, KEY), batch, classes)
    return slopes, scores


def guided(node: Node, dy: Tensor) -> Tensor:
    """Return the gradient that a node passes on: of a ReLU what is above zero."""
    return ops.relu(dy) if is_rectifier(node) else dy


def is_rectifier(node: Node) -> bool:
    """Return True for a ReLU, and for one that is cut off above, such as ReLU6."""
    name = "" if node.op is None else node.op.name
    return name == "relu" or (name == "clip" and node.attributes["low"] == 0.0)

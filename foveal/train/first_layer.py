"""A first layer that whitens patches of the training images, made before the first step of a run."""

from __future__ import annotations

from foveal import nn
from foveal.errors import ArgumentError
from foveal.nn.whitening import first_convolution, whiten
from foveal.train.feed import Feed
from foveal.train.settings import Settings

# Training images that the filters are computed from, the first ones (K. Jordan 2024, section 3.2).
IMAGES = 5000


def whitened(net: nn.Module, settings: Settings, feed: Feed) -> dict[nn.Parameter, int]:
    """Let the first layer of a network whiten the training images, where the settings ask for it.

    Returns its bias with the number of epochs in which it is trained. The filters follow from the data alone, so that
    all ranks have the same; they are stored with the model as other weights are, and a run that goes on has them from
    its checkpoint. Raises ArgumentError for data that come as a Loader, ShapeError for a network that does not fit.
    """
    if settings.whiten is None:
        return {}
    if feed.plain is None:
        raise ArgumentError("whiten: a Loader gives no images to make filters from in order; give its data")
    return brief(whiten(net, feed.plain.first(IMAGES)), settings)


def to_be_whitened(net: nn.Module, settings: Settings) -> dict[nn.Parameter, int]:
    """Return what `whitened` does, and freeze the filters as it does, without computing any: for what is compiled."""
    if settings.whiten is None:
        return {}
    layer = first_convolution(net)
    layer.weight.trainable = False
    return brief(layer, settings)


def brief(layer: nn.Conv2d, settings: Settings) -> dict[nn.Parameter, int]:
    """Return the bias of a layer, if it has one, with the number of epochs in which it is trained."""
    assert settings.whiten is not None
    return {} if layer.bias is None else {layer.bias: settings.whiten}

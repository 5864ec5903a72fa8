"""Grad-CAM: the equation, which layer is looked at, and what is refused."""

import numpy as np
import pytest

from foveal import explain, nn
from foveal.errors import ShapeError
from foveal.explain.cam import looked_at
from foveal.ops.op import Type
from foveal.trace import LayerCall, tracing

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def net():
    nn.seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, 3)
    )


def test_of_a_linear_layer_on_means_it_is_the_class_activation_map(net):
    """There dy_c / dA[k,p,q] = w[c,k] / PQ, so that the map is relu(sum_k w[c,k] A[k]) up to a factor (section 3.1)."""
    images = RNG.standard_normal((5, 1, 8, 8), "float32")
    labels = np.array([0, 1, 2, 2, 1])
    net.train()
    found = explain.grad_cam(net, images, labels, upsample=False)
    assert net.training
    net.eval()
    A = net.activations(images, ["2"])["2"]
    weight = net.state_dict()["5.weight"]
    expected = np.maximum(np.einsum("nkpq,nk->npq", A, weight[labels]), 0)
    largest = expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected / np.where(largest > 0, largest, 1), atol=1e-5)


def test_one_image_is_as_a_batch_of_one_and_the_predicted_class_is_the_default(net):
    image = RNG.standard_normal((1, 8, 8), "float32")
    heat = explain.grad_cam(net, image)
    assert heat.shape == (8, 8)
    assert 0 <= heat.min() <= heat.max() <= 1
    predicted = int(net.eval()(image[None]).argmax())
    np.testing.assert_array_equal(heat, explain.grad_cam(net, image[None], [predicted])[0])
    np.testing.assert_array_equal(heat, explain.grad_cam(net, image, predicted, layer="2"))


@pytest.mark.parametrize(
    ("name", "size", "places"),
    [("lenet5", 28, (10, 10)), ("resnet20", 32, (8, 8)), ("vgg16", 64, (4, 4)), ("mobilenet_v2", 64, (2, 2))],
)
def test_models_have_a_last_layer_with_places(name, size, places):
    with nn.init.without_values():
        made = nn.models.build(name, channels=3, size=(size, size), classes=10, seed=0).eval()
    with tracing() as recording:
        made(recording.argument(Type((2, 3, size, size)), "x"))
        call = recording.call.parts[-1]
        assert isinstance(call, LayerCall)
        assert looked_at(made, call, None).shape[2:] == places


def test_what_cannot_be_looked_at_is_refused(net):
    image = np.zeros((1, 8, 8), "float32")
    for wrong, message in (
        ({"target": 3}, "target 3 is none of the 3 classes"),
        ({"target": [0, 1]}, r"target has shape \(2,\)"),
        ({"layer": "5"}, "calls no layer '5' whose outputs have rows"),
        ({"layer": "conv"}, "calls no layer 'conv'"),
    ):
        with pytest.raises(ShapeError, match=message):
            explain.grad_cam(net, image, **wrong)
    with pytest.raises(ShapeError, match="give one image"):
        explain.grad_cam(net, image[0])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ShapeError, match="calls no layer whose outputs"):
        explain.grad_cam(flat, image)

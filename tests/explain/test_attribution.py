"""Attributions by gradients and by occlusion: the values of PyTorch in float64, completeness, and what is refused."""

import pickle

import numpy as np
import pytest

from foveal import explain, nn
from foveal.errors import FovealWarning, NumericsError, ShapeError

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((5, 3, 9, 9), "float32")
LABELS = np.array([0, 1, 2, 3, 1])


class Branched(nn.Module):
    """A small network with a sum of two branches, one of them strided twice, batch norm and two kinds of ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.Conv2d(6, 8, 1, stride=2)
        self.relu, self.cut = nn.ReLU(), nn.ReLU6()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.cut(self.left(x) + self.right(x))
        return self.fc(x.mean(axis=(2, 3)))


@pytest.fixture(scope="module")
def net():
    nn.seed(1)
    # The same network whichever tests of this file run before.
    rng = np.random.default_rng(1)
    made = Branched()
    made.norm.running_mean.data = rng.standard_normal(6).astype("float32")
    made.norm.running_var.data = rng.uniform(0.5, 2, 6).astype("float32")
    return made


def in_torch(net, positive):
    """Return a function of images that gives their logits in float64; positive: what a ReLU does to its gradient."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    state = {name: torch.tensor(np.array(value), dtype=torch.float64) for name, value in net.state_dict().items()}

    def rectified(x, high):
        y = x.clamp(0, high)
        if positive and y.requires_grad:
            y.register_hook(lambda dy: dy.clamp(0))
        return y

    def call(x):
        x = F.conv2d(x, state["stem.weight"], state["stem.bias"], padding=1)
        statistics = state["norm.running_mean"], state["norm.running_var"]
        x = F.batch_norm(x, *statistics, state["norm.weight"], state["norm.bias"], eps=net.norm.eps)
        x = rectified(x, None)
        left = F.conv2d(x, state["left.weight"], state["left.bias"], stride=2, padding=1)
        x = rectified(left + F.conv2d(x, state["right.weight"], state["right.bias"], stride=2), 6.0)
        return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])

    return torch, call


@pytest.mark.parametrize(("function", "positive"), [(explain.saliency, False), (explain.guided_backpropagation, True)])
def test_gradients_are_those_of_pytorch(net, function, positive):
    torch, call = in_torch(net, positive)
    x = torch.tensor(IMAGES, dtype=torch.float64, requires_grad=True)
    y = call(x)[torch.arange(5), torch.tensor(LABELS)]
    y.sum().backward()
    found = function(net, IMAGES, LABELS)
    np.testing.assert_allclose(found.values, x.grad.numpy(), atol=2e-6)
    np.testing.assert_allclose(found.score, y.detach().numpy(), rtol=1e-4, atol=1e-5)
    # One image is as a batch of one.
    one = function(net, IMAGES[2], 2)
    np.testing.assert_allclose(one.values[0], found.values[2], atol=1e-6)


def test_guided_gradients_differ_from_plain_ones_only_by_what_relus_hold_back(net):
    guided, plain = explain.guided_backpropagation(net, IMAGES, LABELS), explain.saliency(net, IMAGES, LABELS)
    assert np.abs(guided.values - plain.values).max() > 1e-3
    smooth = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(98, 2))
    with pytest.raises(ShapeError, match="Sequential has none; use integrated_gradients"):
        explain.guided_backpropagation(smooth, IMAGES[:1])


def test_guided_grad_cam_is_the_product(net):
    found = explain.guided_grad_cam(net, IMAGES, LABELS, layer="stem")
    heat = explain.grad_cam(net, IMAGES, LABELS, layer="stem")
    guided = explain.guided_backpropagation(net, IMAGES, LABELS)
    np.testing.assert_allclose(found.values, guided.values * heat[:, None], atol=1e-7)


def test_integrated_gradients_are_complete(net):
    baseline = RNG.standard_normal((3, 9, 9), "float32")
    found = explain.integrated_gradients(net, IMAGES, LABELS, baseline, steps=256)
    difference = found.score - found.baseline_score
    scale = np.abs(found.values).sum((1, 2, 3))
    np.testing.assert_allclose(found.values.sum((1, 2, 3)), difference, atol=2e-3 * scale.max())
    assert (found.gap <= 2e-3 * scale.max()).all()
    # The score of the baseline is that of the network.
    expected = np.asarray(net.eval()(baseline[None]))[0, LABELS]
    np.testing.assert_allclose(found.baseline_score, expected, rtol=1e-4, atol=1e-5)


def test_integrated_gradients_of_a_quadratic_network_are_exact():
    """Of f = w x^2 they are w (x^2 - x'^2), for any number of steps: the middles of a straight line have its mean."""

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 2, bias=False)

        def forward(self, x):
            return self.fc((x * x).reshape(x.shape[0], 12))

    quadratic = Quadratic()
    x, start = RNG.standard_normal((2, 3, 2, 2), "float32"), RNG.standard_normal((2, 3, 2, 2), "float32")
    found = explain.integrated_gradients(quadratic, x, 1, start, steps=3)
    weight = quadratic.state_dict()["fc.weight"][1].reshape(3, 2, 2)
    np.testing.assert_allclose(found.values, weight * (x**2 - start**2), atol=1e-5)


def test_integrated_gradients_say_where_the_steps_are_too_few():
    nn.seed(0)
    steep = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 2))
    x = np.full((1, 3, 2, 2), 50, "float32")
    with pytest.warns(FovealWarning, match="with 2 steps; take more steps"):
        explain.integrated_gradients(steep, x, 0, steps=2)


def test_occlusion_is_what_the_network_says_of_covered_images(net):
    net.eval()

    def probability(image, k):
        powers = np.exp(np.asarray(net(image[None]))[0].astype("float64"))
        return (powers / powers.sum())[k]

    found = explain.occlusion(net, IMAGES[:2], LABELS[:2], size=(4, 3), stride=2, fill=0.5)
    assert found.rows.tolist() == [0, 2, 4, 5]
    assert found.columns.tolist() == [0, 2, 4, 6]
    drops = np.full((2, 9, 9, 16), np.nan)
    for n in range(2):
        assert found.probability[n] == pytest.approx(probability(IMAGES[n], LABELS[n]), abs=1e-5)
        for place, (p, q) in enumerate(np.ndindex(4, 4)):
            covered, top, left = IMAGES[n].copy(), found.rows[p], found.columns[q]
            covered[:, top : top + 4, left : left + 3] = 0.5
            expected = probability(covered, LABELS[n])
            assert found.occluded[n, p, q] == pytest.approx(expected, abs=1e-5)
            drops[n, top : top + 4, left : left + 3, place] = found.probability[n] - expected
    np.testing.assert_allclose(found.heat, np.nanmean(drops, -1), atol=1e-5)


def test_a_network_keeps_its_modes_and_can_be_pickled_after_it_was_looked_into(net):
    net.train()
    explain.grad_cam(net, IMAGES[0])
    explain.saliency(net, IMAGES[0])
    assert net.training
    assert pickle.loads(pickle.dumps(net)).state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (explain.saliency, {"target": 4}, "saliency: target 4 is none of the 4 classes"),
        (explain.guided_grad_cam, {"layer": "stam"}, r"calls no layer 'stam' .*did you mean 'stem'"),
        (explain.integrated_gradients, {"steps": 0}, "steps is 0"),
        (
            explain.integrated_gradients,
            {"baseline": np.zeros((3, 8, 9), "float32")},
            r"baseline has shape \(1, 3, 8, 9",
        ),
        (explain.occlusion, {"size": 10}, "a patch of 10x10"),
        (explain.occlusion, {"size": 3, "stride": 4}, "every 4 pixels"),
    ],
)
def test_what_cannot_be_asked_is_refused(net, function, wrong, message):
    with pytest.raises(ShapeError, match=message):
        function(net, IMAGES[0], **wrong)


def test_figures_have_a_row_for_each_image(net):
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib
    pixels = RNG.integers(0, 256, IMAGES.shape, dtype=np.uint8)
    names = ["ant", "bee", "cat", "dog"]
    for found in (
        explain.guided_backpropagation(net, IMAGES, LABELS),
        explain.integrated_gradients(net, IMAGES[:2], LABELS[:2], steps=128),
        explain.occlusion(net, IMAGES[:1], size=4),
    ):
        figure = found.figure(pixels[: len(found.image)], names)
        # A scale beside a picture has axes of its own.
        shown = [axis for axis in figure.axes if axis.get_title()]
        assert len(figure.axes) >= 2 * len(found.image)
        assert shown[0].get_title().startswith(names[found.target[0]])
        assert found._repr_png_().startswith(b"\x89PNG")
        with pytest.raises(ShapeError, match="pixels have shape"):
            found.figure(pixels[:, :, :4])


class Parts(nn.Module):
    """A network that returns what `form` makes of its logits."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.fc, self.form = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), form

    def forward(self, x):
        return self.form(self.fc(self.conv(x).mean(axis=(2, 3))))


VIEWS_OF_CLASSES = (explain.saliency, explain.integrated_gradients, explain.occlusion, explain.grad_cam)


def test_of_several_outputs_the_first_are_logits():
    plain, several = Parts(lambda y: y), Parts(lambda y: (y, y[:, :2]))
    several.load_state_dict(plain.state_dict())
    for view in (explain.saliency, explain.integrated_gradients, explain.occlusion):
        for name, array in view(plain, IMAGES[:1]).arrays.items():
            np.testing.assert_array_equal(view(several, IMAGES[:1]).arrays[name], array)
    for view in VIEWS_OF_CLASSES:
        with pytest.raises(ShapeError, match="it has to return logits"):
            view(Parts(lambda y: {"logits": y}), IMAGES[:1])
    with pytest.raises(ShapeError, match="Parts returned no array first"):
        explain.receptive_field(Parts(lambda y: {"logits": y}), IMAGES[:1])


def test_a_network_without_finite_answers_is_not_said_to_see_nothing():
    net = Parts(lambda y: y)
    net.conv.weight.data = np.full(net.conv.weight.shape, np.nan, "float32")
    for view in VIEWS_OF_CLASSES:
        with pytest.raises(NumericsError, match="returned NaN or infinity for image 0"):
            view(net, IMAGES[:1])

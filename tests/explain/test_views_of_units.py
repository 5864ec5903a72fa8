"""What units look for, and receptive fields on a photo: against definitions, and PyTorch in float64."""

import numpy as np
import pytest

from foveal import explain, nn
from foveal.errors import ShapeError

RNG = np.random.default_rng(3)
IMAGES = RNG.standard_normal((21, 2, 12, 10), "float32")


@pytest.fixture(scope="module")
def net():
    nn.seed(2)
    layers = {"a": nn.Conv2d(2, 4, 3, padding=1), "relu": nn.ReLU(), "b": nn.Conv2d(4, 3, 3, stride=2)}
    return nn.Sequential({**layers, "flat": nn.Flatten(), "fc": nn.Linear(60, 5)})


def test_activating_images_are_those_of_the_largest_activations(net):
    found = explain.activating_images(net, IMAGES, "b", unit=[2, 0], count=4)
    A = net.eval().activations(IMAGES, ["b"])["b"]
    assert A.shape == (21, 3, 5, 4)
    for u, k in enumerate([2, 0]):
        largest = A[:, k].reshape(21, -1)
        order = np.argsort(-largest.max(1), kind="stable")[:4]
        assert found.index[u].tolist() == order.tolist()
        np.testing.assert_allclose(found.activation[u], largest.max(1)[order], rtol=1e-5)
        for i, n in enumerate(order):
            p, q = divmod(int(largest[n].argmax()), 4)
            assert found.place[u, i].tolist() == [p, q]
            # Windows of 3 with padding 1, then of 3 with stride 2: rows 2p - 1 to 2p + 3 of the image.
            box = [max(0, 2 * p - 1), min(11, 2 * p + 3), max(0, 2 * q - 1), min(9, 2 * q + 3)]
            assert found.box[u, i].tolist() == box
            crop = IMAGES[n][:, box[0] : box[1] + 1, box[2] : box[3] + 1]
            np.testing.assert_array_equal(found.crops(u)[i], crop)


def test_what_lies_outside_of_its_field_does_not_change_a_unit(net):
    found = explain.activating_images(net, IMAGES, "b", unit=1, count=1)
    top, bottom, left, right = found.box[0, 0]
    alone = np.zeros_like(IMAGES[:1])
    alone[0, :, top : bottom + 1, left : right + 1] = found.crops()[0]
    p, q = found.place[0, 0]
    assert net.activations(alone, ["b"])["b"][0, 1, p, q] == pytest.approx(found.activation[0, 0], rel=1e-5)


def test_a_unit_without_places_reads_the_whole_image(net):
    found = explain.activating_images(net, IMAGES, "fc", unit=3, count=40)
    assert sorted(found.index[0]) == list(range(21))
    assert np.unique(found.box.reshape(-1, 4), axis=0).tolist() == [[0, 11, 0, 9]]


def test_the_effective_field_is_the_mean_gradient_of_pytorch(net):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    state = {name: torch.tensor(np.array(value), dtype=torch.float64) for name, value in net.state_dict().items()}
    x = torch.tensor(IMAGES, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(F.conv2d(x, state["a.weight"], state["a.bias"], padding=1).relu(), state["b.weight"], stride=2)
    for unit, slope in ((None, y[:, :, 1, 2].sum()), (1, y[:, 1, 1, 2].sum())):
        (dx,) = torch.autograd.grad(slope, x, retain_graph=True)
        expected = dx.abs().mean((0, 1)).numpy()
        found = explain.receptive_field(net, IMAGES, "b", at=(1, 2), unit=unit)
        np.testing.assert_allclose(found.effective, expected / expected.max(), atol=1e-6)
        assert not found.effective[~found.mask].any()
        assert found.box == (1, 5, 3, 7)
        assert found.effective_size == pytest.approx(np.sqrt((expected > 0.0455 * expected.max()).sum()))


def test_the_default_place_is_the_middle_of_the_last_layer_with_places(net):
    found = explain.receptive_field(net, IMAGES[0])
    assert (found.layer, found.at) == ("b", (2, 2))


@pytest.mark.parametrize("size", [5, 7])
def test_what_a_stride_never_reads_can_be_changed_without_effect(size):
    nn.seed(0)
    skipping = nn.Sequential(nn.Conv2d(1, 2, 2, stride=3), nn.ReLU()).eval()
    image = RNG.standard_normal((1, size, size), "float32")
    found = explain.coverage(skipping, image)
    # Windows read rows 0 and 1, 3 and 4, and so on; the third of each three is never read, nor what is left at the end.
    read = [i for i in range(size) if i % 3 < 2 and i - i % 3 + 2 <= size]
    assert found.count.tolist() == np.outer(*[[int(i in read) for i in range(size)]] * 2).tolist()
    assert found.unread.tolist() == (found.count == 0).tolist()
    changed = np.where(found.unread, 100, image).astype("float32")
    np.testing.assert_array_equal(skipping(changed[None]), skipping(image[None]))
    assert "0 never reads rows 2" in str(found)
    assert "reads all" in found.notes[0]


def test_coverage_counts_the_windows_that_read_each_pixel(net):
    found = explain.coverage(net, IMAGES[0], "a")
    # In the middle nine windows of 3x3 do, at the corners four.
    assert (found.count[1:-1, 1:-1] == 9).all()
    assert found.count[0, 0] == 4
    assert not found.unread.any()


@pytest.mark.parametrize("name", ["resnet20", "densenet121"])
def test_networks_with_branches_have_fields(name):
    with nn.init.without_values():
        made = nn.models.build(name, channels=3, size=(32, 32), classes=2)
    with pytest.raises(ShapeError, match="did you mean"):
        explain.receptive_field(
            made, np.zeros((3, 32, 32), "float32"), "layer1.0.conv9" if name == "resnet20" else "norm"
        )
    found = explain.coverage(made, np.zeros((3, 32, 32), "float32"))
    assert found.count.max() > 1


def test_what_cannot_be_asked_is_refused(net):
    for function, wrong, message in (
        (explain.activating_images, {"layer": "b", "unit": 3}, "unit is 3, and b has 3 of them, 0 to 2"),
        (explain.activating_images, {"layer": "b", "count": 0}, "count is 0"),
        (explain.activating_images, {"layer": "nix"}, "calls no layer 'nix'"),
        (explain.receptive_field, {"layer": "fc"}, "receptive_field: an output of fc reads all"),
        (explain.receptive_field, {"at": (5, 0)}, "receptive_field: at is .* 5x4 outputs"),
        (explain.receptive_field, {"unit": 3}, "unit is 3, and b has 3"),
        (explain.coverage, {"layer": "c"}, "has no layer 'c'"),
    ):
        with pytest.raises(ShapeError, match=message):
            function(net, IMAGES[:2], **wrong)


def test_figures(net):
    pytest.importorskip("matplotlib")
    units = explain.activating_images(net, IMAGES, "b", unit=[0, 1], count=3)
    assert len(units.figure(IMAGES).axes) == 6
    assert len(units.figure(crop=False).axes[0].patches) == 1
    assert len(explain.receptive_field(net, IMAGES, "b").figure(IMAGES[:1]).axes) == 2
    assert "never read" in explain.coverage(net, IMAGES[0]).figure().axes[0].get_title()

"""What figures show: axes, data, labels. Pictures themselves are not compared."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from foveal import explain, metrics, nn, optim, train
from foveal.errors import DataError, FovealError, PackageError, ShapeError

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 60)
P = np.exp(metrics.log_softmax(RNG.standard_normal((60, 3)) + 2 * np.eye(3)[Y]))
NAMES = ["cat", "dog $x$", "<b>a very long name of a class</b>"]

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install -e '.[plot]')")


class History(dict):
    """What a training returns, as far as a plot knows it: the numbers of its end, with the lines of its epochs."""


def legend(figure):
    texts = [text for box in figure.legends for text in box.get_texts()]
    texts += [text for axis in figure.axes if (box := axis.get_legend()) for text in box.get_texts()]
    return [text.get_text() for text in texts]


def test_roc_has_a_curve_for_each_class_with_its_area():
    figure = metrics.plot_roc(Y, P, NAMES)
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("false positive rate", "true positive rate")
    lines = [line for line in axis.lines if not line.get_label().startswith("_")]
    for k, line in enumerate(lines):
        of_class = np.equal(Y, k)
        curve = metrics.roc_curve(of_class, P[:, k])
        np.testing.assert_array_equal(line.get_xdata(), curve.x)
        np.testing.assert_array_equal(line.get_ydata(), curve.y)
        assert f"AUC {metrics.roc_auc(of_class, P[:, k]):.3f}" in legend(figure)[k]
    assert len(lines) == 3
    # A dollar sign is no formula, and a long name is shortened.
    assert r"dog \$x\$" in legend(figure)[1]
    assert len(legend(figure)[2]) < 40


def test_one_class_and_classes_without_images():
    figure = metrics.plot_precision_recall(Y == 1, P[:, 1])
    line = figure.axes[0].lines[0]
    assert line.get_label() == f"AP {metrics.average_precision(Y == 1, P[:, 1]):.3f}"
    assert figure.axes[0].get_xlabel() == "recall"
    assert "1 without images, not drawn" in legend(metrics.plot_roc(np.minimum(Y, 1), P))
    with pytest.raises(DataError, match="2 names of classes, and 3 classes"):
        metrics.plot_roc(Y, P, ["a", "b"])
    with pytest.raises(DataError, match="all images have one label"):
        metrics.plot_roc(np.zeros(60), P)


def test_many_curves_are_drawn_alike():
    y = RNG.integers(0, 30, 300)
    figure = metrics.plot_roc(y, RNG.random((300, 30)))
    assert len(legend(figure)) == 1
    assert legend(figure)[0].startswith("30 classes: AUC 0.")


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_confusion_shows_counts_or_shares(normalize):
    confusion = metrics.confusion_matrix(Y, P.argmax(1), NAMES)
    figure = metrics.plot_confusion(confusion, normalize=normalize)
    axis, bar = figure.axes
    counts = np.asarray(confusion)
    divisor = {None: 1, "true": counts.sum(1, keepdims=True), "pred": counts.sum(0), "all": counts.sum()}[normalize]
    np.testing.assert_allclose(axis.images[0].get_array(), counts / divisor)
    assert axis.get_yticklabels()[0].get_text() == "cat"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("prediction", "label")
    assert bar.get_ylabel() == ("images" if normalize is None else "share of images")
    shown = [f"{n:.2f}" if normalize else f"{n:.0f}" for n in (counts / divisor).flat]
    assert [text.get_text() for text in axis.texts] == shown
    # scikit-learn is the second opinion
    from sklearn.metrics import confusion_matrix

    np.testing.assert_allclose(
        axis.images[0].get_array(), confusion_matrix(Y, P.argmax(1), normalize=normalize), atol=1e-12
    )


def test_confusion_of_a_report_and_of_many_classes():
    report = train.classification_report(np.log(P), Y, NAMES)
    figure = metrics.plot_confusion(report)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), report["confusion"])
    y = RNG.integers(0, 100, 500)
    axis = metrics.plot_confusion(metrics.confusion_matrix(y, y, 100)).axes[0]
    assert not axis.texts
    assert len(axis.get_xticks()) <= 60
    with pytest.raises(DataError, match="normalize is 'rows'; choose one of true, pred, all"):
        metrics.plot_confusion(np.eye(2), normalize="rows")


def test_calibration_has_a_bar_for_each_bin():
    figure = metrics.plot_calibration(P, Y, bins=5)
    found = [one for one in metrics.calibration(P, Y, 5).bins if one.images]
    bars, gaps = figure.axes[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in bars], [one.accuracy for one in found])
    np.testing.assert_allclose([bar.get_height() for bar in gaps], [one.confidence - one.accuracy for one in found])
    assert f"{metrics.calibration(P, Y, 5).ece:.3f}" in figure.axes[0].get_title()


def test_history_of_lists_of_lines_and_of_a_run_folder(tmp_path):
    lines = [
        {"epoch": e, "lr": 0.1 / e, "train": {"loss": 1 / e, "accuracy": 0.5}, "test": {"loss": 2 / e}, "seconds": e}
        for e in (1, 2, 3)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    lists = {
        "lr": [0.1, 0.05, 0.1 / 3],
        "train": {"loss": [1, 1 / 2, 1 / 3], "accuracy": [0.5] * 3},
        "test": {"loss": [2, 1, 2 / 3]},
    }
    result = History(train={"loss": 1 / 3})
    result.lines = lines
    for history in (lines, lists, tmp_path, str(tmp_path / "log.jsonl"), result):
        figure = metrics.plot_history(history)
        assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy", "learning rate"]
        loss = figure.axes[0]
        assert legend(figure)[:2] == ["train", "test"]
        np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
        np.testing.assert_allclose(loss.lines[1].get_ydata(), [2, 1, 2 / 3])
        np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
    for wrong in ({}, [], [3], {"seconds": [1, 2]}, tmp_path / "nowhere"):
        with pytest.raises(FovealError, match=r"plot_history: (.* holds no values by epoch|there is no|history is)"):
            metrics.plot_history(wrong)


def test_several_histories_are_no_epochs():
    class History(dict):
        lines = [{"epoch": 1, "train": {"loss": 0.5}}]

    for several in ([History(), History()], {"a": History(), "b": History()}):
        with pytest.raises(DataError, match="these are several trainings"):
            metrics.plot_history(several)


def test_filters_are_drawn_as_they_are():
    nn.seed(0)
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 5, 4), nn.Conv2d(5, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    weight = net[1].weight.data
    sheet = nn.plot_filters(net).axes[0].images[0].get_array()
    # The first filter, its colours from -largest to largest as 0 to 1.
    shown = weight[0].transpose(1, 2, 0) / (2 * abs(weight).max()) + 0.5
    np.testing.assert_allclose(sheet[:4, :4, :3], shown, rtol=1e-6)
    figure = nn.plot_filters(net, "2")
    image = figure.axes[0].images[0]
    # Row 1, column 4 of filters [2, 5, 3, 3], one pixel between them.
    np.testing.assert_array_equal(image.get_array()[4:7, 16:19], net[2].weight.data[1, 4])
    assert image.norm.vmin == -image.norm.vmax == -abs(net[2].weight.data).max()
    assert "2 Conv2d: 2 filters of 5x3x3" in figure.get_suptitle()
    assert len(nn.plot_filters(nn.Conv1d(2, 3, 5)).axes[0].images) == 1
    template = nn.plot_filters(net[4], shape=(2, 2, 2)).axes[0].images[0].get_array()
    np.testing.assert_array_equal(template[:2, :2], net[4].weight.data.reshape(2, 2, 2, 2)[0, 0])
    transposed = nn.plot_filters(nn.ConvTranspose2d(2, 7, 3))
    assert "7 filters of 2x3x3" in transposed.get_suptitle()


def test_filters_that_there_are_not():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    for given, words in (
        ((net,), "has no convolution; of a fully connected layer give its name"),
        ((net, "1"), "does not know the images that it sees"),
        ((net, "7"), "has no layer '7'; it has 0, 1"),
        ((nn.ReLU(),), "ReLU has no filters"),
        ((net, "1", (3, 2, 2)), r"each row has 8 weights, C \* H \* W"),
    ):
        with pytest.raises((TypeError, ShapeError), match=words):
            nn.plot_filters(*given)


def test_feature_maps_are_activations_in_evaluation_mode():
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    x = RNG.standard_normal((2, 1, 6, 6)).astype("float32")
    before = net.state_dict()
    figure = nn.plot_feature_maps(net, x, ["1", "4"], channels=2)
    assert net.training
    assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    expected = net.activations(x[:1], ["1", "4"])
    conv, linear = (axis.images[0].get_array() for axis in figure.axes)
    np.testing.assert_allclose(conv[:, :4], expected["1"][0, 0], rtol=1e-5)
    np.testing.assert_allclose(linear[0], expected["4"][0], rtol=1e-5)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles[0].startswith("1 BatchNorm2d: 3x4x4, 2 drawn, ")
    assert titles[1].startswith("4 Linear: 4, ")
    assert len(nn.plot_feature_maps(net, x[0]).axes) == 3


def test_trajectories_are_those_of_the_definition():
    start, lr = np.array([1.0, 0.5], np.float32), 0.1
    paths = optim.trajectory(
        {"sgd": lambda p: optim.SGD(p, lr=lr), "pair": ("sgd", {"lr": lr}), "class": (optim.SGD, {"lr": lr})},
        lambda x, y: x * x - y * y,
        start=start,
        steps=5,
    )
    expected = [start * [(1 - 2 * lr) ** n, (1 + 2 * lr) ** n] for n in range(6)]
    for path in paths.values():
        np.testing.assert_allclose(path, expected, rtol=1e-6)
    by_vector = optim.trajectory([("sgd", {"lr": lr})], lambda v: (v * v).sum(), start=start, steps=3)
    np.testing.assert_allclose(by_vector["SGD, lr 0.1"], [start * (1 - 2 * lr) ** n for n in range(4)], rtol=1e-6)
    assert list(optim.trajectory(["adam", "adam", optim.Adam], "bowl", steps=1)) == [
        "Adam, lr 0.002",
        "Adam, lr 0.002 (2)",
        "Adam, lr 0.001",
    ]


def test_the_minima_of_surfaces_are_where_they_say():
    for surface, minimum, height in (
        (optim.surfaces.saddle, (0, 1), -0.25),
        (optim.surfaces.rosenbrock, (1, 1), 0),
        (optim.surfaces.bowl, (0, 0), 0),
        (optim.surfaces.beale, (3, 0.5), 0),
        (optim.surfaces.wells, (-1.0355787140888542, 0), -0.30542848374391596),
    ):
        place = np.array(minimum, float)
        assert surface(*place) == pytest.approx(height, abs=1e-12)
        around = [surface(*(place + 1e-3 * np.array(d))) for d in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        assert min(around) > height


def test_a_path_that_leaves_all_numbers_ends_and_says_so():
    with pytest.warns(UserWarning, match="SGD, lr 2 left all numbers in step"):
        figure = optim.plot_trajectory([("sgd", {"lr": 2.0}), "adam"], lambda v: (v * v * v * v).sum(), start=(2, 1))
    contours, heights = figure.axes[:2]
    assert (contours.get_xlabel(), contours.get_ylabel(), heights.get_xlabel()) == ("x", "y", "step")
    assert ", ends in step" in legend(figure)[0]
    with pytest.raises(ShapeError, match="the surface returned"):
        optim.trajectory(["sgd"], lambda v: v * v)


def test_a_receptive_field_is_drawn_where_it_is():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.ReLU(), nn.Conv2d(2, 1, 1))
    image = RNG.random((1, 9, 11)).astype("float32")
    figure = explain.plot_receptive_field(net, image, layer="0", at=(1, 3))
    drawn = figure.axes[0].images[0].get_array()
    scaled = (image[0] - image.min()) / (image.max() - image.min())
    bright = np.isclose(drawn[..., 0], scaled, atol=1e-6)
    # Rows 1, 3, 5 and columns 3, 5, 7: dilation leaves the others out.
    assert bright[np.ix_((1, 3, 5), (3, 5, 7))].all()
    assert bright.sum() == 9
    (frame,) = figure.axes[0].patches
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (2.5, 0.5, 5, 5)
    assert "0 Conv2d, output (1, 3)" in figure.axes[0].get_title()
    assert "reads 3x3 of 9x11 pixels; its field is 5x5" in figure.axes[0].get_title()
    with pytest.raises(ShapeError, match=r"at is \(9, 0\), and 2 has 5x7 outputs"):
        explain.plot_receptive_field(net, image, at=(9, 0))
    with pytest.raises(ShapeError, match="before the image is flattened"):
        explain.plot_receptive_field(nn.Sequential(net, nn.Flatten()), image, layer="1")


def test_figures_show_themselves_and_leave_matplotlib_alone():
    code = (
        "import sys, pickle\n"
        "from foveal import metrics\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure = metrics.plot_history({'loss': [1, 2]})\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
        "assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_without_matplotlib_there_is_one_error_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PackageError, match=r"plots need Matplotlib.*pip install 'foveal\[plot\]'"):
        metrics.plot_roc(Y, P)
    assert issubclass(PackageError, ImportError)


def test_reports_are_pickled_and_stay_dicts_and_arrays():
    report = train.classification_report(np.log(P), Y, NAMES)
    assert json.loads(json.dumps(report)) == report
    assert pickle.loads(pickle.dumps(report)) == report
    confusion = metrics.confusion_matrix(Y, P.argmax(1), NAMES)
    assert type(confusion + 1) is type(confusion.sum(1)) is type(confusion[0]) is np.ndarray
    assert confusion.tolist() == report["confusion"]


def test_a_name_that_begins_with_an_underscore_stays_in_the_legend():
    labels, scores = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    figure = metrics.plot_roc(labels, scores, classes=["_a", "b"])
    texts = [
        text.get_text().strip()
        for legend in [*figure.legends, figure.axes[0].get_legend()]
        if legend
        for text in legend.texts
    ]
    assert [text.split(",")[0] for text in texts] == ["_a", "b"]

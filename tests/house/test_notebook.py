"""What a notebook shows of results: HTML that is escaped, whole, and needs nothing from elsewhere."""

import copy
import pickle
from html.parser import HTMLParser

import numpy as np
import pytest

import foveal
from foveal import data, display, metrics, nn, train
from foveal.train.findings import Findings, Trial

NAMES = ["<script>alert(1)</script>", "a & b", "\x1b[31mred"]
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 30)
LOGITS = RNG.standard_normal((30, 3))
IMAGES = RNG.random((30, 1, 4, 4)).astype("float32")
VOID = ("rect", "polyline")


class Reader(HTMLParser):
    """Collects the texts, and checks that tags are closed in order and load nothing."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        assert tag in ("table", "thead", "tbody", "tr", "th", "td", "p", "div", "details", "summary", "pre", "svg"), tag
        assert not {"src", "href", "class", "onclick"} & {name for name, _ in attributes}
        assert not any("url(" in (value or "") for _, value in attributes)
        self.open.append(tag)
        self.tags.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def read(shown):
    text = shown._repr_html_()
    assert "\x1b" not in text
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def net():
    nn.seed(0)
    made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))
    made[0].weight.trainable = False
    return made


def shown():
    trial = Trial(0.1, 0.9, None, 1e-4, None, 0.0)
    findings = Findings(NAMES[0], "small", "sgd", 0, 3, momenta=[trial], speeds={32: 1000.0})
    report = train.classification_report(LOGITS, Y, NAMES)
    probabilities = np.exp(metrics.log_softmax(LOGITS))
    yield net()
    yield net().summary((1, 4, 4))
    yield net().summary((1, 4, 4)).table(depth=1)
    yield nn.variance_report(net(), IMAGES)
    yield nn.models.table()
    yield report
    yield metrics.confusion_matrix(Y, LOGITS.argmax(1), NAMES)
    yield metrics.class_scores(report["confusion"])
    yield metrics.roc_curve(Y == 1, LOGITS[:, 1])
    yield metrics.pick_threshold(Y == 1, LOGITS[:, 1])
    yield metrics.calibration(probabilities, Y)
    yield data.from_arrays("<i>set</i>", IMAGES, Y, IMAGES, Y, classes=NAMES)
    yield findings
    yield nn.models.weights.Loaded("torchvision", ("<a>",), (), ())


@pytest.mark.parametrize("value", list(shown()), ids=lambda value: type(value).__name__)
def test_results_are_whole_html_and_readable_text(value):
    reader = read(value)
    assert "".join(reader.texts).strip()
    assert str(value).strip()
    assert copy.deepcopy(value)._repr_html_()


def test_names_are_escaped():
    reader = read(train.classification_report(LOGITS, Y, NAMES))
    assert NAMES[0] in reader.texts
    assert NAMES[1] in reader.texts
    assert "\\x1b[31mred" in reader.texts


def test_a_network_is_a_tree_with_its_parameters():
    reader = read(net())
    texts = " ".join(reader.texts)
    assert reader.tags.count("details") == 5
    for words in ("Sequential()", "(0) Conv2d(1, 2, (3, 3)", "20 parameters, 18 frozen", "weight  2x1x3x3  frozen"):
        assert words in texts
    assert "running_mean  2  buffer" in texts
    assert "(2) Sequential()  27 parameters" in texts
    # The parts are opened, what is in them is not.
    assert net()._repr_html_().count(" open>") == 1


def test_tables_align_numbers_and_print_without_quotes():
    text = nn.models.table()
    assert repr(text) == str(text) == text
    assert text.splitlines()[2].split()[:3] == ["small", "130,184", "1x28x28"]
    assert pickle.loads(pickle.dumps(text)).html == text.html
    made = display.text_table(("name", "count"), [("a", "5"), ("long", "1,000")])
    assert made.splitlines() == ["name  count", "-----------", "a         5", "long  1,000"]
    assert display.is_numeric(["1.5e-05", "-", "nan", "3 %", "0.2 - 0.3"])
    assert not display.is_numeric(["3 dogs", "4"])


def test_a_confusion_matrix_is_printed_with_names_as_long_as_it_is_one():
    found = metrics.confusion_matrix([0, 1, 1], [0, 1, 0], ["cat", "dog"])
    assert repr(found).splitlines()[2:] == ["cat                   1    .", "dog                   1    1"]
    assert found.copy().classes == found.classes
    for other in (found.T, found.T.copy(), found[::-1], found[[1, 0]], found / 2, found[0]):
        assert "cat" not in repr(other)
        assert getattr(other, "_repr_html_", lambda: None)() is None


@pytest.mark.parametrize("module", [foveal, nn, foveal.ops, foveal.optim, data, metrics, train, foveal.explain])
def test_dir_shows_public_names_alone(module):
    names = dir(module)
    assert all(hasattr(module, name) for name in names)
    assert [name for name in names if name.startswith("_") and name != "__version__"] == []
    files = {"conv", "op", "loop", "kernel", "api", "lower", "classes", "loader", "render"}
    assert not files & set(names)


def test_the_public_names_of_the_package():
    assert {"compile", "compile_step", "grad", "nn", "optim", "ops", "data", "metrics", "train"} <= set(dir(foveal))
    assert "conv2d" in dir(foveal.ops)
    assert foveal.kernel.compile
    text = pydoc_text(foveal)
    for words in ("compile_step", "foveal.train.train", "warm_up"):
        assert words in text


def pydoc_text(module):
    import pydoc

    return pydoc.plain(pydoc.render_doc(module))

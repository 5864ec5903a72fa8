"""Metrics against scikit-learn on random inputs with ties and missing classes, and against the definitions."""

import numpy as np
import pytest
from sklearn import metrics as reference

from foveal import metrics
from foveal.errors import DataError
from foveal.metrics.curves import parse_rule
from foveal.metrics.tables import tables
from foveal.train import classification_report


def drawn(seed):
    """Labels, some classes of which may be missing, and logits with ties: [N], [N, K], K."""
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(2, 60)), int(rng.integers(2, 7))
    labels = rng.integers(0, rng.integers(1, classes + 1), n)
    logits = rng.integers(-3, 4, (n, classes)) / rng.choice([1, 3, 7])
    return labels, logits + (rng.random() < 0.5) * np.eye(classes)[labels], classes


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.configurations(full=2000, quick=50)
def test_classes_against_scikit_learn(configuration):
    labels, logits, classes = drawn(configuration)
    predicted, every = logits.argmax(1), range(classes)
    counts = metrics.confusion_matrix(labels, predicted, classes)
    assert (counts == reference.confusion_matrix(labels, predicted, labels=every)).all()
    scores = metrics.class_scores(counts)
    wanted = reference.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for got, want in zip((scores.precision, scores.recall, scores.f1, scores.images), wanted, strict=True):
        assert np.allclose(got, want, atol=1e-12)
    for name, found in scores.averages().items():
        want = reference.precision_recall_fscore_support(labels, predicted, labels=every, average=name, zero_division=0)
        assert np.allclose([found["precision"], found["recall"], found["f1"]], want[:3])
    assert metrics.accuracy(logits, labels) == pytest.approx(reference.accuracy_score(labels, predicted))


@pytest.mark.configurations(full=2000, quick=50)
def test_top_k_against_scikit_learn(configuration):
    """Without ties scikit-learn's; with ties the first of equals is the larger, as argmax has it."""
    labels, logits, classes = drawn(configuration)
    rows = np.tile(np.arange(classes), (len(labels), 1))
    untied = np.random.default_rng(configuration).permuted(rows, axis=1)
    for k in range(1, classes + 1):
        assert metrics.top_k(untied, labels, k) == pytest.approx(
            np.mean([y in set(np.argsort(-row)[:k]) for y, row in zip(labels, untied, strict=True)])
        )
        if classes > 2 and k < classes:
            want = reference.top_k_accuracy_score(labels, untied, k=k, labels=range(classes))
            assert metrics.top_k(untied, labels, k) == pytest.approx(want)
    assert metrics.top_k(logits, labels, 1) == metrics.accuracy(logits, labels)
    assert metrics.top_k(logits, labels, classes) == 1


def binary(seed):
    """Booleans, both of which occur, and scores with ties."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    positive = rng.random(n) < rng.uniform(0.1, 0.9)
    positive[:2] = True, False
    return positive, rng.integers(0, rng.integers(1, 12), n) / 12


@pytest.mark.configurations(full=2000, quick=50)
def test_curves_against_scikit_learn(configuration):
    positive, scores = binary(configuration)
    curve = metrics.precision_recall_curve(positive, scores)
    precision, recall, thresholds = reference.precision_recall_curve(positive, scores)
    assert all(map(np.array_equal, (curve.y, curve.x, curve.thresholds), (precision, recall, thresholds)))
    curve = metrics.roc_curve(positive, scores)
    assert metrics.roc_auc(positive, scores) == pytest.approx(reference.auc(curve.x, curve.y))
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert metrics.roc_auc(positive, scores) == pytest.approx(np.mean(pairs))
    want = reference.average_precision_score(positive, scores)
    assert metrics.average_precision(positive, scores) == want


@pytest.mark.configurations(full=2000, quick=50)
def test_thresholds_are_the_best_of_all(configuration):
    """Against trying every score, the highest of equally good ones first."""
    positive, scores = binary(configuration)
    rng = np.random.default_rng(configuration)
    alarm, miss, wanted = *rng.integers(1, 6, 2).tolist(), float(rng.uniform(0.3, 1))
    tried = []
    for at in [*sorted(set(scores), reverse=True)]:
        taken = scores >= at
        score = {
            "precision": reference.precision_score(positive, taken, zero_division=0),
            "recall": reference.recall_score(positive, taken),
            "f1": reference.f1_score(positive, taken),
            "cost": alarm * np.sum(taken & ~positive) + miss * np.sum(~taken & positive),
        }
        tried.append((at, score))

    def first(key, among=tried):
        return max(among, key=lambda one: (round(key(one[1]), 12), one[0]))

    def agree(found, one):
        assert found.threshold == one[0]
        for what in ("precision", "recall", "f1"):
            assert getattr(found, what) == pytest.approx(one[1][what])
        total = found.true_positives + found.false_positives + found.false_negatives + found.true_negatives
        assert total == len(scores)

    agree(metrics.pick_threshold(positive, scores), first(lambda s: s["f1"]))
    enough = [one for one in tried if one[1]["recall"] >= wanted]
    agree(metrics.pick_threshold(positive, scores, recall=wanted), first(lambda s: s["precision"], enough))
    exact = [one for one in tried if one[1]["precision"] >= wanted]
    if exact:
        agree(metrics.pick_threshold(positive, scores, precision=wanted), first(lambda s: s["recall"], exact))
    else:
        with pytest.raises(DataError, match="no threshold gives a precision of"):
            metrics.pick_threshold(positive, scores, precision=wanted)
    found = metrics.pick_threshold(positive, scores, costs=(alarm, miss))
    least = min(*(s["cost"] for _, s in tried), miss * positive.sum())
    assert found.cost == least
    assert alarm * found.false_positives + miss * found.false_negatives == least


def test_thresholds_of_scores_that_say_nothing():
    positive, scores = [True, False, False], [0.5, 0.5, 0.5]
    found = metrics.pick_threshold(positive, scores)
    assert (found.threshold, found.recall, found.true_negatives) == (0.5, 1, 0)
    assert found.precision == pytest.approx(1 / 3)
    found = metrics.pick_threshold(positive, scores, costs=(1, 1))
    assert found.threshold > 0.5  # nothing is taken for the class
    assert (found.precision, found.recall, found.cost) == (0, 0, 1)
    assert metrics.roc_auc(positive, scores) == 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.roc_auc([True, True], [0.1, 0.2]), r"every image is of the class \(2 images\)"),
        (lambda: metrics.pick_threshold([0, 0], [0.1, 0.2]), "no image is of the class"),
        (lambda: metrics.pick_threshold([0, 1], [0.1, np.nan]), "NaN or infinity"),
        (lambda: metrics.pick_threshold([0, 2], [0.1, 0.2]), "have to be True or False"),
        (lambda: metrics.pick_threshold([0, 1, 1], [0.1, 0.2]), "give one of each per image"),
        (lambda: metrics.pick_threshold([0, 1], [0.1, 0.2], recall=1.5), "recall is 1.5, it has to be above 0"),
        (lambda: metrics.pick_threshold([0, 1], [0.1, 0.2], recall=1, precision=1), "give one of precision, recall"),
        (lambda: metrics.pick_threshold([0, 1], [0.1, 0.2], costs=(-1, 1)), "costs of -1 for a false positive"),
        (lambda: metrics.pick_threshold([1, 0], [0.1, 0.2], precision=0.9), r"the highest is 0\.5000"),
        (lambda: metrics.confusion_matrix([0, 3], [0, 1], 3), "label 3 at index 1 is none of the 3 classes"),
        (lambda: metrics.confusion_matrix([], [], 3), "at least one"),
        (lambda: metrics.calibration([[1.0, 2.0]], [0]), "apply softmax to logits"),
        (lambda: metrics.calibration([[0.5, 0.5]], [0, 1]), "1 rows of scores; give one label per row"),
        (
            lambda: metrics.calibration([[0.5, 0.5]], [0], bins=0),
            "bins is 0, it has to be a whole number from 1 to 65536",
        ),
        (lambda: metrics.top_k(np.zeros((2, 3)), np.array([0, 1]), 4), "there are 3 classes"),
        (lambda: parse_rule("cost=1"), "rule 'cost=1': give f1, precision=0.9"),
    ],
)
def test_what_cannot_be_measured_is_one_message(call, words):
    with pytest.raises(DataError, match=words):
        call()


def plain_calibration(p, labels, bins):
    """Guo et al. 2017, eq. 3, image by image."""
    members = [[] for _ in range(bins)]
    for row, label in zip(p, labels, strict=True):
        confidence, place = max(row), 0
        while place < bins - 1 and confidence > (place + 1) / bins:
            place += 1
        members[place].append((confidence, float(list(row).index(confidence) == label)))
    gaps = [abs(sum(c for c, _ in b) - sum(a for _, a in b)) / len(labels) for b in members if b]
    return sum(gaps), [len(b) for b in members]


@pytest.mark.configurations(full=2000, quick=50)
def test_calibration_against_its_definition(configuration):
    labels, logits, classes = drawn(configuration)
    p, bins = softmax(logits), 1 + configuration % 17
    found = metrics.calibration(p, labels, bins)
    ece, sizes = plain_calibration(p, labels, bins)
    assert found.ece == pytest.approx(ece)
    assert [one.images for one in found.bins] == sizes
    assert found.mce >= found.ece - 1e-12
    wanted = np.mean([np.sum((row - np.eye(classes)[y]) ** 2) for row, y in zip(p, labels, strict=True)])
    assert metrics.brier_score(p, labels) == pytest.approx(wanted)
    if classes == 2 and len(set(labels)) == 2:  # scikit-learn's counts one class of two
        assert metrics.brier_score(p, labels) == pytest.approx(2 * reference.brier_score_loss(labels, p[:, 1]))


def test_calibration_of_what_is_always_and_never_right():
    p = np.array([[0.8, 0.2], [0.8, 0.2]])
    assert metrics.calibration(p, [0, 0]).ece == pytest.approx(0.2)
    assert metrics.calibration(p, [1, 1]).mce == pytest.approx(0.8)
    assert metrics.calibration(np.eye(2), [0, 1]).ece == 0


def test_a_report_holds_it_all_and_becomes_tables():
    labels, logits = np.array([0, 0, 1, 1, 3]), np.eye(4)[[0, 1, 1, 1, 3]] * 3
    found = classification_report(logits, labels, ("cat", "dog", "a very long name", "bird"))
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["top_k"] == {"3": 1.0}
    assert found["confusion"] == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    none = found["classes"][2]
    assert (none["images"], none["auc"], none["f1"]) == (0, None, 0)
    found = {"data": "pets", "images": 5, **found}
    headings = [(heading, columns) for heading, columns, _ in tables(found)]
    assert headings[-1][0].startswith("How sure the network was")
    assert headings[-2] == ("Which class (row) was taken for which (column):", ("", "0", "1", "2", "3"))
    many = {**found, "classes": found["classes"] * 6}
    assert len(list(tables(many))) == 3


def test_a_confusion_matrix_counts_the_classes_unless_it_is_told():
    assert metrics.confusion_matrix([0, 1, 1], [0, 1, 2]).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]

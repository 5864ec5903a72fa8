"""What metrics are given: every metric against every kind of scores and labels, taken as meant or refused by name."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from foveal import metrics, nn
from foveal.errors import DataError
from foveal.train import classification_report, evaluate
from foveal.train.evaluate import threshold_report

LOGITS = np.random.default_rng(0).standard_normal((6, 3))
LOGITS[np.arange(6), [0, 1, 2, 0, 1, 0]] += 4
# five of six rows are right
LABELS = np.array([0, 1, 2, 0, 1, 2])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


# Of scores [N, K] and labels [N].
OF_CLASSES = {
    "accuracy": lambda scores, labels: metrics.accuracy(scores, labels),
    "top_k": lambda scores, labels: metrics.top_k(scores, labels, 2),
    "cross_entropy": lambda scores, labels: metrics.cross_entropy(scores, labels),
    "calibration": lambda scores, labels: metrics.calibration(scores, labels).ece,
    "brier_score": lambda scores, labels: metrics.brier_score(scores, labels),
    "classification_report": lambda scores, labels: classification_report(scores, labels, ("a", "b", "c")),
    "threshold_report": lambda scores, labels: threshold_report(scores, labels, 1, {}),
}
# Of labels [N] that say whether an image is of the class, and scores [N].
OF_ONE_CLASS = {
    "roc_auc": metrics.roc_auc,
    "average_precision": metrics.average_precision,
    "roc_curve": lambda labels, scores: metrics.roc_curve(labels, scores).y.tolist(),
    "precision_recall_curve": lambda labels, scores: metrics.precision_recall_curve(labels, scores).y.tolist(),
    "pick_threshold": metrics.pick_threshold,
}
MEANT = {
    "a column": LABELS[:, None],
    "a list": LABELS.tolist(),
    "bytes": LABELS.astype(np.uint8),
    "64 bits without sign": LABELS.astype(np.uint64),
    "whole floats": LABELS.astype(np.float32),
    "a column of floats": LABELS[:, None] * 1.0,
}
WRONG_LABELS = {
    "five for six rows": (LABELS[:5], "5 labels and 6 rows"),
    "no label": ([], "at least one"),
    "negative": ([0, 1, 2, 0, 1, -1], "label -1 at index 5 is none of the 3 classes, 0 to 2"),
    "beyond the classes": ([0, 3, 2, 0, 1, 2], "label 3 at index 1 is none of the 3 classes"),
    "beyond 64 bits": ([0, 1e300, 2, 0, 1, 2], "at index 1 is none of the 3 classes"),
    "a fraction": ([0, 0.7, 2, 0, 1, 2], r"label 0\.7 at index 1 is no whole number"),
    "NaN": ([0, 1, np.nan, 0, 1, 2], "label nan at index 2 is no whole number"),
    "infinity": ([0, 1, np.inf, 0, 1, 2], "label inf at index 2 is none of the 3 classes"),
    "one-hot": (np.eye(3)[LABELS], r"they have to be \[N\], one per row; .* take .argmax\(1\)"),
    "a row": (LABELS[None], r"have shape \(1, 6\)"),
    "a number": (0, r"have shape \(\)"),
    "text": (list("abcabc"), "have dtype <U1; give an array of numbers"),
    "objects": ([0, 1, None, 0, 1, 2], "have dtype object"),
    "ragged": ([[0, 1], [2], [0], [1], [2], [0]], "are no array of numbers"),
    "complex": (LABELS + 0j, "have dtype complex128"),
    "masked": (np.ma.masked_equal(LABELS, 2), "some labels are masked"),
}
NAN = np.where(np.arange(6)[:, None] == 4, np.nan, P)
WRONG_SCORES = {
    "NaN": (NAN, "of row 4 hold NaN"),
    "one NaN": (np.where(np.eye(6, 3) == 1, np.nan, P), "of row 0 hold NaN"),
    "no rows": (np.zeros((0, 3)), "at least one row"),
    "no classes": (np.zeros((6, 0)), "at least one row"),
    "one axis": (P[:, 0], r"they have to be \[N, K\]"),
    "an image of scores": (P[:, :, None, None], r"move the classes to the last axis"),
    "text": ([["a"] * 3] * 6, "have dtype <U1"),
    "objects": (P.astype(object), "have dtype object"),
    "ragged": ([[1, 2], [1], [1], [1], [1], [1]], "are no array of numbers"),
}


@pytest.fixture(autouse=True)
def _no_warnings():
    """A warning of NumPy before a message, or beside a result, is an error."""
    with warnings.catch_warnings(action="error"):
        yield


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("kind", MEANT)
def test_labels_that_can_be_meant_are_taken(name, kind):
    measure = OF_CLASSES[name]
    assert measure(P, MEANT[kind]) == measure(P, LABELS)
    assert measure(P.tolist(), MEANT[kind]) == measure(P, LABELS)


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_wrong_labels_are_one_message(name, kind):
    labels, words = WRONG_LABELS[kind]
    with pytest.raises(DataError, match=f"^{name}: .*{words}"):
        OF_CLASSES[name](P, labels)


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("kind", WRONG_SCORES)
def test_wrong_scores_are_one_message(name, kind):
    scores, words = WRONG_SCORES[kind]
    with pytest.raises(DataError, match=f"^{name}: .*{words}"):
        OF_CLASSES[name](scores, LABELS)


def test_a_column_of_labels_gives_what_a_row_gives():
    assert metrics.accuracy(LOGITS, LABELS[:, None]) == pytest.approx(5 / 6)
    assert metrics.cross_entropy(LOGITS, LABELS[:, None]) == metrics.cross_entropy(LOGITS, LABELS)
    assert metrics.accuracy(P[:, :2], np.array([True, False, True, False, True, False])) == pytest.approx(
        metrics.accuracy(P[:, :2], [1, 0, 1, 0, 1, 0])
    )


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_one_class_against_the_rest(name):
    measure = OF_ONE_CLASS[name]
    positive, scores = LABELS == 1, P[:, 1]
    want = measure(positive, scores)
    for labels in (positive.astype(int), positive * 1.0, positive[:, None], positive.tolist()):
        for given in (scores, scores[:, None], scores.tolist()):
            assert measure(labels, given) == want
    wrong = {
        "5 labels and 6 scores": (positive[:5], scores),
        r"labels have shape \(0,\).*at least one": ([], []),
        r"scores have shape \(6, 3\)": (positive, P),
        "labels have dtype <U1": (list("ababab"), scores),
        "scores have dtype <U1": (positive, list("ababab")),
        "have to be True or False.*nan at index 0": ([np.nan, 1, 0, 1, 0, 1], scores),
        r"have to be True or False.*0\.5 at index 1": ([0, 0.5, 0, 1, 0, 1], scores),
        "first nan at index 4": (positive, NAN[:, 1]),
        "first -inf at index 0": (positive, np.where(np.arange(6) == 0, -np.inf, scores)),
        "scores are no array of numbers": (positive, [[1], [2, 3], 4, 5, 6, 7]),
        "every image is of the class": (np.ones(6), scores),
    }
    for words, (labels, given) in wrong.items():
        with pytest.raises(DataError, match=f"^{name}: .*{words}"):
            measure(labels, given)


def test_thresholds_of_scores_that_are_far_apart():
    found = metrics.pick_threshold([0, 1, 1], [-1.7e308, 1.7e308, 1.7e308])
    assert (found.f1, found.threshold) == (1, 1.7e308)


def test_infinite_logits_rank_and_have_no_probabilities():
    """-infinity is probability 0, as in a masked class; infinity is no logit of a probability."""
    masked = np.where([False, False, True], -np.inf, LOGITS[:, :3])
    seen = LABELS % 2
    assert metrics.accuracy(masked, seen) == metrics.accuracy(LOGITS[:, :2], seen)
    assert metrics.cross_entropy(masked, seen) == pytest.approx(metrics.cross_entropy(LOGITS[:, :2], seen))
    assert metrics.cross_entropy(masked, LABELS) == np.inf
    assert metrics.accuracy([[0, np.inf]], [1]) == metrics.top_k([[0, np.inf]], [1], 1) == 1
    assert metrics.cross_entropy([[1e308, -1e308]], [0]) == 0
    for row, value in (([0.0, np.inf], "inf"), ([-np.inf, -np.inf], "-inf")):
        with pytest.raises(DataError, match=f"cross_entropy: the largest logit of row 1 is {value}"):
            metrics.cross_entropy([[0.0, 1.0], row], [0, 0])
        with pytest.raises(DataError, match=f"log_softmax: the largest logit of row 0 is {value}"):
            metrics.log_softmax([row])


COUNTS = np.array([[3, 1], [0, 2]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.confusion_matrix([0, 1], [0], 2), "2 labels and 1 predictions"),
        (lambda: metrics.confusion_matrix([0, 1], [0, -1], 2), "prediction -1 at index 1 is none of the 2 classes"),
        (lambda: metrics.confusion_matrix([0.5, 1], [0, 1], 2), "label 0.5 at index 0 is no whole number"),
        (lambda: metrics.confusion_matrix([0, 1], [0, 0.5], 2), "prediction 0.5 at index 1 is no whole number"),
        (lambda: metrics.confusion_matrix([0, 1], P[:2], 3), "take .argmax"),
        (lambda: metrics.confusion_matrix([0], [0], 0), "classes is 0, it has to be a whole number from 1 to 32768"),
        (lambda: metrics.confusion_matrix([0], [0], 2.5), "classes is 2.5"),
        (lambda: metrics.class_scores([[1e300, 0], [0, 1]]), "together at most"),
        (lambda: metrics.class_scores([[2**63 - 1, 2**63 - 1], [0, 1]]), "together at most"),
        (lambda: metrics.class_scores([[np.inf, 0], [0, 1]]), "together at most"),
        (lambda: metrics.confusion_matrix([0], [0], "2"), "classes is '2'"),
        (lambda: metrics.class_scores(np.zeros((2, 2), int)), "all counts are 0"),
        (lambda: metrics.class_scores(COUNTS[:1]), r"have to be \[K, K\]"),
        (lambda: metrics.class_scores(COUNTS / 2), "whole numbers of 0 or more"),
        (lambda: metrics.class_scores(-COUNTS), "whole numbers of 0 or more"),
        (lambda: metrics.class_scores([["a"]]), "have dtype <U1"),
        (lambda: metrics.top_k(P, LABELS, 0), r"there are 3 classes\) is 0, it has to be a whole number from 1 to 3"),
        (lambda: metrics.top_k(P, LABELS, 1.5), "is 1.5"),
        (lambda: metrics.top_k(P, LABELS, "2"), "is '2'"),
        (lambda: metrics.calibration(P, LABELS, 2.5), "bins is 2.5"),
        (lambda: metrics.calibration(P, LABELS, "15"), "bins is '15'"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], precision="0.9"), "precision is '0.9', it has to be a number"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], recall=np.nan), "recall is nan, it has to be above 0"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], costs=(1, 2, 3)), "give two numbers"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], costs=5), "give two numbers"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], costs=("1", 5)), "a cost is '1'"),
        (lambda: metrics.pick_threshold([0, 1], [0, 1], costs=(np.nan, 5)), "costs of nan"),
        (lambda: classification_report(P, LABELS, ("a", "b")), "2 names of classes and logits of 3"),
        (lambda: threshold_report(P, LABELS, 3, {}), "the class is 3, it has to be a whole number from 0 to 2"),
    ],
)
def test_other_arguments_are_checked_too(call, words):
    with pytest.raises(DataError, match=words):
        call()


def test_counts_may_be_given_as_lists():
    assert metrics.class_scores(COUNTS.tolist()).micro == metrics.class_scores(COUNTS).micro == 5 / 6
    assert (metrics.confusion_matrix(LABELS[:, None], LABELS * 1.0, 3) == np.diag([2, 2, 2])).all()


class Pixels(nn.Module):
    """A network whose logits are the first three pixels of the image."""

    def __call__(self, x):
        return x[:, 0, 0, :3]


def test_evaluate_checks_labels_and_images():
    x = P.astype(np.float32)[:, None, None, :]
    known = {"mean": (0.0,), "std": (1.0,)}
    want = evaluate(Pixels(), x, LABELS, **known)
    assert want["accuracy"] == pytest.approx(5 / 6)
    assert evaluate(Pixels(), x, LABELS[:, None], **known) == want
    with pytest.raises(DataError, match="label -1 at index 5 is none of the 3 classes"):
        evaluate(Pixels(), x, [0, 1, 2, 0, 1, -1], **known)
    with pytest.raises(DataError, match="5 labels and 6 rows"):
        evaluate(Pixels(), x, LABELS[:5], **known)
    with pytest.raises(DataError, match=r"images of shape \(0, 1, 1, 3\) cannot be classified: .*one or more"):
        evaluate(Pixels(), x[:0], LABELS[:0], **known)


@pytest.mark.configurations(full=500, quick=25)
def test_what_can_be_meant_agrees_with_scikit_learn(configuration):
    """Of labels in any of the types that are taken."""
    rng = np.random.default_rng(configuration)
    n, classes = int(rng.integers(2, 40)), int(rng.integers(3, 7))
    labels = rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n)
    given = (labels[:, None], labels.astype(np.uint8), labels * 1.0, labels.tolist())[configuration % 4]
    every = range(classes)
    assert metrics.accuracy(p, given) == pytest.approx(reference.accuracy_score(labels, p.argmax(1)))
    assert metrics.cross_entropy(np.log(p), given) == pytest.approx(reference.log_loss(labels, p, labels=every))
    assert metrics.top_k(p, given, 2) == pytest.approx(
        reference.top_k_accuracy_score(labels, p, k=2, labels=np.arange(classes))
    )
    counts = metrics.confusion_matrix(given, p.argmax(1), classes)
    assert (counts == reference.confusion_matrix(labels, p.argmax(1), labels=every)).all()
    brier = ((p - np.eye(classes)[labels]) ** 2).sum(1).mean()
    assert metrics.brier_score(p, given) == pytest.approx(brier, abs=1e-15)

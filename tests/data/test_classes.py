"""Labels and names: which numbers are classes, and which classes of two data sets are the same."""

import gzip
import struct

import numpy as np
import pytest

from foveal.data import from_arrays, load
from foveal.data.classes import class_map
from foveal.errors import DataError
from foveal.train.checkpoint import ModelDescription

X = np.random.default_rng(0).integers(0, 256, (12, 4, 5), dtype=np.uint8)


def made(train, test=None, **options):
    test = train if test is None else test
    return from_arrays("set", X[: len(train)], np.array(train), X[: len(test)], np.array(test), **options)


def test_labels_keep_their_numbers_as_names():
    data = made([1, 2, 3, 4, 4, 1], [4, 2])
    assert data.classes == ("1", "2", "3", "4")
    assert data.y_train.tolist() == [0, 1, 2, 3, 3, 0]
    assert data.y_test.tolist() == [3, 1]
    assert made([7, 8, 8]).classes == ("7", "8")
    assert made([0, 1, 2]).classes == ("0", "1", "2")


def test_the_lowest_label_may_occur_in_the_test_part_only():
    data = made([1, 2, 3], [0, 3])
    assert data.classes == ("0", "1", "2", "3")
    assert data.y_train.tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, np.int64, ">i2"])
def test_labels_of_any_integer_type(dtype):
    data = made(np.array([1, 3, 2, 1], dtype))
    assert data.y_train.tolist() == [0, 2, 1, 0]
    assert data.y_train.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 2, 7], "go from 0 up to 7, but only 3 different ones"),
        ([0, 1, 10**9], "up to 1000000000, but only 3"),
        ([10**9, 10**9 + 2**40], "only 2 different ones"),
        ([-1, 1, 1], "label -1 at index 0 is outside 0 to 1"),
        ([0.0, 1.0], "labels are float64"),
        ([False, True], "labels are bool"),
        ([3, 3, 3], "every label is 3"),
    ],
)
def test_labels_that_number_no_classes_are_refused(labels, words):
    with pytest.raises(DataError, match=words):
        made(labels)


def test_a_negative_test_label_is_refused():
    with pytest.raises(DataError, match="the test labels: label -2 at index 1"):
        made([0, 1, 2], [0, -2])


def test_names_count_from_0_and_stand_once():
    assert made([0, 1], classes=["a", "b"]).classes == ("a", "b")
    with pytest.raises(DataError, match=r"label 2 at index 1 is outside 0 to 1"):
        made([1, 2], classes=["a", "b"])
    with pytest.raises(DataError, match="two classes have the name 'a'"):
        made([0, 1], classes=["a", "b", "a"])


def test_npz_and_idx_labels_from_1(tmp_path):
    y = np.arange(12) % 4 + 1
    np.savez(tmp_path / "one.npz", x_train=X, y_train=y, x_test=X, y_test=y)
    write_idx(tmp_path, "train", "t10k", y)
    for data in (load(tmp_path / "one.npz"), load(tmp_path)):
        assert data.classes == ("1", "2", "3", "4")
        assert data.y_test.tolist() == (y - 1).tolist()


@pytest.mark.parametrize(
    ("ours", "theirs", "numbers"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("abc", "cab", [2, 0, 1]),
        ("abc", "ca", [2, 0]),
        (["0", "1", "2"], ["0", "1"], [0, 1]),
        (["1", "2", "3"], ["2", "3"], [1, 2]),
        # One of both was never named.
        ("abc", ["0", "1", "2"], [0, 1, 2]),
        ("abc", ["1", "2", "3"], [0, 1, 2]),
        (["0", "1", "2"], "cab", [0, 1, 2]),
        (["1" * 5000, "b"], ["0", "1"], [0, 1]),
    ],
)
def test_classes_of_one_name_are_the_same(ours, theirs, numbers):
    assert class_map(list(ours), list(theirs), "set").tolist() == numbers


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("abc", "abd", "set has 'd', which the model does not know, while the model has 'c', which set lacks"),
        ("abc", "abcd", "the model has 3 classes, set 4, and set has 'd'"),
        ("abc", ["0", "1"], "only one of them has names"),
        (["0", "1"], "abc", "only one of them has names"),
        (["0", "1", "2"], ["1", "2", "3"], "set has '3', which the model does not know"),
        ("abb", "ab", "name the classes alike"),
        ("ab", [*map(str, range(20, 40))], "only one of them has names"),
    ],
)
def test_classes_that_differ_are_refused(ours, theirs, words):
    with pytest.raises(DataError, match=words):
        class_map(list(ours), list(theirs), "set")


def write_idx(folder, train, test, labels, images=X):
    folder.mkdir(exist_ok=True)
    for part in (train, test):
        for kind, array in (("images", images), ("labels", labels)):
            rank = array.ndim
            header = struct.pack(f">{1 + rank}I", 0x0800 | rank, *array.shape)
            path = folder / f"{part}-{kind}-idx{rank}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_emnist_is_found_turned_upright_and_named(tmp_path):
    y = np.arange(12) % 3 + 1
    write_idx(tmp_path, "emnist-letters-train", "emnist-letters-test", y)
    data = load(tmp_path)
    assert (data.name, data.classes) == ("emnist-letters", ("1", "2", "3"))
    np.testing.assert_array_equal(data.images_train[:, 0], X.swapaxes(1, 2))
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    assert load(tmp_path).classes == ("A", "B", "C")
    assert load(tmp_path).y_train.tolist() == (y - 1).tolist()
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65\n3 x\n")
    with pytest.raises(DataError, match=r"mapping\.txt: holds no label and character code"):
        load(tmp_path)


def test_one_of_several_splits_is_named(tmp_path):
    for split in ("letters", "digits"):
        write_idx(tmp_path, f"emnist-{split}-train", f"emnist-{split}-test", np.arange(12) % 3)
    with pytest.raises(DataError, match=r"several data sets, emnist-digits, emnist-letters; give .*/emnist-digits"):
        load(tmp_path)
    assert load(tmp_path / "emnist-letters").name == "emnist-letters"
    with pytest.raises(DataError, match=r"no data set in this folder; looked for \*-train-images"):
        load(tmp_path / "emnist-balanced")
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="emnist-letters-test-labels-idx1-ubyte not found"):
        load(tmp_path / "emnist-letters")


def test_each_idx_file_may_lie_in_a_folder_of_its_name_in_any_case(tmp_path):
    write_idx(tmp_path, "train", "t10k", np.arange(12) % 3)
    for path in list(tmp_path.iterdir()):
        name = path.name.removesuffix(".gz")
        content = gzip.decompress(path.read_bytes())
        path.unlink()
        (tmp_path / name).mkdir()
        (tmp_path / name / name.replace("-idx", ".idx").upper()).write_bytes(content)
    np.testing.assert_array_equal(load(tmp_path).images_train[:, 0], X)


def scaled_set(low, high, dtype=np.float32):
    """Images whose pixels go from low to high."""
    x = (low + (high - low) * (X / X.max())).astype(dtype)
    return from_arrays("set", x, np.arange(12) % 2, x, np.arange(12) % 2)


@pytest.mark.parametrize(
    ("trained", "tested", "same"),
    [
        ((0, 255, np.uint8), (0, 1), True),
        ((0, 255, np.uint8), (0, 200, np.uint8), True),
        ((-2, 2.5), (-1.5, 4), True),
        ((0, 16, np.uint8), (0, 15, np.uint8), True),
        ((0, 255), (-1, 1), False),
        ((0, 255), (0, 16), False),
        ((0, 255, np.uint8), (0, 255), False),
        # Bytes from 0 to 16, as digits have, are not those of image files.
        ((0, 255, np.uint8), (0, 16, np.uint8), False),
        ((0, 1, np.uint8), (0, 255, np.uint8), False),
    ],
)
def test_images_of_another_scale_are_refused(trained, tested, same):
    model, data = ModelDescription.of(None, scaled_set(*trained)), scaled_set(*tested)
    if same:
        assert model.check(data).tolist() == [0, 1]
        return
    with pytest.raises(DataError, match=r"trained on pixels from .*, those of set go from .*: scale them alike"):
        model.check(data)


@pytest.mark.parametrize(
    ("train", "test", "same"),
    [
        ((0, 1), (0, 255), False),
        ((0, 255), (0, 1), False),
        ((-1, 1), (0, 255), False),
        ((0, 1), (-0.1, 1.2), True),
        ((-10, 10), (0, 0), True),
        ((0, 1, np.uint8), (0, 255, np.uint8), False),
        # Dark images.
        ((0, 255, np.uint8), (0, 9, np.uint8), True),
    ],
)
def test_both_parts_of_a_data_set_have_one_scale(train, test, same):
    parts = [scaled_set(*part) for part in (train, test)]
    arrays = parts[0].images_train, parts[0].y_train, parts[1].images_test, parts[1].y_test
    if same:
        assert from_arrays("set", *arrays).value_range == parts[0].value_range
        return
    with pytest.raises(DataError, match=r"x_train holds pixels from .*, x_test from .*: scale them alike"):
        from_arrays("set", *arrays)


def test_names_that_are_numbers_are_no_numbering():
    assert class_map(("0", "1"), ("zero", "one"), "set").tolist() == [0, 1]
    with pytest.raises(DataError, match="set has '2', which the model does not know"):
        class_map(("0", "1"), ("0", "2"), "set")


def test_labels_beyond_int64_are_refused():
    labels = np.array([2**63, 2**63 + 1], np.uint64)
    with pytest.raises(DataError, match=f"y_train: label {2**63 + 1} at index 1 is too large"):
        from_arrays("set", X[:2], labels, X[:2], labels)

"""Batches that several threads make ahead are those that one makes, in the same order, and the threads end."""

import threading

import numpy as np
import pytest

from foveal import data
from foveal.data.threads import Bar, in_order
from foveal.errors import DataError, ShapeError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8), RNG.integers(0, 3, 30)


def threads_of_loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("foveal-data", "foveal-reader"))]


def until_error(loader, words):
    """The labels of the batches that come before a DataError."""
    taken = []

    def walk():
        for _, y in loader:
            taken.append(y.tolist())

    with pytest.raises(DataError, match=words):
        walk()
    return taken


@pytest.mark.parametrize("source", ["arrays", "pairs", "generator"])
def test_threads_change_no_bit(source):
    given = {
        "arrays": (IMAGES, LABELS),
        "pairs": [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
        "generator": lambda: zip(IMAGES, LABELS, strict=True),
    }[source]
    shuffle = source != "generator"
    how = {"batch_size": 4, "augment": "crop+flip", "seed": 5, "shuffle": shuffle}
    plain = list(data.Loader(given, **how).epoch(2))
    assert len(plain) == 8
    for prefetch, threads, first in ((0, 1, 3), (1, 1, 0), (3, 2, 0), (20, 4, 0), (3, 2, 5), (1, 1, 8), (0, 1, 9)):
        ahead = list(data.Loader(given, **how, prefetch=prefetch, threads=threads).epoch(2, first=first))
        for (x, y), (u, v) in zip(plain[first:], ahead, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)
    assert threads_of_loaders() == []


def test_batches_before_the_first_are_not_read():
    class Counted:
        shape, dtype, ndim, read = IMAGES.shape, IMAGES.dtype, IMAGES.ndim, 0

        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, rows):
            Counted.read += len(IMAGES[rows])
            return IMAGES[rows]

    loader = data.Loader((Counted(), LABELS), batch_size=4, shuffle=True)
    Counted.read = 0
    assert len(list(loader.epoch(1, first=6))) == 2
    assert Counted.read == 4 + 2


@pytest.mark.parametrize("source", ["arrays", "pairs"])
def test_a_walk_that_is_left_early_ends_its_threads(source):
    given = (IMAGES, LABELS) if source == "arrays" else list(zip(IMAGES, LABELS.tolist(), strict=True))
    batches = iter(data.Loader(given, batch_size=2, prefetch=4, threads=3))
    next(batches)
    assert threads_of_loaders()
    batches.close()
    assert threads_of_loaders() == []
    for _ in data.Loader(given, batch_size=2, prefetch=4, threads=3):
        break
    assert threads_of_loaders() == []


def test_errors_come_out_at_their_place():
    def broken(x, rng):
        if rng.integers(0, 4) == 0:
            raise DataError("this batch")
        return x

    whole = [y.tolist() for _, y in data.Loader((IMAGES, LABELS), batch_size=2)]
    found = [
        until_error(data.Loader((IMAGES, LABELS), batch_size=2, augment=broken, **how), "this batch")
        for how in ({}, {"prefetch": 4, "threads": 3})
    ]
    assert found[0] == found[1] == whole[: len(found[0])] != []
    assert threads_of_loaders() == []

    def items():
        yield from zip(IMAGES[:4], LABELS[:4], strict=True)
        raise DataError("this item")

    assert len(until_error(data.Loader(items, batch_size=2, prefetch=6, threads=2), "this item")) == 2


def test_no_more_batches_are_made_ahead_than_asked_for():
    made = []

    def counted(x, rng):
        made.append(len(x))
        return x

    batches = iter(data.Loader((IMAGES, LABELS), batch_size=2, augment=counted, prefetch=3, threads=2))
    next(batches)
    assert len(made) <= 4
    batches.close()
    with pytest.raises(ShapeError, match="threads is 0 and prefetch 1"):
        data.Loader((IMAGES, LABELS), prefetch=1, threads=0)


def test_results_come_in_order_and_errors_between_them():
    assert list(in_order(lambda i: i * i, range(50), 4)) == [i * i for i in range(50)]
    results = in_order(lambda i: 1 // (i - 3), range(9), 2)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threads_of_loaders() == []


def test_nothing_is_said_of_what_is_quick(capsys, monkeypatch):
    with Bar("decoding", 3, "images") as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("foveal.data.threads._QUIET_SECONDS", 0)
    with Bar("decoding", 3, "images") as bar:
        bar.advance(1)
        bar.advance(2)
    assert capsys.readouterr().err == "decoding 3 images ...\n"

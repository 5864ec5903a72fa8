"""scikit-learn's 1797 handwritten digits of 8x8 pixels (Alpaydin, Kaynak 1998), a fifth of them for testing.

The file is read where scikit-learn has it, and split as its `train_test_split` does: importing scikit-learn would take
longer than reading, tracing and compiling together.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset, from_arrays
from foveal.data.files import read_limited
from foveal.errors import DataError

# The file in scikit-learn's folder: a line of 64 pixels, 0 to 16, and the digit for each image.
FILE, MAX_BYTES = Path("datasets", "data", "digits.csv.gz"), 1 << 20
# How many images are for testing, and the state of the generator that draws them, which is the same for every --seed.
TESTED, STATE = 360, 0

Numbers = NDArray[np.int64]


def read() -> Dataset:
    """Return the data set. Raises DataError if scikit-learn is not installed or lacks the file."""
    found = find_spec("sklearn")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise DataError("digits: is a part of scikit-learn, which is not installed here; pip install scikit-learn")
    lines = read_limited(Path(folders[0]) / FILE, MAX_BYTES, "scikit-learn's digits").decode().splitlines()
    table = np.loadtxt(lines, np.float32, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64)
    train, test = stratified(labels, TESTED, np.random.RandomState(STATE))
    return from_arrays("digits", images[train], labels[train], images[test], labels[test])


def stratified(labels: Numbers, tested: int, rng: np.random.RandomState) -> tuple[Numbers, Numbers]:
    """Return the numbers of the images for training and of those for testing, with the same share of each class.

    What is drawn, and in which order, is what scikit-learn's StratifiedShuffleSplit draws from the same generator.
    """
    counts = np.bincount(labels)
    of_train = proportional(counts, len(labels) - tested, rng)
    of_test = proportional(counts - of_train, tested, rng)
    train: list[Numbers] = []
    test: list[Numbers] = []
    for digit, (first, others) in enumerate(zip(of_train, of_test, strict=True)):
        shuffled = np.flatnonzero(labels == digit)[rng.permutation(counts[digit])]
        train.append(shuffled[:first])
        test.append(shuffled[first : first + others])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def proportional(counts: Numbers, total: int, rng: np.random.RandomState) -> Numbers:
    """Return `total` shared out in proportion to the counts.

    What rounding down leaves goes to the largest remainders, one each; among equal ones it is drawn.
    """
    exact = counts / counts.sum() * total
    shares = np.floor(exact).astype(np.int64)
    remainders, left = exact - shares, total - int(shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if left:
            equal = np.flatnonzero(remainders == remainder)
            chosen = rng.choice(equal, min(len(equal), left), replace=False)
            shares[chosen] += 1
            left -= len(chosen)
    return shares

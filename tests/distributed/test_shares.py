"""What ranks read of a loader: together the shards of each batch, each of them by one rank, and no other images."""

import numpy as np
import pytest

import foveal
from foveal import data, nn, optim, train
from foveal.data import transforms
from foveal.distributed import tree
from foveal.errors import ShapeError

RNG = np.random.default_rng(0)
X, Y = RNG.random((43, 1, 6, 6), np.float32), np.arange(43) % 4


class Watched:
    """An array that notes the rows which are read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.read += np.atleast_1d(rows).tolist()
        return self.array[rows]


def pairs(array=X):
    return ((image, int(label)) for image, label in zip(array, Y, strict=True))


SOURCES = {"arrays": lambda: (X, Y), "items": lambda: list(pairs()), "stream": lambda: lambda epoch: pairs()}
WAYS = [
    {},
    {"drop_last": True},
    {"prefetch": 3, "threads": 2, "augment": transforms.RandomCrop(6, padding=1)},
    {"mix": "mixup", "classes": list("abcd"), "drop_last": True},
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "plain")
def test_ranks_read_the_shards_of_each_batch_together(source, way):
    """Batches of 12 in 6 shards; of the last one 4 shards, the last of one image."""
    options = {"batch_size": 12, "seed": 3, "shuffle": source != "stream", **way}
    make = lambda: data.Loader(SOURCES[source](), **options)  # noqa: E731
    whole = list(make().shares(1, 6, range(6)))
    sizes = [len(batch) for batch in whole]
    assert sizes == ([6, 6, 6] if "drop_last" in way else [6, 6, 6, 4])
    for size in (2, 3, 4):
        parts = [list(make().shares(1, 6, tree.owned(6, rank, size))) for rank in range(size)]
        assert [len(part) for part in parts] == [len(whole)] * size
        for number, batch in enumerate(whole):
            together = [shard for part in parts for shard in part[number]]
            assert len(together) == len(batch)
            for (x, y), (x_whole, y_whole) in zip(together, batch, strict=True):
                np.testing.assert_array_equal(x, x_whole)
                np.testing.assert_array_equal(y, y_whole)
    # From the third batch on.
    later = list(make().shares(1, 6, range(2, 4), first=2))
    assert [len(batch) for batch in later] == [2] * (len(whole) - 2)
    np.testing.assert_array_equal(later[0][0][0], whole[2][2][0])


def test_the_images_of_a_batch_are_those_of_its_shards():
    loader = data.Loader(X, Y, batch_size=12, shuffle=True, seed=3)
    for (x, y), shards in zip(loader.epoch(0, fill=False), loader.shares(0, 4, range(4)), strict=True):
        np.testing.assert_array_equal(x, np.concatenate([part for part, _ in shards]))
        np.testing.assert_array_equal(y, np.concatenate([part for _, part in shards]))


def test_a_rank_reads_its_own_images_alone():
    watched = Watched(X)
    loader = data.Loader((watched, Y), batch_size=12, drop_last=True, channels="first")
    watched.read.clear()
    list(loader.shares(0, 6, range(2, 4)))
    assert sorted(watched.read) == [row for batch in range(3) for row in range(12 * batch + 4, 12 * batch + 8)]


@pytest.mark.parametrize("labels", [Y[:8], Y[:5], np.int64(1)], ids=["more", "fewer", "a number"])
def test_a_whole_batch_with_other_labels_than_images_is_refused(labels):
    """Six images in four shards: what lies beyond their rows would be left out without a word."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), shards=4)
    with pytest.raises(ShapeError, match="the target has shape"):
        step(X[:6], labels)
    assert step.steps == 0


def test_a_run_on_no_shards_is_refused_by_what_is_wrong():
    with pytest.raises(ShapeError, match="shards is 0; a batch has 1 or more"):
        train.train((X, Y), nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), shards=0, epochs=1, quiet=True)

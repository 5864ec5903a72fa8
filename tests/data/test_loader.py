"""A loader over anything: arrays, memory maps, sequences, generators; its order, its messages, reading ahead."""

import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from foveal import data
from foveal.data import Loader
from foveal.errors import ArgumentError, DataError, FovealError, ShapeError

RNG = np.random.default_rng(3)
X, Y = RNG.integers(0, 256, (10, 3, 6, 5), dtype=np.uint8), np.arange(10) % 3
FLOATS = X.astype("float32") / 255
ITEMS = list(zip(X, Y.tolist(), strict=True))


def read(loader):
    """All batches of the next epoch."""
    batches = list(loader)
    return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])


def make():
    return iter(ITEMS)


class Photos:
    """A sequence as torch's data sets are: a length, and items by their place."""

    def __init__(self, items=ITEMS):
        self.items, self.asked = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.items[i]


class Again:
    """An iterable that makes a new iterator each time."""

    def __iter__(self):
        return iter(ITEMS)


SOURCES = {
    "arrays": (X, Y),
    "floats": (X / 255, Y),
    "a list and labels": ([*X], Y.tolist()),
    "channels last": (np.moveaxis(X, 1, 3), Y),
    "pairs": ITEMS,
    "a sequence": Photos(),
    "images of PIL": [(Image.fromarray(np.moveaxis(x, 0, 2)), y) for x, y in ITEMS],
    "a generator": make(),
    "a function": make,
    "a function of the epoch": lambda epoch: iter(ITEMS),
    "an iterable": Again(),
    "batches": [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])],
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_batches(name):
    loader = Loader(SOURCES[name], batch_size=None if name == "batches" else 4)
    batches = list(loader)
    assert [len(x) for x, _ in batches] == [len(y) for _, y in batches] == [4, 4, 2]
    assert all(x.dtype == np.float32 and x.flags.c_contiguous and y.dtype == np.int64 for x, y in batches)
    np.testing.assert_allclose(np.concatenate([x for x, _ in batches]), FLOATS, atol=1e-7)
    assert np.concatenate([y for _, y in batches]).tolist() == Y.tolist()


def test_two_arguments_and_torch_tensors_are_arrays_too():
    np.testing.assert_array_equal(read(Loader(X, Y, 4))[0], FLOATS)
    np.testing.assert_array_equal(read(Loader(X, tuple(Y.tolist()), 4))[1], Y)
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(read(Loader(torch.from_numpy(FLOATS), torch.from_numpy(Y)))[0], FLOATS)
    theirs = torch.utils.data.TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(Y))
    x, y = read(Loader(theirs, batch_size=3))
    np.testing.assert_array_equal(x, FLOATS)
    assert y.tolist() == Y.tolist()
    batches = torch.utils.data.DataLoader(theirs, batch_size=5)
    np.testing.assert_array_equal(read(Loader(batches, batch_size=None))[0], FLOATS)


def test_each_for_is_an_epoch_in_another_order():
    loader, other = (Loader(X, Y, 4, shuffle=True, drop_last=True, seed=3) for _ in range(2))
    epochs = [[y.tolist() for _, y in loader] for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    for number, labels in enumerate(epochs):
        assert [y.tolist() for _, y in other.epoch(number)] == labels
    other.set_epoch(1)
    assert [[y.tolist() for _, y in other] for _ in range(2)] == epochs[1:]
    with pytest.raises(ShapeError, match="epochs are counted from 0"):
        other.set_epoch(-1)
    assert len(loader) == 2
    assert len(Loader(X, Y, 4)) == 3


def test_a_dataset_gives_its_training_images_normalised():
    whole = data.from_arrays("set", X, Y, X, Y)
    x, y = read(Loader(whole, batch_size=5))
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    assert y.tolist() == Y.tolist()
    assert Loader(whole).classes == whole.classes


def test_several_inputs_and_targets_keep_their_nest():
    loader = Loader((({"image": X, "size": np.ones((10, 2))}), (Y, np.zeros((10, 4)))), batch_size=4)
    x, (labels, boxes) = next(iter(loader))
    assert (x["image"].shape, x["size"].shape, x["size"].dtype) == ((4, 3, 6, 5), (4, 2), np.float32)
    assert (labels.dtype, boxes.shape, boxes.dtype) == (np.int64, (4, 4), np.float32)
    pairs = [((x, x[:1]), (int(y), np.float32(0.5))) for x, y in ITEMS]
    (a, b), (c, d) = next(iter(Loader(pairs, batch_size=2)))
    assert (a.shape, b.shape, c.dtype, d.dtype) == ((2, 3, 6, 5), (2, 1, 6, 5), np.int64, np.float32)
    filled = list(Loader(((X, X), Y), batch_size=4).epoch(0))[-1]
    assert [part.shape[0] for part in filled[0]] == [4, 4]
    with pytest.raises(DataError, match="several inputs have no common augmentation"):
        next(iter(Loader(((X, X), Y), mean=[0], std=[1])))


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, 6, 5), "auto", (4, 1, 6, 5)),
        ((4, 6, 5), "first", (4, 6, 5)),
        ((4, 6, 5), "last", (4, 5, 6)),
        ((4, 6, 5, 3), "auto", (4, 3, 6, 5)),
        ((4, 64, 1, 1), "auto", (4, 64, 1, 1)),
        ((4, 2, 3, 3), "auto", (4, 2, 3, 3)),
        ((4, 8, 8, 2), "last", (4, 2, 8, 8)),
        ((4, 8), "auto", (4, 8)),
    ],
)
def test_where_the_channels_are(shape, channels, expected):
    x = np.zeros(shape, "float32")
    assert next(iter(Loader(x, np.zeros(4, int), channels=channels, batch_size=4)))[0].shape == expected
    items = [(image, 0) for image in x]
    assert next(iter(Loader(items, channels=channels, batch_size=4)))[0].shape == expected


def test_labels_are_numbers_names_or_targets():
    names = np.array(["cat", "dog"])[Y % 2]
    for loader in (
        Loader(X, names),
        Loader(X, names.tolist()),
        Loader([*X], names),
        Loader([*zip(X, names, strict=True)]),
    ):
        assert loader.classes == ("cat", "dog")
        assert read(loader)[1].tolist() == (Y % 2).tolist()
    pairs = Photos([(x, str(name)) for x, name in zip(X, names, strict=True)])
    assert read(Loader(pairs, classes=["dog", "cat"]))[1].tolist() == (1 - Y % 2).tolist()
    with pytest.raises(DataError, match=r"the label at index 0 is .*cat.*, a name; say which classes"):
        next(iter(Loader(pairs)))
    with pytest.raises(DataError, match=r"'dog'.* at index 1 is none of the classes"):
        next(iter(Loader(pairs, classes=["cat", "bird"])))
    with pytest.raises(DataError, match="label 2 at index 2 is none of the 2 classes"):
        next(iter(Loader(X, Y, classes=["a", "b"])))
    assert read(Loader(X, Y / 2))[1].dtype == np.float32


def test_a_transform_and_a_collation_are_as_in_torch():
    photos = [(Image.new("RGB", (4 + i, 7), (i, 0, 0)), i) for i in range(4)]
    resized = Loader(photos, batch_size=2, transform=lambda image: image.resize((5, 6)))
    assert read(resized)[0].shape == (4, 3, 6, 5)

    def noisy(image, rng):
        return np.asarray(image.resize((5, 6)), "float32") + rng.random()

    loader = Loader(photos, batch_size=2, transform=noisy)
    first, second = read(loader)[0], read(loader)[0]
    assert not np.array_equal(first, second)
    loader.set_epoch(0)
    np.testing.assert_array_equal(read(loader)[0], first)

    def collate(items):
        height = max(image.shape[1] for image, _ in items)
        return np.stack([np.pad(x, ((0, 0), (0, height - x.shape[1]), (0, 0))) for x, _ in items]), [
            y for _, y in items
        ]

    uneven = [(np.ones((1, 3 + i, 4), "float32"), i) for i in range(4)]
    shapes = [(x.shape, y.tolist()) for x, y in Loader(uneven, batch_size=2, collate=collate)]
    assert shapes == [((2, 1, 4, 4), [0, 1]), ((2, 1, 6, 4), [2, 3])]


def test_augmentation_takes_names_functions_and_lists():
    def darker(x, rng):
        return x * rng.random()

    loader = Loader(X, Y, 4, augment=["shift", darker], seed=1)
    np.testing.assert_array_equal(next(loader.epoch(2))[0], next(loader.epoch(2))[0])
    with pytest.raises(ShapeError, match="augmentation 'wave': choose from shift"):
        Loader(X, Y, augment="wave")
    with pytest.raises(ArgumentError, match=r"augment holds 3; give names and functions \(x, rng\) -> x"):
        Loader(X, Y, augment=["shift", 3])


def test_a_memory_map_is_never_read_whole(tmp_path):
    """The file is larger than all memory there is; its holes are zeros, which take no place on the disk."""
    count, shape = 1 << 16, (3, 1024, 2048)
    path = tmp_path / "images.bin"
    with path.open("wb") as file:
        file.truncate(count * int(np.prod(shape)))
    images = np.memmap(path, np.uint8, mode="r+", shape=(count, *shape))
    images[5, 0, 0, :3] = 51, 102, 255
    images[7, 0, 0, 0] = 255
    loader = Loader(images, np.arange(count), batch_size=2, shuffle=True, drop_last=True)
    order = loader.order(0)
    x, y = next(iter(loader))
    assert (x.shape, y.tolist()) == ((2, *shape), order[:2].tolist())
    loader = Loader(images, np.arange(count), batch_size=1)
    batches = list(itertools.islice(loader, 8))
    np.testing.assert_allclose(batches[5][0][0, 0, 0, :4], [0.2, 0.4, 1, 0])
    assert batches[7][0].sum() == 1


def test_rows_of_other_files_are_read_in_rising_order():
    class File:
        shape, dtype = X.shape, X.dtype

        def __len__(self):
            return len(X)

        def __getitem__(self, rows):
            assert (np.diff(rows) > 0).all()
            return X[rows]

    loader = Loader(File(), Y, 4, shuffle=True)
    np.testing.assert_array_equal(read(loader)[0], FLOATS[loader.order(0)])


def test_a_generator_lasts_one_epoch_and_a_function_any_number():
    loader = Loader(make(), batch_size=4)
    assert len(read(loader)[0]) == 10
    with pytest.raises(DataError, match=r"used up after one epoch: give the function that makes it, Loader\(make\)"):
        next(iter(loader))
    loader = Loader(make, batch_size=4, drop_last=True, length=10)
    assert [len(list(loader)) for _ in range(3)] == [2, 2, 2]
    assert len(loader) == 2
    asked = []
    every = Loader(lambda epoch: asked.append(epoch) or make(), batch_size=4)
    read(every), read(every)
    assert asked == [0, 1]
    with pytest.raises(ArgumentError, match="how many batches a generator gives is not known; say length="):
        len(every)
    with pytest.raises(DataError, match="gave 10 items, and length says 12"):
        list(Loader(make, length=12))
    with pytest.raises(DataError, match="a generator has an order of its own"):
        Loader(make, shuffle=True)
    with pytest.raises(DataError, match="gave no batch of 4 items"):
        list(Loader(lambda: iter(()), batch_size=4))


def test_a_stream_is_read_a_batch_at_a_time():
    given = []

    def endless():
        for i in itertools.count():
            given.append(i)
            yield np.zeros((1, 8, 8), "float32"), i % 3

    assert len(list(itertools.islice(Loader(endless, batch_size=4), 3))) == 3
    assert len(given) == 12


@pytest.mark.parametrize("source", [(X, Y), Photos(), make])
def test_reading_ahead_changes_nothing(source):
    options = {"batch_size": 3, "augment": "shift", "seed": 5}
    plain, ahead = Loader(source, **options), Loader(source, prefetch=2, **options)
    for _ in range(2):
        for one, other in zip(plain, ahead, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
    before = threading.active_count()
    for _ in ahead:
        break
    assert threading.active_count() == before


def test_an_error_while_reading_ahead_comes_at_its_batch():
    items = [*ITEMS[:6], (X[6][:, :3], 0), *ITEMS[7:]]
    loader = iter(Loader(items, batch_size=3, prefetch=3))
    assert len(next(loader)[0]) == len(next(loader)[0]) == 3
    with pytest.raises(DataError, match="item 6"):
        next(loader)


WRONG = {
    "another size": (
        [*ITEMS[:4], (X[4][:, :5], 0)],
        r"item 4: the image has shape \[3, 5, 5\], that of item 0 \[3, 6, 5\]",
    ),
    "another dtype": ([*ITEMS[:4], (FLOATS[4], 0)], "item 4: the image is of bytes.*give bytes or floats"),
    "another label": ([*ITEMS[:4], (X[4], [1, 2])], r"item 4: the label has shape \[2\], that of item 0 \[\]"),
    "a float label": ([*ITEMS[:4], (X[4], 0.5)], "item 4: the label is a float, that of item 0 number"),
    "no pair": ([*ITEMS[:4], X[4]], r"item 4 is an array uint8\[3, 6, 5\]; every item has to be a pair"),
    "a path": ([("cat.png", 0)], r"item 0: the image is 'cat.png'; read files with transform=lambda path: foveal"),
    "integers": ([(X[0].astype(int), 0)], "item 0: the image is int64; store uint8"),
    "no image": ([({1, 2}, 0)], "item 0: {1, 2} is no image"),
    "arrays of integers": ((X.astype(int), Y), "x is int64; store uint8"),
    "too few labels": ((X, Y[:4]), "10 images and 4 labels"),
    "a list of too few": (([*X], Y[:4].tolist()), "10 images and 4 labels"),
    "no labels": (X, "has no labels"),
    "three arrays": ((X, X, Y), "has no labels; give .*several inputs"),
    "a number": (3, r"data is 3; it takes \(x, y\), a sequence"),
    "text": ("digits", r"data is 'digits'; it takes"),
    "dates": ((X, np.zeros(10, "datetime64[s]")), "labels are .*; give class numbers, names, or floats"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    source, words = WRONG[name]
    with pytest.raises(FovealError, match=words):
        next(iter(Loader(source, batch_size=5)))


def test_sizes_that_fit_no_batch():
    for options, words in (
        ({"batch_size": 0}, "batch size 0: at least 1 is needed"),
        ({"batch_size": None}, "batch_size is None, and arrays are no batches"),
        ({"length": 3}, "length is for generators; here there are 10 items"),
        ({"mean": [0.5]}, "give both mean and std"),
    ):
        with pytest.raises(FovealError, match=words):
            Loader(X, Y, **options)

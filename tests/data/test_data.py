"""Readers and loader: what they give for good files, and the words they use for bad ones."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image
from shared import DATA

from foveal.data import (
    Loader,
    augment,
    augmentation,
    from_arrays,
    load,
    normalise,
    random_crop_flip,
    read_image,
    readers,
)
from foveal.data.loader import even_batch
from foveal.errors import DataError, ShapeError


def arrays(n=6, m=4, shape=(5, 4), dtype=np.uint8):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n, *shape)).astype(dtype),
        "y_train": np.arange(n) % 3,
        "x_test": rng.integers(0, 256, (m, *shape)).astype(dtype),
        "y_test": np.arange(m) % 3,
    }


def save(path, **changes):
    np.savez(path, **{k: v for k, v in {**arrays(), **changes}.items() if v is not None})
    return path


def idx(array, kind=0x08):
    header = struct.pack(f">{1 + array.ndim}I", kind << 8 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_folder(folder, **changes):
    """MNIST's four files, one of them under a different name and one not gzipped."""
    a = {**arrays(), **changes}
    folder.mkdir(exist_ok=True)
    (folder / "train-images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(a["x_train"])))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(a["y_train"]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(a["x_test"])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(a["y_test"])))
    return folder


def test_digits_is_split_evenly_and_scaled():
    data = load("digits")
    assert data.x_train.shape == (1437, 1, 8, 8)
    assert data.x_test.shape == (360, 1, 8, 8)
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert np.bincount(data.y_test).min() >= 35
    assert data.mean[0] == pytest.approx(data.x_train.mean(dtype=np.float64))
    assert data.std[0] == pytest.approx(data.x_train.std(dtype=np.float64))
    np.testing.assert_array_equal(load("digits").y_test, data.y_test)


@pytest.mark.parametrize("layout", ["n h w", "n 1 h w", "n h w 1", "n 3 h w", "n h w 3"])
def test_npz_layouts(tmp_path, layout):
    channels = 3 if "3" in layout else 1
    a = arrays(shape=(channels, 5, 4))
    changes = {
        k: {"n h w": a[k][:, 0], f"n {channels} h w": a[k]}.get(layout, np.moveaxis(a[k], 1, 3))
        for k in ("x_train", "x_test")
    }
    data = load(save(tmp_path / "set.npz", **changes))
    np.testing.assert_array_equal(data.x_train, (a["x_train"] / np.float32(255)))
    assert data.x_train.dtype == np.float32
    assert data.x_train.flags.c_contiguous
    assert (data.name, data.classes, data.size) == ("set", ("0", "1", "2"), (5, 4))


def test_npz_floats_are_kept_and_names_read(tmp_path):
    x = arrays(dtype=np.float64)
    path = tmp_path / "f.npz"
    data = load(save(path, x_train=x["x_train"], x_test=x["x_test"], classes=np.array(list("abcd"))))
    np.testing.assert_array_equal(data.x_test[:, 0], x["x_test"])
    assert data.classes == ("a", "b", "c", "d")
    assert data.value_range == (x["x_train"].min(), x["x_train"].max())


def bad_npz():
    good = arrays()
    nan = good["x_test"].astype(np.float32)
    nan[2, 1, 3] = np.nan
    mixed = np.array([1, "a", None] * 2, dtype=object)
    return [
        ({"x_train": None, "y_test": None}, "no x_train, y_test; it holds y_train, x_test"),
        ({"x_train": np.zeros((6, 20), np.uint8)}, r"x_train of .*shape \[6, 20\].*\[n, H, W\]"),
        ({"x_train": np.zeros((6, 3, 5, 1), np.uint8)}, "both the second and the last"),
        ({"x_train": np.zeros((6, 5, 5, 5), np.uint8)}, "neither the second nor the last"),
        ({"x_train": good["x_train"].astype(np.int32)}, "images are int32; store uint8"),
        ({"x_train": good["x_train"].astype(np.float32)}, "is float32, .* is uint8.*alike"),
        ({"x_train": np.zeros((6, 7, 7), np.uint8)}, "1x7x7, .* of 1x5x4"),
        ({"x_test": nan, "x_train": nan, "y_train": good["y_test"]}, r"nan at \[2, 1, 3\]"),
        ({"x_train": np.full((6, 5, 4), 1e200)}, r"x_train.*inf at \[0, 0, 0\]"),
        ({"x_test": good["x_test"][:0], "y_test": good["y_test"][:0]}, "x_test.*no images"),
        ({"y_train": good["y_train"].astype(float)}, "labels are float64; .* integers"),
        ({"y_train": np.eye(3)[good["y_train"]]}, r"shape \[6, 3\].*argmax"),
        ({"y_train": good["y_train"][:5]}, "5 labels, x_train .* 6 images"),
        ({"y_train": np.zeros(6, int)}, "every label is 0; at least two classes"),
        ({"y_train": good["y_train"] - 1}, "label -1 at index 0 is outside 0 to 1"),
        ({"y_test": np.array([0, 1, 3, 2])}, "label 3 at index 2 is outside 0 to 2"),
        ({"y_train": np.array([0, 1, 2, 255, 0, 1])}, "up to 255, but only 4"),
        ({"y_train": mixed}, "y_train of .*Python objects"),
    ]


@pytest.mark.parametrize(("changes", "words"), bad_npz())
def test_bad_npz_is_reported(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        load(save(tmp_path / "bad.npz", **changes))


def test_torn_npz(tmp_path):
    path = save(tmp_path / "torn.npz")
    whole = path.read_bytes()
    for content in (b"", whole[:200], whole[:-30], b"hello"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"torn\.npz: not a readable \.npz"):
            load(path)
    middle = bytearray(whole)
    middle[200] ^= 0xFF  # inside the first array: its checksum no longer holds
    path.write_bytes(middle)
    with pytest.raises(DataError, match=r"x_train of .*torn\.npz: cannot be read"):
        load(path)


def test_unknown_names_list_what_is_accepted(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for name, words in (("nix", "no such file"), (tmp_path / "notes.txt", "not a data set")):
        with pytest.raises(DataError, match=rf"{words}.*digits.*IDX.*\.npz"):
            load(name)
    with pytest.raises(DataError, match="looked for train-images-idx3-ubyte, train-labels"):
        load(tmp_path)


def test_a_format_is_one_reader_and_one_row(tmp_path, monkeypatch):
    """Another row is read, and named where files are missing."""

    def read(folder, files):
        pixels = np.frombuffer(files[0].read_bytes(), np.uint8).reshape(-1, 2, 2)
        return from_arrays(folder.name, pixels, np.arange(len(pixels)), pixels, np.arange(len(pixels)))

    row = readers.FolderFormat("four pixels each", ("train.raw", "notes.raw"), read)
    monkeypatch.setattr(readers, "FOLDER_FORMATS", (*readers.FOLDER_FORMATS, row))
    (tmp_path / "train.raw").write_bytes(bytes(range(8)))
    with pytest.raises(DataError, match=r"notes\.raw not found .*all 2 files of four pixels each are needed"):
        load(tmp_path)
    (tmp_path / "notes.raw.gz").write_bytes(b"")
    np.testing.assert_array_equal(load(tmp_path).x_train.ravel() * 255, range(8))


def test_what_is_accepted_names_every_format():
    assert all(kind.name in readers.ACCEPTED for kind in readers.FOLDER_FORMATS)
    assert all(part in readers.ACCEPTED for part in ("`digits`", *readers.PARTS))


def test_idx_folder(tmp_path):
    data = load(write_folder(tmp_path / "mine"))
    np.testing.assert_array_equal(data.x_train[:, 0] * 255, arrays()["x_train"])
    np.testing.assert_array_equal(data.y_test, arrays()["y_test"])
    assert data.name == "mine"


def test_bad_idx_files_are_reported(tmp_path):
    folder = write_folder(tmp_path / "mine")
    file = folder / "train-labels-idx1-ubyte"
    whole = file.read_bytes()
    for content, words in (
        (whole[:6], "truncated, 6 bytes where the IDX header alone has 8"),
        (whole[:-1], "header says 6 = 6 bytes, the file holds 5"),
        (whole + b"\0", "header says 6 = 6 bytes, the file holds 7"),
        (idx(arrays()["x_train"]), "magic number 0x00000803 where 0x00000801 is expected.*labels"),
        (gzip.compress(whole)[:-9], "torn gzip"),
        (gzip.compress(whole)[:12] + b"\xff" * 20, "torn gzip"),
        (idx(np.arange(5) % 3), "5 labels, .*train-images.* 6 images"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"train-labels-idx1-ubyte.*{words}"):
            load(folder)
    file.unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte not found"):
        load(folder)


def test_real_mnist_files():
    if not (DATA / "mnist").is_dir():
        pytest.skip(f"no MNIST at {DATA / 'mnist'}")
    from foveal.data.formats import idx

    labels = idx.read(DATA / "mnist" / "t10k-labels-idx1-ubyte.gz", 0x0801)
    images = idx.read(DATA / "mnist" / "t10k-images-idx3-ubyte.gz", 0x0803)
    assert images.shape == (10000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


def cifar_part(count, seed, *highest):
    """`count` records of the binary version: labels below `highest` each, then an image."""
    rng = np.random.default_rng(seed)
    labels = [np.arange(count) * (i + 1) % n for i, n in enumerate(highest)]
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    table = np.concatenate([np.stack(labels, 1), images.reshape(count, -1)], axis=1)
    return images, labels[-1], table.astype(np.uint8).tobytes()


def write_cifar10(folder):
    parts = [cifar_part(12 + i, i, 10) for i in range(6)]
    for i, (_, _, raw) in enumerate(parts[:5], 1):
        (folder / f"data_batch_{i}.bin").write_bytes(raw)
    (folder / "test_batch.bin").write_bytes(parts[5][2])
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    return parts


def test_cifar10_folder(tmp_path):
    *train, test = write_cifar10(tmp_path)
    (tmp_path / "readme.html").write_text("x")
    data = load(tmp_path)
    images = np.concatenate([images for images, _, _ in train])
    np.testing.assert_array_equal(data.x_train, images / np.float32(255))
    np.testing.assert_array_equal(data.y_train, np.concatenate([labels for _, labels, _ in train]))
    np.testing.assert_array_equal(data.x_test, test[0] / np.float32(255))
    np.testing.assert_array_equal(data.y_test, test[1])
    assert data.classes == tuple("abcdefghij")
    assert (data.channels, data.size, data.name) == (3, (32, 32), tmp_path.name)


def test_cifar100_folder_gives_the_fine_classes(tmp_path):
    train, test = cifar_part(130, 0, 20, 100), cifar_part(7, 1, 20, 100)
    (tmp_path / "train.bin").write_bytes(train[2])
    (tmp_path / "test.bin.gz").write_bytes(gzip.compress(test[2]))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(f"coarse{i}" for i in range(20)))
    data = load(tmp_path)
    np.testing.assert_array_equal(data.y_train, train[1])
    np.testing.assert_array_equal(data.y_test, test[1])
    np.testing.assert_array_equal(data.x_test, test[0] / np.float32(255))
    assert data.classes[99] == "fine99"


def test_bad_cifar_files_are_reported(tmp_path):
    write_cifar10(tmp_path)
    file, names = tmp_path / "data_batch_3.bin", tmp_path / "batches.meta.txt"
    whole = file.read_bytes()
    wrong = bytearray(whole)
    wrong[2 * 3073] = 10
    for path, content, words in (
        (file, b"", "0 bytes are no whole number of CIFAR-10's records of 3073.*again"),
        (file, whole[:-1], r"43021 bytes are no whole number.*cifar-10-binary\.tar\.gz"),
        (file, whole + b"\0" * 100, "43122 bytes are no whole number"),
        (file, gzip.compress(whole)[:-9], "torn gzip"),
        (file, bytes(wrong), "label 10 in record 2 is outside 0 to 9.*again"),
        (names, b"cat\ndog\n", "names 2 classes where CIFAR-10 has 10; write one name on a line"),
    ):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path.name}: .*{words}"):
            load(tmp_path)
        path.write_bytes(kept)
    load(tmp_path)
    for path in (file, names, tmp_path / "test_batch.bin"):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=f"{path.name} not found .*all 7 files of CIFAR-10's"):
            load(tmp_path)
        path.write_bytes(kept)


def test_cifar100_coarse_labels_are_checked(tmp_path):
    part = cifar_part(5, 0, 20, 100)[2]
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(part)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(map(str, range(100))))
    (tmp_path / "test.bin").write_bytes(bytes([20]) + part[1:])
    with pytest.raises(DataError, match=r"test\.bin: label 20 in record 0 is outside 0 to 19"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("10", ["batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]),
        ("100", ["meta", "test", "train"]),
    ],
)
def test_cifar_as_pickles_is_refused_unread(tmp_path, name, files):
    for file in files:
        (tmp_path / file).write_bytes(b"cbuiltins\nexit\n(tR.")  # a pickle that ends the process
    words = rf"CIFAR-{name}'s Python version.*binary version, cifar-{name}-binary\.tar\.gz"
    with pytest.raises(DataError, match=words):
        load(tmp_path)


def test_real_cifar10(cifar10):
    data = load(cifar10)
    assert data.images_train.shape == (50000, 3, 32, 32)
    assert data.images_test.shape == (10000, 3, 32, 32)
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)  # known of this set
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)


def test_constant_channel_is_not_divided_by_nothing():
    x = np.full((10, 4, 4), 0.1, np.float32)
    y = np.arange(10) % 2
    data = from_arrays("flat", x, y, x, y)
    assert data.std == (1.0,)
    assert data.mean[0] == pytest.approx(0.1)


def picture(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_image_is_rotated_upright_and_converted(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was on its side: rotate by 90 degrees clockwise
    upright = read_image(picture(tmp_path / "t.png", array, exif=exif), 1, 6, 4)
    np.testing.assert_allclose(upright[0], np.rot90(array, -1) / 255, rtol=1e-6)
    assert read_image(picture(tmp_path / "g.png", array), 3, 4, 6).shape == (3, 4, 6)
    colour = np.dstack([array, array * 0, array * 0])
    rgb = read_image(picture(tmp_path / "c.png", colour), 3, 4, 6)
    np.testing.assert_allclose(rgb[0] * 255, array, rtol=1e-6)
    assert rgb[1:].max() == 0


def test_image_depth_and_transparency(tmp_path):
    deep = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    grey = read_image(picture(tmp_path / "deep.png", deep), 1, 4, 4)
    np.testing.assert_allclose(grey[0], deep / 65535, atol=0.5 / 255 + 1e-6)
    clear = np.full((4, 4, 4), 255, np.uint8)
    clear[:2, :, 3] = 0
    half = read_image(picture(tmp_path / "clear.png", clear), 1, 4, 4)
    assert half[0, :2].max() == 0
    assert half[0, 2:].min() == 1


def test_image_is_resized_without_aliasing(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = read_image(picture(tmp_path / "s.png", stripes), 1, 8, 8)
    np.testing.assert_allclose(small[:, :, 1:-1], 0.5, atol=0.02)


def test_bad_images_are_reported(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("torn.jpg", "torn.png"):
        path = picture(tmp_path / name, noise)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(DataError, match=rf"{name}: not a readable image"):
            read_image(path, 3, 8, 8)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        read_image(tmp_path / "text.png", 1, 8, 8)
    with pytest.raises(DataError, match="no such image"):
        read_image(tmp_path / "nix.png", 1, 8, 8)
    with pytest.raises(DataError, match="the model takes 4"):
        read_image(tmp_path / "nix.png", 4, 8, 8)


def loader(n=10, batch=4, **options):
    x = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1) * np.ones((1, 1, 3, 2), np.float32)
    return Loader(x, np.arange(n), batch, mean=(1.0,), std=(2.0,), **options)


def test_order_depends_on_seed_and_epoch_only():
    orders = {
        (seed, epoch): tuple(loader(50, seed=seed, shuffle=True).order(epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    # Philox's words are fixed by its definition, so these hold on every machine.
    assert loader(8, seed=3, shuffle=True).order(2).tolist() == [4, 5, 2, 6, 1, 3, 0, 7]


def test_training_drops_the_rest_and_evaluation_fills_it():
    training = list(loader(shuffle=True, drop_last=True).epoch(0))
    assert [len(y) for _, y in training] == [4, 4]
    testing = list(loader().epoch(0))
    assert len(testing) == len(loader()) == 3
    assert {x.shape for x, _ in testing} == {(4, 1, 3, 2)}
    assert np.concatenate([y for _, y in testing]).tolist() == list(range(10))
    for x, y in training + testing:
        np.testing.assert_array_equal(x[: len(y), 0, 0, 0], (y - 1) / 2)
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
    assert not testing[-1][0][2:].any()


def test_loader_refuses_what_makes_no_batch():
    with pytest.raises(DataError, match="batch size 11 is larger than the 10 training images"):
        loader(batch=11, drop_last=True)
    with pytest.raises(ShapeError, match="batch size 0"):
        loader(batch=0)
    with pytest.raises(DataError, match="0 images"):
        loader(n=0)


@pytest.mark.parametrize(("count", "limit", "best"), [(360, 256, 180), (7, 256, 7), (10000, 256, 250)])
def test_even_batch(count, limit, best):
    assert even_batch(count, limit) == best


def test_normalise_is_per_channel():
    x = np.random.default_rng(0).random((5, 2, 3, 3), dtype=np.float32)
    y = normalise(x, x.mean((0, 2, 3)), x.std((0, 2, 3)))
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, rtol=1e-5)


def test_crop_and_flip_only_move_and_mirror():
    x = np.random.default_rng(0).random((40, 2, 5, 4), dtype=np.float32) + 1
    y = random_crop_flip(x, np.random.default_rng(1), pad=1, flip=True)
    assert y.shape == x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = set()
    for i in range(len(x)):
        ways = {
            (down, right, mirror): padded[i, :, down : down + 5, right : right + 4][..., ::mirror]
            for down in range(3)
            for right in range(3)
            for mirror in (1, -1)
        }
        seen |= {way for way, image in ways.items() if np.array_equal(image, y[i])}
    assert len(seen) > 10
    assert {way[2] for way in seen} == {1, -1}


def test_augmentation_repeats_per_epoch():
    def run(epoch, seed=0):
        shift = augmentation("shift", (28, 28))
        return next(loader(seed=seed, augment=shift).epoch(epoch))[0]

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    assert not np.array_equal(run(1), run(1, seed=5))
    assert augmentation(None, (8, 8)) is None
    with pytest.raises(ShapeError, match=r"choose from shift, crop\+flip"):
        augmentation("cutout", (8, 8))


def test_an_augmentation_is_one_function_and_one_name(monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "darker", lambda size: lambda x, rng: x / size[0])
    darker = augmentation("darker", (2, 9))
    np.testing.assert_array_equal(darker(np.ones((1, 1, 2, 9), np.float32), None), np.full((1, 1, 2, 9), 0.5))


@pytest.mark.parametrize(
    ("name", "size", "pad", "flip"), [("shift", (28, 30), 2, False), ("crop+flip", (32, 33), 4, True)]
)
def test_augmentations_by_name_are_crops_of_their_size(name, size, pad, flip):
    x = np.random.default_rng(0).random((6, 3, *size), dtype=np.float32)
    got = augmentation(name, size)(x, np.random.default_rng(1))
    np.testing.assert_array_equal(got, random_crop_flip(x, np.random.default_rng(1), pad, flip))

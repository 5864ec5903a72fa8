"""How much is read: no more than a header says, bytes stay bytes, and nothing is converted as a whole."""

import gzip
import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from foveal import system
from foveal.data import Loader, from_arrays, load, normalise, scaled
from foveal.data.statistics import Normalisation, channel_statistics
from foveal.errors import DataError, FovealError
from foveal.train.evaluate import predict

PEAK = """
import sys
from foveal.data import load
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) << 10
before = peak()
try:
    load(sys.argv[1])
except Exception as error:
    print(error, file=sys.stderr)
print(peak() - before)
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
MB = 1 << 20


def peak(path):
    """Bytes of memory that reading a data set takes at most, and what it says."""
    ended = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    return int(ended.stdout), ended.stderr


def idx_header(magic, *shape):
    return struct.pack(f">{1 + len(shape)}I", magic, *shape)


@pytest.fixture(scope="module")
def zeros():
    """200 MB of zeros, gzipped."""
    return gzip.compress(bytes(200 * MB), 1)


def mnist(folder, images):
    """MNIST's four files, where that of the training images has the content `images`."""
    folder.mkdir()
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_header(0x803, 10, 4, 4) + bytes(160))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_header(0x801, 10) + bytes(range(10)))
    (folder / "train-images-idx3-ubyte").write_bytes(images)
    return folder


@linux
def test_gzip_is_unpacked_no_further_than_the_header_says(tmp_path, zeros):
    # Two members of a gzip file: a true header, and what does not belong to it.
    taken, words = peak(mnist(tmp_path / "set", gzip.compress(idx_header(0x803, 10, 4, 4)) + zeros))
    assert "the header says 10 x 4 x 4 = 160 bytes, the file holds 161 or more" in words
    assert taken < 60 * MB


@linux
def test_an_idx_file_without_a_header_is_not_unpacked(tmp_path, zeros):
    taken, words = peak(mnist(tmp_path / "set", zeros))
    assert "magic number 0x00000000" in words
    assert taken < 60 * MB


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_promises_more_than_can_be_there_takes_no_memory(tmp_path, pack):
    folder = mnist(tmp_path / "set", pack(idx_header(0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(1000)))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: the header says 79,.* more than the file can hold"):
        load(folder)


def test_what_is_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    folder = mnist(tmp_path / "set", idx_header(0x803, 10, 4, 4) + bytes(160))
    monkeypatch.setattr("foveal.data.files.total_memory", lambda: 100.0)
    with pytest.raises(DataError, match="takes 160 bytes of memory, and this machine has 100; take fewer images"):
        load(folder)
    assert system.total_memory() > 1e8


@linux
def test_cifar_is_unpacked_as_far_as_there_can_be_images(tmp_path, zeros):
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(zeros)
    (tmp_path / "fine_label_names.txt").write_bytes(zeros)
    taken, words = peak(tmp_path)
    assert "train.bin: holds more than 60,000 images, 184,440,000 bytes" in words
    assert taken < 250 * MB
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(bytes(2 * 3074) + bytes([0, 1]) + bytes(3072))
    with pytest.raises(DataError, match=r"fine_label_names\.txt: holds more than names of classes, 65,536 bytes"):
        load(tmp_path)


def archive(path, **members):
    """An .npz of these arrays, or of these bytes in the place of one."""
    y = np.array([0, 1])
    parts = {"x_train": np.zeros((2, 4, 5), "u1"), "y_train": y, "x_test": np.zeros((2, 4, 5), "u1"), "y_test": y}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, value in {**parts, **members}.items():
            if not isinstance(value, bytes):
                stream = io.BytesIO()
                np.save(stream, value)
                value = stream.getvalue()
            file.writestr(f"{name}.npy", value)
    return path


def npy(shape, dtype="|u1", content=b"", text=None):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n" if text is None else text
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (npy((2, 10**6, 10**6), content=bytes(100)), "says 2,000,000,000,000 bytes, more than the file can hold"),
        (
            npy((2, 4, 5), content=bytes(39)),
            "the header says 40 bytes, more than|says 40 bytes and the archive holds 39",
        ),
        (npy((2, 4, 5), content=bytes(41)), "says 40 bytes and the archive holds 40"),
        (npy((2, -4, 5), content=bytes(40)), "cannot be read"),
        (npy((), text="{'descr': '|u1', 'shape': (2, 4,"), "cannot be read"),
        (npy((), text="[" * 3000 + "\n"), "cannot be read"),
        (npy((), text="x" * 20000), "cannot be read"),
        (b"\x93NUMPY\x09\x00", "cannot be read"),
        (b"", "cannot be read"),
        (npy((2,), "|O", bytes(16)), "Python objects, which only pickle could read"),
    ],
)
def test_damaged_members_are_one_message(tmp_path, member, words):
    with pytest.raises(DataError, match=rf"x_train of .*a\.npz: .*({words})"):
        load(archive(tmp_path / "a.npz", x_train=member))


@linux
def test_an_npz_bomb_is_not_unpacked(tmp_path):
    content = npy((2, 4, 5), content=bytes(100 * MB))
    taken, words = peak(archive(tmp_path / "a.npz", x_train=content))
    assert "says 40 bytes and the archive holds 40" in words
    assert taken < 20 * MB


def test_names_of_classes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.data.formats.npz._NAMES_BYTES", 1000)
    with pytest.raises(DataError, match=r"classes of .*: takes 2,000 bytes, and 1,000 are enough; store the names"):
        load(archive(tmp_path / "a.npz", classes=np.zeros(2000, "u1")))


def test_arrays_of_any_order_are_read(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5), dtype=np.uint8)
    data = load(archive(tmp_path / "a.npz", x_train=np.asfortranarray(x), y_train=np.array([1, 0], ">i4")))
    np.testing.assert_array_equal(data.images_train[:, 0], x)
    assert data.y_train.tolist() == [1, 0]


@linux
@pytest.mark.parametrize("last", [False, True])
def test_images_take_little_more_memory_than_their_bytes(tmp_path, last):
    """40 MB of images, also with the channels last, which are copied once."""
    x = np.random.default_rng(0).integers(0, 256, (100, 363, 363, 3) if last else (100, 3, 363, 363), dtype=np.uint8)
    y = np.arange(100) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert peak(tmp_path / "a.npz")[0] < (3 if last else 2) * x.nbytes


X = np.random.default_rng(1).integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)
Y = np.arange(40) % 2


def test_bytes_stay_bytes_and_give_the_same_batches():
    data = from_arrays("set", X, Y, X, Y)
    assert data.images_train is X
    assert data.x_train.dtype == np.float32
    np.testing.assert_array_equal(data.x_train, np.divide(X, 255, dtype=np.float32))
    floats = Loader(data.x_train, Y, 16, mean=data.mean, std=data.std, shuffle=True)
    bytes_ = Loader(data.images_train, Y, 16, mean=data.mean, std=data.std, shuffle=True)
    for (a, _), (b, _) in zip(floats.epoch(0), bytes_.epoch(0), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.dtype == np.float32
        assert b.flags.c_contiguous
    seen = []
    augment = Loader(X, Y, 16, mean=data.mean, std=data.std, augment=lambda x, rng: seen.append(x) or x)
    np.testing.assert_array_equal(
        next(augment.epoch(0))[0], next(iter(Loader(X, Y, 16, mean=data.mean, std=data.std).epoch(0)))[0]
    )
    np.testing.assert_array_equal(seen[0], scaled(X[:16]))


def test_evaluation_takes_bytes():
    class Net:
        def eval(self):
            return self

        def __call__(self, x):
            return x.sum((2, 3))

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    np.testing.assert_array_equal(predict(Net(), X, mean=mean, std=std), predict(Net(), scaled(X), mean=mean, std=std))


def test_statistics_of_bytes_are_those_of_their_floats():
    x = np.concatenate([X, X[:, ::-1] // 3])
    x[:, 1] = 77
    mean, std = channel_statistics(x)
    floats = scaled(x).astype(np.float64)
    np.testing.assert_allclose(mean, floats.mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, [floats[:, 0].std(), 1, floats[:, 2].std()], rtol=1e-14)
    np.testing.assert_allclose(channel_statistics(scaled(x)), (mean, std), rtol=1e-14)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.5, np.nan, 0.5), (1, 1, 1), "every mean has to be finite"),
        ((0.5, 1e300, 0.5), (1, 1, 1), "every mean has to be finite"),
        ((0.5,) * 3, (1, -1, 1), "a finite number above 0"),
        ((0.5,) * 3, (1, 0, 1), "a finite number above 0"),
        ((0.5,) * 3, (1, np.inf, 1), "a finite number above 0"),
        ((0.5,) * 3, (1, np.nan, 1), "a finite number above 0"),
        ((0.5,) * 3, (1, 1e-60, 1), "a finite number above 0"),
        ((0.5,) * 3, (1, 1), "one of each per channel"),
        ((), (), "images of shape"),
        ((0.5,) * 2, (1,) * 2, r"images of shape \[40, 3, 6, 5\] with 2 means"),
    ],
)
def test_means_and_deviations_that_cannot_be_used_are_refused(mean, std, words):
    with pytest.raises(DataError, match=words):
        Normalisation(mean, std)(X)
    # The public calls name the argument themselves where a number is not finite.
    for call in (lambda: normalise(X, mean, std), lambda: next(Loader(X, Y, 40, mean=mean, std=std).epoch(0))):
        with pytest.raises(FovealError, match=r"mean|std"):
            call()

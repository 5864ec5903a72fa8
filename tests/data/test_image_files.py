"""Image files as a Dataset: decoded into memory, into a file, or when they are read, with the same bits."""

import os
import time

import numpy as np
import pytest
from photos import folder, photo, torn
from PIL import Image, ImageCms

from foveal import data
from foveal.data.decoding import images, storage
from foveal.data.decoding.image_array import ImageArray
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.statistics import channel_statistics
from foveal.errors import ArgumentError, DataError, FovealWarning


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def same(a, b):
    """True if two data sets hold the same bits."""
    arrays = ("images_train", "images_validation", "images_test", "y_train", "y_validation", "y_test")
    return (a.mean, a.std, a.files) == (b.mean, b.std, b.files) and all(
        np.array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name))) for name in arrays
    )


def test_the_same_bits_from_memory_from_a_file_and_streamed(tmp_path, monkeypatch):
    files = data.scan(folder(tmp_path / "photos"))
    said = []
    memory = files.dataset((8, 6), tell=said.append)
    assert isinstance(memory.images_train, np.ndarray)
    assert memory.size == (8, 6)
    assert memory.images_train.shape == (14, 3, 8, 6)
    assert "2.88 KB decoded, in memory" in said[0]
    streamed = files.dataset((8, 6), memory_limit=100, data_cache="off", tell=said.append)
    assert isinstance(streamed.images_train, ImageArray)
    assert "decoded anew in each epoch, as 2.88 KB do not fit: the memory limit is 100 bytes" in said[1]
    mapped = files.dataset((8, 6), memory_limit=100, tell=said.append)
    assert isinstance(mapped.images_train, np.memmap)
    assert "in a file mapped into memory in" in said[2]
    assert same(memory, streamed)
    assert same(memory, mapped)
    # The next run finds the file, and decodes nothing.
    monkeypatch.setattr(Preprocessing, "read", None)
    assert same(memory, files.dataset((8, 6), memory_limit=100))


def test_a_dataset_knows_its_files_and_how_they_were_read(tmp_path):
    dataset = data.load(folder(tmp_path / "photos"), size=(8, 6), split=(0.1, 0.3), background=(0, 0, 0))
    assert {part: len(paths) for part, paths in dataset.files.items()} == {"train": 12, "validation": 2, "test": 6}
    how = dataset.preprocessing
    assert (how.channels, how.size, how.mean, how.background) == (3, (8, 6), dataset.mean, (0, 0, 0))
    for row in (0, 5):
        np.testing.assert_array_equal(how.read(dataset.files["test"][row]), dataset.images_test[row])
    folder(tmp_path / "grey", channels=1)
    grey = data.load(tmp_path / "grey")
    assert (grey.channels, grey.size) == (1, (9, 12))
    with pytest.raises(ArgumentError, match="there is no option 'sise'"):
        data.load(tmp_path / "grey", sise=3)
    with pytest.raises(ArgumentError, match="digits holds arrays, and size is for image files"):
        data.load("digits", size=(8, 8))


def test_training_images_may_be_larger(tmp_path):
    dataset = data.scan(folder(tmp_path)).dataset((8, 8), enlarge=1.25)
    assert dataset.size == (8, 8)
    assert dataset.images_train.shape[2:] == (10, 10)
    assert dataset.images_validation.shape[2:] == (8, 8)


def test_sizes_are_chosen_from_headers(tmp_path):
    files = data.scan(folder(tmp_path / "a", height=300, width=200, images=3))
    assert files.default_size() == (128, 128)
    assert data.scan(folder(tmp_path / "b", height=70, width=50, images=3)).default_size() == (70, 50)
    photo(tmp_path / "b" / "cat" / "other.png", height=70, width=60)
    assert data.scan(tmp_path / "b").default_size() == (32, 32)


@pytest.mark.parametrize(("limit", "cache"), [(None, "auto"), (100, "auto"), (100, "off")])
def test_files_that_cannot_be_decoded_are_left_out_and_said(tmp_path, limit, cache):
    """Wherever the images are kept; those that stream are decoded once before."""
    root = folder(tmp_path / "photos")
    # The end is there, what comes before is not: that is found out when it is decoded.
    content = torn(root / "cat" / "x.png").read_bytes()
    (root / "cat" / "x.png").write_bytes(content + b"\0\0\0\0IEND\xaeB`\x82")
    files = data.scan(root, split=(0.1, 0.2))
    assert len(files) == 21
    for _ in range(2):
        files = data.scan(root)
        with pytest.warns(FovealWarning, match=r"x\.png left out: not a readable image"):
            dataset = files.dataset((8, 8), memory_limit=limit, data_cache=cache)
        assert isinstance(dataset.images_train, ImageArray) == (cache == "off")
        assert not any(path.endswith("x.png") for paths in dataset.files.values() for path in paths)
        assert [np.asarray(image).shape for image in dataset.images_train] == [(3, 8, 8)] * len(dataset.y_train)
        arrays = dataset.images_train, dataset.images_validation, dataset.images_test
        assert sum(map(len, arrays)) == 20 == sum(map(len, dataset.files.values()))
        assert files.problems[-1].path.endswith("x.png")
        assert [len(a) for a in arrays] == [len(paths) for paths in dataset.files.values()]
    torn(root / "dog" / "torn.png")
    said = []
    assert len(data.load(root, size=(8, 8), tell=said.append).files["train"]) == 14
    assert any("left out, truncated: 1 (torn.png)" in line for line in said)
    with pytest.warns(FovealWarning) as found:
        data.load(root, size=(8, 8))
    assert [os.path.basename(str(w.message).split(" left")[0]) for w in found] == ["torn.png", "x.png"]
    with pytest.raises(DataError, match="strict is on"):
        data.scan(root, strict=True).dataset((8, 8), data_cache=cache, memory_limit=limit)


def test_rows_of_an_image_array_are_decoded_when_they_are_read(tmp_path):
    paths = [str(photo(tmp_path / f"{i}.png", seed=i)) for i in range(5)]
    x = ImageArray(paths, Preprocessing(3, (9, 12)))
    whole = np.stack([np.moveaxis(np.asarray(Image.open(path)), 2, 0) for path in paths])
    assert (x.shape, len(x), x.ndim, x.dtype) == (whole.shape, 5, 4, np.uint8)
    for rows in ([3, 1], slice(1, None, 2), np.array([True, False, True, False, False]), np.array([], int), 2, -1):
        np.testing.assert_array_equal(x[rows], whole[rows])
    np.testing.assert_array_equal(x[1:3, :, 0], whole[1:3, :, 0])
    np.testing.assert_array_equal(list(x), whole)
    with pytest.raises(IndexError, match="there is no row 5, only 5"):
        x[5]


def test_a_file_that_changes_or_vanishes_during_training_is_named(tmp_path):
    root = folder(tmp_path / "photos")
    dataset = data.load(root, size=(8, 8), memory_limit=0, data_cache="off")
    changed = dataset.files["train"][3]
    os.utime(changed, ns=(1, 1))
    loader = data.Loader(dataset, batch_size=2, prefetch=3, threads=2)
    batches = iter(loader)
    # The error comes at its place.
    next(batches)
    with pytest.raises(DataError, match=rf"{changed}: has changed since it was listed; start again"):
        next(batches)
    os.remove(changed)
    with pytest.raises(DataError, match="is gone since it was listed"):
        list(loader)


def test_the_cache_is_bounded_and_notices_changes(tmp_path, monkeypatch):
    root, place = folder(tmp_path / "photos"), tmp_path / "decoded"
    how = {"size": (8, 8), "memory_limit": 0, "data_cache": str(place)}
    first = data.load(root, **how)
    kept = sorted(place.glob("*.pixels"))
    assert len(kept) == 3
    photo(first.files["train"][0], seed=99)
    os.utime(first.files["train"][0], ns=(time.time_ns(), 5))
    second = data.load(root, **how)
    assert not np.array_equal(first.images_train, second.images_train)
    assert len(list(place.glob("*.pixels"))) == 4
    # A torn file counts as absent.
    for path in place.glob("*.pixels"):
        content = path.read_bytes()
        # What is mapped stays.
        path.unlink()
        path.write_bytes(content[:-1])
    assert same(second, data.load(root, **how))
    # Room for the largest alone.
    monkeypatch.setattr(storage, "CACHE_BYTES", 14 * 3 * 64)
    storage.trim(place, 0)
    assert sum(path.stat().st_size for path in place.glob("*.pixels")) <= 14 * 3 * 64
    with pytest.raises(ArgumentError, match="memory_limit is -1"):
        data.load(root, memory_limit=-1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be made"):
        data.load(root, data_cache=str(tmp_path / "file" / "a"))


def test_where_images_are_kept_follows_from_sizes(tmp_path, monkeypatch):
    folder_ = str(tmp_path)
    assert storage.choose(10**6, 10**6, 10**9, folder_).kind == "memory"
    assert storage.choose(10**6, 2 * 10**9, 10**9, folder_).kind == "cache"
    assert storage.choose(10**6, 2 * 10**9, 10**9, "off").kind == "memory"
    assert storage.choose(10**6, 0, 10**5, folder_).kind == "cache"
    monkeypatch.setattr(storage, "CACHE_BYTES", 10**5)
    found = storage.choose(10**6, 0, 10**5, folder_)
    assert found.kind == "stream"
    assert f"{folder_} has room for 100 KB" in found.text


# Decoding.


def test_transparency_lies_on_white_or_what_is_given(tmp_path):
    Image.new("LA", (4, 4), (50, 0)).save(tmp_path / "a.png")
    assert Preprocessing(1, (4, 4)).read(str(tmp_path / "a.png")).min() == 255
    assert Preprocessing(1, (4, 4), background=(0, 0, 0)).read(str(tmp_path / "a.png")).max() == 0
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=0)
    assert (Preprocessing(3, (4, 4), background=(1, 2, 3)).read(str(tmp_path / "p.png"))[:, 0, 0] == [1, 2, 3]).all()


def test_a_profile_is_converted_to_srgb(tmp_path):
    """The profile exchanges red and blue of sRGB, by its table of primaries."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {bytes(srgb[132 + 12 * i :][:4]): 132 + 12 * i for i in range(int.from_bytes(srgb[128:132], "big"))}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    srgb[red + 4 : red + 12], srgb[blue + 4 : blue + 12] = srgb[blue + 4 : blue + 12], srgb[red + 4 : red + 12]
    photo = Image.new("RGB", (4, 4), (200, 100, 20))
    photo.save(tmp_path / "a.png", icc_profile=bytes(srgb))
    swapped = np.asarray(images.decode(str(tmp_path / "a.png")))[0, 0]
    np.testing.assert_allclose(swapped, [20, 100, 200], atol=3)
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (plain, b"nonsense", plain[:200]):
        photo.save(tmp_path / "a.png", icc_profile=profile)
        assert (np.asarray(images.decode(str(tmp_path / "a.png"))) == [200, 100, 20]).all()


def test_pixels_without_a_scale_are_scaled_from_their_own_range_and_that_is_said(tmp_path):
    ramp = np.linspace(-5, 100, 60, dtype=np.float32).reshape(6, 10)
    root = folder(tmp_path, height=6, width=10, channels=1)
    Image.fromarray(ramp).save(root / "cat" / "float.tif")
    Image.fromarray((ramp * 1e7).astype(np.int32)).save(root / "cat" / "int.tif")
    files = data.scan(root)
    said = {os.path.basename(problem.path): problem for problem in files.problems}
    assert said["float.tif"].kind == said["int.tif"].kind == "scaled"
    assert "from -5 to 100" in said["float.tif"].text
    for name in ("float.tif", "int.tif"):
        found = Preprocessing(1, (6, 10)).read(str(root / "cat" / name))
        np.testing.assert_allclose(found.ravel(), np.linspace(0, 255, 60), atol=0.51)
    Image.fromarray(np.full((6, 10), np.nan, np.float32)).save(root / "cat" / "nan.tif")
    assert data.scan(root).problems[-1].kind == "unreadable"


def test_headers_say_what_decoding_will_give(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.linear_gradient("L").resize((40, 20))
    for name in ("a.jpg", "b.png", "c.webp", "d.tif", "e.avif"):
        if name == "e.avif" and "AVIF" not in images.known_formats():
            continue
        wide.convert("RGB").save(tmp_path / name, exif=exif)
        head = images.header(str(tmp_path / name))
        assert (head.width, head.height) == images.decode(str(tmp_path / name)).size == (20, 40), name
    wide.convert("P").save(tmp_path / "grey.gif")
    assert images.header(str(tmp_path / "grey.gif")).is_grey
    Image.new("RGB", (4, 4), "red").convert("P").save(tmp_path / "red.gif")
    assert not images.header(str(tmp_path / "red.gif")).is_grey


def test_a_jpeg_is_decoded_at_a_reduced_scale(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((800, 400)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert images.decode(str(tmp_path / "a.jpg"), draft_to=(50, 100)).size == (50, 100)
    assert images.decode(str(tmp_path / "a.jpg"), draft_to=(51, 100)).size == (100, 200)
    whole = np.asarray(images.decode(str(tmp_path / "a.jpg")).resize((30, 60), Image.Resampling.LANCZOS))
    np.testing.assert_allclose(Preprocessing(1, (60, 30)).read(str(tmp_path / "a.jpg"))[0], whole, atol=3)


def test_images_that_stream_are_never_all_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("foveal.data.scanning.image_files._BLOCK_BYTES", 3 * 8 * 8 * 3)
    files, most, read = data.scan(folder(tmp_path)), [0], ImageArray.__getitem__

    def counting(self, rows):
        found = read(self, rows)
        most[0] = max(most[0], len(found))
        return found

    monkeypatch.setattr(ImageArray, "__getitem__", counting)
    streamed = files.dataset((8, 8), memory_limit=0, data_cache="off", quiet=True)
    assert most == [3]
    held = files.dataset((8, 8), quiet=True)
    assert (streamed.mean, streamed.std, streamed.value_range) == (held.mean, held.std, held.value_range)
    mean, std = channel_statistics(np.asarray(held.images_train))
    assert (held.mean, held.std) == (mean, std)

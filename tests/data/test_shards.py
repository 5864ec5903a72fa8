"""Tar shards as WebDataset names what is in them, and hostile ones."""

import copy
import gzip
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from photos import pixels
from PIL import Image

from foveal import data, doctor
from foveal.data import readers
from foveal.data.decoding import members
from foveal.data.scanning import shards
from foveal.errors import DataError
from foveal.train.run_file import stamps


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def shard(path, *files):
    """Write a tar file of (name, content) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(start, count=10, folder="", extension="cls"):
    """Members of samples of two classes, each an image and its class."""
    labels = {"cls": "{}", "txt": "kind {}\n", "json": '{{"caption": "x", "label": "kind {}"}}'}
    return [
        member
        for i in range(start, start + count)
        for member in (
            (f"{folder}{i:04}.png", png(i)),
            (f"{folder}{i:04}.{extension}", labels[extension].format(i % 2).encode()),
        )
    ]


def kinds(files):
    return {os.path.basename(problem.path): problem.kind for problem in files.problems}


def refused(place, words):
    with pytest.raises(DataError, match=words) as error:
        data.scan(place, quiet=True)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_are_read_by_the_parts_in_their_names(tmp_path):
    for k in range(3):
        shard(tmp_path / f"set-train-{k:06}.tar", *samples(10 * k))
    shard(tmp_path / "set-val-000000.tar", *samples(50, 4))
    shard(tmp_path / "set-test-000000.tar", *samples(60, 6))
    files = data.scan(tmp_path)
    assert (files.classes, files.channels, files.division) == (("0", "1"), 3, "train, validation, test as given")
    assert [len(files.rows(part)) for part in ("train", "validation", "test")] == [30, 4, 6]
    assert (files.sizes == [12, 9]).all()
    read = files.dataset(data_cache="off")
    row = int(files.rows("train")[17])
    assert files.paths[row].endswith("set-train-000001.tar::0017.png")
    assert (read.images_train[17] == np.moveaxis(pixels(17), 2, 0)).all()
    assert read.y_train[17] == 1
    # Without memory for them they stream, in any order.
    streamed = files.dataset(data_cache="off", memory_limit=0)
    assert isinstance(streamed.images_train, data.ImageArray)
    assert (streamed.images_train[[20, 3]] == read.images_train[[20, 3]]).all()
    assert readers.holds_images(tmp_path)
    assert (data.load(tmp_path, data_cache="off", quiet=True).images_test == read.images_test).all()


def test_one_shard_and_shards_without_parts_are_divided_by_the_seed(tmp_path):
    one = data.scan(shard(tmp_path / "one" / "photos.tar", *samples(0, 40)))
    assert [len(one.rows(part)) for part in ("train", "validation", "test")] == [28, 4, 8]
    # The name of a part counts where one shard is for training.
    assert len(data.scan(shard(tmp_path / "two" / "test.tar", *samples(0, 40))).rows("test")) == 8
    for k in range(2):
        shard(tmp_path / "three" / f"{k:05}.tar", *samples(20 * k, 20))
    grouped = data.scan(tmp_path / "three", group_by=r"(\d)\.png", split=(0, 0.2))
    last = {
        part: {path[-5] for path, p in zip(grouped.paths, grouped.parts, strict=True) if p == part}
        for part in grouped.parts
    }
    assert len(last["train"]) + len(last["test"]) == 10
    for part in ("train", "test"):
        shard(tmp_path / "four" / part / "0.tar", *samples(0 if part == "train" else 50, 12))
    assert len(data.scan(tmp_path / "four").rows("test")) == 12
    shard(tmp_path / "four" / "extra.tar", *samples(90, 2))
    refused(tmp_path / "four", "its name says none; rename it")
    refused(shard(tmp_path / "test-train.tar", *samples(0)), "parts test and train; rename it")


@pytest.mark.parametrize("extension", ["cls", "json", "txt"])
def test_classes_stand_in_members_of_the_same_name_in_any_order(tmp_path, extension):
    files = samples(0, 20, "a/b.c/", extension)
    found = data.scan(shard(tmp_path / "set.tar", *files[::2], *files[1::2], ("README.txt", b"About this set")))
    assert found.classes == (("0", "1") if extension == "cls" else ("kind 0", "kind 1"))
    assert [int(path[-5]) % 2 for path in found.paths] == found.labels.tolist()
    assert kinds(found) == {"set.tar::README": "no image"}


def test_names_of_classes_beside_the_shards(tmp_path):
    place = shard(tmp_path / "set.tar", *samples(0, 20))
    (tmp_path / "classnames.txt").write_text("tabby cat\ndog\n")
    assert data.scan(place).classes == ("dog", "tabby cat")
    (tmp_path / "classnames.txt").write_text("cat\n")
    refused(place, "has the names of 1")


def test_what_is_left_out_is_named(tmp_path):
    more = (
        ("40.png", png(1)),
        ("41.txt", b"cat\ndog"),
        ("._42.png", b"x"),
        ("43.png", b"no image"),
        ("43.cls", b"1"),
        ("44.png", b""),
        ("44.cls", b"0"),
        # These lead nowhere, as nothing is written.
        ("/../45.png", png(3)),
        ("/../45.cls", b"1"),
    )
    shard(tmp_path / "set.tar", *samples(0, 20), *more)
    with tarfile.open(tmp_path / "set.tar", "a") as tar:
        for name, kind in (("30.png", tarfile.SYMTYPE), ("31.png", tarfile.LNKTYPE), ("32.png", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    found = data.scan(tmp_path / "set.tar")
    assert len(found) == 21
    assert kinds(found) == {
        "set.tar::30.png": "link",
        "set.tar::31.png": "link",
        "set.tar::32.png": "hostile",
        "set.tar::40.png": "no class",
        "set.tar::41": "no image",
        "set.tar::._42.png": "hidden",
        "set.tar::43.png": "unreadable",
        "set.tar::44.png": "unreadable",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.tar"]
    with pytest.raises(DataError, match="strict is on"):
        data.scan(tmp_path / "set.tar", strict=True)


def test_shards_that_cannot_be_read_are_one_error(tmp_path):
    whole = shard(tmp_path / "set.tar", *samples(0, 20)).read_bytes()
    place = tmp_path / "bad.tar"
    for content, words in (
        (b"", "is no tar file"),
        (b"no tar file" * 100, "is no tar file"),
        (whole[: len(whole) // 2 + 100], "torn or damaged at byte"),
        # Where a member ends, and where another file was put behind it.
        (whole[:4096], "torn or damaged at byte 4,096"),
        (whole + whole, "goes on behind its end"),
        (whole[:3072] + b"\xff" * 512 + whole[3584:], "torn or damaged at byte"),
        (gzip.compress(whole), "a compressed shard.*gunzip"),
    ):
        place.write_bytes(content)
        refused(place, words)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train-0.tar.gz").write_bytes(gzip.compress(whole))
    refused(tmp_path / "packed", "a compressed shard")
    with pytest.raises(DataError, match="a compressed shard"):
        data.load(tmp_path / "packed")


def test_classes_that_cannot_be_read_are_one_error(tmp_path):
    for k, (files, words) in enumerate(
        (
            ([("1.png", png(1)), ("1.jpg", png(2)), ("1.cls", b"1")], "images of one sample"),
            ([("1.png", png(1)), ("1.cls", b"")], "is to hold the class"),
            ([("1.png", png(1)), ("1.cls", b"\xff")], "write it anew, in UTF-8"),
            ([("1.png", png(1)), ("1.json", b"[" * 100_000)], "cannot be read"),
            ([("1.png", png(1)), ("1.cls", b"1"), ("1.cls", b"2")], "is in the shard twice"),
            ([("1.png", png(1)), ("1.cls", b"1"), ("2.png", png(2)), ("2.txt", b"a")], "give all the same"),
            ([("1.png", png(1)), ("2.png", png(2))], "holds no image with a class"),
            ([("1.png", png(1)), ("1.json", bytes(shards._LABEL_BYTES + 1))], "too many for a class"),
        )
    ):
        refused(shard(tmp_path / f"{k}.tar", *files), words)


def test_what_a_header_says_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST", 2000)
    place = shard(tmp_path / "set.tar", *samples(0, 20), ("90.png", bytes(3000)), ("90.cls", b"1"))
    found = data.scan(place)
    assert kinds(found)["set.tar::90.png"] == "hostile"
    with pytest.raises(DataError, match=r"3,000 bytes.*strict is on"):
        data.scan(place, strict=True)
    # A long name of 4 GB, which is not read.
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    place.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 14))
    refused(place, "damaged or hostile")


def test_a_folder_of_classes_with_an_archive_beside_them_stays_one(tmp_path):
    for k, name in enumerate(("cat", "dog")):
        for i in range(10):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(10 * k + i))
    shard(tmp_path / "all.tar", *samples(0))
    assert data.scan(tmp_path).classes == ("cat", "dog")


def test_addresses_are_texts_that_can_be_opened(tmp_path):
    found = data.scan(shard(tmp_path / "set.tar", *samples(0, 20)))
    path = found.paths[3]
    assert (path, path.name) == (f"{tmp_path}/set.tar::0003.png", "0003.png")
    for same in (pickle.loads(pickle.dumps(path)), copy.deepcopy(path)):
        with members.opened(same) as file:
            assert file.read() == png(3)
    with path.open() as file:
        assert (file.seek(-8, os.SEEK_END), file.read(100), file.read()) == (len(png(3)) - 8, png(3)[-8:], b"")
        file.seek(4)
        assert file.read(4) == png(3)[4:8]
    # What can change is the shard.
    assert list(stamps(found.paths)) == [str(tmp_path / "set.tar")]
    array = found.dataset(data_cache="off", memory_limit=0).images_train
    os.utime(tmp_path / "set.tar", ns=(1, 1))
    with pytest.raises(DataError, match="has changed since it was listed"):
        array[0]


def test_the_doctor_looks_into_shards(tmp_path):
    shard(tmp_path / "train-0.tar", *samples(0, 30))
    shard(tmp_path / "test-0.tar", *samples(29, 4))
    found = doctor.check(data.scan(tmp_path), quiet=True).as_json()
    leaks = [finding for finding in found["findings"] if finding["severity"] == "error"]
    assert any("0029.png" in json.dumps(finding) for finding in leaks)

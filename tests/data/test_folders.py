"""Folders of images: which files they hold, and how these are divided into parts."""

import os
import shutil
import unicodedata
import zlib

import numpy as np
import pytest
from photos import folder, photo, torn
from PIL import Image

from foveal import data
from foveal.data.scanning import listing, splits
from foveal.errors import ArgumentError, DataError


def kinds(files):
    """What is said of files, by their names."""
    return {os.path.basename(problem.path): problem.kind for problem in files.problems}


def names(files, part):
    return {os.path.basename(files.paths[row]) for row in files.rows(part)}


def test_a_folder_per_class_is_divided_with_the_same_share_of_each(tmp_path):
    folder(tmp_path, ("dog", "cat"), images=20)
    files = data.scan(tmp_path)
    assert (files.classes, len(files), files.channels) == (("cat", "dog"), 40, 3)
    assert [files.classes[k] for k in files.labels] == [os.path.basename(os.path.dirname(path)) for path in files.paths]
    for part, count in (("train", 14), ("validation", 2), ("test", 4)):
        assert np.bincount(files.labels[files.rows(part)]).tolist() == [count, count]
    assert (files.sizes == [12, 9]).all()
    assert "10% for validation and 20% for test drawn with seed 0" in str(files)
    again, other = data.scan(tmp_path), data.scan(tmp_path, seed=1)
    assert again.parts.tolist() == files.parts.tolist() != other.parts.tolist()
    only = data.scan(tmp_path, split=(0, 0.5))
    assert [len(only.rows(part)) for part in ("train", "validation", "test")] == [20, 0, 20]


def test_small_classes_keep_an_image_to_train_on(tmp_path):
    folder(tmp_path, ("many",), images=20)
    folder(tmp_path, ("one", "two"), images=1)
    photo(tmp_path / "two" / "second.png")
    files = data.scan(tmp_path, split=(0.3, 0.4))
    assert set(files.labels[files.rows("train")]) == {0, 1, 2}


def test_parts_are_taken_as_they_are(tmp_path):
    for part, count in (("Train", 10), ("valid", 2), ("testing", 3)):
        folder(tmp_path / part, images=count)
    files = data.scan(tmp_path)
    assert [len(files.rows(part)) for part in ("train", "validation", "test")] == [20, 4, 6]
    assert "train, validation, test as given" in str(files)
    shutil.rmtree(tmp_path / "valid")
    files = data.scan(tmp_path)
    assert [len(files.rows(part)) for part in ("train", "validation", "test")] == [18, 2, 6]
    # Without labels, as competitions give it: the part is drawn then.
    shutil.rmtree(tmp_path / "testing")
    photo(tmp_path / "test" / "0.png")
    files = data.scan(tmp_path)
    assert len(files.rows("test")) == 4
    assert kinds(files) == {"0.png": "no class"}


def test_a_folder_called_test_alone_is_a_class(tmp_path):
    assert data.scan(folder(tmp_path, ("test", "other"))).classes == ("other", "test")


def test_groups_are_never_divided(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(120):
        photo(tmp_path / ("cat", "dog")[i % 2] / f"person{rng.integers(0, 15)}_{i}.png", seed=i)
    files = data.scan(tmp_path, group_by=r"^(person\d+)_")
    people = {part: {name.partition("_")[0] for name in names(files, part)} for part in ("train", "validation", "test")}
    assert all(people.values())
    assert sum(map(len, people.values())) == len(set.union(*people.values()))
    counts = np.bincount(files.labels[files.rows("test")])
    assert (abs(counts - 12) <= 6).all()
    with pytest.raises(DataError, match=r"group_by 'photo': matches nothing in 'cat/person"):
        data.scan(tmp_path, group_by="photo")
    with pytest.raises(DataError, match=r"group_by '\(': is no regular expression"):
        data.scan(tmp_path, group_by="(")
    with pytest.raises(DataError, match="2 groups, too few"):
        data.scan(tmp_path, group_by="(cat|dog)/")


def test_a_group_in_two_given_parts_is_an_error(tmp_path):
    for part in ("train", "test"):
        folder(tmp_path / part, images=4, name=f"{part}_ann{{}}.png")
    with pytest.raises(DataError, match=r"the group 'ann0' is in the (train|test) part and in the (train|test) part"):
        data.scan(tmp_path, group_by=r"_(ann\d)")


def test_what_is_left_out_is_said(tmp_path):
    folder(tmp_path)
    torn(tmp_path / "cat" / "torn.png")
    torn(tmp_path / "cat" / "torn.jpg")
    (tmp_path / "cat" / "empty.jpg").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "cat" / "text.png").write_text("x")
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "deep").mkdir()
    photo(tmp_path / "loose.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "dog" / "jpeg.png", "JPEG")
    # 60,000 x 60,000 pixels
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xea`\0\0\xea`\x08\2\0\0\0"
    header += zlib.crc32(header[12:]).to_bytes(4, "big")
    (tmp_path / "dog" / "bomb.png").write_bytes(header + b"\0\0\0\0IEND\xaeB`\x82")
    files = data.scan(tmp_path)
    assert kinds(files) == {
        "torn.png": "truncated",
        "torn.jpg": "truncated",
        "empty.jpg": "truncated",
        "notes.txt": "no image",
        "text.png": "unreadable",
        "IMG_1.HEIC": "unreadable",
        ".DS_Store": "hidden",
        "Thumbs.db": "hidden",
        "bird": "empty class",
        "loose.png": "no class",
        "jpeg.png": "wrong extension",
        "bomb.png": "hostile",
    }
    assert len(files) == 21
    assert "left out, truncated: 3 (empty.jpg, torn.jpg, torn.png)" in str(files)
    heic = next(problem for problem in files.problems if problem.path.endswith("HEIC"))
    assert heic.text == "is .heic, which is not read; convert it to JPEG or PNG"
    with pytest.raises(DataError, match=r"strict is on"):
        data.scan(tmp_path, strict=True)


def test_folders_below_a_class_belong_to_it_and_links_may_not_lead_back(tmp_path):
    folder(tmp_path)
    photo(tmp_path / "cat" / "a" / "b" / "deep.png")
    (tmp_path / "cat" / "a" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "cat" / "nothing.png").symlink_to(tmp_path / "nowhere.png")
    folder(tmp_path / "elsewhere" / "x", ("in",), images=3)
    shutil.move(tmp_path / "elsewhere", tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "bird").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    files = data.scan(tmp_path)
    assert files.classes == ("bird", "cat", "dog")
    assert np.bincount(files.labels).tolist() == [3, 11, 10]
    assert kinds(files) == {"again": "link", "up": "link", "nothing.png": "link"}


def test_names_of_classes_are_text_in_one_form(tmp_path):
    folder(tmp_path, (unicodedata.normalize("NFD", "café"), "日本", "a b"))
    assert data.scan(tmp_path).classes == ("a b", "café", "日本")
    assert listing.in_order(["10", "9", "1"]) == ("1", "9", "10")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(DataError, match="the name of this class is no UTF-8"):
        data.scan(tmp_path)


def test_what_cannot_be_a_data_set_is_one_error(tmp_path, monkeypatch):
    def fails(words, place=tmp_path, **options):
        with pytest.raises((DataError, ArgumentError), match=words):
            data.scan(place, **options)

    fails("holds no images; give a folder with a folder of images for each class")
    fails("there is no such folder or file", tmp_path / "nowhere")
    photo(tmp_path / "a.png")
    fails("holds 1 images and no folders of classes; put the images of each class")
    folder(tmp_path, ("cat",))
    fails("all 10 images are of one class, 'cat'; at least two classes are needed")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "cut.png").write_bytes(b"none")
    fails("of one class, 'cat', and of the others, such as 'dog', no file is an image that can be read; at least two")
    shutil.rmtree(tmp_path / "dog")
    folder(tmp_path, ("dog",))
    fails("split is 1.5; give the shares", split=1.5)
    fails(r"background is \(1, 2, 999\)", background=(1, 2, 999))
    folder(tmp_path / "train")
    fails("holds the parts train and beside them the folder 'cat'")
    for name in ("cat", "dog"):
        shutil.rmtree(tmp_path / name)
    folder(tmp_path / "test", ("cat", "bird"))
    fails("the class 'bird' has images in the test part alone")
    (tmp_path / "Training").mkdir()
    fails("are the same part")
    (tmp_path / "Training").rmdir()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    fails("cannot be read: Permission denied; make it readable")


def test_shares_are_drawn_evenly():
    labels = np.repeat(np.arange(5), [1, 2, 3, 50, 200])
    parts = splits.divide(labels, [None] * 256, None, (0.1, 0.2), 3)
    assert [int((parts == part).sum()) for part in ("validation", "test")] == [26, 51]
    for k, count in enumerate([1, 2, 3, 50, 200]):
        assert abs((parts[labels == k] == "test").sum() - 0.2 * count) < 2
        assert "train" in parts[labels == k]


@pytest.mark.parametrize(
    ("name", "head", "lines"),
    [
        ("a.csv", "path,label,split\n", "cat/{i}.png,cat,train\ndog/{i}.png,dog,train\n"),
        ("a.csv", "\ufeffLabel;Set;File\n", "cat;train;cat/{i}.png\ndog;;dog/{i}.png\n"),
        ("a.tsv", "", "cat/{i}.png\tcat\ndog/{i}.png\tdog\n"),
        (
            "a.jsonl",
            "",
            '{{"file_name": "cat/{i}.png", "label": "cat"}}\n{{"label": "dog", "file_name": "dog/{i}.png"}}\n',
        ),
    ],
)
def test_tables_list_paths_and_labels(tmp_path, name, head, lines):
    folder(tmp_path)
    (tmp_path / name).write_text(head + "".join(lines.format(i=i) for i in range(10)), encoding="utf-8")
    files = data.scan(tmp_path / name)
    assert (files.classes, len(files), files.name) == (("cat", "dog"), 20, "a")
    assert all(files.classes[k] in path for k, path in zip(files.labels, files.paths, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png,cat,other\n", "line 1: the part is 'other'; write train"),
        ("path,label\na.png\n", "line 2 has 1 cells, fewer"),
        ("path,label\na.png,\n", "line 2 has no label"),
        ("a\n", "the first line has 1 cells and no column path"),
        ("path,label\na.png,x\na.png,y\n", "lines 2 and 3 list a.png as 'x' and as 'y'"),
        ("path,label\na.png,x\n./a.png,y\n", "lines 2 and 3 list ./a.png as 'x' and as 'y'"),
        ("path,label\nb.png,x\n", "lists no image that is there; .*b.png is not there"),
        ('path,label\n"a.png,x\n', "is it a CSV file"),
    ],
)
def test_wrong_tables_are_said_by_line(tmp_path, text, words):
    photo(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        data.scan(tmp_path / "list.csv")


def test_other_wrong_tables(tmp_path):
    for content, words in (
        (b'{"path": 3, "label": "x"}\n', "path and label have to be texts"),
        (b"[1]\n", "line 1 is no object like"),
        (b"{\n", "line 1 is no JSON"),
        (b"\xff\n", "is no UTF-8"),
    ):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=words):
            data.scan(tmp_path / "a.jsonl")


def test_files_that_a_table_lists_and_that_are_not_there_are_said(tmp_path):
    folder(tmp_path)
    rows = [f"{label}/{i}.png,{label}" for label in ("cat", "dog") for i in range(11)]
    (tmp_path / "a.csv").write_text("\n".join(["path,label", *rows]))
    assert [problem.kind for problem in data.scan(tmp_path / "a.csv").problems] == ["missing", "missing"]

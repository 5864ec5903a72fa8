"""Images in parquet files, as Hugging Face's data sets are stored."""

import io
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner
from photos import pixels
from PIL import Image

from foveal import data
from foveal.cli import main
from foveal.data import readers
from foveal.data.scanning import parquet
from foveal.errors import DataError, PackageError

with_arrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
NAMES = ["cat", "dog", "no cat"]


def png(seed):
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def images(count, start=0):
    return [{"bytes": png(i), "path": f"{i:03}.png"} for i in range(start, start + count)]


def written(path, columns, features=None, rows=4):
    """Write a parquet file of columns by name and return its path. features: of Hugging Face's metadata."""
    import pyarrow as arrow
    import pyarrow.parquet

    table = arrow.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


FEATURES = {
    "image": {"_type": "Image"},
    "mask": {"_type": "Image2"},
    "id": {"dtype": "int64", "_type": "Value"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}


def hugging_face(path, count, start=0):
    labels = [i % 3 for i in range(start, start + count)]
    return written(path, {"image": images(count, start), "id": labels, "label": labels}, FEATURES)


def refused(place, words):
    with pytest.raises(DataError, match=words) as error:
        data.scan(place, quiet=True)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


@with_arrow
def test_files_are_read_by_the_parts_in_their_names(tmp_path):
    for k in range(2):
        hugging_face(tmp_path / "data" / f"train-{k:05}-of-00002.parquet", 15, 15 * k)
    hugging_face(tmp_path / "data" / "validation-00000-of-00001.parquet", 3, 40)
    hugging_face(tmp_path / "data" / "test-00000-of-00001.parquet", 6, 50)
    (tmp_path / "README.md").write_text("# A data set")
    for place in (tmp_path, tmp_path / "data"):
        files = data.scan(place)
        assert (files.classes, files.channels) == (tuple(NAMES), 3)
        assert [len(files.rows(part)) for part in ("train", "validation", "test")] == [30, 3, 6]
    read = files.dataset(data_cache="off")
    assert files.paths[files.rows("train")[16]].endswith("train-00001-of-00002.parquet::1/016.png")
    assert (read.images_train[16] == np.moveaxis(pixels(16), 2, 0)).all()
    assert read.y_train.tolist() == [i % 3 for i in range(30)]
    assert readers.holds_images(tmp_path)
    assert (data.load(tmp_path, data_cache="off", quiet=True).images_test == read.images_test).all()
    # A row is read with its row group, so they may not stream.
    with pytest.raises(DataError, match="write them as tar shards"):
        files.dataset(data_cache="off", memory_limit=0)


@with_arrow
def test_columns_without_metadata(tmp_path):
    contents = [png(i) for i in range(20)]
    texts = ["ab"[i % 2] for i in range(20)]
    for k, columns in enumerate(
        (
            {"img": images(20), "label": texts},
            {"Image": contents, "thumbnail": contents, "class": texts},
            {"photo": contents, "category": texts, "width": [3] * 20},
            {"image": [{"bytes": content} for content in contents], "label": texts},
        )
    ):
        found = data.scan(written(tmp_path / f"{k}.parquet", columns))
        assert (len(found), found.classes) == (20, ("a", "b"))
        assert found.dataset(data_cache="off").images_train.shape[1:] == (3, 9, 12)
    numbers = written(tmp_path / "numbers.parquet", {"image": images(20), "label": [i % 2 + 9 for i in range(20)]})
    assert data.scan(numbers, group_by=r"(\d)\.png", split=(0, 0.2)).classes == ("9", "10")


@with_arrow
def test_what_is_left_out_is_named(tmp_path):
    rows = images(24)
    rows[0], rows[1]["bytes"], rows[2]["bytes"], rows[3]["bytes"] = None, None, b"no image", b""
    labels = [0, 1, 0, 1, -1, None, *(i % 2 for i in range(18))]
    found = data.scan(written(tmp_path / "set.parquet", {"image": rows, "label": labels}, FEATURES))
    assert len(found) == 18
    assert [(problem.path.name, problem.kind) for problem in found.problems] == [
        ("4/004.png", "no class"),
        ("5/005.png", "no class"),
        ("0", "unreadable"),
        ("1/001.png", "unreadable"),
        ("2/002.png", "unreadable"),
        ("3/003.png", "unreadable"),
    ]


@with_arrow
def test_files_that_cannot_be_read_are_one_error(tmp_path, monkeypatch):
    count = 12
    labels, contents = [i % 2 for i in range(count)], [png(i) for i in range(count)]
    for k, (columns, features, words) in enumerate(
        (
            ({"image": labels, "label": labels}, None, "no one column of images.*rename"),
            ({"a": contents, "b": contents, "label": labels}, None, "no one column of images.*but a, b"),
            ({"image": contents, "fine": labels, "coarse": labels}, None, "no one column of classes.*but fine, coarse"),
            ({"image": contents, "label": [9] * count}, FEATURES, "is of class 9, and the file has the names of 3"),
            ({"image": contents, "label": [None] * count}, FEATURES, "holds no image with a class"),
            ({"image": contents, "label": labels}, ["x"], "`huggingface` metadata cannot be read"),
        )
    ):
        refused(written(tmp_path / f"{k}.parquet", columns, features), words)
    whole = hugging_face(tmp_path / "set.parquet", 12).read_bytes()
    place = tmp_path / "bad.parquet"
    for content in (b"", b"no parquet" * 99, whole[: len(whole) // 2], whole[:-300] + bytes(290) + whole[-10:]):
        place.write_bytes(content)
        refused(place, "is damaged, or no parquet file.*fetch it again")
    # The length of the first image of a row group, of which no image can be read then.
    start = whole.index(png(4))
    place.write_bytes(whole[: start - 4] + b"\xff\xff\xff\x7f" + whole[start:])
    assert {problem.path.name[0] for problem in data.scan(place).problems} == set("4567")
    hugging_face(tmp_path / "two" / "train.parquet", 12)
    other = FEATURES | {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}
    written(tmp_path / "two" / "test.parquet", {"image": contents, "label": labels}, other)
    refused(tmp_path / "two", "other names of classes")
    monkeypatch.setattr(parquet, "total_memory", lambda: 4000)
    refused(tmp_path / "set.parquet", "row_group_size of 100")


@with_arrow
def test_row_groups_are_read_once_in_order_and_let_go(tmp_path, monkeypatch):
    read, before = [], parquet.read_group
    held = parquet.Held(1)
    monkeypatch.setattr(parquet, "held", lambda: held)
    monkeypatch.setattr(parquet, "read_group", lambda *place: read.append(place[2]) or before(*place))
    found = data.scan(hugging_face(tmp_path / "set.parquet", 24))
    # Two of six stay.
    assert sorted(read) == list(range(6))
    assert len(held.groups) == 2
    with found.paths[0].open() as file:
        assert file.read() == png(0)
    assert len(read) == 7


def test_without_pyarrow_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert readers.holds_images(tmp_path)
    with pytest.raises(PackageError, match=r"pip install 'foveal\[parquet\]'"):
        data.load(tmp_path)


@with_arrow
def test_a_check_says_which_rows_are_wrong(tmp_path):
    place, rows = tmp_path / "set", images(20)
    # a copy in another class, no image, one whose end is there and its middle is not, and no bytes
    rows[3], rows[11] = rows[2], {"bytes": None, "path": "none.png"}
    rows[7] = {"bytes": b"no image", "path": "text.png"}
    rows[9] = {"bytes": rows[9]["bytes"][:60] + b"\0\0\0\0IEND\xaeB`\x82", "path": "torn.png"}
    file = written(
        place / "train-00000-of-00001.parquet", {"image": rows, "label": [i % 3 for i in range(20)]}, FEATURES
    )
    hugging_face(place / "test-00000-of-00001.parquet", 6, start=40)
    ended = CliRunner().invoke(main, ["data", "check", str(place), "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    findings = {finding["kind"]: finding for finding in found["findings"]}
    assert findings["unreadable"]["count"] == 2
    assert findings["truncated"]["examples"][0][0]["image"] == f"{file}::9/torn.png"
    named = {example["image"] for example in findings["exact copies in two classes"]["examples"][0]}
    assert named == {f"{file}::{i}/002.png" for i in (2, 3)}

"""`foveal cache`: kernels, decoded images and downloads are shown with their sizes, and cleared where that is asked."""

import json

import pytest
from click.testing import CliRunner
from photos import folder

from foveal import data
from foveal.cli import main


def invoke(*words):
    result = CliRunner().invoke(main, ["cache", *words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Caches of the test's own: decoded images of a folder, a data set that was fetched, and files of others."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "kernels"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "kernels").mkdir(mode=0o700)
    data.load(folder(tmp_path / "photos"), size=(8, 6), memory_limit=0)
    images, downloads = tmp_path / "kernels" / "images", tmp_path / "user" / "foveal" / "data"
    for path in (images / "mine.json", downloads / "mnist" / "part.gz", downloads / "own" / "mine.npz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    outside = tmp_path / "outside.gz"
    outside.write_bytes(b"x")
    (downloads / "mnist" / "linked.gz").symlink_to(outside)
    return images, downloads


def test_what_is_kept_is_shown(places):
    images, downloads = places
    found = invoke("info", "--json")
    files = [path for path in images.iterdir() if path.name != "mine.json"]
    size = sum(path.stat().st_size for path in files)
    # one of each part, and what is known of it
    assert len(files) == 6
    assert found["images"] == {"folder": str(images), "files": 6, "bytes": size}
    assert found["downloads"] == {"folder": str(downloads), "files": 1, "bytes": 1000}
    shown = invoke("info").replace("\n", "")
    assert "6 files, 0.0 MB of at most 53687 MB" in shown
    assert "decoded images" in shown
    assert "downloaded data sets" in shown


def test_what_is_named_is_cleared_and_nothing_else(places, monkeypatch):
    images, downloads = places
    assert invoke("clear", "--json")["deleted"] == 0
    assert invoke("info", "--json")["images"]["files"] == 6
    cleared = invoke("clear", "images", "downloads", "--json")
    assert (cleared["images"]["deleted"], cleared["images"]["left"]) == (6, 0)
    assert cleared["downloads"] == {"deleted": 1, "left": 0, "bytes": 1000, "folder": str(downloads)}
    assert [path.name for path in images.iterdir()] == ["mine.json"]
    assert (downloads / "own" / "mine.npz").exists()
    assert (downloads / "mnist" / "linked.gz").exists()
    assert "Deleted 0 files, 0.0 MB, from" in invoke("clear", "kernels", "images")
    monkeypatch.setenv("FOVEAL_CACHE", "/dev/null")
    assert invoke("info", "--json")["images"] == {"folder": None, "files": 0, "bytes": 0}
    assert "No decoded images are kept" in invoke("clear", "images")

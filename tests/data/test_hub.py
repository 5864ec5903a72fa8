"""Weights from the hub: address, licence and checksum are told first, what comes is checked, and kept.

The hub is a small server on this machine that answers as the hub does.
"""

import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest
from safetensors.numpy import save

from foveal.data import fetch, transforms_of
from foveal.data.remote import hub
from foveal.data.remote.pretrained import MEAN, PRETRAINED, Pretrained
from foveal.errors import DataError, PackageError

COMMIT = "a" * 40
CONFIG = {"pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.9}}

with_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")


def test_the_table_is_complete_and_says_what_its_models_expect():
    for name, entry in PRETRAINED.items():
        assert entry.licence in ("apache-2.0", "bsd-3-clause")
        assert entry.sha256 is None or hub.SHA256.fullmatch(entry.sha256)
        assert entry.revision == "main" or len(entry.revision) == 40
        assert transforms_of(name).size == (224, 224)
        assert transforms_of(name).mean == MEAN


def test_a_name_that_there_is_not_and_a_checksum_that_is_wrong(tmp_path):
    said = r"no weights called 'resnet19' \(did you mean 'resnet18'\?\); choose one of resnet18, .* or a repository"
    with pytest.raises(DataError, match=said):
        hub.entry_of("resnet19")
    # Also without the package, which would not help.
    with pytest.raises(DataError, match=said):
        fetch("resnet19")
    assert hub.entry_of("ResNet-18") is PRETRAINED["resnet18"]
    assert hub.entry_of("owner/some.net_1") == Pretrained("owner/some.net_1")
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    right = hashlib.sha256(b"abc").hexdigest()
    assert hub.verified(path, None) == hub.verified(path, right) == right
    with pytest.raises(DataError, match=f"has the checksum {right}, and {'0' * 64} was expected: the download is"):
        hub.verified(path, "0" * 64)


@pytest.mark.skipif(find_spec("huggingface_hub") is not None, reason="huggingface_hub is installed")
def test_without_the_package():
    with pytest.raises(PackageError, match=r'pip install "foveal\[hub\]"; or give a file'):
        fetch("resnet18")


class Stand:
    """A hub of one repository, by the hub's paths and headers; `files` by name, `requests` that were made."""

    def __init__(self, files):
        self.files, self.requests, self.broken = files, [], False
        stand = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, body, status=200, **headers):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_GET(self):
                stand.requests.append(f"{self.command} {self.path}")
                if self.path.startswith("/api/models/own/net"):
                    card = {"id": "own/net", "sha": COMMIT, "cardData": {"license": "mit"}, "siblings": [], "tags": []}
                    self.answer(json.dumps(card).encode(), **{"Content-Type": "application/json"})
                    return
                name = self.path.rpartition("/")[2]
                if not self.path.startswith("/own/net/resolve/") or name not in stand.files:
                    kind = "EntryNotFound" if "/own/net/" in self.path else "RepoNotFound"
                    self.answer(b"{}", 404, **{"X-Error-Code": kind, "X-Repo-Commit": COMMIT})
                    return
                body = stand.files[name]
                tag = hashlib.sha256(body).hexdigest()
                sent = bytes(len(body)) if stand.broken else body
                self.answer(sent, **{"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def stand(tmp_path, monkeypatch):
    weights = save({"fc.weight": np.ones((2, 3), "f4")})
    stand = Stand({"model.safetensors": weights, "config.json": json.dumps(CONFIG).encode()})
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download

    for module in (constants, file_download):
        for name, value in {
            "ENDPOINT": stand.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": stand.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("HF_ENDPOINT", stand.address)
    monkeypatch.setitem(os.environ, "HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield stand
    stand.close()


@with_hub
def test_a_file_is_told_about_downloaded_checked_and_kept(stand):
    told = []
    found = fetch("own/net", told.append)
    sha256 = hashlib.sha256(stand.files["model.safetensors"]).hexdigest()
    assert found.path.read_bytes() == stand.files["model.safetensors"]
    assert (found.licence, found.sha256, found.revision) == ("mit", sha256, COMMIT)
    assert (found.preprocessing.size, found.preprocessing.crop) == ((32, 32), 0.9)
    assert told == [
        f"weights: {stand.address}/own/net/resolve/main/model.safetensors (0.0 MB)",
        f"licence: mit; sha256: {sha256} (as the hub says, not known here)",
    ]
    # it is downloaded once
    fetch("own/net", told.append)
    assert sum("GET" in request and "model.safetensors" in request for request in stand.requests) == 1
    # the file says beside itself what it expects
    assert transforms_of(found.path) == found.preprocessing
    # and is there when the hub is not
    stand.close()
    told.clear()
    again = fetch("own/net", told.append)
    assert (again.path, again.sha256, again.preprocessing) == (found.path, sha256, found.preprocessing)
    assert told[0].startswith("the hub was not reached (")
    assert "downloaded earlier" in told[1]


@with_hub
def test_what_is_known_is_compared_and_then_needs_no_hub(stand, monkeypatch):
    sha256 = hashlib.sha256(stand.files["model.safetensors"]).hexdigest()
    expected = PRETRAINED["resnet18"].preprocessing
    monkeypatch.setitem(PRETRAINED, "known", Pretrained("own/net", "mit", sha256, COMMIT, expected))
    monkeypatch.setitem(PRETRAINED, "other", Pretrained("own/net", "mit", "0" * 64, COMMIT, expected))
    told = []
    with pytest.raises(DataError, match=f"has a file with the checksum {sha256}, and other is known by 000"):
        fetch("other", told.append)
    assert told == []
    assert fetch("known", told.append).sha256 == sha256
    assert told[1] == f"licence: mit; sha256: {sha256} (as known)"
    stand.requests.clear()
    assert fetch("known", told.append).preprocessing == expected
    assert stand.requests == []


@with_hub
def test_a_download_that_is_damaged_is_not_used(stand):
    stand.broken = True
    with pytest.raises(DataError, match=r"the download is damaged, or another file; delete .* and try again"):
        fetch("own/net", lambda line: None)


@with_hub
def test_what_the_hub_does_not_have_and_no_hub_at_all(stand):
    with pytest.raises(DataError, match=r"the hub has no model.safetensors in own/other at main"):
        fetch("own/other", lambda line: None)
    del stand.files["config.json"]
    with pytest.raises(DataError, match=r"own/net: has no config.json that says what images its weights expect"):
        fetch("own/net", lambda line: None)
    stand.close()
    with pytest.raises(DataError, match=r"own/third: was not downloaded before, and the hub cannot be reached \("):
        fetch("own/third", lambda line: None)

"""Named data sets: found in folders, or fetched from a server on this machine that fails in many ways."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from foveal import data
from foveal.cli import main
from foveal.data.remote import download
from foveal.data.remote.download import Named, Remote
from foveal.errors import DataError

RNG = np.random.default_rng(0)
RECORDS = {
    name: np.concatenate([np.arange(20, dtype="u1")[:, None] % 10, RNG.integers(0, 256, (20, 3072), "u1")], 1).tobytes()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
}


def archive():
    """CIFAR-10's archive, with few images, and with a file that is not wanted."""
    content = RECORDS | {"batches.meta.txt": b"\n".join(b"class%d" % k for k in range(10)), "readme.html": b"no"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in content.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends `server.content`; of each answer no more bytes than `server.limits` says, one number after the other."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        content = server.content
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        limit = server.limits.pop(0) if server.limits else len(content)
        self.wfile.write(content[begin : begin + limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.limits, made.asked, made.status, made.ranges = archive(), [], [], 200, True
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{made.server_port}/cifar.tar.gz"
    remote = Remote("cifar.tar.gz", (address,), len(made.content), hashlib.sha256(made.content).hexdigest())
    files = download.NAMED["cifar10"].files
    monkeypatch.setitem(download.NAMED, "cifar10", Named(("cifar10", "other"), (remote,), files, "nobody"))
    monkeypatch.setenv(download.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_named_data_set_is_fetched_once(server, tmp_path):
    found = data.load("cifar10")
    assert (found.name, found.images_train.shape, found.classes[3]) == ("cifar10", (100, 3, 32, 32), "class3")
    folder = tmp_path / "kept" / "cifar10"
    assert {path.name for path in folder.iterdir()} == {*RECORDS, "batches.meta.txt"}
    assert np.array_equal(data.load("cifar10").images_test, found.images_test)
    assert server.asked == [None]
    # Found under its other name, and in the cache; a folder of that name is taken as it is.
    folder.rename(tmp_path / "kept" / "other")
    data.load("cifar10")
    (tmp_path / "cache" / "foveal").mkdir(parents=True)
    (tmp_path / "kept").rename(tmp_path / "cache" / "foveal" / "data")
    data.load("cifar10")
    (tmp_path / "cache" / "foveal" / "data" / "other").rename(tmp_path / "cifar10")
    data.load("cifar10")
    assert server.asked == [None]


def test_an_interrupted_transfer_goes_on_where_it_was(server, tmp_path):
    server.limits = [1000, 500]
    data.load("cifar10")
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_what_was_fetched_before_an_error_is_kept_for_the_next_time(server, tmp_path):
    server.limits = [1000, 0, 0, 0]
    with pytest.raises(DataError, match=r"interrupted again and again.*goes on where it was.*--data-dir"):
        data.load("cifar10")
    assert (tmp_path / "kept" / "cifar10" / "cifar.tar.gz.part").stat().st_size == 1000
    data.load("cifar10")
    assert server.asked[-1] == "bytes=1000-"


def test_a_server_without_ranges_sends_the_whole(server):
    server.limits, server.ranges = [1000], False
    assert len(data.load("cifar10").images_test) == 20
    assert server.asked == [None, "bytes=1000-"]


def test_another_file_is_refused_and_removed(server, tmp_path):
    right, folder = server.content, tmp_path / "kept" / "cifar10"
    server.content = bytes(len(right))
    with pytest.raises(DataError, match=r"its SHA-256 is .* is expected"):
        data.load("cifar10")
    server.content = right + b"more"
    with pytest.raises(DataError, match="holds more than"):
        data.load("cifar10")
    assert list(folder.iterdir()) == []
    server.content = right
    data.load("cifar10")


def test_no_server_and_other_answers(server, tmp_path, monkeypatch):
    server.status = 404
    with pytest.raises(DataError, match="the server answers 404 Not Found"):
        data.load("cifar10")
    named = download.NAMED["cifar10"]
    (remote,) = named.remotes
    # Nobody listens on port 9; the next address is tried.
    both = Remote(remote.name, ("http://127.0.0.1:9/x", *remote.addresses), remote.bytes, remote.sha256)
    monkeypatch.setitem(download.NAMED, "cifar10", Named(named.folders, (both,), named.files, "nobody"))
    with pytest.raises(DataError, match=r"cannot be reached .*refused.*answers 404"):
        data.load("cifar10")
    server.status = 200
    data.load("cifar10")


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(download.VARIABLE, str(tmp_path / "file" / "inside"))
    with pytest.raises(DataError, match="cannot be written: Not a directory; choose another folder with FOVEAL_DATA"):
        data.load("cifar10")


def test_data_dir_on_the_command_line(server, tmp_path):
    # Refused once the data are read.
    words = ["train", "cifar10", "--data-dir", str(tmp_path / "there"), "--batch-size", "1000000"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "batch size 1000000" in done.stderr
    assert (tmp_path / "there" / "cifar10" / "test_batch.bin").exists()


def test_the_table_of_names_is_whole():
    for named in download.NAMED.values():
        for remote in named.remotes:
            assert len(bytes.fromhex(remote.sha256)) == 32
            assert all(address.endswith(f"/{remote.name}") for address in remote.addresses)
            # The checksum stands for what an unsigned connection does not.
            assert remote.addresses[0].startswith("https://")

"""Machine code compiled by the tests is kept with pytest's own cache: fast on a rerun, nothing written to the
user's.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import DATA, VECTORS

from foveal.kernel import cache
from foveal.ops import OPS

LIMIT_BYTES = 64 << 20
CIFAR10, CS231N = DATA / "cifar10", VECTORS / "cs231n" / "cases.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="draw every random configuration of the comparisons with PyTorch, not every tenth or so, and interpret the"
        " largest cases: half an hour",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `configurations(full=2000, quick=100)` gets `configuration`, the number that it draws one from."""
    mark = metafunc.definition.get_closest_marker("configurations")
    if mark is not None:
        full, quick = mark.kwargs["full"], mark.kwargs["quick"]
        every = 1 if metafunc.config.getoption("--full") else full // quick
        metafunc.parametrize("configuration", range(0, full, every))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "configurations(full, quick): how many are drawn with --full, and without")
    config.addinivalue_line("markers", "long: takes many seconds, and is run before all others")
    # each of some hundred processes that tests start would compile all sources anew: most of a second
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # programs that a shell starts in the background ignore Ctrl-C, and so would the processes that tests interrupt
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "numprocesses", None):
        # a process of tests for each core: threads of NumPy and PyTorch beside them would wait for each other
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # all cores are busy with tests
        os.environ.setdefault("FOVEAL_JOBS", "1")
    if getattr(config, "cache", None) is not None and "FOVEAL_CACHE" not in os.environ:
        folder = config.cache.mkdir("foveal")
        # with a umask of 002 others might write to it, and it would not be used
        folder.chmod(0o700)
        os.environ["FOVEAL_CACHE"] = str(folder)
        cache.trim(LIMIT_BYTES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take longest come first: at the end one process of tests would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leaves modules and tests to themselves: they stay to the end, and each collection would go through them.

    Collections are rarer than by default afterwards as well: a trace makes thousands of objects, few of them circles.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.set_threshold(20_000, 20, 50)
        gc.freeze()


@pytest.fixture(autouse=True)
def own_operators() -> Iterator[None]:
    """Forgets the operators that a test defines, so that no test depends on those before it."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CIFAR-10's binary version."""
    if not CIFAR10.is_dir():
        pytest.skip(f"no CIFAR-10 at {CIFAR10}")
    place = tmp_path_factory.getbasetemp()
    # the folder that the processes of the tests have in common: unpacking takes seconds
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "cifar10"
    try:
        folder.mkdir()
    except FileExistsError:
        ends = time.monotonic() + 300
        while not (folder / "batches.meta.txt").exists():
            assert time.monotonic() < ends, "another process of the tests has not unpacked CIFAR-10"
            time.sleep(0.05)
        return folder
    subprocess.run([sys.executable, str(CIFAR10 / "unpack.py"), str(folder)], check=True)
    return folder


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> Callable[[bool], None]:
    """Skips what takes long, unless all is asked for."""

    def skip(long: bool) -> None:
        if long and not request.config.getoption("--full"):
            pytest.skip("takes seconds; --full runs it")

    return skip


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, to compare with."""
    return pytest.importorskip("torch", reason="PyTorch is not installed (extra: compare)")


@pytest.fixture(scope="session")
def cs231n() -> dict[str, Any]:
    """What CS231n's assignments publish: by call, arguments and results."""
    if not CS231N.is_file():
        pytest.skip(f"no values of CS231n at {CS231N}")
    return {c["calls"][0]: c["values"] for c in json.loads(CS231N.read_text())["cases"]}

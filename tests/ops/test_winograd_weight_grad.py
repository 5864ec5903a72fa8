"""Weight gradients of minimal filtering whose threads share the transformed tiles."""

import checks
import numpy as np
import pytest
import widths

from foveal.build import build
from foveal.checking.guard_pages import allocator
from foveal.kernel.target import assume, current
from foveal.ops import OPS
from foveal.ops.kernels.conv import cost_model, select, winograd_weight_grad_shared
from foveal.ops.kernels.conv.cost_model import Algorithm, Problem, shares_tiles
from foveal.ops.op import Case

GRADIENT = OPS["conv2d_weight_grad"]


def case(N, C, K, H, W, stride):
    dy = (N, K, -(-H // stride), -(-W // stride))
    return Case((dy, (N, C, H, W)), {"stride": stride, "padding": 1, "kernel_size": (3, 3)})


# of whole panels and of others, of one filter, and of enough blocks for tasks of all classes; with the tile size. Few
# have channels that are no whole vectors: each part of a vector is compiled by itself
CASES = [
    (case(3, 64, 128, 9, 6, 1), 4),
    (case(2, 70, 33, 6, 5, 1), 4),
    (case(5, 19, 1, 7, 8, 1), 2),
    (case(2, 40, 90, 9, 14, 2), 4),
    (case(3, 20, 32, 8, 7, 2), 2),
    (case(2, 200, 136, 4, 7, 1), 4),
    (case(13, 64, 33, 7, 6, 1), 7),
    (case(2, 200, 136, 14, 3, 1), 7),
    (case(3, 19, 40, 6, 5, 1), 3),
]


@pytest.fixture(params=[1 << 30, 1], ids=["one chunk", "chunks"])
def of_all_channels(request, monkeypatch):
    """Threads share tiles whatever channels there are, of one chunk or of several, the last one shorter."""
    monkeypatch.setattr(winograd_weight_grad_shared, "fits", lambda *_: True)
    monkeypatch.setattr(winograd_weight_grad_shared, "max_chunk_bytes", lambda: request.param)
    monkeypatch.setattr(winograd_weight_grad_shared, "RUN", 5)


def check(case, m, monkeypatch):
    """Between guard pages, with two threads and with one."""
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(m))
    graph, xs, want = checks.forward(GRADIENT, case)
    found = [build(graph, threads=n, allocate=allocator(n == 1)).run(*xs)[0] for n in (1, 2)]
    assert checks.error(found[0], want) < checks.WEIGHT_LIMIT
    assert np.array_equal(*found)


@pytest.mark.parametrize(("case", "m"), CASES)
@pytest.mark.usefixtures("of_all_channels")
def test_it_is_accurate_and_the_same_on_any_number_of_threads(case, m, monkeypatch):
    check(case, m, monkeypatch)


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize(("case", "m"), CASES[1:4])
@pytest.mark.usefixtures("of_all_channels")
def test_it_is_accurate_in_narrower_vectors(case, m, vectors, monkeypatch):
    with assume(widths.SECOND[vectors]):
        check(case, m, monkeypatch)


@pytest.mark.usefixtures("of_all_channels")
def test_it_is_the_same_in_plain_python(monkeypatch):
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(2))
    checks.interpreted(GRADIENT, case(1, 17, 9, 2, 4, 1))


def test_sums_over_many_tiles_are_accurate(monkeypatch):
    """Their roundings would add up in one sum of 4096 tiles."""
    monkeypatch.setattr(winograd_weight_grad_shared, "fits", lambda *_: True)
    check(case(16, 3, 5, 64, 64, 1), 4, monkeypatch)


def test_threads_share_tiles_where_a_task_has_not_all_channels():
    few = current().registers < 32
    assert not shares_tiles(64, 64)
    assert not shares_tiles(16, 32)
    assert shares_tiles(64, 128) is shares_tiles(256, 64) is shares_tiles(97, 16) is few
    # 97 channels have no equal blocks near 64
    sizes = Problem("weight", 8, 97, 64, 16, 16, (3, 3), (1, 1), (1, 1), 1).tile_sizes()
    assert (len(sizes) > 1) is few
    assert winograd_weight_grad_shared.fits(128, 64, Algorithm(4)) is few
    assert not winograd_weight_grad_shared.fits(128, 64, Algorithm(4, 24))
    assert cost_model.in_blocks(128, 64)

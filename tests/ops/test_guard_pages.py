"""No kernel reads or writes outside of its buffers, which lie right behind, then right before, a page without
access.
"""

import os
import subprocess
import sys
from pathlib import Path

import guard
import numpy as np
import pytest
import widths

from foveal.ops import OPS


def run_script(*arguments, **variables):
    command, environment = [sys.executable, guard.__file__, *arguments], {**os.environ, **variables}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=Path(guard.__file__).parent, env=environment
    )


# Each process checks some of the operators.
PARTS = 4


def outcomes(names, **variables):
    """Return what is wrong with each operator, None if nothing is. A process that dies is followed by another one."""
    found, waiting = {}, list(names)
    while waiting:
        ended = run_script(*waiting, **variables)
        done = ended.stdout.split()
        found |= dict.fromkeys(done)
        waiting = waiting[len(done) :]
        if waiting:
            found[waiting.pop(0)] = f"exit status {ended.returncode}\n{ended.stderr}"
    return found


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_kernels_stay_inside_of_their_buffers(part):
    names = [name for name, op in OPS.items() if op.of_package][part::PARTS]
    assert outcomes(names) == dict.fromkeys(names)


# those whose kernels do most at the edges of what they read
EDGES = ["conv2d_weight_grad", "max_pool2d", "avg_pool2d_grad"]


@pytest.mark.parametrize("vectors", widths.SECOND)
def test_kernels_of_narrower_vectors_stay_inside_of_their_buffers(vectors):
    assert outcomes(EDGES, FOVEAL_TARGET=vectors) == dict.fromkeys(EDGES)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("size", [4, 100, 4096, 5000])
def test_guard_catches_one_byte(at_end, size):
    address = guard.allocator(at_end)(size).ctypes.data
    outside = address + size if at_end else address - 1
    script = f"import ctypes, guard; a = guard.allocator({at_end})({size}).ctypes.data;"
    script += f"ctypes.string_at(a, {size}); print('in', flush=True); ctypes.string_at(a + {outside - address}, 1)"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(guard.__file__).parent, check=False
    )
    assert ended.stdout == "in\n"
    assert ended.returncode < 0


def test_guarded_memory_is_filled_with_nan():
    assert np.isnan(guard.allocator(True)(100).view(np.float32)).all()

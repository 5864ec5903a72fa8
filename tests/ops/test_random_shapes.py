"""Kernels on random shapes. FOVEAL_EXAMPLES=2000 pytest tests/ops/test_random_shapes.py tries that many of each
operator, half as many of those that take a second to compile.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import random_shapes

EXAMPLES = int(os.environ.get("FOVEAL_EXAMPLES", "8"))


@pytest.mark.long
@pytest.mark.parametrize("names", random_shapes.GROUPS, ids=lambda names: names[0])
def test_random_shapes(names):
    examples = EXAMPLES // 2 if names == random_shapes.FILTERINGS else EXAMPLES
    ended = subprocess.run(
        [sys.executable, random_shapes.__file__, str(examples), *names],
        capture_output=True,
        text=True,
        cwd=Path(random_shapes.__file__).parent,
        # kernels of shapes never met again are not worth keeping, and nothing can be kept there
        env=os.environ | {"FOVEAL_CACHE": os.devnull, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]

"""Machine code compiled by the tests is kept with pytest's own cache: fast on a rerun, nothing written to the user's."""

import os

import pytest

from foveal.kernel import cache

LIMIT_BYTES = 64 << 20


def pytest_configure(config: pytest.Config) -> None:
    if config.cache is not None and "FOVEAL_CACHE" not in os.environ:
        os.environ["FOVEAL_CACHE"] = str(config.cache.mkdir("foveal"))
        cache.trim(LIMIT_BYTES)

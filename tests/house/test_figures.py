"""Figures that the code keeps: types, comments, sizes, imports. tests/support/figures.py prints them by room."""

from functools import cache

import figures
import pytest

MAX_SHARE_OF_ANY = 0.08
MAX_SHARE_UNCOMMENTED = 0.20
MAX_FUNCTION = 60
MAX_FILE = 500


@cache
def sources():
    """Read by the first test, and not where tests are only collected, which each process of tests does."""
    return figures.sources()


@cache
def functions():
    return [f for source in sources() for f in source.functions()]


def test_arguments_have_types():
    assert all(annotation is not None for f in functions() for annotation in f.annotations)
    assert figures.share_of_any(functions()) < MAX_SHARE_OF_ANY


@pytest.mark.parametrize("room", ["", "ops/kernels"])
def test_long_functions_have_comments_inside(room):
    bare, long = figures.uncommented([f for f in functions() if f.room.startswith(room)])
    assert len(bare) < MAX_SHARE_UNCOMMENTED * long, [f.name for f in bare]


def test_functions_and_files_are_of_a_size_that_can_be_read():
    assert [f.name for f in functions() if f.length > MAX_FUNCTION] == []
    assert [source.name for source in sources() if source.lines > MAX_FILE] == []


def test_no_modules_import_each_other():
    assert figures.circles(sources()) == []


def test_the_figures_see_what_they_count(tmp_path):
    """A small package with one of each: an Any, a long function without a comment, a circle."""
    package = tmp_path / "foveal"
    package.mkdir()
    (package / "__init__.py").write_text("")
    body = "\n".join(f"    x{i} = {i}" for i in range(30))
    (package / "one.py").write_text(f"from foveal.two import g\n\ndef f(x: dict[str, Any], y: int) -> None:\n{body}\n")
    (package / "two.py").write_text(f"def g():\n    from foveal.one import f\n    # why\n{body}\n")
    found = figures.sources(tmp_path)
    counted = [f for source in found for f in source.functions()]
    assert figures.circles(found) == ["foveal.one", "foveal.two"]
    assert figures.share_of_any(counted) == 0.5
    bare, long = figures.uncommented(counted)
    assert (len(bare), long) == (1, 2)

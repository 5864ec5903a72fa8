"""Pictures that follow each other: the page that holds them, and what its slider shows in a headless Chromium."""

import html

import pytest
from test_interactive import in_chromium, needs_chromium

from foveal import course
from foveal.errors import ArgumentError
from foveal.plotting import blank

STEPS = """
const slider = document.querySelector("input");
const seen = () => [...document.querySelectorAll("img")].map((image) => !image.hidden);
const told = () => document.querySelector(".told").textContent;
const shown = [[seen(), told()]];
slider.value = 2;
slider.dispatchEvent(new Event("input"));
shown.push([seen(), told()]);
result = shown;
"""


def drawn(value):
    figure = blank(1, 1)
    figure.subplots().plot([0, value])
    return figure, f"a line up to <{value}>"


def test_each_picture_has_its_description():
    frames = course.frames(drawn, (1, 2, 3), "lines")
    page = frames._repr_html_()
    assert [text for text, _ in frames.pictures] == ["a line up to <1>", "a line up to <2>", "a line up to <3>"]
    assert page.count("<img") == 3
    assert html.escape("a line up to <2>") in page
    # The same pictures are the same bytes, and nothing is loaded.
    assert course.frames(drawn, (1, 2, 3), "lines")._repr_html_() == page
    assert "http" not in page


@pytest.mark.parametrize("values", [(), (1,), range(61)])
def test_too_few_or_too_many_pictures_are_an_error(values):
    with pytest.raises(ArgumentError, match="give 2 to 60"):
        course.frames(drawn, values, "lines")


@needs_chromium
def test_the_slider_shows_one_picture_and_tells_what_it_is(tmp_path):
    first, last = in_chromium(course.frames(drawn, (1, 2, 3), "lines"), STEPS, tmp_path)
    assert first == [[True, False, False], "a line up to <1>"]
    assert last == [[False, False, True], "a line up to <3>"]

"""Similar images: cosine similarity against its equation, and by hand."""

import numpy as np
import pytest

from foveal import explain
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.explain import neighbours

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((40, 7)).astype("float32")


@pytest.mark.parametrize("own", [True, False])
def test_agrees_with_the_equation(own, monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES", 6)
    queries = FEATURES if own else RNG.standard_normal((9, 7))
    found = explain.similar(FEATURES, None if own else queries, count=4)
    for i, q in enumerate(queries):
        cosine = [a @ q / np.sqrt((a @ a) * (q @ q)) for a in FEATURES.astype("float64")]
        others = [j for j in range(40) if not (own and i == j)]
        expected = sorted(others, key=lambda j: -cosine[j])[:4]
        assert found.indices[i].tolist() == expected
        np.testing.assert_allclose(found.similarities[i], np.array(cosine)[expected], atol=1e-6)
    assert f"{found.indices[0, 0]} ({found.similarities[0, 0]:.3f})" in str(found)


def test_the_length_of_a_vector_does_not_count_and_equal_ones_keep_their_order():
    found = explain.similar([[1, 0], [0, 2], [3, 0], [5, 0], [-1, 0]], [[0.1, 0]], count=5)
    assert found.indices.tolist() == [[0, 2, 3, 1, 4]]
    assert found.similarities.tolist() == [[1, 1, 1, 0, -1]]


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match=r"features have shape \[3\]; give vectors \[n, D\]"):
        explain.similar([1, 2, 3])
    with pytest.raises(ShapeError, match="queries have 3 numbers each, features 7"):
        explain.similar(FEATURES, [[1, 2, 3]])
    with pytest.raises(ShapeError, match="count is 40, it has to be from 1 to 39"):
        explain.similar(FEATURES, count=40)
    with pytest.raises(NumericsError, match="features of image 1 are NaN, infinite or all 0"):
        explain.similar([[1, 2], [0, 0]], [[1, 2]], count=1)


def test_the_figure_shows_each_query_beside_its_neighbours():
    pytest.importorskip("matplotlib")
    images = RNG.integers(0, 256, (40, 3, 5, 5), dtype=np.uint8)
    found = explain.similar(FEATURES, FEATURES[:2] + 0.01, count=3)
    names = [f"class {i % 3}" for i in range(40)]
    figure = explain.plot_similar(found, images, images[:2], names=names)
    shown = np.array(figure.axes, object).reshape(2, 4)
    low, high = images.min(), images.max()
    for row in range(2):
        for column, index in enumerate([row, *found.indices[row]]):
            drawn = shown[row, column].images[0].get_array()
            expected = (images[index].transpose(1, 2, 0) - float(low)) / (high - float(low))
            np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert shown[0, 0].get_title() == "query"
    assert shown[0, 1].get_title() == f"class {found.indices[0, 0] % 3}\n{found.similarities[0, 0]:.2f}"
    with pytest.raises(DataError, match="40 images and 40 queries do not belong to what was found, of 2 queries"):
        explain.plot_similar(found, images)

"""Names of PyTorch and NumPy that operators and arrays do not have: the message says what is written instead."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops


@pytest.mark.parametrize(
    ("name", "words"),
    [("cat", r"write ops\.concat"), ("clamp", r"write ops\.clip"), ("nothing_like_it", "no attribute")],
)
def test_a_missing_operator_names_another(name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(ops, name)
    assert name not in dir(ops)


@pytest.mark.parametrize("name", ["view", "norm", "pow", "clamp"])
def test_parameters_and_traced_values_name_the_same(name):
    with pytest.raises(AttributeError, match="write ") as of_parameter:
        getattr(nn.Parameter(np.ones(3)), name)
    with pytest.raises(AttributeError, match="write ") as of_value:
        foveal.compile(lambda x: getattr(x, name)(2))(np.ones(3, "float32"))
    assert str(of_parameter.value).split("write ")[1] == str(of_value.value).split("write ")[1]


@pytest.mark.parametrize(
    ("package", "name", "words"),
    [
        (foveal, "no_grad", "foveal has no 'no_grad'; net\\(x\\) keeps nothing"),
        (nn, "functional", "functions of arrays are in foveal.ops"),
        (nn, "Conv2D", "did you mean 'Conv2d'"),
        (foveal.optim, "RMSProp", "did you mean 'RMSprop'"),
        (foveal.data, "DataLoader", "write data.Loader"),
    ],
)
def test_a_name_that_a_package_lacks_says_what_is_written_instead(package, name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(package, name)

"""Every one of ONNX's node tests whose operator Foveal has, against the values published with the standard."""

import numpy as np
import onnx_conv  # noqa: F401, registers what it computes
import onnx_nodes
import onnx_outputs  # noqa: F401, registers what it computes
import pytest

TESTS = onnx_nodes.load()
LIMIT = 1e-5  # of the largest value


@pytest.mark.skipif(not TESTS, reason=f"no node tests of ONNX at {onnx_nodes.FOLDER}")
def test_every_type_of_node_is_computed_or_left_out_for_a_reason():
    kinds = {node["op_type"] for test in TESTS for node in test["nodes"]}
    assert kinds - {*onnx_nodes.RUN, *onnx_nodes.LEFT_OUT} == set()


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test["name"].removeprefix("test_"))
def test_node(test):
    if (why := onnx_nodes.reason(test)) is not None:
        pytest.skip(f"left out: {why}")
    (node,) = test["nodes"]
    inputs, wanted = onnx_nodes.arrays(test)
    limit = onnx_nodes.ROUNDED.get(test["name"], LIMIT)
    found = onnx_nodes.RUN[node["op_type"]](node["attrs"], inputs, wanted)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert np.shape(got) == want.shape
        largest = np.max(abs(want.astype(np.float64)), initial=1e-30)
        assert np.max(abs(got.astype(np.float64) - want), initial=0.0) <= limit * largest

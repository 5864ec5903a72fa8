"""Inference in OpenVINO, on the model's ONNX graph. This file is imported only to compare with it."""

import threading
from collections.abc import Mapping, Sequence

import openvino

from foveal.bench import onnx_graph
from foveal.bench.inference_only import operator_calls, session, step_calls
from foveal.bench.timing import Contender
from foveal.graph import Graph
from foveal.strides import Ndarray

__all__ = ["NAME", "inference_calls", "operator_calls", "session", "step_calls", "version"]

NAME = "openvino"


def version() -> str:
    """Return OpenVINO's version."""
    return str(openvino.__version__).split("-")[0]


def inference_calls(
    model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
) -> dict[str, Contender]:
    """Return the model compiled for short answers in float32.

    The precision is said, since the default may be bfloat16 on CPUs that have it.
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_graph.model(graph).SerializeToString()), "CPU", settings)
    # a request is one call at a time, so each thread that calls has its own
    own = threading.local()

    def call() -> Ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        result: Ndarray = own.request.infer([x], share_inputs=True)[0]
        return result

    return {"latency": call}

"""Inference in OpenVINO, on the model's ONNX graph. This file is imported only to compare with it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import openvino

from foveal.bench import onnx_graph
from foveal.bench.timing import Contender, StepSettings
from foveal.errors import FovealError
from foveal.graph import Graph
from foveal.strides import Ndarray

NAME = "openvino"
ONLY = "openvino is compared with in inference alone; use `foveal bench infer`, or --against torch"


def version() -> str:
    """Return OpenVINO's version."""
    return str(openvino.__version__).split("-")[0]


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Set nothing: each compiled model has threads of its own."""
    yield


def operator_calls(op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object]) -> NoReturn:
    """Raise FovealError: single operators are not compared."""
    raise FovealError(ONLY)


def step_calls(settings: StepSettings, modes: Sequence[str]) -> NoReturn:
    """Raise FovealError: OpenVINO does not train."""
    raise FovealError(ONLY)


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

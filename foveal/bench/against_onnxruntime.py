"""Inference in ONNX Runtime, on the model's ONNX graph. This file is imported only to compare with it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import onnxruntime

from foveal.bench import onnx_graph
from foveal.bench.timing import Contender, StepSettings
from foveal.errors import FovealError
from foveal.graph import Graph
from foveal.strides import Ndarray

NAME = "onnxruntime"
ONLY = "onnxruntime is compared with in inference alone; use `foveal bench infer`, or --against torch"


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(onnxruntime.__version__)


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Set nothing: each of ONNX Runtime's sessions has threads of its own."""
    yield


def operator_calls(op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object]) -> NoReturn:
    """Raise FovealError: single operators are not compared."""
    raise FovealError(ONLY)


def step_calls(settings: StepSettings, modes: Sequence[str]) -> NoReturn:
    """Raise FovealError: ONNX Runtime does not train."""
    raise FovealError(ONLY)


def inference_calls(
    model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
) -> dict[str, Contender]:
    """Return the model with all graph optimisations.

    Threads do not spin at the end of a call, as they would slow down the other contenders.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model_bytes = onnx_graph.model(graph).SerializeToString()
    session = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    return {"all optimisations": lambda: session.run(None, {"x0": x})[0]}

"""Inference in ONNX Runtime, on the model's ONNX graph. Imported only to compare with it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from foveal.bench import onnx_graph
from foveal.bench.timing import Call
from foveal.errors import FovealError
from foveal.graph import Graph
from foveal.strides import Ndarray

runtime: Any = import_module("onnxruntime")
NAME = "onnxruntime"
ONLY = "onnxruntime is compared with in inference alone; use `foveal bench infer`, or --against torch"


def version() -> str:
    """ONNX Runtime's own version."""
    return str(runtime.__version__)


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Nothing is set for the whole process: each session has threads of its own."""
    yield


def operator_calls(op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, Any]) -> Any:
    raise FovealError(ONLY)


def step_calls(*arguments: Any) -> Any:
    raise FovealError(ONLY)


def inference_calls(
    model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
) -> dict[str, Call]:
    """All graph optimisations are on. Threads do not spin once a call is over, or they would slow down the others."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    made = onnx_graph.model(graph).SerializeToString()
    found = runtime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    return {"all optimisations": lambda: found.run(None, {"x0": x})[0]}

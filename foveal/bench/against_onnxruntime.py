"""Inference in ONNX Runtime, on the model's ONNX graph. This file is imported only to compare with it."""

from collections.abc import Mapping, Sequence

import onnxruntime

from foveal.bench import onnx_graph
from foveal.bench.inference_only import operator_calls, session, step_calls
from foveal.bench.timing import Contender
from foveal.graph import Graph
from foveal.strides import Ndarray

__all__ = ["NAME", "inference_calls", "operator_calls", "session", "step_calls", "version"]

NAME = "onnxruntime"


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(onnxruntime.__version__)


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
    prepared = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    return {"all optimisations": lambda: prepared.run(None, {"x0": x})[0]}

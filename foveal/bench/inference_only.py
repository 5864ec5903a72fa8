"""What is alike in frameworks that are compared with in inference alone, ONNX Runtime and OpenVINO."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from foveal.bench.timing import StepSettings
from foveal.errors import FovealError
from foveal.strides import Ndarray

PROBLEM = "onnxruntime and openvino are compared with in inference alone; use `foveal bench infer`, or --against torch"


@contextmanager
def session(threads: int, gradients: bool) -> Iterator[None]:
    """Set nothing: each model that they have prepared has threads of its own."""
    yield


def operator_calls(
    op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object], modes: Sequence[str]
) -> NoReturn:
    """Raise FovealError: single operators are not compared."""
    raise FovealError(PROBLEM)


def step_calls(settings: StepSettings, modes: Sequence[str]) -> NoReturn:
    """Raise FovealError: they do not train."""
    raise FovealError(PROBLEM)

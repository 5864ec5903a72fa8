"""Several frameworks as one: the fastest of their modes counts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from foveal.bench.timing import Against, Contender, StepSettings
from foveal.graph import Graph
from foveal.strides import Ndarray


class Several:
    """What is compared with all of them at once; a mode's name begins with that of its framework."""

    # how the columns of all of them together are called
    NAME = "others"

    def __init__(self, frameworks: Sequence[Against]) -> None:
        self.frameworks = frameworks

    def version(self) -> str:
        """Return the names and versions of all."""
        return ", ".join(f"{one.NAME} {one.version()}" for one in self.frameworks)

    @contextmanager
    def session(self, threads: int, gradients: bool) -> Iterator[None]:
        """Inside the block each framework has its settings."""
        with ExitStack() as stack:
            for one in self.frameworks:
                stack.enter_context(one.session(threads, gradients))
            yield

    def operator_calls(
        self, op: str, arrays: Sequence[Ndarray], attributes: Mapping[str, object], modes: Sequence[str]
    ) -> dict[str, Contender]:
        """Return the calls of all."""
        return self.calls(lambda one: one.operator_calls(op, arrays, attributes, modes))

    def step_calls(self, settings: StepSettings, modes: Sequence[str]) -> dict[str, Contender]:
        """Return the training steps of all."""
        return self.calls(lambda one: one.step_calls(settings, modes))

    def inference_calls(
        self, model: str, state: Mapping[str, Ndarray], graph: Graph, x: Ndarray, threads: int, modes: Sequence[str]
    ) -> dict[str, Contender]:
        """Return the calls of all."""
        return self.calls(lambda one: one.inference_calls(model, state, graph, x, threads, modes))

    def calls(self, of: Callable[[Against], dict[str, Contender]]) -> dict[str, Contender]:
        """Return what `of` returns for each framework."""
        return {f"{one.NAME}: {mode}": call for one in self.frameworks for mode, call in of(one).items()}

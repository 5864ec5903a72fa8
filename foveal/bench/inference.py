"""Inference on one image, in evaluation mode, is timed, with the models whose training steps are timed too."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np

from foveal import nn
from foveal.api import compile
from foveal.bench.models import TOLERANCE, ModelWork
from foveal.bench.timing import Bench, Contender, Measurement, Starting, alternate, check_same, operations
from foveal.ops.op import Type
from foveal.trace import trace
from foveal.workers import get_threads


def rows(works: dict[str, ModelWork], bench: Bench, starting: Starting) -> Iterator[Measurement]:
    """Time each model on one image."""
    for name, work in works.items():
        starting(f"{name} inference")
        yield row(name, replace(work, batch=1), bench)


def one_image(name: str, work: ModelWork, bench: Bench) -> AbstractContextManager[tuple[dict[str, Contender], int]]:
    """Return the calls of a model on one image."""
    return contenders(name, replace(work, batch=1), bench)


def row(name: str, work: ModelWork, bench: Bench) -> Measurement:
    """Time the way from NumPy images to NumPy logits, on both sides."""
    with contenders(name, work, bench) as (calls, count):
        times = alternate(calls, bench.repeats)
    return Measurement(name, "inference", work.batch, bench, count, times.pop("ours"), times)


@contextmanager
def contenders(name: str, work: ModelWork, bench: Bench) -> Iterator[tuple[dict[str, Contender], int]]:
    """Inside of the block calls of the same model by all frameworks, ours as "ours", and the operations of a call."""
    x, _ = work.data()
    net = work.build()
    set_trained_statistics(net)
    # With the default number of threads the program itself decides how many pay.
    run = compile(net.eval(), threads=None if bench.threads == get_threads() else bench.threads)
    with bench.session(gradients=False):
        theirs: dict[str, Contender] = {}
        if bench.against:
            traced = trace(net, Type(x.shape))
            theirs = bench.against.inference_calls(work.model, net.state_dict(), traced, x, bench.threads, bench.modes)
        ours = run(x)
        for mode, call in theirs.items():
            check_same(f"{name}, {mode}", ours, np.asarray(call()), TOLERANCE, bench.other)
        yield {"ours": lambda: run(x), **theirs}, operations(run.program(x).graph)


def set_trained_statistics(net: nn.Module) -> None:
    """Give batch norms statistics and scales as after some training, so that none happens to be the identity."""
    rng = np.random.default_rng(1)
    for _, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight is not None
            assert module.bias is not None
            size = module.weight.shape
            module.running_mean.data = rng.uniform(-0.1, 0.1, size)
            module.running_var.data = rng.uniform(0.5, 2.0, size)
            module.weight.data = rng.uniform(0.5, 1.5, size)
            module.bias.data = rng.uniform(-0.1, 0.1, size)

"""Inference on one image, in evaluation mode, of the models whose training steps are timed."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from foveal import nn
from foveal.api import compile
from foveal.bench.models import TOLERANCE, Work
from foveal.bench.timing import Bench, Call, Row, check_same, operations, turns
from foveal.ops.op import Type
from foveal.strides import Ndarray
from foveal.trace import trace
from foveal.workers import get_threads


def rows(works: dict[str, Work], bench: Bench, starting: Callable[[str], None]) -> Iterator[Row]:
    """Time each model. `starting` is told what comes next."""
    for name, work in works.items():
        starting(f"{name} inference")
        yield row(name, replace(work, batch=1), bench)


def row(name: str, work: Work, bench: Bench) -> Row:
    """The output from NumPy images to NumPy logits, on both sides."""
    x, _ = work.data()
    net = work.build()
    settle(net)
    # on all processors the program itself decides whether a second thread pays
    run = compile(net.eval(), threads=None if bench.threads == get_threads() else bench.threads)
    with bench.session(gradients=False):
        theirs: dict[str, Call] = {}
        if bench.against:
            traced = trace(net, Type(x.shape))
            theirs = bench.against.inference_calls(work.model, net.state_dict(), traced, x, bench.threads, bench.modes)
        ours = run(x)
        for mode, call in theirs.items():
            check_same(f"{name}, {mode}", ours, result(call), TOLERANCE, bench.other)
        times = turns({"ours": lambda: run(x), **theirs}, bench.repeats)
    count = operations(run.program(x).graph)
    return Row(name, "inference", work.batch, bench, count, times.pop("ours"), times)


def result(call: Call) -> Ndarray:
    return np.asarray(call())


def settle(net: nn.Module) -> None:
    """Running statistics and scales as after some training, so that batch norm does not happen to be the identity."""
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

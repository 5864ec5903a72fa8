"""What a training run compiles, without training: `foveal train --compile-only`."""

from __future__ import annotations

import numpy as np

import foveal
from foveal.data.dataset import Dataset
from foveal.data.loader import even_batch
from foveal.data.transforms.mixing import mixing
from foveal.train.evaluate import EVALUATION_BATCH
from foveal.train.settings import LOSS, Options, build_net, choose, make_optimizer, thread_count
from foveal.warming import WarmUp, warm_up


def compile_only(data: Dataset, options: Options) -> WarmUp:
    """Compile the training step and the tests of a run with these options, and return what was compiled.

    A run with the same options compiles nothing then, on any machine type that shares the cache folder. Nothing is
    trained and no file of a run is written. Raises as `train` does for options that do not fit.
    """
    settings = choose(data, options)
    net = build_net(settings, data)
    optimizer = make_optimizer(net, settings)
    image = data.images_train.shape[1:]
    with thread_count(settings.threads):
        step = foveal.compile_step(
            net,
            LOSS,
            optimizer,
            threads=settings.threads,
            seed=settings.seed,
            memory=settings.memory,
            accumulate=settings.accumulate,
        )
        # Of a mixture, labels are shares of the classes.
        targets = None if mixing(options.mix) is None else [(settings.batch_size, len(data.classes))]
        training = warm_up(net, [(settings.batch_size, *image)], step=step, targets=targets, inference=False)
        # Tests take batches of one size, of floats: the average of the parameters, if there is one, has their shapes.
        batch = even_batch(len(data.images_test), EVALUATION_BATCH)
        tests = warm_up(net, [np.zeros((batch, *image), np.float32)])
    return WarmUp((*training.programs, *tests.programs), training.kept)

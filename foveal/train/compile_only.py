"""What a training run compiles, without training: `foveal train --compile-only`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import foveal
from foveal.data.dataset import Dataset
from foveal.data.transforms.mixing import mixing
from foveal.train.feed import settings_and_feed
from foveal.train.first_layer import to_be_whitened
from foveal.train.phases import Phases
from foveal.train.settings import TrainOptions, build_net, make_loss, thread_count
from foveal.train.start import start_of
from foveal.train.together import shared
from foveal.train.updates import make_optimizer
from foveal.warming import WarmUp, warm_up


def compile_only(data: Dataset, options: TrainOptions) -> WarmUp:
    """Compile the training step and the tests of a run with these options, and return what was compiled.

    A run with the same options compiles nothing then, on any machine type that shares the cache folder. Nothing is
    trained and no file of a run is written. Raises as `train` does for options that do not fit.
    """
    options = shared(options)
    start = start_of(data, options, (lambda line: None))
    if start is not None:
        data, options = start.normalised(data), replace(options, model=start.model or options.model)
    settings, feed = settings_and_feed(data, options)
    if start is not None:
        settings = start.settings(settings, options, data)
    net = build_net(settings, data)
    phases = Phases(net, settings.freeze_epochs, to_be_whitened(net, settings))
    optimizer = make_optimizer(net, settings)
    image = (data.channels, *data.size)
    with thread_count(settings.threads):
        step = foveal.compile_step(
            net,
            make_loss(settings, feed.counts),
            optimizer,
            threads=settings.threads,
            seed=settings.seed,
            memory=settings.memory,
            accumulate=settings.accumulate,
            shards=settings.shards,
            compress=settings.compress,
            ranks=options.ranks,
            sync_batch_norm=settings.sync_batch_norm,
        )
        # What one program takes.
        batch_size = settings.batch_size // (settings.shards or 1)
        # Of a mixture, labels are shares of the classes.
        targets = None if mixing(options.mix) is None else [(batch_size, len(data.classes))]
        # With the last layer alone, and with all, a step is another program.
        training = []
        for epoch in phases.changes(settings.epochs):
            phases.begin(epoch)
            shapes = [(batch_size, *image)]
            training.append(warm_up(net, shapes, step=step, targets=targets, inference=False))
        # Tests take batches of one size, of floats: the average of the parameters, if there is one, has their shapes.
        sizes = {loader.batch_size or 1 for loader in feed.parts.values()}
        tests = warm_up(net, [np.zeros((batch, *image), np.float32) for batch in sorted(sizes)])
    return WarmUp((*(made for one in training for made in one.programs), *tests.programs), training[0].kept)

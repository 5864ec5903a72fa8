"""What several ranks run in tests: `mpiexec -n N python ranks_job.py WHAT ...`.

all       trains on 1, 2, 3 and 4 of the ranks, on one or two threads, and prints what comes out
refused   trains where rank 1 has other data, another network and an image that is too large, and prints the errors
error     raises an error on rank 1, for which rank 0 waits
hang      lets rank 0 wait for rank 1, which sleeps
kill ...  is `foveal train ...`, where rank 1 is killed in its third step
cut COMMAND ...  is `foveal train ...`, where rank 0 runs a command before its third step, which cuts a host's cable
lost COMMAND  lets rank 0 run such a command, and both ranks wait for each other
"""

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np

import foveal
import foveal.__main__
from foveal import data, nn, ops, optim, train
from foveal.distributed import buckets

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((72, 3, 8, 8), np.float32), np.arange(72) % 3
# Three steps of 16 images in an epoch; those that are left over are others in each.
OPTIONS = {"epochs": 3, "batch_size": 16, "shards": 8, "optimizer": "adamw", "lr": 0.01, "ema": 0.8, "quiet": True}


class Block(nn.Module):
    """A small residual network with batch norm and dropout."""

    def __init__(self):
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x):
        y = self.first(x)
        y = ops.relu(y + self.second(y))
        return self.last(self.drop(y.mean(axis=(2, 3))))


def network():
    nn.seed(5)
    return Block()


def dataset(labels=LABELS, images=IMAGES):
    return data.from_arrays("set", images[:60], labels[:60], images[60:], labels[60:])


def digest(net):
    found = hashlib.sha256()
    for name, array in net.state_dict().items():
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def trained(ranks=None, threads=1):
    """Train, and return the digest of the network and what was measured."""
    net = network()
    told = {"augment": "crop+flip", "mix": "mixup", "tta": "flip", "validation": 0.2, "freeze_epochs": 1, **OPTIONS}
    stop = train.EarlyStopping("validation loss", patience=1, restore_best=True)
    score = {"top": lambda outputs, targets: float(outputs.max())}
    history = train.train(dataset(), net, threads=threads, ranks=ranks, callbacks=[stop], metrics=score, **told)
    numbers = [[line[part] for part in ("train", "validation", "test")] for line in history.lines]
    return digest(net), numbers, history["averaged"]


def looped(ranks=None):
    """Train in a loop of one's own: on shards, of which a last batch has three, and on whole batches."""
    net = network()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()), shards=8, ranks=ranks, seed=1)
    loader = data.Loader((IMAGES[:38], LABELS[:38]), batch_size=16, shuffle=True, augment="crop+flip")
    found = []
    for shards in step.shares(loader, 0):
        found.append(step.take_shards(shards).loss)
    found.append(step(IMAGES[:19], LABELS[:19]).loss)
    return digest(net), found


def bucketed(ranks=None):
    """Train with buckets of several sizes, exchanged during the backward pass and after it, whole and rounded.

    In the second step the last shard of a batch is not finite: all ranks leave the step out alike.
    """
    found = []
    # Of each parameter by itself; of a few; of all.
    for size, overlaps, kind in ((1, True, None), (3000, False, None), (3000, True, "int8"), (1 << 20, False, "int8")):
        buckets.BUCKET = buckets.FIRST = size
        net = network()
        rule = optim.Momentum(net.parameters(), 0.1)
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, 1, 1, shards=8, ranks=ranks, compress=kind)
        step.sharded.overlaps = step.sharded.overlaps and overlaps
        failed = 0
        for number in range(4):
            x = IMAGES[:16].copy()
            x[15] *= np.float32(1e38 if number == 1 else 1)
            try:
                step(x, LABELS[:16])
            except foveal.errors.NumericsError:
                failed += 1
        found.append((digest(net), step.steps, failed))
    # Blocks that share a power of two begin with each bucket.
    assert found[0] == found[1]
    return found


def normalised_together(ranks=None, threads=1):
    """As `looped`, with batch norms over all shards: with absent ones, with one of one image, and frozen ones."""
    net = network()
    given = {"shards": 8, "ranks": ranks, "seed": 1, "threads": threads, "sync_batch_norm": True}
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()), **given)
    loader = data.Loader((IMAGES[:38], LABELS[:38]), batch_size=16, shuffle=True)
    found = [step.take_shards(shards).loss for shards in step.shares(loader, 0)]
    found += [step(IMAGES[:count], LABELS[:count]).loss for count in (19, 2)]
    net.first.eval()
    found.append(step(IMAGES[:5], LABELS[:5]).loss)
    net.eval()
    found.append(step(IMAGES[:5], LABELS[:5]).loss)
    return digest(net), found


def on_some(sizes, function):
    """Call a function on so many of the ranks; print what it returns, which is the same on all of them."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    for size in sizes:
        part = world.Split(0 if world.rank < size else MPI.UNDEFINED)
        if world.rank < size:
            ranks = foveal.distributed.Ranks(part)
            found = ranks.gather(function(ranks))
            assert all(one == found[0] for one in found)
            if ranks.first:
                print(size, found[0], flush=True)
        world.Barrier()


def third_step(rank, change):
    """Let one rank, or all, call a function of its shards, which returns those it takes, before its third step."""
    take, steps = foveal.step.Step.take_shards, []

    def take_shards(step, shards):
        steps.append(1)
        if rank in (step.sharded.ranks.rank, None) and len(steps) == 3:
            shards = change(shards, step.sharded)
        return take(step, shards)

    foveal.step.Step.take_shards = take_shards


def refused():
    """Print the errors of trainings that cannot be, which all ranks get."""
    ranks = foveal.distributed.ranks(200.0)
    too_large = lambda shards, _: [(x * np.float32(1e38), y) for x, y in shards]  # noqa: E731
    third_step(1, too_large)
    labels, other = LABELS.copy(), network()
    if ranks.rank == 1:
        labels[7:9] = labels[8:6:-1]
        other.last.bias.data = 1.0
    given = (dataset(labels), network()), (dataset(), other), (dataset(), network()), (dataset(), network())
    for number, (set, net) in enumerate(given):
        together = number == 3
        if together:
            third_step(1, too_large)
        try:
            train.train(set, net, ranks=ranks, sync_batch_norm=together, **OPTIONS)
        except foveal.errors.FovealError as error:
            print(ranks.rank, type(error).__name__, error, flush=True)


def lose(command, *known):
    """Let rank 0 run a command, after which ranks, of all threads, wait for each other for two seconds at most."""
    for ranks in known:
        ranks.timeout = 2.0
    if known[0].first:
        subprocess.run(command.split(), check=True)


def main(what, *words):
    if what == "all":
        # On 2 and 4 ranks with two threads each.
        on_some((1, 2, 3, 4), lambda ranks: trained(ranks, 2 - ranks.size % 2))
        on_some((2, 3), looped)
        on_some((2, 3, 4), bucketed)
        on_some((1, 2, 3, 4), lambda ranks: normalised_together(ranks, 2 - ranks.size % 2))
    elif what == "refused":
        refused()
    elif what == "kill":
        third_step(1, lambda shards, _: os.kill(os.getpid(), signal.SIGKILL))
        sys.argv = ["foveal", "train", *words]
        foveal.__main__.main()
    elif what == "cut":
        third_step(
            None, lambda shards, window: (shards, lose(words[0], window.ranks, window.exchange.progress.ranks))[0]
        )
        sys.argv = ["foveal", "train", *words[1:]]
        foveal.__main__.main()
    elif what == "lost":
        foveal.distributed.launch.LINGER = 0.0
        ranks = foveal.distributed.ranks(200.0)
        ranks.all_of(None)
        lose(words[0], ranks)
        # The first messages may have been sent before.
        for _ in range(3):
            ranks.all_of(None)
    else:
        ranks = foveal.distributed.ranks(200.0)
        if not ranks.first:
            if what == "error":
                raise ValueError("out of luck")
            time.sleep(60)
        ranks.timeout = 2.0 if what == "hang" else 200.0
        foveal.distributed.launch.LINGER = 0.0
        ranks.all_of(None)


if __name__ == "__main__":
    main(*sys.argv[1:])

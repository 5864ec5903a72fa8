"""What several ranks run in tests: `mpiexec -n N python ranks_job.py WHAT ...`.

all       trains on 1, 2, 3 and 4 of the ranks, on one or two threads, and prints what comes out
refused   trains where rank 1 has other data, another network and an image that is too large, and prints the errors
apart     makes steps whose options are others on rank 1, or lets it catch an error, and prints what becomes of them
parted    takes steps in a second thread, in a child and from a pickle, and prints what becomes of them
error     raises an error on rank 1, for which rank 0 waits
hang      lets rank 0 wait for rank 1, which sleeps
kill ...  is `foveal train ...`, where rank 1 is killed in its third step, when part of a bucket was sent
elastic F trains on 4 ranks, of which three are killed one after the other, into the folder F, and prints what comes out
cut COMMAND ...  is `foveal train ...`, where rank 0 runs a command before its third step, which cuts a host's cable
lost COMMAND  lets rank 0 run such a command, and both ranks wait for each other
"""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np

import foveal
import foveal.__main__
from foveal import data, nn, ops, optim, train
from foveal.distributed import Ranks, buckets

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
    for name, array in sorted(net.state_dict().items(), key=lambda item: item[0]):
        found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def trained(ranks=None, threads=1, out=None):
    """Train, and return the digest of the network and what was measured."""
    net = network()
    told = {"augment": "crop+flip", "mix": "mixup", "tta": "flip", "validation": 0.2, "freeze_epochs": 1, **OPTIONS}
    stop = train.EarlyStopping("validation loss", patience=1, restore_best=True)
    score = {"top": lambda outputs, targets: float(outputs.max())}
    history = train.train(
        dataset(), net, threads=threads, ranks=ranks, callbacks=[stop], metrics=score, out=out, **told
    )
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


def deep(ranks=None, threads=1):
    """Train resnet20 with batch norm, dropout and augmentation for three steps, in several buckets."""
    net = nn.models.build("resnet20", channels=3, size=(16, 16), classes=3, seed=5)
    net.fc = nn.Sequential(nn.Dropout(0.2), net.fc)
    images = np.random.default_rng(1).random((48, 3, 16, 16), np.float32)
    loader = data.Loader((images, LABELS[:48]), batch_size=16, shuffle=True, augment="crop+flip")
    rule = optim.AdamW(net.parameters(), 0.01)
    with mock.patch.multiple(buckets, BUCKET=1 << 18, FIRST=1 << 16):
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, threads, 1, shards=8, ranks=ranks)
        curve = [step.take_shards(shards).loss for shards in step.shares(loader, 0)]
    assert len(step.sharded.buckets.buckets) > 4
    return digest(net), curve


def bucketed(ranks=None):
    """Train with buckets of several sizes, exchanged during the backward pass and after it, whole and rounded.

    In the second step the last shard of a batch is not finite: all ranks leave the step out alike, and go on as if it
    had not been.
    """
    found, everyone = [], Ranks() if ranks is None else ranks
    # Of each parameter by itself; of a few; of all. Both of each two find the same.
    ways = [(1, True, None, [1]), (2000, False, None, [1])]
    ways += [(size, size == 2000, "int8", fails) for size in (2000, 1 << 20) for fails in ([1], [])]
    for size, overlaps, kind, fails in ways:
        net = network()
        rule = optim.Momentum(net.parameters(), 0.1)
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, 1, 1, shards=8, ranks=ranks, compress=kind)
        step.sharded.overlaps = step.sharded.overlaps and overlaps
        failed = 0
        for number in range(3 + len(fails)):
            x = IMAGES[:16].copy()
            x[15] *= np.float32(1e38 if number in fails else 1)
            try:
                with mock.patch.multiple(buckets, BUCKET=size, FIRST=size):
                    step(x, LABELS[:16])
            except foveal.errors.NumericsError:
                failed += 1
        assert failed == len(fails)
        step.sharded.collect()
        # What rounding has lost is known to rank 0.
        found.append((digest(net), step.steps, everyone.broadcast(digest(step))))
    # Blocks that share a power of two begin with each bucket.
    assert found[::2] == found[1::2]
    assert len(set(found)) == 3
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
        # MPI waits busily, and those that have nothing to do would take the cores from the others.
        everyone = world.Ibarrier()
        while not everyone.Test():
            time.sleep(0.01)


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


def end(*ignored):
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def elastic(folder):
    """Train where ranks are killed; print what the first of those that are left has."""
    ranks = foveal.distributed.ranks(200.0, elastic=True)
    number = ranks.rank
    kinds = []
    # Rank 2, in the middle of its third step: in its second message.
    exchange, call = foveal.distributed.Ranks.exchange, train.callbacks.Callbacks.call

    def exchanged(ranks, *arrays):
        kinds.append("message") if ranks.elastic.within and kinds.count("step") == 3 else None
        end() if number == 2 and kinds.count("message") == 2 else None
        exchange(ranks, *arrays)

    def called(callbacks, chosen, moment, *values):
        # The second one to lead, before the others know of it; its callbacks have been called.
        found = call(callbacks, chosen, moment, *values)
        end() if number == 1 and moment == "on_epoch_end" and values[0]["epoch"] == 2 else None
        return found

    def take_shards(step, shards):
        kinds.append("step")
        # Rank 0, in the second step of the second epoch of `trained`, after the four steps of `looped`.
        end() if number == 0 and kinds.count("step") == 9 else None
        return take(step, shards)

    foveal.distributed.Ranks.exchange, train.callbacks.Callbacks.call = exchanged, called
    take, foveal.step.Step.take_shards = foveal.step.Step.take_shards, take_shards
    for function in (looped, lambda ranks: trained(ranks, out=folder)):
        found = function(ranks)
        if ranks.first:
            print(ranks.size, found, flush=True)


def die_in_a_bucket(shards, *_):
    """Let this rank be killed when it has sent one of the messages that add up a bucket."""
    exchange = Ranks.exchange

    def last(ranks, other, sent, received):
        exchange(ranks, other, sent, received)
        if sent is not None and sent.size > 1000:
            os.kill(os.getpid(), signal.SIGKILL)

    Ranks.exchange = last
    return shards


def apart():
    """Print what becomes of steps that rank 1 makes with other options, and of one whose error it alone catches."""
    ranks = foveal.distributed.ranks(20.0)
    made = {"loss": nn.CrossEntropyLoss(), "lr": 0.1, "shards": 4}
    others = (
        {"compress": "int8"},
        {"sync_batch_norm": True},
        {"seed": 1},
        {"lr": 0.2},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {},
        {"sync_batch_norm": True},
    )
    for number, other in enumerate(others):
        net, alike = network(), number >= 5
        given = {**made, **(other if alike or not ranks.first else {})}
        rule = optim.SGD(net.parameters(), given.pop("lr"))
        step = foveal.compile_step(net, given.pop("loss"), rule, ranks=ranks, threads=1, **given)
        # Rank 0 learns in its second step that rank 1 is in its third.
        for attempt in range(3 - ranks.first if alike else 1):
            labels = LABELS[:16].copy()
            labels[8] = 7 if ranks.rank and attempt == 1 else 0
            try:
                step(IMAGES[:16], labels)
            except foveal.errors.FovealError as error:
                print(ranks.rank, number, type(error).__name__, error, flush=True)


def parted():
    """Print what becomes of steps in a thread beside another one's step, in a child, and in a pickle, which is alone.

    The pickle goes on to the same bits.
    """
    ranks = foveal.distributed.ranks(20.0)
    net = network()
    rule = optim.Adam(net.parameters())
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, shards=4, ranks=ranks, threads=1)
    step(IMAGES[:16], LABELS[:16])

    def refused():
        try:
            step(IMAGES[:16], LABELS[:16])
        except foveal.errors.RankError as error:
            print(ranks.rank, error, flush=True)

    with ranks.stepping():
        refused()
    if not (child := os.fork()):
        refused()
        os._exit(0)
    os.waitpid(child, 0)
    alone = pickle.loads(pickle.dumps(step))
    step(IMAGES[:16], LABELS[:16])
    alone(IMAGES[:16], LABELS[:16])
    print(ranks.rank, digest(net) == digest(alone.model), flush=True)


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
        on_some((2,), lambda ranks: deep(ranks, 2))
        on_some((4,), lambda ranks: deep(ranks, 1))
    elif what == "refused":
        refused()
    elif what == "elastic":
        elastic(*words)
    elif what == "apart":
        apart()
    elif what == "parted":
        parted()
    elif what == "kill":
        third_step(1, die_in_a_bucket)
        sys.argv = ["foveal", "train", *words]
        foveal.__main__.main()
    elif what == "cut":
        # Longer than the launcher of the test takes to notice, by some seconds.
        foveal.distributed.launch.LINGER = 10.0
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

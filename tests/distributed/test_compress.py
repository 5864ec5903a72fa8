"""Gradients of fewer bits: what rounding loses is not lost, and the bits are those of any number of ranks."""

import numpy as np
import pytest
import ranks_job
import test_tree

import foveal
from foveal import nn, optim, train
from foveal.distributed import compress, tree
from foveal.errors import FovealWarning, ShapeError, StateError

RNG = np.random.default_rng(0)
CODECS = list(compress.CODECS.values())


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_rounded_numbers_are_near_and_pass_through_their_bytes(codec):
    for size in (0, 1, 255, 256, 1000):
        for scale in (1e-30, 1e-3, 1.0, 127.0, 1e30):
            x = (RNG.standard_normal(size) * scale * 10.0 ** RNG.integers(-2, 3, size)).astype(np.float32)
            rounded = codec.rounded(x)
            found = codec.encoded(rounded)
            assert found.nbytes == codec.size(size) <= (2 if codec.name == "float16" else 1.004) * size + 1
            assert codec.decoded(found, size).tobytes() == codec.rounded(rounded).tobytes() == rounded.tobytes()
            if size and codec.name == "int8":
                blocks = [slice(i, i + 256) for i in range(0, size, 256)]
                assert all(abs(x[b] - rounded[b]).max() <= abs(x[b]).max() / 127 for b in blocks)
    edges = np.float32([127, 63.5, 64, 128, -254, 0])
    for x in edges:
        one = np.float32([x])
        assert abs(codec.rounded(one) - one) <= abs(one) / 127


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("small", [0, tree.SMALL], ids=["halving", "doubling"])
def test_nothing_is_lost_but_postponed_and_ranks_do_not_matter(codec, small, monkeypatch):
    """What was sent and what is kept add up to the gradients; the same bits on any number of ranks."""
    monkeypatch.setattr(tree, "SMALL", small)
    length, shards, steps = 700, 4, 5
    leaves = [[RNG.standard_normal(length).astype(np.float32) for _ in range(shards)] for _ in range(steps)]
    found = {}
    for size in (1, 2, 3, 4):
        totals, sums = [[] for _ in range(size)], [None] * size

        def run(ranks, totals=totals, sums=sums):
            own = tree.owned(shards, ranks.rank, ranks.size)
            sums[ranks.rank] = one = compress.RoundedSums(length, own, codec)
            for step in leaves:
                for shard in own:
                    one.add(shard, step[shard][:300])
                    one.add(shard, step[shard][300:], 300)
                    one.close(shard)
                totals[ranks.rank].append(one.total(ranks, shards, shards).copy())
                one.keep()

        test_tree.on_threads(size, run)
        assert all([t.tobytes() for t in part] == [t.tobytes() for t in totals[0]] for part in totals)
        found[size] = [t.tobytes() for t in totals[0]]
        kept = np.zeros(length)
        seen = set()
        for one in sums:
            for node, residual in one.residuals.items():
                if (part := (node, residual.start, residual.lost.size)) not in seen:
                    kept[residual.start : residual.start + residual.lost.size] += residual.lost
                    seen.add(part)
        whole = np.sum(leaves, axis=(0, 1), dtype=np.float64)
        np.testing.assert_allclose(np.sum(totals[0], axis=0, dtype=np.float64) + kept, whole, rtol=1e-4, atol=1e-4)
        assert abs(kept).max() > 0
    assert found[2] == found[3] == found[4] == found[1]


def made(net, kind="int8", **more):
    rule = optim.Momentum(net.parameters(), 0.1)
    return foveal.compile_step(net, nn.CrossEntropyLoss(), rule, 1, shards=4, compress=kind, **more)


def test_a_state_has_what_rounding_has_lost():
    x, y = ranks_job.IMAGES[:16], ranks_job.LABELS[:16]
    nets = [ranks_job.network() for _ in range(2)]
    steps = [made(net) for net in nets]
    for _ in range(3):
        steps[0](x, y)
    state = foveal.train.state_dict(steps[0])
    foveal.train.load_state_dict(steps[1], state)
    again = foveal.train.state_dict(steps[1])
    assert state.keys() == again.keys()
    assert sum("lost." in name for name in state) == 7 * len(steps[0].sharded.buckets.buckets)
    for _ in range(2):
        for step in steps:
            step(x, y)
    assert ranks_job.digest(nets[0]) == ranks_job.digest(nets[1])
    # Without it the bits are others, which is said.
    lacking = {name: array for name, array in state.items() if "/lost" not in name}
    other = ranks_job.network()
    with pytest.warns(FovealWarning, match="lacks what the rounding"):
        foveal.train.load_state_dict(third := made(other), lacking)
    for _ in range(2):
        third(x, y)
    assert ranks_job.digest(other) != ranks_job.digest(nets[0])
    with pytest.raises(StateError, match="sent as int8 and are as float16"):
        foveal.train.load_state_dict(made(ranks_job.network(), "float16"), state)


def test_a_run_goes_on_to_the_same_bits_where_more_parameters_are_trained(tmp_path):
    """The last layer alone in one epoch, then all: what was lost before is of other gradients."""
    given = {**ranks_job.OPTIONS, "epochs": 2, "freeze_epochs": 1, "compress": "int8", "shards": 4}
    path, nets = tmp_path / "state", [ranks_job.network() for _ in range(2)]
    train.train(ranks_job.dataset(), nets[0], callbacks=[train.SaveState(path, 1), Once(path)], **given)
    train.train(ranks_job.dataset(), nets[1], resume=path.with_suffix(".first"), **given)
    assert ranks_job.digest(nets[0]) == ranks_job.digest(nets[1])


class Once(train.Callback):
    """Keeps a state as it was after the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_epoch_end(self, values):
        if values["epoch"] == 1:
            self.path.with_suffix(".first").write_bytes(self.path.read_bytes())


def test_what_cannot_be_compressed_is_refused():
    with pytest.raises(ShapeError, match="'int4'; gradients are sent as float16 or int8"):
        made(ranks_job.network(), "int4")
    net = ranks_job.network()
    with pytest.raises(ShapeError, match="there are no shards"):
        foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), compress="int8")

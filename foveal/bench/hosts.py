"""Several hosts on one machine: network namespaces of Linux, with a cable each to one bridge, and a name each.

    with Hosts(2, Link(rate=1e9, delay=1e-3)) as hosts:
        subprocess.run(hosts.mpiexec(), ...)

Processes in different namespaces have no network in common but the cables, whose rate the kernel limits, and Open MPI
takes them for different machines: what they send to each other goes through TCP. Every device is made inside of a
namespace, so that nothing changes in the machine's own network.

It needs Linux, the rights of root, and the commands of iproute2 and util-linux.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from foveal.errors import FovealError

COMMANDS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux"}
# Namespaces are named by this, the process that made them, which of its `Hosts` did so, and a number; the bridge is in
# a namespace of its own.
PREFIX, HUB = "foveal", "hub"
NAME = re.compile(rf"({PREFIX}-(\d+)-\d+)-(?:{HUB}|\d+)")
# Counts the `Hosts` of this process, and the names of those that are there now.
NUMBERS = itertools.count()
THERE: set[str] = set()
# The hosts' addresses: of a network that exists in the namespaces alone. Open MPI leaves bridges of others out.
NETWORK = "10.77.0"
# Bytes that may pass at once: of a packet before segmentation, 64 KiB, several, and what the rate lets pass between two
# ticks of the clock of a kernel that has 250 of them a second would be more than a switch holds.
BURST, TICKS = 1 << 17, 5000
# Milliseconds that a packet may wait in the queue before the cable, as in a switch with large buffers.
QUEUE = 50
# What lets a launcher notice soon that a machine cannot be reached: probes after so many seconds of silence, so many
# seconds apart, and so many of them.
KEEPALIVE = {"time": 10, "intvl": 2, "probes": 3}

# What PRRTE, the launcher of Open MPI 5, calls as it would call ssh: HOST COMMAND... . Its host is an address.
AGENT = """#!/bin/sh
host=$((${{1##*.}} - 1))
shift
exec ip netns exec {prefix}-$host unshare --uts sh -c "hostname host$host; $*"
"""


@dataclass(frozen=True)
class Link:
    """A cable: its rate in bits per second, None for as fast as it goes, and its delay in seconds, one way."""

    rate: float | None = None
    delay: float = 0.0

    def __str__(self) -> str:
        rate = "no limit" if self.rate is None else f"{self.rate / 1e9:g} Gbit/s"
        return f"{rate}, {1e6 * self.delay:g} us"


def missing() -> str:
    """Return what this machine lacks for hosts of its own, in a sentence's part; empty if it lacks nothing."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}"
    absent = [
        f"{command} (package {package})" for command, package in COMMANDS.items() if shutil.which(command) is None
    ]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    return ""


class Hosts:
    """So many hosts, host0, host1, and so on, on this machine, each with a cable to one switch.

    It is a context manager: at the end of the block, also after an error or an interrupt, the processes on the hosts
    are ended, and everything is removed. Raises FovealError where that is not possible, and names what is missing.
    """

    def __init__(self, count: int, link: Link | None = None) -> None:
        if not 1 <= count <= 250:
            raise FovealError(f"Hosts: count is {count}; a machine has room for 1 to 250")
        self.count, self.link = count, link or Link()
        self.prefix = f"{PREFIX}-{os.getpid()}-{next(NUMBERS)}"
        # The namespaces that were made: no other is removed.
        self.made: list[str] = []
        #: True where the kernel delays packets; otherwise the delay of a link is left to those who send.
        self.delays = False

    def __enter__(self) -> "Hosts":
        lack = missing()
        if lack:
            raise FovealError(f"several hosts on this machine: {lack}")
        remove_leftovers()
        THERE.add(self.prefix)
        self.folder = tempfile.TemporaryDirectory(prefix="foveal-hosts-")
        try:
            self.agent = Path(self.folder.name) / "agent"
            self.agent.write_text(AGENT.format(prefix=self.prefix))
            self.agent.chmod(0o755)
            self.build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def build(self) -> None:
        """Make the namespaces, the bridge and the cables."""
        hub = f"{self.prefix}-{HUB}"
        self.make(hub)
        call("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        call("ip", "-n", hub, "link", "set", "bridge", "up")
        for host in range(self.count):
            name, cable = f"{self.prefix}-{host}", f"cable{host}"
            self.make(name)
            call("ip", "-n", hub, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            call("ip", "-n", hub, "link", "set", cable, "master", "bridge", "up")
            call("ip", "-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            call("ip", "-n", name, "link", "set", "lo", "up")
            call("ip", "-n", name, "link", "set", "eth0", "up")
        self.delays = self.kernel_delays()
        self.set(self.link)

    def make(self, space: str) -> None:
        """Make a namespace."""
        call("ip", "netns", "add", space)
        self.made.append(space)

    def address(self, host: int) -> str:
        """Return a host's address."""
        return f"{NETWORK}.{host + 1}"

    def kernel_delays(self) -> bool:
        """Return whether this kernel has netem, which delays packets."""
        words = "tc", "-n", f"{self.prefix}-0", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "1us"
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def set(self, link: Link) -> None:
        """Let every cable have this rate and, where the kernel can, this delay, in both directions.

        Both are set where packets leave a host, and the rate also where they leave the switch, as several hosts may
        send to one.
        """
        self.link = link
        for host in range(self.count):
            self.shape(f"{self.prefix}-{host}", "eth0", link.rate, link.delay if self.delays else 0.0)
            if self.count > 2:
                self.shape(f"{self.prefix}-{HUB}", f"cable{host}", link.rate, 0.0)

    def shape(self, space: str, device: str, rate: float | None, delay: float) -> None:
        """Let packets that leave a device have a rate and a delay."""
        subprocess.run(["tc", "-n", space, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
        begin = "tc", "-n", space, "qdisc", "add", "dev", device
        parent: tuple[str, ...] = ("root",)
        if delay:
            call(*begin, *parent, "handle", "1:", "netem", "delay", f"{1e6 * delay:.0f}us", "limit", "100000")
            parent = ("parent", "1:")
        if rate is not None:
            burst = max(BURST, int(rate / 8 / TICKS))
            shaped = "tbf", "rate", f"{rate:.0f}bit", "burst", str(burst), "latency", f"{QUEUE}ms"
            call(*begin, *parent, *shaped)

    def cut(self, host: int) -> tuple[str, ...]:
        """Return the command that cuts the cable of a host: packets are lost, and nobody is told."""
        return "ip", "-n", f"{self.prefix}-{HUB}", "link", "set", f"cable{host}", "down"

    def mpiexec(self, mpiexec: str, per_host: int = 1, options: Sequence[str] = ()) -> list[str]:
        """Return the beginning of a command that starts ranks on all hosts, from host 0: Open MPI's mpiexec.

        mpiexec: its path. What follows it is the program. The environment has to be that of `environment`.
        """
        hosts = ",".join(f"{self.address(host)}:{per_host}" for host in range(self.count))
        words = [mpiexec, "--prtemca", "plm_ssh_agent", str(self.agent), "--host", hosts]
        words += ["--mca", "btl_tcp_if_include", f"{NETWORK}.0/24", "--map-by", f"ppr:{per_host}:node", *options]
        return self.command(0, [*words, "-n", str(self.count * per_host)])

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """Return a command that runs another one on a host."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', f"host{host}"]
        return ["ip", "netns", "exec", f"{self.prefix}-{host}", *named, *words]

    def processes(self, host: int) -> list[int]:
        """Return the numbers of the processes that run on a host."""
        return processes(f"{self.prefix}-{host}")

    def remove(self) -> None:
        """End the processes on the hosts, and remove the namespaces with all that is in them."""
        while self.made:
            remove(self.made.pop())
        THERE.discard(self.prefix)
        self.folder.cleanup()


def environment() -> dict[str, str]:
    """Return the environment for Open MPI's mpiexec on several hosts.

    It may be run by root, binds no rank, and notices a host that cannot be reached.
    """
    allowed = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        # Of all hosts here.
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    alive = {f"PRTE_MCA_oob_tcp_keepalive_{name}": str(value) for name, value in KEEPALIVE.items()}
    return {**os.environ, **allowed, **alive}


def call(*words: str) -> None:
    """Run a command. Raises FovealError with what it says if it fails."""
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise FovealError(
            f"several hosts on this machine: `{' '.join(words)}` fails: {ended.stderr.strip()}; a container may need"
            " more rights (NET_ADMIN, SYS_ADMIN), a kernel its modules veth, bridge and sch_tbf"
        )


def spaces() -> list[str]:
    """Return the names of this machine's network namespaces."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def processes(space: str) -> list[int]:
    """Return the numbers of the processes in a network namespace."""
    listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in listed.split()]


def remove(space: str) -> None:
    """End the processes in a namespace, all of which were started there, and remove it."""
    for number in processes(space):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def remove_leftovers() -> None:
    """Remove the namespaces of processes that were killed before they could do so."""
    for space in spaces():
        named = NAME.fullmatch(space)
        if named is None:
            continue
        hosts, owner = named.groups()
        # A process may have the number that another one had.
        there = hosts in THERE if int(owner) == os.getpid() else Path(f"/proc/{owner}").exists()
        if not there:
            remove(space)

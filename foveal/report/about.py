"""What a report says beside the results: how to repeat the run, and what the check of the data found."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

import foveal
from foveal.display import escaped
from foveal.report import page
from foveal.report.record import Record
from foveal.train.repeating import repeating

# Findings that are listed, and letters of one of their texts.
MAX_FINDINGS, MAX_TEXT = 50, 600
# Options that are no default, as they stand in metrics.json, and as they are typed.
OPTIONS = (
    "model",
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "schedule",
    "momentum",
    "momentum_low",
    "weight_decay",
    "clip_norm",
    "ema",
    "lookahead",
    "norm_bias_lr",
    "whiten",
    "tta",
    "seed",
    "accumulate",
    "memory",
)


def repeat(record: Record) -> str:
    """Return the section about the command, the versions and the seed."""
    rows = [["seed", record.run.get("seed", record.metrics.get("seed"))]]
    versions = record.run.get("versions")
    if isinstance(versions, Mapping):
        rows += [[name, value] for name, value in versions.items()]
    else:
        rows += [["foveal", record.metrics.get("foveal", "unknown")]]
        rows += [["for this report: foveal", foveal.__version__], ["NumPy", np.__version__]]
        rows += [["Python", platform.python_version()], ["machine", f"{platform.system()} {platform.machine()}"]]
    shown = [[str(name), str(value)] for name, value in rows if value is not None]
    settings = [[name, str(value)] for name, value in record.metrics.items() if is_setting(name, value)]
    more = page.folded("All settings", page.table("", ["setting", "value"], settings)) if settings else ""
    note = "The same bits come out on the same type of machine, on any number of threads."
    return (
        f"<pre>{escaped(command(record))}</pre>{page.paragraph(note, 'soft')}"
        f"{page.table('', ['what', 'value'], shown)}{more}"
    )


def is_setting(name: str, value: object) -> bool:
    """True for what decides about a run, of what metrics.json holds."""
    return isinstance(value, str | int | float | bool | None) and name not in ("seconds", "images_per_second")


def command(record: Record) -> str:
    """Return the command that trains the same again: the one that was typed, or what metrics.json says.

    What --minutes chose stands in its place.
    """
    called = record.run.get("command")
    words = called.get("words") if isinstance(called, Mapping) else None
    if isinstance(words, list) and words:
        return shlex.join(repeating(words, called, record.metrics))
    options: list[str] = []
    for name in OPTIONS:
        value = record.metrics.get(name)
        if value is not None:
            options += [f"--{name.replace('_', '-')}", f"{value:.15g}" if isinstance(value, float) else str(value)]
    return shlex.join(["foveal", "train", str(record.metrics.get("data", "DATA")), *options])


def findings(record: Record) -> str:
    """Return the section about what the check of the data found; nothing where there was none."""
    if not record.doctor:
        return ""
    found = record.doctor.get("findings")
    listed = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    rows = [
        [told(one, "severity"), told(one, "count"), told(one, "text"), told(one, "way_out")]
        for one in listed[:MAX_FINDINGS]
    ]
    more = f"The first {len(rows)} of {len(listed):,}." if len(listed) > len(rows) else ""
    if not rows:
        return page.paragraph("The check of the data found nothing to complain about.")
    return page.table(more, ["severity", "images", "what", "way out"], rows)


def told(finding: Mapping[str, Any], name: str) -> str:
    """Return a field of a finding as text of bounded length."""
    text = str(finding.get(name, ""))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

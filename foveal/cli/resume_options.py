"""Options of `foveal train` for what is left on the way, and for going on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from foveal.cli.options import NOT_NEGATIVE, TYPED

# What may be given beside --resume: it changes no bit of what the run gives. A longer run is checked by itself.
HARMLESS = {
    "threads",
    "quiet",
    "as_json",
    "out",
    "resume",
    "checkpoint_minutes",
    "data",
    "data_dir",
    "epochs",
    "rank_timeout",
    "elastic",
}
HARMLESS |= {"report", "checked"}
# What a run does not keep of its options.
NOT_KEPT = {"data", "out", "resume", "as_json", "quiet", "compile_only", "report", "rank_timeout", "elastic"}


def resume_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in (
        click.option(
            "--checkpoint-minutes",
            type=NOT_NEGATIVE,
            default=3.0,
            show_default=True,
            help="Write the state of the training this often within an epoch, to go on from; 0: after each step.",
        ),
        click.option(
            "--resume",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="RUN",
            help="Go on with the run in this folder, to the same result, with the options that it was started with.",
        ),
    ):
        command = option(command)
    return command


@dataclass
class Call:
    """What `foveal train` is to do."""

    data: str
    #: The folder of the run; None for the default.
    out: Path | None
    options: dict[str, Any]
    #: Those of image files, which say how the data are read.
    images: dict[str, Any]
    #: What stands in run.json, from which `--resume` makes the call again.
    command: dict[str, Any]
    #: True for a run that has nothing left to do.
    ended: bool = False


def call_of(
    ctx: click.Context,
    data: str | None,
    out: Path | None,
    resume: Path | None,
    options: dict[str, Any],
    images: dict[str, Any],
) -> Call:
    """Return what is to be done: what the command line says, or what a run was started with.

    Raises FovealError for a run that cannot go on, and for options that would change its result.
    """
    if resume is not None:
        return resumed(ctx, resume, data, out, options, images)
    if data is None:
        raise click.MissingParameter(ctx=ctx, param=next(p for p in ctx.command.params if p.name == "data"))
    place = os.path.abspath(data) if os.path.exists(data) else data
    kept = {name: value for name, value in (options | images).items() if name not in NOT_KEPT}
    return Call(data, out, options, images, {"words": words(ctx), "data": place, "options": as_json_values(kept)})


def as_json_values(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON has them: paths as text, tuples as lists."""
    found: dict[str, Any] = json.loads(json.dumps(options, default=str))
    return found


def given(ctx: click.Context) -> dict[str, click.Parameter]:
    """Return the parameters that were given, and not left at their defaults."""
    default = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP, None)
    return {p.name: p for p in ctx.command.params if p.name and ctx.get_parameter_source(p.name) not in default}


def words(ctx: click.Context) -> list[str]:
    """Return the command, word by word, as it was typed."""
    return ["foveal", "train", *ctx.meta[TYPED]]


def resumed(
    ctx: click.Context, run: Path, data: str | None, out: Path | None, options: dict[str, Any], images: dict[str, Any]
) -> Call:
    """Return what a run was started with, with the options beside it that change nothing."""
    from foveal.errors import ArgumentError, DataError
    from foveal.train.run_file import ENDED, check_settings, read_facts

    facts = read_facts(run)
    command, settings = facts.get("command"), facts["settings"]
    if not isinstance(command, dict) or not isinstance(command.get("options"), dict):
        raise DataError(
            f"{run}: this run was started by a program and not by `foveal train`: let that go on with it, by"
            f" train.train(..., resume={str(run)!r})"
        )
    stored, chosen, parameters = command["options"], options | images, given(ctx)
    if unknown := sorted(stored.keys() - chosen.keys()):
        raise DataError(f"{run}: it was started with {', '.join(unknown)}, an option that this Foveal does not have")
    # Those that the command left open were chosen when the run began.
    before = {
        name: settings.get(name) if value is None and name != "threads" else value for name, value in stored.items()
    }
    # What was found out when the run began is not looked for again: the epochs that fit into a time, and a rate.
    if before.get("minutes") is not None:
        before |= {"minutes": None, **{name: settings[name] for name in ("model", "epochs")}}
    if before.get("lr") == "auto":
        before["lr"] = settings["lr"]
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name in parameters and name not in HARMLESS:
            own = as_json_values({name: chosen.get(name, ctx.params.get(name))})[name]
            if own != before.get(name):
                raise ArgumentError(
                    f"{parameter.opts[-1]} {own}: {run} was started with {before.get(name)}, and goes on to the same"
                    " result; leave it out, or begin another run"
                )
        elif name in before and name not in parameters:
            value = before[name]
            chosen[name] = parameter.type_cast_value(ctx, tuple(value) if isinstance(value, list) else value)
    if "epochs" in parameters:
        check_settings(settings, {**settings, "epochs": options["epochs"]}, run)
    longer = "epochs" in parameters and options["epochs"] > settings["epochs"]
    ended = facts["status"] == ENDED and not longer
    of_images = {name: chosen.pop(name) for name in images}
    return Call(data or str(command["data"]), out or run, chosen, of_images, command, ended)

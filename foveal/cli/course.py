"""foveal course: an assignment for students, and its grading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from foveal.cli.options import SEED, FiniteRange, echo, json_option, show_json

if TYPE_CHECKING:
    from foveal.course.grading.grades import Grade

# As FiniteRange(0) without 0 itself: limits of which something remains.
LIMIT = FiniteRange(0, 1e6, min_open=True)


@click.group("course")
def commands() -> None:
    """Teach with Foveal: make an assignment on the layers of a network, and grade what is handed in."""


@commands.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--solutions", is_flag=True, help="Also write the solutions, into DIR/solutions; for the teacher.")
@json_option
def new(folder: Path, solutions: bool, as_json: bool) -> None:
    """Make an assignment in DIR: Python files with blanks, data and a README.md, for students to work on.

    They write the layers of a convolutional network in NumPy, forwards and backwards, losses and optimisers, and train
    a network with them. DIR has to be new or empty.

    --json prints "files", the paths that were written.
    """
    from foveal.course.handout import new_assignment

    written = new_assignment(folder, solutions)
    if as_json:
        show_json({"files": [str(path) for path in written]})
        return
    echo(f"The assignment is in {folder}: {len(written)} files. {folder / 'README.md'} says how to work on it.")
    if solutions:
        echo(f"The solutions are in {folder / 'solutions'}; take them out before you hand the rest on.")
    echo(f"Check: foveal course check {folder}")


@commands.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="grades", show_default=True, help="Folder for grades.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of hidden sizes and numbers.")
@click.option("--exercise", "exercises", multiple=True, metavar="NAME", help="Grade this one only; can be repeated.")
@click.option(
    "--seconds", type=LIMIT, default=10.0, show_default=True, help="An exercise; six times that for `network`."
)
@click.option("--memory", type=LIMIT, default=2000.0, show_default=True, help="Megabytes that it may use.")
@click.option("--processes", type=click.IntRange(0, 1000), default=4, show_default=True, help="That it may start.")
@click.option("--file-size", type=LIMIT, default=16.0, show_default=True, help="Megabytes of a file that it writes.")
@click.option("--allow", multiple=True, metavar="PACKAGE", help="May be imported beside NumPy; can be repeated.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Submissions at a time.")
@json_option
def check(
    folders: tuple[Path, ...],
    out: Path,
    seed: int,
    exercises: tuple[str, ...],
    seconds: float,
    memory: float,
    processes: int,
    file_size: float,
    allow: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Grade submissions of the assignment; students check their own the same way: foveal course check .

    DIR is a submission, or a folder with one in each of its folders. Results are compared with Foveal's operators, in
    float64, on sizes and numbers that are drawn with --seed; give another one than students have seen. Gradients are
    compared as well, and the time of one exercise with that of loops.

    Every exercise runs in a process of its own, on a copy of the files and with limits: one that crashes, never ends or
    uses too much loses its points, and no others. That holds mistakes; it is no sandbox against malice.

    --out gets grades.csv (submission, exercise, points, of, passed, reason), and in a folder for each submission
    report.html and a report for each exercise in Markdown: what was called, what is right, what was returned. What is
    there already, of the same files and the same options, is kept. The status is 0 whatever the grades are.

    --json prints "out", "seed" and "submissions", each with "submission", "points", "most", "kept" and "exercises",
    each with "name", "points", "most", "passed", "reason" and its parts.
    """
    from foveal.course.grading.grade import grade

    def told(one: Grade) -> None:
        # Numbers of many submissions come one by one.
        kept = " (kept)" if one.kept else ""
        echo(f"{one.submission}: {one.points:g} of {one.most:g} points{kept}", err=as_json)

    grades = grade(
        folders,
        out,
        seed=seed,
        exercises=exercises,
        seconds=seconds,
        memory=memory,
        processes=processes,
        file_size=file_size,
        allow=allow,
        jobs=jobs,
        each=told,
    )
    if as_json:
        submissions = [one.as_json() | {"kept": one.kept} for one in grades.grades]
        show_json({"out": str(out), "seed": seed, "submissions": submissions})
        return
    echo(f"\n{grades}\n")
    if len(grades.grades) == 1:
        echo(f"What is wrong, and how to repeat it: {out / grades.grades[0].submission / 'report.html'}")
    else:
        echo(f"The table is {out / 'grades.csv'}; each folder in {out} has a report.html.")
    if note := not_limited():
        echo(note)


def not_limited() -> str:
    """Return which limits this system does not keep; nothing where it keeps all."""
    from foveal.course.grading.supervisor import ON_LINUX

    if ON_LINUX:
        return ""
    return (
        "This system limits neither the memory nor the number of processes here, nor does it show processes that have"
        " left their session; time and the size of files are limited."
    )

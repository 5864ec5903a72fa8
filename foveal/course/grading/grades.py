"""Grades: what was found of each exercise of each submission, as values, as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveal.course.grading.judge import Verdict
from foveal.display import Table, Tables


@dataclass(frozen=True)
class Result:
    """What was found of one exercise."""

    name: str
    title: str
    #: the file, without .py
    module: str
    verdicts: tuple[Verdict, ...]
    #: the beginning of what it printed
    printed: str = ""

    @property
    def points(self) -> float:
        return sum(one.points for one in self.verdicts)

    @property
    def most(self) -> float:
        return sum(one.most for one in self.verdicts)

    @property
    def passed(self) -> bool:
        """True if it has all points."""
        return not self.reason

    @property
    def reason(self) -> str:
        """What is wrong first, in a line; empty if nothing is."""
        return next((one.text.partition("\n")[0] for one in self.verdicts if one.text), "")


@dataclass(frozen=True)
class Grade:
    """What was found of a submission."""

    submission: str
    seed: int
    results: tuple[Result, ...]
    #: True if it was found before, of the same files and with the same settings
    kept: bool = False

    @property
    def points(self) -> float:
        return sum(one.points for one in self.results)

    @property
    def most(self) -> float:
        return sum(one.most for one in self.results)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        keys = ("name", "title", "module", "points", "most", "passed", "reason", "printed")
        exercises = [
            {key: getattr(one, key) for key in keys} | {"parts": [asdict(part) for part in one.verdicts]}
            for one in self.results
        ]
        totals = {"points": self.points, "most": self.most}
        return {"submission": self.submission, "seed": self.seed, **totals, "exercises": exercises}


def from_json(held: Mapping[str, Any]) -> Grade:
    """Return the grade that JSON holds, as one that was kept."""
    results = []
    for one in held["exercises"]:
        parts = []
        for part in one["parts"]:
            pairs = {name: tuple((key, text) for key, text in part[name]) for name in ("right", "returned")}
            parts.append(Verdict(**{**part, **pairs, "where": tuple(part["where"])}))
        results.append(Result(one["name"], one["title"], one["module"], tuple(parts), one["printed"]))
    return Grade(held["submission"], held["seed"], tuple(results), kept=True)


class Grades(Tables):
    """The grades of submissions; a table when printed, of one submission by exercise.

    grades: a Grade for each submission, with `submission`, `points`, `most` and `results`; each result with `name`,
    `points`, `most`, `passed`, `reason` and `verdicts`. out: the folder with grades.csv and a folder of reports for
    each submission.
    """

    def __init__(self, grades: list[Grade], out: Path) -> None:
        self.grades, self.out = grades, out

    def tables(self) -> Iterator[Table]:
        if len(self.grades) == 1:
            (grade,) = self.grades
            rows = [(one.name, f"{one.points:g}", f"{one.most:g}", one.reason) for one in grade.results]
            rows.append(("all", f"{grade.points:g}", f"{grade.most:g}", ""))
            yield grade.submission, ("exercise", "points", "of", "what is wrong first"), rows
            return
        rows = []
        for grade in self.grades:
            failed = [one.name for one in grade.results if not one.passed]
            rows.append((grade.submission, f"{grade.points:g}", f"{grade.most:g}", ", ".join(failed)))
        yield f"{len(self.grades)} submissions", ("submission", "points", "of", "not all points in"), rows

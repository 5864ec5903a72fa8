"""Grading: each exercise of each submission in a process of its own, with reports, in a folder that is resumed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import foveal
from foveal.course.grading.grades import Grade, Grades, Result, from_json
from foveal.course.grading.judge import Task, Verdict
from foveal.course.grading.reports import csv_table, markdown, page
from foveal.course.grading.session import Session
from foveal.course.grading.submissions import (
    MARK,
    TABLE,
    Submission,
    digest,
    files_of,
    remove,
    submissions_in,
    write_copy,
)
from foveal.course.grading.supervisor import Limits
from foveal.errors import ArgumentError, DataError
from foveal.files import write_whole

KEPT = "grade.json"


class Settings(NamedTuple):
    """What decides about a grade, beside the files."""

    seed: int
    exercises: tuple[str, ...]
    limits: Limits
    allow: tuple[str, ...]


def grade(
    submissions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "grades",
    *,
    seed: int = 0,
    exercises: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2000.0,
    processes: int = 4,
    file_size: float = 16.0,
    allow: Sequence[str] = (),
    jobs: int = 1,
    each: Callable[[Grade], None] | None = None,
) -> Grades:
    """Grade submissions of the assignment that `new_assignment` has written; return the grades, which print as a table.

    submissions: folders, each of which is a submission or holds one in each of its folders. out: a folder for
    grades.csv, with a line for each submission and exercise, and for a folder of reports for each submission; what
    was graded there before, of the same files and with the same settings, is kept. seed: of hidden sizes and numbers.
    exercises: names of those that are graded; all if none is given.

    Each exercise runs in a process of its own, on a copy of the submission, without standard input. seconds: how long
    it may take, six times as long for the one that trains. memory: megabytes of one process, and of all that it
    starts together. processes: how many others it may start. file_size: megabytes of a file that it writes. allow:
    packages beside NumPy that it may import. A limit that is passed, a crash and a process that goes on cost the
    exercise, and nothing else. This is no sandbox: it holds mistakes, not malice.

    jobs: how many submissions are graded at a time; more than one makes times less certain. each: is called with each
    Grade. Raises DataError for folders without exercises, names that do not do, and a folder `out` that holds
    anything else; ArgumentError for exercises that there are not, and numbers out of range.

        grades = course.grade("handed-in", out="grades", seed=1234)
    """
    if min(seconds, memory, file_size) <= 0 or processes < 0 or jobs < 1 or seed < 0:
        raise ArgumentError(
            f"grade: seconds is {seconds}, memory {memory}, file_size {file_size}, processes {processes}, jobs {jobs}"
            f" and seed {seed}; processes and seed have to be at least 0, jobs at least 1, the others more than 0"
        )
    # It imports layers and losses, which pages that draw figures do not need.
    from foveal.course.grading.tasks import tasks

    if sys.platform == "win32":
        raise DataError(
            "submissions run in processes with limits, which Windows does not have; grade on Linux or macOS"
        )
    chosen = chosen_tasks(tasks(seed), exercises)
    limits: Limits = {
        "seconds": seconds,
        "memory": int(memory * 1e6),
        "processes": processes,
        "file_size": int(file_size * 1e6),
    }
    settings = Settings(seed, tuple(task.name for task in chosen), limits, tuple(allow))
    paths = [submissions] if isinstance(submissions, str | os.PathLike) else submissions
    found, place = submissions_in([Path(path) for path in paths]), Path(out)
    make_folder(place)
    for task in chosen:
        task.prepare()
    return Grading(place, chosen, settings, each).run(found, jobs)


def chosen_tasks(known: Sequence[Task], names: Collection[str]) -> list[Task]:
    """Return the exercises with these names, all for none. Raises ArgumentError for others."""
    if unknown := sorted(set(names) - {task.name for task in known}):
        raise ArgumentError(
            f"grade: there is no exercise {unknown[0]!r}; there are {', '.join(task.name for task in known)}"
        )
    return [task for task in known if task.name in names or not names]


def make_folder(place: Path) -> None:
    """Make the folder of grades. Raises DataError for one that holds anything that is no grade."""
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not (place / MARK).exists())):
        raise DataError(
            f"{place} is there and holds no grades, and nothing is written over; give another folder for them (--out)"
        )
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / MARK, b"Grades that `foveal course check` has written.\n")


class Grading:
    """One run: submissions one after the other, or some at a time, with the table kept up to date."""

    def __init__(
        self, place: Path, chosen: Sequence[Task], settings: Settings, each: Callable[[Grade], None] | None
    ) -> None:
        self.place, self.chosen, self.settings, self.each = place, chosen, settings, each
        self.done: dict[int, Grade] = {}
        self.lock = threading.Lock()
        # Of all threads: the sessions that run, and whether no other one shall begin.
        self.sessions: set[Session] = set()
        self.stopped = False

    def run(self, found: Sequence[Submission], jobs: int) -> Grades:
        """Grade submissions and return their grades, in their order."""
        if jobs == 1:
            for number, one in enumerate(found):
                self.one(number, one)
        else:
            with ThreadPoolExecutor(jobs) as pool:
                waiting = [pool.submit(self.one, number, one) for number, one in enumerate(found)]
                try:
                    for each in waiting:
                        each.result()
                except BaseException:
                    # After an error or Ctrl-C, what runs is ended, and what has not begun is left.
                    self.stop()
                    pool.shutdown(cancel_futures=True)
                    raise
        return Grades(self.in_order(), self.place)

    def stop(self) -> None:
        """End what runs; none of it is graded."""
        with self.lock:
            self.stopped = True
            for session in self.sessions:
                session.stop()

    def in_order(self) -> list[Grade]:
        return [self.done[number] for number in sorted(self.done)]

    def one(self, number: int, submission: Submission) -> None:
        """Grade a submission, or take what is kept of it, and write the table with it."""
        made = self.graded(submission)
        with self.lock:
            self.done[number] = made
            write_whole(self.place / TABLE, csv_table(self.in_order()).encode("utf-8", "replace"))
            if self.each is not None:
                self.each(made)

    def graded(self, submission: Submission) -> Grade:
        """Return the grade of a submission, and write its reports."""
        try:
            if submission.folder is None:
                return self.written(submission, "", self.without_files("No file of the assignment was found."))
            files = files_of(submission.folder)
        except (DataError, OSError) as error:
            return self.written(submission, "", self.without_files(f"It cannot be read: {error}"))
        key = digest(files, foveal.__version__, *self.settings)
        if kept := self.kept(submission, key):
            return kept
        return self.written(submission, key, tuple(self.result(task, files) for task in self.chosen))

    def kept(self, submission: Submission, key: str) -> Grade | None:
        """Return the grade that was found before of the same files and with the same settings, if there is one."""
        try:
            held = json.loads((self.place / submission.name / KEPT).read_text("utf-8"))
            return from_json(held["grade"]) if held["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def result(self, task: Task, files: dict[str, bytes]) -> Result:
        """Return what is found of one exercise, which runs on a copy of its own."""
        if f"{task.module}.py" not in files:
            missing = Verdict("all parts", 0.0, task.most(), f"There is no file {task.module}.py.")
            return Result(task.name, task.title, task.module, (missing,))
        folder = Path(tempfile.mkdtemp(prefix="foveal-course-"))
        try:
            write_copy(files, folder)
            limits: Limits = {**self.settings.limits, "seconds": self.settings.limits["seconds"] * task.times}
            session = Session(folder, limits, self.settings.allow)
            with self.lock:
                self.sessions.add(session)
            verdicts = tuple(task.grade(session))
            with self.lock:
                self.sessions.remove(session)
                if self.stopped:
                    raise CancelledError
            return Result(task.name, task.title, task.module, verdicts, session.end().printed)
        finally:
            remove(folder)

    def without_files(self, text: str) -> tuple[Result, ...]:
        """Return the results of a submission that has no files."""
        verdicts = [Verdict("all parts", 0.0, task.most(), text) for task in self.chosen]
        pairs = zip(self.chosen, verdicts, strict=True)
        return tuple(Result(task.name, task.title, task.module, (verdict,)) for task, verdict in pairs)

    def written(self, submission: Submission, key: str, results: tuple[Result, ...]) -> Grade:
        """Return a grade after its reports are written; what it is kept by comes last."""
        made = Grade(submission.name, self.settings.seed, results)
        folder = self.place / submission.name
        folder.mkdir(exist_ok=True)
        (folder / KEPT).unlink(missing_ok=True)
        for old in folder.glob("*.md"):
            old.unlink()
        contents = {f"{one.name}.md": markdown(made, one) for one in results} | {"report.html": page(made)}
        for name, text in contents.items():
            write_whole(folder / name, text.encode("utf-8", "replace"), synchronised=False)
        held = json.dumps({"key": key, "grade": made.as_json()})
        write_whole(folder / KEPT, held.encode(), synchronised=False)
        return made

"""What was found, as texts: a report for each exercise in Markdown, all of them as one HTML page, and the table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from foveal.course.grading.grades import Grade, Result
from foveal.course.grading.judge import Verdict
from foveal.display import escaped
from foveal.names import printable

COLUMNS = ("submission", "exercise", "points", "of", "passed", "reason")


def points(number: float) -> str:
    """Return points without digits that say nothing."""
    return f"{round(number, 2):g}"


def told(result: Result) -> Iterator[tuple[str, Verdict]]:
    """Yield what is wrong with an exercise, what is the same of several parts once, with the names of those parts."""
    wrong: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in result.verdicts:
        if verdict.text:
            # What is not written yet is the same in each case.
            wrong.setdefault((verdict.text, "" if verdict.blank else verdict.code), []).append(verdict)
    for verdicts in wrong.values():
        lost = sum(one.most - one.points for one in verdicts)
        yield (
            f"{'; '.join(one.title for one in verdicts)} ({points(lost)} point{'' if lost == 1 else 's'} lost)",
            verdicts[0],
        )


def texts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield what shows a fault beside the sentence: a title and lines of code, each."""
    if verdict.where:
        yield "In your code:", "\n".join(verdict.where)
    if verdict.code and not verdict.blank:
        yield "To repeat the call:", verdict.code
    for title, values in (("Right is:", verdict.right), ("Returned was:", verdict.returned)):
        if values and not verdict.blank:
            yield title, "\n".join(f"{name} = {text}" for name, text in values)


def markdown(grade: Grade, result: Result) -> str:
    """Return the report of an exercise."""
    lines = [
        f"# {result.title}: {points(result.points)} of {points(result.most)} points",
        "",
        f"File `{result.module}.py` of {printable(grade.submission)}, checked with seed {grade.seed}.",
        "",
        "| part | points | of |",
        "| --- | ---: | ---: |",
        *(f"| {one.title} | {points(one.points)} | {points(one.most)} |" for one in result.verdicts),
    ]
    for title, verdict in told(result):
        first, _, more = printable(verdict.text).partition("\n")
        lines += ["", f"## {title}", "", first]
        lines += fenced(more) if more else []
        for name, text in texts(verdict):
            lines += ["", name, *fenced(printable(text))]
    if result.printed:
        lines += ["", "## Printed", *fenced(printable(result.printed))]
    return "\n".join(lines) + "\n"


def fenced(text: str) -> list[str]:
    """Return the lines of a block that shows a text as it stands, whatever is in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return ["", fence, text, fence]


def page(grade: Grade) -> str:
    """Return all reports of a submission as one HTML page, which loads and runs nothing."""
    # It imports what reports of training runs need, which pages that draw figures do not.
    from foveal.report.page import Section, document, folded, paragraph, table

    rows = [(one.title, f"{one.module}.py", points(one.points), points(one.most)) for one in grade.results]
    sections = [Section("points", "Points", table("", ("exercise", "file", "points", "of"), rows))]
    for result in grade.results:
        content = ""
        for title, verdict in told(result):
            content += f"<h3>{escaped(title)}</h3>"
            first, _, more = verdict.text.partition("\n")
            content += paragraph(first) + (f"<pre>{escaped(more)}</pre>" if more else "")
            for name, text in texts(verdict):
                content += f"{paragraph(name)}<pre>{escaped(text)}</pre>"
        content += folded("What it printed", f"<pre>{escaped(result.printed)}</pre>" if result.printed else "")
        if content:
            heading = f"{result.title}: {points(result.points)} of {points(result.most)}"
            sections.append(Section(result.name, heading, content))
    head = paragraph(f"{points(grade.points)} of {points(grade.most)} points, checked with seed {grade.seed}.")
    return document(grade.submission, head, sections, "")


def csv_table(grades: Iterable[Grade]) -> str:
    """Return the table of all grades: a line for each submission and exercise, in the order of COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for grade in grades:
        for one in grade.results:
            values = points(one.points), points(one.most), int(one.passed), cell(one.reason)
            writer.writerow((cell(grade.submission), one.name, *values))
    return text.getvalue()


def cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula, in one line."""
    line = " ".join(printable(text).split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line

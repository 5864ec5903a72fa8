"""The fuzzing command: see tests/fuzz/__init__.py. Ends with status 1 if there is a finding."""

import argparse
import collections
import os
import sys
import tempfile
from pathlib import Path

from .judge import Case
from .pool import judged
from .samples import SAMPLES

GOOD = ("read", "refused")


def keep(case: Case, folder: Path) -> Path:
    """Write the damaged file of a case into the folder and return its path."""
    name, files = case.files()
    path = folder / f"{case.format}-{case.seed}-{case.number}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files[name])
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Read damaged files of every format.")
    parser.add_argument("--files", type=int, default=1000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0, help="of all files")
    parser.add_argument("--format", choices=SAMPLES, help="this format alone")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this file of the format alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    default = Path(tempfile.gettempdir()) / "foveal-fuzz"
    parser.add_argument("--keep", type=Path, default=default, metavar="FOLDER", help="where files of findings go")
    options = parser.parse_args()
    formats = [options.format] if options.format else list(SAMPLES)
    # The valid sample of each format first, which is number 0.
    each = -(-options.files // len(formats))
    numbers = range(each + 1) if options.only is None else [options.only]
    cases = [Case(format, options.seed, number) for number in numbers for format in formats]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for case, kind, details in judged(cases, max(1, min(options.jobs, len(cases)))):
        counts[case.format, kind if kind in GOOD else "findings"] += 1
        if kind not in GOOD:
            path = keep(case, options.keep)
            print(
                f"{case.format}: {kind}: {details}\n    {path}\n    python -m tests.fuzz --format {case.format}"
                f" --seed {case.seed} --only {case.number}"
            )
    for format in formats:
        shares = ", ".join(f"{counts[format, word]} {word}" for word in (*GOOD, "findings"))
        print(f"{format} (seed {options.seed}): {shares}")
    return int(any(word == "findings" for _, word in counts))


sys.exit(main())

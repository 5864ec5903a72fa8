"""The session on a folder of photos that README shows: its commands are run, and what they print is compared."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import shapes

README = Path(__file__).parents[2] / "README.md"
# What differs between machines: times, speeds, the number of threads. Columns of tables are as wide as their numbers.
NUMBERS = re.compile(r"[\d.,]+|threads?|[─━┏┳┓┡╇┩└┴┘]+| +")


def session():
    """Return the commands of README's session, each with the lines that it prints."""
    block = re.search(r"```console\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    commands = [part.splitlines() for part in block.split("$ ")[1:]]
    return [(lines[0].split(), lines[1:]) for lines in commands]


def in_words(line):
    """Return a line without its numbers."""
    return NUMBERS.sub(" ", line).strip()


def run(words, place):
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8", check=True, timeout=300
    ).stdout.splitlines()


@pytest.fixture
def place(tmp_path):
    shapes.make(tmp_path)
    return tmp_path


@pytest.mark.long
def test_the_session_of_the_readme_prints_what_it_shows(place):
    commands = session()
    assert [words[:2] for words, _ in commands] == [["foveal", "data"], ["foveal", "train"], ["foveal", "predict"]]
    for words, shown in commands:
        printed = map(in_words, run(words, place))
        for line in shown:
            # In this order; "..." stands for lines that are left out.
            assert line == "..." or any(in_words(line) == found for found in printed), line
    code = re.search(r"    import foveal\n    classifier.*?\n\n", README.read_text(encoding="utf-8"), re.DOTALL)[0]
    program = "\n".join(line.strip() for line in code.splitlines())
    assert subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, check=True).stdout

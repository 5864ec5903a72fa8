"""foveal course: the assignment is made, and graded, by a teacher and by a student."""

import json

from click.testing import CliRunner

from foveal.cli import main
from foveal.course.handout import solution


def run(*words, status=0):
    result = CliRunner().invoke(main, ["course", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def test_an_assignment_is_made_once(tmp_path):
    folder = tmp_path / "hw"
    made = json.loads(run("new", folder, "--solutions", "--json").stdout)["files"]
    assert str(folder / "convolution.py") in made
    assert str(folder / "solutions" / "convolution.py") in made
    assert "is not an empty folder, and nothing in it is written over" in run("new", folder, status=2).stderr


def test_students_and_teachers_check_the_same_way(tmp_path, monkeypatch):
    (tmp_path / "all" / "ada").mkdir(parents=True)
    (tmp_path / "all" / "bob").mkdir()
    (tmp_path / "all" / "ada" / "sizes.py").write_text(solution("sizes"))
    monkeypatch.chdir(tmp_path / "all" / "ada")
    words = ("--exercise", "sizes", "--exercise", "relu", "--seconds", "60")
    own = run("check", ".", *words).stdout
    assert "ada: 5 of 10 points\n" in own
    assert "There is no file layers.py." in own
    assert "grades/ada/report.html" in own
    # The student's own grades are no part of what is handed in, and change no grade.
    document = json.loads(run("check", tmp_path / "all", *words, "--out", tmp_path / "out", "--json").stdout)
    first, second = document["submissions"]
    assert (first["submission"], first["points"], first["most"], first["kept"]) == ("ada", 5, 10, False)
    assert [one["passed"] for one in first["exercises"]] == [True, False]
    assert (second["submission"], second["points"]) == ("bob", 0)
    again = run("check", tmp_path / "all", *words, "--out", tmp_path / "out").stdout
    assert "ada: 5 of 10 points (kept)\n" in again
    assert "not all points in" in again


def test_what_cannot_be_is_one_message(tmp_path):
    assert "is no folder; give the folder of a submission" in run("check", tmp_path / "nix", status=2).stderr
    assert "not in the range" in run("check", tmp_path, "--seconds", "0", status=2).stderr

"""foveal docs: opens the pages that an installation carries, or says how they are built."""

import json
import sys
import webbrowser

import pytest
from click.testing import CliRunner

from foveal.cli import main


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """The addresses that were opened in a browser; the package is an empty folder."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    monkeypatch.setattr(sys.modules["foveal.cli.docs"], "files", lambda package: tmp_path)
    return addresses


def test_pages_that_are_there_are_opened(opened, tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text("<html></html>")
    index = tmp_path / "pages" / "index.html"
    result = CliRunner().invoke(main, ["docs"])
    assert (result.exit_code, result.stdout) == (0, f"{index}\n")
    assert opened == [index.as_uri()]
    assert CliRunner().invoke(main, ["docs", "--path"]).stdout == f"{index}\n"
    assert json.loads(CliRunner().invoke(main, ["docs", "--json"]).stdout)["index"] == str(index)
    assert len(opened) == 1


def test_where_no_pages_are_the_commands_that_build_them_are_told(opened):
    result = CliRunner().invoke(main, ["docs"])
    assert result.exit_code != 0
    assert "python -m sphinx -W --keep-going -j auto docs foveal/pages" in result.stderr
    assert "--group docs" in result.stderr
    document = json.loads(CliRunner().invoke(main, ["docs", "--json"]).stdout)
    assert document["index"] is None
    assert len(document["build"]) == 3
    assert opened == []

"""What a run has trained on is known again, however its data set is named later: by a table or by a folder."""

import os
import shutil

import pytest
from photos import folder, photo

from foveal import data
from foveal.data.scanning.membership import Division, written_parts


def recorded(files):
    """The division that a run on these files has in its run.json."""
    parts = ("train", "validation", "test")
    return Division.read(
        written_parts({part: [files.paths[row] for row in files.rows(part)] for part in parts}, files.folder), None
    )


def parts_of(files):
    """The part of each file by its absolute path."""
    return {os.path.abspath(path): str(part) for path, part in zip(files.paths, files.parts, strict=True)}


def table(place, root):
    """Write a table of the images below a folder, with paths relative to the table's own, and return its path."""
    place.parent.mkdir(exist_ok=True)
    rows = [f"{os.path.relpath(path, place.parent)},{path.parent.name}" for path in sorted(root.glob("*/*.png"))]
    place.write_text("\n".join(["path,label", *rows]))
    return place


@pytest.mark.parametrize("place", ["list.csv", "photos/list.csv", "lists/list.csv"])
def test_a_table_and_its_folder_are_divided_alike(tmp_path, place):
    root = folder(tmp_path / "photos")
    of_table, of_folder = (data.scan(path, seed=5) for path in (table(tmp_path / place, root), root))
    assert parts_of(data.scan(root, before=recorded(of_table))) == parts_of(of_table)
    assert parts_of(data.scan(tmp_path / place, before=recorded(of_folder))) == parts_of(of_folder)
    assert parts_of(data.scan(root)) != parts_of(of_table)


def test_a_folder_that_moved_is_known_by_a_table_with_others_beside_it(tmp_path):
    before = data.scan(folder(tmp_path / "photos"), seed=5)
    moved = shutil.copytree(tmp_path / "photos", tmp_path / "there" / "pictures")
    photo(tmp_path / "there" / "new" / "cat" / "x.png", seed=999)
    rows = [f"{path.relative_to(tmp_path / 'there')},{path.parent.name}" for path in moved.parent.glob("*/*/*.png")]
    (moved.parent / "list.csv").write_text("\n".join(["path,label", *sorted(rows)]))
    now = data.scan(moved.parent / "list.csv", before=recorded(before))
    found = parts_of(now)
    assert found.pop(str(tmp_path / "there" / "new" / "cat" / "x.png")) == "test"
    assert found == {path.replace("photos", "there/pictures"): part for path, part in parts_of(before).items()}
    assert "as in the training; 1 of them are new since" in repr(now)


def test_the_images_of_a_table_are_known_when_they_were_moved_without_it(tmp_path):
    before = data.scan(table(tmp_path / "list.csv", folder(tmp_path / "photos")), seed=5)
    there = shutil.copytree(tmp_path / "photos", tmp_path / "there" / "pictures")
    found = parts_of(data.scan(there, before=recorded(before)))
    assert found == {path.replace("photos", "there/pictures"): part for path, part in parts_of(before).items()}
    assert parts_of(data.scan(tmp_path / "list.csv", before=recorded(before))) == parts_of(before)


def test_files_of_one_folder_are_not_known_by_their_names_alone(tmp_path):
    lines = [f"photos/cat{k}.png,{'cat' if k % 2 else 'dog'}" for k in range(40)]
    for k in range(40):
        photo(tmp_path / "photos" / f"cat{k}.png", seed=k)
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    before = data.scan(tmp_path / "list.csv", seed=5)
    assert parts_of(data.scan(tmp_path / "list.csv", before=recorded(before))) == parts_of(before)
    shutil.copytree(tmp_path / "photos", tmp_path / "there" / "others")
    (tmp_path / "there" / "list.csv").write_text("\n".join(["path,label", *lines]).replace("photos", "others"))
    other = data.scan(tmp_path / "there" / "list.csv", before=recorded(before))
    assert "none of these files was in the training" in repr(other)


def test_files_of_which_a_run_had_none_are_divided_anew_and_that_is_said(tmp_path):
    before = recorded(data.scan(folder(tmp_path / "photos")))
    other = data.scan(folder(tmp_path / "others", name="{}.other.png"), before=before)
    assert "drawn with seed 0; none of these files was in the training, by name and size" in repr(other)
    assert "in the training" not in repr(data.scan(tmp_path / "others", before=Division()))

"""The data doctor on a folder with one planted fault of each kind, and on arrays: all are found, and nothing else."""

import html
import json
import os
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal
from foveal import data
from foveal.cli import main
from foveal.cli.data import check_before
from foveal.doctor import check, duplicates
from foveal.doctor.looks import Looks, hashes, on_grid
from foveal.doctor.oddities import robust_z
from foveal.errors import DataError

CLASSES = ("disc", "stripes")


def drawing(kind, rng, size=(64, 48)):
    """A coloured picture of smooth noise that no other one is like, with a disc or stripes."""
    width, height = size
    small = Image.fromarray(rng.integers(40, 216, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int)
    y, x = np.mgrid[:height, :width]
    mark = (x - width / 2) ** 2 + (y - height / 2) ** 2 < 100 if kind == "disc" else x // 6 % 2 == 0
    return Image.fromarray((pixels + 30 * mark[..., None]).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """24 training and 20 test images of each of two classes."""
    root, rng = tmp_path_factory.mktemp("doctor") / "photos", np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 4), ("test", 20)):
        for kind in CLASSES:
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                drawing(kind, rng).save(root / part / kind / f"{i:02d}.png")
    return root


@pytest.fixture
def photos(clean, tmp_path):
    """A copy of those, to plant faults in."""
    return shutil.copytree(clean, tmp_path / "photos")


def names(finding):
    return [[os.path.basename(example.image) for example in group] for group in finding.groups]


def checked(folder, **options):
    return check(data.scan(folder, quiet=True, **options), quiet=True)


def test_nothing_is_said_against_a_clean_folder(clean):
    findings = checked(clean)
    assert findings.findings == ()
    assert findings.facts["parts"] == {"train": 48, "validation": 8, "test": 40}
    assert findings.overview() == "photos: 96 images (48 train, 8 validation, 40 test), 2 classes, all 64x48"
    assert findings.verdict().startswith("nothing to say against it; checked in")


def test_files_that_are_no_images_are_named(photos):
    disc = photos / "train" / "disc"
    whole = (disc / "00.png").read_bytes()
    (disc / "cut.png").write_bytes(whole[: len(whole) // 2])
    (disc / "text.png").write_text("no image" * 9)
    Image.new("L", (10_000, 6_000)).save(disc / "bomb.png")
    drawing("disc", np.random.default_rng(9)).save(disc / "really.png", format="JPEG")
    os.mkfifo(disc / "pipe.png")
    findings = checked(photos)
    for kind, name, severity in (
        ("truncated", "cut.png", "error"),
        ("unreadable", "text.png", "error"),
        ("hostile", "bomb.png", "error"),
        ("wrong extension", "really.png", "warning"),
    ):
        found = findings.of(kind)
        assert (names(found), found.count, found.severity) == ([[name]], 1, severity)
        assert found.way_out
    # what is no file is left out too, and never opened
    assert "pipe.png" in str(findings)
    assert findings.errors == 3


def test_copies_are_found_where_they_are(photos):
    train, test = photos / "train", photos / "test"
    shutil.copy(train / "disc/00.png", train / "disc/copy.png")
    shutil.copy(train / "disc/01.png", test / "disc/leak.png")
    shutil.copy(train / "disc/02.png", train / "stripes/wrong.png")
    # the same pixels in other bytes
    Image.open(train / "disc/03.png").save(train / "disc/pixels.bmp")
    # nearly the same
    Image.open(train / "disc/04.png").save(test / "disc/jpeg.jpg", quality=60)
    Image.open(train / "stripes/05.png").resize((56, 42)).save(train / "stripes/small.png")
    findings = checked(photos)
    assert names(findings.of("exact copies")) == [["00.png", "copy.png"], ["03.png", "pixels.bmp"]]
    assert sorted(names(findings.of("exact copies in two parts"))[0]) == ["01.png", "leak.png"]
    assert names(findings.of("exact copies in two classes")) == [["02.png", "wrong.png"]]
    assert sorted(names(findings.of("near copies in two parts"))[0]) == ["04.png", "jpeg.jpg"]
    assert names(findings.of("near copies")) == [["05.png", "small.png"]]
    # each under the gravest of what is wrong with it, and no other pair
    assert sum(len(f.groups) for f in findings.findings if "copies" in f.kind) == 6
    assert [f.severity for f in findings.findings] == sorted(
        (f.severity for f in findings.findings), key=["error", "warning", "note"].index
    )


def test_blank_images_are_no_copies_of_each_other(photos):
    for i, level in enumerate((0, 0, 1, 128, 255)):
        Image.new("RGB", (64, 48 + i), (level, level, level)).save(photos / f"train/disc/blank{i}.png")
    findings = checked(photos)
    assert findings.of("blank images").count == 5
    assert [f.kind for f in findings.findings if "copies" in f.kind] == []


def test_images_unlike_all_others_are_found(photos):
    rng, disc = np.random.default_rng(1), photos / "train/disc"
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(disc / "noise.png")
    drawing("disc", rng).point(lambda v: v // 16).save(disc / "dark.png")
    drawing("disc", rng, (640, 480)).save(disc / "large.png")
    drawing("disc", rng, (640, 40)).save(disc / "wide.png")
    outliers = {example.image.split("/")[-1]: example.note for (example,) in checked(photos).of("outliers").groups}
    assert {"dark.png", "large.png", "noise.png", "wide.png"} <= set(outliers)
    assert "size (" in outliers["large.png"]
    assert "shape (" in outliers["wide.png"]
    assert "brightness (-" in outliers["dark.png"]
    assert "detail (+" in outliers["noise.png"]
    # 96 others, of which a few are far from the median of so few
    assert len(outliers) <= 6
    mixed = checked(photos).of("mixed shapes")
    assert names(mixed) == [["wide.png"]]
    # The way out names what can be done: no option of the command crops.
    assert "stretches them: cut them" in mixed.way_out


def test_grey_images_are_graver_where_they_give_a_class_away(photos):
    grey = Image.open(photos / "train/disc/00.png").convert("L")
    grey.save(photos / "train/disc/00.png")
    assert checked(photos).of("grey and colour mixed").severity == "note"
    for path in photos.glob("*/stripes/*.png"):
        Image.open(path).convert("L").save(path)
    found = checked(photos).of("grey and colour mixed")
    assert found.severity == "warning"
    assert "of stripes 100% are grey, of disc 2%" in found.text


def test_classes_that_are_small_uneven_or_absent_are_named(photos):
    for path in sorted((photos / "train/disc").iterdir())[3:]:
        path.unlink()
    shutil.rmtree(photos / "test/disc")
    findings = checked(photos)
    assert "(disc: 3)" in findings.of("classes with few images").text
    assert findings.of("classes with few images").severity == "warning"
    assert "stripes, has 8.0 times as many" in findings.of("imbalance").text
    assert "--balance" in findings.of("imbalance").way_out
    assert "(disc)" in findings.of("classes absent from test").text


@pytest.fixture
def arrays():
    """Images as arrays, floats of another range than 0 to 1; the first test image is a training image."""
    rng = np.random.default_rng(2)
    x = np.stack([np.asarray(drawing("disc", rng, (16, 16))) for _ in range(60)]).astype(np.float32) * 4 - 300
    y = np.arange(60) % 2
    x[50] = x[3]
    return data.from_arrays("mine", x[:50], y[:50], x[50:], y[50:], classes=CLASSES)


def test_arrays_are_checked_like_files(arrays):
    findings = check(arrays, quiet=True)
    (leak,) = findings.of("exact copies in two parts").groups
    assert [example.image for example in leak] == ["train[3]", "test[0]"]
    # the label of the one is the second class
    assert findings.of("exact copies in two classes").count == 2
    assert foveal.doctor.check is check
    assert "the same image is in two parts" in findings._repr_html_()
    absent = data.from_arrays(
        "two of three", *2 * (arrays.images_train, arrays.y_train), classes=(*CLASSES, "not there")
    )
    assert check(absent, quiet=True).of("classes absent from train").severity == "error"


def test_the_command_prints_text_json_and_a_page(photos, tmp_path):
    shutil.copy(photos / "train/disc/01.png", photos / "test/disc/<leak>.png")
    page = tmp_path / "page.html"
    run = CliRunner().invoke(main, ["data", "check", str(photos), "--html", str(page)])
    assert run.exit_code == 0
    assert "error: Once the same image is in two parts (1 in test and train)" in run.stdout
    assert "1 error, " in run.stdout or "1 error;" in run.stdout
    text = page.read_text()
    assert "&lt;leak&gt;.png" in text
    assert "<leak>" not in text
    # two pictures, and nothing from elsewhere
    assert len(re.findall('src="data:image/png;base64,', text)) == 2
    assert not re.search(r"(src|href)=\"(?!data:)|https?://|@import|<script", html.unescape(text))
    strict = CliRunner().invoke(main, ["data", "check", str(photos), "--json", "--strict"])
    assert strict.exit_code == 1
    found = json.loads(strict.stdout)
    assert (found["data"], found["images"], found["errors"]) == ("photos", 97, 1)
    assert [f["kind"] for f in found["findings"]] == ["exact copies in two parts"]
    assert len(found["findings"][0]["examples"][0]) == 2


def test_what_cannot_be_checked_or_written_is_one_message(photos, tmp_path):
    run = CliRunner().invoke(main, ["data", "check", str(photos), "--html", str(tmp_path / "absent" / "page.html")])
    assert (run.exit_code, "choose another file" in run.stderr) == (2, True)
    run = CliRunner().invoke(main, ["data", "check", "digits", "--group-by", "x"])
    assert (run.exit_code, "--group-by is for image files" in run.stderr) == (2, True)


def test_a_check_before_training_is_brief_and_kept(photos, capsys):
    shutil.copy(photos / "train/disc/01.png", photos / "test/disc/leak.png")
    dataset = data.scan(photos, quiet=True).dataset((24, 32), quiet=True)
    found = json.loads(json.dumps(check_before(dataset, strict=False, quiet=False, err=False)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data check: 1 error; checked in")
    assert lines[1].startswith("  error: Once the same image is in two parts")
    assert {example["image"].rsplit("/", 1)[-1] for example in found["findings"][0]["examples"][0]} == {
        "01.png",
        "leak.png",
    }
    with pytest.raises(DataError, match="leave out --strict to go on"):
        check_before(dataset, strict=True, quiet=True, err=False)
    # Arrays are not checked.
    assert check_before(data.load("digits"), strict=True, quiet=False, err=False) is None


def test_candidates_are_all_pairs_that_differ_in_three_bits():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2**63, 500, dtype=np.uint64)
    flipped = base.copy()
    for i in range(500):
        for bit in rng.permutation(64)[: i % 4]:
            flipped[i] ^= np.uint64(1) << np.uint64(bit)
    pairs, cut = duplicates.candidates(np.concatenate([base, flipped]))
    assert not cut
    assert {(i, i + 500) for i in range(500)} <= set(map(tuple, pairs.T.tolist()))
    assert len(pairs.T) < 510


def test_many_images_of_one_hash_are_not_all_compared():
    pairs, cut = duplicates.candidates(np.zeros(2000, np.uint64))
    assert cut
    assert len(pairs.T) < 2000 * 64
    looks = Looks.empty(300)
    rng = np.random.default_rng(4)
    one = np.asarray(drawing("disc", rng, (32, 32)))[None]
    looks.put(np.arange(300), np.repeat(one, 300, axis=0))
    looks.pixels[:] = rng.integers(0, 255, looks.pixels.shape)
    # A chain of neighbours joins all of them.
    assert [len(group) for group in duplicates.copies(looks).near] == [300]


def test_hashes_follow_what_an_image_shows():
    rng = np.random.default_rng(5)
    images = np.stack([np.asarray(drawing("disc", rng, (48, 40)), np.float32).transpose(2, 0, 1) for _ in range(50)])
    darker, noisy = images * 0.7 + 10, images + rng.normal(0, 4, images.shape).astype(np.float32)
    own, dark, noise = (hashes(on_grid(x) @ np.float32([0.299, 0.587, 0.114])) for x in (images, darker, noisy))
    assert duplicates.bits_apart(own, dark).max() <= 4
    assert duplicates.bits_apart(own, noise).max() <= 4
    others = duplicates.bits_apart(own, np.roll(own, 1))
    assert others.min() > 12


def test_the_robust_score_is_that_of_iglewicz_and_hoaglin():
    """Their example, section 3.3: the last of these numbers has the score 0.6745 * 8 / 0.5, say."""
    values = np.array([2.0, 2.5, 3.0, 3.5, 11.0])
    assert robust_z(values) == pytest.approx(0.6745 * (values - 3.0) / 0.5)
    assert robust_z(np.ones(5)).tolist() == [0.0] * 5
    assert robust_z(np.array([1.0] * 9 + [2.0]))[-1] == pytest.approx(1 / (1.2533 * 0.1))

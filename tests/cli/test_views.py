"""foveal explain --view: each view of a run and of a model by its name, its file, its JSON, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from photos import photo

from foveal import data, explain
from foveal.cli import main
from foveal.cli.image_views import VIEWS
from foveal.explain import panels
from foveal.train.checkpoint import load_net

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of one epoch on the digits, and a photo."""
    folder = tmp_path_factory.mktemp("views")
    words = ["train", "digits", "--epochs", "1", "--batch-size", "128", "--quiet", "--no-report"]
    assert CliRunner().invoke(main, [*words, "--out", str(folder / "run")]).exit_code == 0
    photo(folder / "photo.png", height=20, width=30)
    return folder


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def invoke(*words):
    return CliRunner().invoke(main, ["explain", *map(str, words)])


# Views of a training are drawn in test_view_training.py.
@pytest.mark.parametrize("view", VIEWS)
def test_each_view_of_a_run_is_drawn_from_its_own_data(place, view):
    result = invoke("run", "--view", view, "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["view"], told["trained"]) == (view, True)
    content = (place / "run" / f"explain-{view}.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert told["arrays"]
    again = invoke("run", "--view", view)
    assert again.exit_code == 2
    assert "is there already; --force overwrites it" in again.stderr


def test_the_values_are_those_of_the_library(place):
    told = json.loads(invoke("run", "--view", "gradients", "--data", "digits", "--out", "g.svg", "--json").stdout)
    net, trained = load_net("run")
    x = np.asarray(data.load("digits").images_test[:3])
    x = ((x - np.float32(trained.mean[0])) / np.float32(trained.std[0])).astype("float32")
    found = explain.saliency(net, x)
    assert told["arrays"]["gradient"]["max"] == pytest.approx(float(found.values.max()), rel=1e-3)
    assert told["classes"] == [trained.classes[k] for k in found.target]
    assert (place / "g.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_figure_says_what_each_of_its_pictures_is(place, monkeypatch):
    drawn = {}

    def sheet(rows, title=""):
        drawn["titles"] = [title, *(panel.title for panel in rows[0])]
        return real(rows, title)

    real = panels.sheet
    monkeypatch.setattr(panels, "sheet", sheet)
    result = invoke("run", "--view", "cam", "--class", "7", "--layer", "conv4", "--out", "t.png", "--force")
    assert result.exit_code == 0, result.output
    variants = ["guided backpropagation", "guided Grad-CAM"]
    assert drawn["titles"] == ["What speaks for the class, at conv4: run", "test image 0", "7: Grad-CAM", *variants]
    result = invoke("run", "--view", "gradients", "--class", "7", "--out", "t.png", "--force")
    assert "sum to its logit less that of an image of the mean colour, up to" in " ".join(result.output.split())
    assert drawn["titles"][2] == "7: gradient"
    assert drawn["titles"][3].startswith("integrated: sum ")


def test_a_photo_is_read_as_the_run_reads_images(place):
    result = invoke("run/model.safetensors", "--view", "cam", "--image", "photo.png", "--class", "7", "--out", "c.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "The view is at c.html."
    page = (place / "c.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "<script" not in page


def test_a_model_by_its_name_is_said_to_be_untrained(place):
    result = invoke("lenet5", "--view", "filters", "--json")
    assert result.exit_code == 0, result.output
    assert "lenet5 is not trained" in result.stderr
    assert json.loads(result.stdout)["trained"] is False
    assert (place / "explain-filters.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--view", "cam", "--unit", "3"], "--unit: the view cam does not take it, but --layer, --class"),
        (["run", "--view", "maps", "--layer", "con1"], "SmallNet has no such layer; did you mean 'conv1'"),
        (["run", "--view", "cam", "--class", "ten"], "--class ten: the model knows the classes 0, 1"),
        (["run", "--view", "cam", "--image", "nix.png"], "nix.png: no such image"),
        (["run", "--view", "cam", "--image", "photo.png", "--data", "digits"], "--image and --data are both given"),
        (["run", "--view", "filters", "--out", "f.pdf"], "f.pdf: ends in none of .png, .svg, .html"),
        (["run", "--view", "filters", "--batch", "2"], "--batch is for the table"),
        (["run", "--view", "filters", "--classes", "3"], "--input and --classes are for a model by its name"),
        (["run", "--layer", "conv1"], "--layer is for a view; leave it out, or name one by --view"),
        (["lenet5", "--view", "maps"], "has no images of its own; name images by --image FILE"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(place, words, message):
    before = sorted(place.rglob("*"))
    result = invoke(*words, *(["--force"] if "--view" in words else []))
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(place.rglob("*")) == before


def test_a_run_whose_data_are_gone_says_so(place):
    shutil.copytree("run", "moved")
    described = json.loads((place / "moved" / "run.json").read_text(encoding="utf-8"))
    described["command"]["data"] = "/nowhere/photos"
    (place / "moved" / "run.json").write_text(json.dumps(described), encoding="utf-8")
    result = invoke("moved", "--view", "cam", "--out", "m.png")
    assert result.exit_code == 2
    assert "the data that it was trained on, /nowhere/photos, are not there any more; name images" in result.stderr
    (place / "moved" / "run.json").unlink()
    assert "nothing says which data it was trained on" in invoke("moved", "--view", "cam", "--out", "m.png").stderr


def test_a_picture_of_code_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr(explain, "kernels", lambda *given: pytest.fail("it was computed"))
    result = invoke("run", "--view", "kernels", "--out", "k.png")
    assert (result.exit_code, "give a name that ends in .html" in result.stderr) == (2, True)


def test_how_often_a_loss_is_computed_is_said():
    assert "256 images at 225 points" in invoke("run", "--view", "landscape", "--out", "l.png").stderr

"""A trained network that is called on photos: all kinds of sources, bad ones among them, from several threads."""

import gc
import json
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import foveal
from foveal import data, nn
from foveal.data.dataset import from_arrays
from foveal.errors import DataError, NumericsError
from foveal.kernel.compile import statistics
from foveal.train import Classifier, Prediction, load_net, predict, train
from foveal.train import classifier as module

NAMES = ("dark", "middle", "bright")
VALUES = (20, 120, 230)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on 40 images of 8x8 in three brightnesses, and photos of them."""
    folder = tmp_path_factory.mktemp("classifier")
    y = np.arange(40) % 3
    x = (np.array(VALUES)[y][:, None, None] + np.random.default_rng(1).integers(-15, 16, (40, 8, 8))).astype("u1")
    # As many images and as large batches as in test_cli.py, so that most kernels are the same.
    train(
        from_arrays("set", x, y, x, y, classes=NAMES),
        epochs=10,
        batch_size=8,
        threads=1,
        out=folder / "run",
        quiet=True,
    )
    for name, value in zip(NAMES, VALUES, strict=True):
        Image.new("L", (9, 7), value).save(folder / f"{name}.png")
    (folder / "bad.png").write_bytes(b"hello")
    return folder


@pytest.fixture(scope="module")
def classifier(place):
    return foveal.load(place / "run")


def test_load_returns_a_classifier_of_a_run_and_a_network_of_another_file(place, classifier, tmp_path):
    assert isinstance(classifier, Classifier)
    assert classifier.classes == NAMES
    assert str(classifier) == "Classifier(small of set: 1x8x8 -> 3 classes)"
    assert isinstance(foveal.load(place / "run" / "model.safetensors"), Classifier)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net.save(tmp_path / "net.safetensors")
    assert isinstance(foveal.load(tmp_path / "net.safetensors"), nn.Sequential)
    # Into a network that is built already.
    built = load_net(place / "run")[0]
    assert foveal.load(place / "run", built) is built
    with pytest.raises(DataError, match="there is no such file"):
        foveal.load(tmp_path / "nothing")


def test_one_photo_of_any_kind(place, classifier):
    path = place / "bright.png"
    first = classifier(path)
    assert isinstance(first, Prediction)
    assert (first.source, first.label, first.none, first.error) == (str(path), "bright", False, None)
    assert first.probability == first.top[0].probability > 0.5
    assert [label for label, _ in first.top] == sorted(NAMES, key=lambda name: -dict(first.top)[name])
    pixels = np.full((7, 9), 230, "uint8")
    for source in (str(path), path.read_bytes(), Image.open(path), pixels, pixels[None], np.stack([pixels] * 3, 2)):
        assert classifier(source).top == first.top
    assert classifier(str(path), top=1).top == first.top[:1]
    # As the data set has it: bytes, and floats from 0 to 1.
    small = np.full((1, 8, 8), 230, "uint8")
    assert classifier(small).top == classifier(small / 255).top == classifier(small[0] / 255).top


def test_a_list_answers_the_good_ones(place, classifier):
    photos = [place / "dark.png", place / "bad.png", "nothing.png", 3, place / "bright.png"]
    found = classifier(photos)
    assert [one.label for one in found] == ["dark", None, None, None, "bright"]
    assert [one.source for one in found] == [str(photos[0]), str(photos[1]), "nothing.png", None, str(photos[4])]
    for one, message in zip(found[1:4], ("not a readable image", "no such image", "3 is no image"), strict=True):
        assert message in one.error
    assert classifier([]) == []
    assert [one.label for one in classifier(iter(photos[:1]))] == ["dark"]
    with pytest.raises(DataError, match="not a readable image"):
        classifier(photos[1])
    with pytest.raises(DataError, match="3 is no photo"):
        classifier(3)


def test_batches_and_what_they_are_refused_for(classifier):
    x = np.concatenate([np.full((n, 1, 8, 8), value, "uint8") for n, value in zip((7, 8, 5), VALUES, strict=True)])
    labels = [name for name, n in zip(NAMES, (7, 8, 5), strict=True) for _ in range(n)]
    assert [one.label for one in classifier(x)] == labels
    trained = classifier.description
    expected = predict(classifier.net, x, mean=trained.mean, std=trained.std)
    np.testing.assert_array_equal(classifier.probabilities(x).argmax(1), expected.argmax(1))
    np.testing.assert_allclose(classifier.probabilities(x).sum(1), 1)
    assert classifier.probabilities(x[:0]).shape == (0, 3)
    with pytest.raises(DataError, match=r"shape \[20, 8, 8\]; the network takes \[n, 1, 8, 8\]"):
        classifier.probabilities(x[:, 0])
    for wrong, message in (
        (np.full((1, 8, 8), 200.0), "floats from 200 to 200, and the network was trained on 0 to 1"),
        (np.full((1, 8, 8), np.nan), "NaN or infinity"),
        (np.full((9, 9), 0.5), "is no image"),
    ):
        with pytest.raises(DataError, match=message):
            classifier(wrong)
    for options in ({"top": 0}, {"none_below": 2.0}):
        with pytest.raises(DataError, match=next(iter(options))):
            classifier(x, **options)


def test_none_of_these_below_a_threshold(place, classifier):
    path = place / "bright.png"
    found = classifier(path, none_below=1.0)
    assert (found.label, found.none) == ("none of these", True)
    assert (found.top[0].label, found.probability) == ("bright", found.top[0].probability)
    strict = Classifier(classifier.net, replace(classifier.description, thresholds=(0.0, 0.0, 1.0)))
    answers = [[one.none for one in strict([place / "dark.png", path], **how)] for how in ({}, {"none_below": 0.0})]
    assert answers == [[False, True], [False, False]]


def test_the_temperature_changes_probabilities_and_no_class(place, classifier):
    warm = Classifier(classifier.net, replace(classifier.description, temperature=4.0))
    before, after = (one(place / "bright.png") for one in (classifier, warm))
    assert before.label == after.label
    assert before.probability > after.probability
    logits = np.log([score.probability for score in before.top]) / 4
    np.testing.assert_allclose([score.probability for score in after.top], np.exp(logits) / np.exp(logits).sum(), 1e-5)


def test_photos_are_read_as_the_training_images_were(place, classifier):
    image = Image.new("LA", (8, 8), (0, 0))
    assert classifier(image).label == "dark"
    white = replace(classifier.description, preprocessing=data.Preprocessing(1, (8, 8)))
    assert Classifier(classifier.net, white)(image).label == "bright"
    bytes_of_classes = replace(classifier.description, value_range=(0.0, 8.0))
    with pytest.raises(DataError, match="trained on pixels from 0 to 8, image files hold 0 to 1"):
        Classifier(classifier.net, bytes_of_classes)(image)


def test_eight_threads_call_at_once_and_get_the_right_answers(place, classifier):
    paths = [place / f"{name}.png" for name in NAMES]
    wrong = []

    def work(number):
        for i in range(12):
            place_of = (number + i) % 3
            one, several = classifier(paths[place_of]), classifier(paths[place_of:] + paths[:place_of])
            expected = [NAMES[(place_of + k) % 3] for k in range(3)]
            if one.label != expected[0] or [photo.label for photo in several] != expected:
                wrong.append((one, several))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_counts_compile_nothing_again(place, classifier):
    x = np.full((40, 1, 8, 8), 230, "uint8")
    for n in module.BATCHES:
        classifier(x[:n])
    before = statistics.compiled, len(compiled_programs(classifier))
    for n in (2, 3, 5, 11, 17, 40, 1):
        assert [one.label for one in classifier(x[:n])] == ["bright"] * n
    assert (statistics.compiled, len(compiled_programs(classifier))) == before


def compiled_programs(classifier):
    """All programs of the network that there are."""
    # Their types, since asking for the class of any object there is may run its code.
    return [one for one in gc.get_objects() if type(one) is foveal.program.Program]


def test_any_number_of_photos_passes_in_bounded_memory(place, classifier):
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield place / "bright.png"

    stream = classifier.stream(endless())
    for _ in range(50):
        assert next(stream).label == "bright"
    stream.close()
    assert len(drawn) < 50 + 200
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("foveal-data")]


def test_a_classifier_is_loaded_in_a_thread_copied_by_pickle_and_works_in_a_forked_child(place, classifier):
    found = []
    thread = threading.Thread(target=lambda: found.append(foveal.load(place / "run")(place / "dark.png").label))
    thread.start()
    thread.join()
    assert found == ["dark"]
    assert pickle.loads(pickle.dumps(classifier))(place / "dark.png") == classifier(place / "dark.png")
    child = os.fork()
    if not child:
        os._exit(0 if classifier([place / "dark.png", place / "bright.png"])[1].label == "bright" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_new_process_answers_with_three_lines_and_without_what_it_does_not_need(place):
    code = (
        "import foveal, json, sys\nclassifier = foveal.load('run')\nprint(json.dumps([classifier('dark.png').label,"
        " [name for name in ('matplotlib', 'sklearn', 'scipy', 'rich') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert (json.loads(done.stdout), done.stderr) == (["dark", []], "")


def test_outputs_that_are_no_classes_are_refused(place, classifier):
    fewer = replace(classifier.description, classes=("a", "b"))
    with pytest.raises(DataError, match="returns 3 numbers for an image and was trained on 2 classes"):
        Classifier(classifier.net, fewer)(place / "dark.png")
    net, description = load_net(place / "run")
    net.load_state_dict({"fc.bias": np.full(3, np.nan, "float32")}, strict=False)
    with pytest.raises(NumericsError, match="outputs hold NaN or infinity"):
        Classifier(net, description)(place / "dark.png")

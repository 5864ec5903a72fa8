"""Shapes in oneDNN's notation: what a line says, and the rows that files of them become."""

import pytest
from click.testing import CliRunner
from shared import VECTORS

from foveal.bench import operators, shapes
from foveal.bench.timing import Bench, operations
from foveal.cli import main
from foveal.errors import DataError

ALONE = Bench(threads=1, repeats=1, peak=1.0)
pytestmark = pytest.mark.usefixtures("hurried")


def axes(shape):
    return [(a.length, a.taps, a.stride, a.dilation, a.before, a.after, a.outputs) for a in (shape.rows, shape.columns)]


@pytest.mark.parametrize(
    ("line", "batch", "channels", "rows", "columns"),
    [
        # all given
        (
            'mb32_g1ic3oc32_ih224oh112kh3sh2dh0ph1_iw224ow112kw3sw2dw0pw1_n"mobilenet:conv1*3"',
            32,
            (3, 32, 1),
            (224, 3, 2, 1, 1, 1, 112),
            None,
        ),
        # the batch and the columns left out; padding below that changes no output is as above
        ('ic3ih224oc64oh112kh7sh2ph3n"resnet_50:conv1"', 2, (3, 64, 1), (224, 7, 2, 1, 3, 3, 112), None),
        # groups, no stride
        ('g2mb256ic96ih27oc256oh27kh5ph2n"alexnet:conv2"', 256, (96, 256, 2), (27, 5, 1, 1, 2, 2, 27), None),
        # no output given
        ("mb1ic16oc16_ih10kh5_ph7sh1", 1, (16, 16, 1), (10, 5, 1, 1, 7, 7, 20), None),
        # dilation counts from 0; more padding after than before
        ("ic1oc64_ih55oh18kh30sh3ph29dh2", 2, (1, 64, 1), (55, 30, 3, 3, 29, 29 + 26, 18), None),
        # less padding after than before
        ('ic32oc13_ih13oh12kh3ph1_n"tails"', 2, (32, 13, 1), (13, 3, 1, 1, 1, 0, 12), None),
        # padding from the output
        ('ic20oc32_ih13oh13kh3_n"tails"', 2, (20, 32, 1), (13, 3, 1, 1, 1, 1, 13), None),
        # columns alone
        ('ic3oc17_iw8ow4kw3pw1sw2_n"1d"', 2, (3, 17, 1), (1, 1, 1, 1, 0, 0, 1), (8, 3, 2, 1, 1, 1, 4)),
        # a pooling, with a row below that padding before does not have
        ('mb50ic64_ih112oh56_kh3sh2n"resnet_50:max_pool1"', 50, (64, 0, 1), (112, 3, 2, 1, 0, 1, 56), None),
        # a batch norm
        ('mb50_ic256_ih56iw28_n"bn"', 50, (256, 0, 1), (56, 1, 1, 1, 0, 0, 56), (28, 1, 1, 1, 0, 0, 28)),
    ],
)
def test_shapes_are_read(line, batch, channels, rows, columns):
    shape = shapes.parse(line)
    assert (batch, channels) == (shape.N, (shape.C, shape.K, shape.G))
    assert axes(shape) == [rows, columns or rows]
    assert shapes.parse(line, 7).N == 7


def test_kinds_and_names_of_shapes():
    lines = ('ic3oc4ih5kh3n"a:b/c*2"', "ic3ih5kh3", "ic3ih5")
    found = [shapes.parse(line) for line in lines]
    assert [s.kind for s in found] == [shapes.CONVOLUTION, shapes.POOLING, shapes.NORM]
    assert [s.name for s in found] == ["a:b/c*2", "ic3ih5kh3", "ic3ih5"]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("ic1oc1_id3ih3kd3kh3", shapes.Unsupported, "three-dimensional"),
        ("ic1oc1_ih5oh2kh3ph9", shapes.Unsupported, "outputs of 5 inputs"),
        ("ic1oc1_ih5xh3", DataError, "cannot be read from 'xh3' on"),
        ("oc1_ih5", DataError, "no ic"),
        ("ic1oc1kh3", DataError, "neither ih nor iw"),
    ],
)
def test_shapes_that_mean_nothing_here(line, kind, words):
    with pytest.raises(kind, match=words):
        shapes.parse(line)


def test_files_of_shapes_become_rows(tmp_path, monkeypatch):
    path = tmp_path / "shapes.txt"
    path.write_text(
        """# a comment
mb50ic3oc5ih9oh5kh3sh2dh0ph1n"net:a"

mb50_g3ic6oc9_ih7kh3dh1ph2n"net:b"
mb50ic4_ih6oh3_kh2sh2n"net:pool"
mb50ic4_ih6n"net:bn"
ic1oc1_id3ih3kd3kh3
mb50ic4_ih6kh2dh1n"net:dilated"
"""
    )
    reasons = []
    works = operators.from_files([path], 2, reasons.append)
    assert [line.split(": ")[-1] for line in reasons] == ["it is three-dimensional"]
    assert [(w.op, w.direction) for w in works] == [
        *(("conv2d", "forward"), ("conv2d_input_grad", "dx"), ("conv2d_weight_grad", "dw")) * 2,
        ("max_pool2d", "forward"),
        ("max_pool2d_grad", "dx"),
        ("max_pool2d", "both"),
        ("avg_pool2d", "forward"),
        ("avg_pool2d_grad", "dx"),
        ("batch_norm", "forward"),
        ("batch_norm", "both"),
        ("max_pool2d", "forward"),
        ("max_pool2d_put", "dx"),
        ("max_pool2d", "both"),
        ("avg_pool2d", "forward"),
        ("avg_pool2d_grad", "dx"),
    ]
    assert {work.batch for work in works} == {2}
    flops = operations(operators.build(works[3], works[3].arrays(), threads=1).graph)
    assert flops == 2 * 2 * 9 * 7 * 7 * 2 * 9
    for work in works:
        operators.row(work, ALONE)
    monkeypatch.setattr(operators, "free_memory", lambda: 1)
    assert operators.from_files([path], 2, reasons.append) == []
    assert "GiB" in reasons[1]
    assert "--batch" in reasons[1]


def test_command_with_shapes(tmp_path):
    path = tmp_path / "shapes.txt"
    path.write_text('mb50ic3oc5ih9oh5kh3sh2dh0ph1n"net:A"\nic1oc1_id3ih3kd3kh3\n')
    words = ["ops", "--shapes", str(path), "--batch", "3", "--threads", "1", "--repeats", "1", "net:a dw"]
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code == 0, result.output
    assert "is left out: it is three-dimensional" in result.stdout
    assert "conv2d net:A" in result.stdout


def test_onednns_own_files_are_read():
    folder = VECTORS / "onednn-shapes"
    if not folder.is_dir():
        pytest.skip("oneDNN's shapes are not there: ../shared/data/vectors/onednn-shapes")
    reasons = []
    works = operators.from_files(sorted(folder.glob("*.txt")), 1, reasons.append)
    assert len(works) > 3000
    assert all("is left out: " in line for line in reasons)

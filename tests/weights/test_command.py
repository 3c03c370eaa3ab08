"""`ssl-med weights inspect|import|verify`: what is printed, what words do, and which are refused."""

import re

import numpy as np
import pytest
import torch
from foreign_case import cases_of

from experiments.cli import main
from ssl_med.checkpoint import load_backbone
from ssl_med.weights.core.convert import convert

ABOUT = {"versions": {}, "git": ""}


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A ResNet-18 for one channel: its file, and what the original computes of an image."""
    case = next(one for one in cases_of("torchvision") if one.name == "grey")
    made = case.made()
    image = case.images()
    return case.write(tmp_path_factory.mktemp("grey"), made), image, case.forward(made, image)


def said(capsys, *words, code=0):
    assert main(["weights", *map(str, words)]) == code
    printed = capsys.readouterr()
    if code:
        assert len(printed.err.splitlines()) == 1
        return printed.err
    return printed.out


def test_what_a_file_holds_is_told_and_nothing_is_written(grey, tmp_path, capsys):
    path, _, _ = grey
    text = said(capsys, "inspect", path)
    assert "network: resnet18, 2D, 1 channel(s)\n" in text
    assert "fills the network; nothing was written" in text
    assert "used           120  0 of them renamed" in text
    text = said(capsys, "inspect", path, "backbone.shortcut=A")
    assert "does not fill the network: an import would be refused" in text


def test_an_import_is_taken_up_with_all_its_wishes(grey, tmp_path, capsys):
    path, _, _ = grey
    out = tmp_path / "x.safetensors"
    text = said(capsys, "import", path, "family=moco", "channels=2", "inflate=centre", f"out={out}")
    assert "first convolution spread from 1 to 2 channels, mean preserved" in text
    backbone, _, card, _ = load_backbone(out, in_channels=2, with_decoder=False)
    assert (backbone.spatial_dims, backbone.in_channels, card.method) == (3, 2, "moco")
    assert card.method_config["inflate"] == "centre"


@pytest.mark.parametrize("named", ["features", "level1", "pooled"])
def test_features_are_compared_with_those_of_another_program(named, grey, tmp_path, capsys):
    path, image, pyramid = grey
    theirs = {"features": pyramid[-1], "level1": pyramid[1], "pooled": pyramid[-1].flatten(2).mean(2)}[named]
    key = "level1" if named == "level1" else "features"
    np.savez(tmp_path / "x.npz", input=image.numpy(), **{key: theirs.numpy() + 0.5})
    text = said(capsys, "verify", path, f"against={tmp_path / 'x.npz'}")
    apart, largest = re.search(rf"{key}: largest difference (\S+), of values up to (\S+)", text).groups()
    assert float(apart) == pytest.approx(0.5, abs=1e-3)
    assert float(largest) == pytest.approx(float((theirs + 0.5).abs().max()), rel=1e-2)


@torch.no_grad()
def test_numbers_of_a_seeded_image_are_those_of_its_formula(grey, capsys):
    """The image of a grey ResNet, 64 x 64, written anew: half plus a quarter of two sines."""
    path, _, _ = grey
    rows, columns = (np.sin((np.arange(64) + 0.5) * rate) for rate in (0.7, 1.01))
    image = torch.from_numpy(0.5 + (rows[:, None] + columns[None]) / 4).float()[None, None]
    levels = convert(path, "torchvision", **ABOUT).backbone.eval()(image)
    text = said(capsys, "verify", path)
    assert "features of a seeded image of 64 x 64:" in text
    found = re.findall(r"level \d \(([\d x]+)\): mean (\S+), rms (\S+)", text)
    assert len(found) == len(levels) == 5
    for level, (shape, mean, rms) in zip(levels, found, strict=True):
        assert shape == " x ".join(map(str, level.shape[1:]))
        assert float(mean) == pytest.approx(float(level.double().mean()), rel=1e-4)
        assert float(rms) == pytest.approx(float(level.double().square().mean().sqrt()), rel=1e-4)


def test_the_image_fits_patches_of_14(tmp_path, capsys):
    case = cases_of("dinov2")[0]
    path = case.write(tmp_path, case.made())
    assert "features of a seeded image of 42 x 42:\n  level 0 " in said(capsys, "verify", path, "family=dinov2")


@pytest.mark.parametrize("action", ["inspect", "verify"])
@pytest.mark.parametrize(
    "word", ["family=moco", "allow=[conv1.weight]", "channels=3", "inflate=i3d", "backbone.norm=batch"]
)
def test_words_of_an_import_are_refused_for_weights_of_ours(action, word, grey, tmp_path, capsys):
    path, _, _ = grey
    out = tmp_path / "x.safetensors"
    said(capsys, "import", path, f"out={out}")
    line = said(capsys, action, out, word, code=2)
    assert f"{out}: is weights of ours, with a card; {word.partition('=')[0].partition('.')[0]}" in line
    said(capsys, action, out)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["inspect", "none.pth"], "none.pth: no such run folder or file of weights"),
        (["inspect", "none.pth", "family=voco"], "none.pth: no such run folder or file of weights; get it from Luffy503/VoCo"),
        (["inspect", "FILE", "famly=voco"], "weights inspect: 'famly' is unknown; did you mean 'family'"),
        (["inspect", "FILE", "family=vocco"], "family 'vocco' is unknown; did you mean 'voco'"),
        (["import", "FILE"], "weights import: out=FILE.safetensors is missing"),
        (["verify", "FILE", "against=none.npz"], "none.npz: cannot be read (No such file or directory)"),
        (["export", "FILE", "to=timm"], "weights export: out= is missing"),
        (["look", "FILE"], "weights: say `ssl-med weights inspect|import|verify|export FILE"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line(words, line, grey, capsys):
    assert line in said(capsys, *(word.replace("FILE", str(grey[0])) for word in words), code=2)

"""torchvision's layout: a state dict written from the published structure gives the features of an independent forward."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ssl_med.catalogue import get_class, list_names
from ssl_med.checkpoint import load_backbone, save_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.family import Family, convert
from ssl_med.weights.torchvision import MEAN, STD, Torchvision

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
ABOUT = {"versions": {}, "git": ""}


def layout(name):
    """Keys and seeded tensors of torchvision's ResNet, from He et al., Table 1."""
    generator = torch.Generator().manual_seed(0)
    deep = name == "resnet50"
    state = {}

    def conv(key, out, into, size):
        scale = (2 / (into * size * size)) ** 0.5
        state[f"{key}.weight"] = torch.randn(out, into, size, size, generator=generator) * scale

    def norm(key, width):
        state[f"{key}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.bias"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    before = 64
    for stage, count in enumerate(BLOCKS[name]):
        width = 64 * 2**stage
        out = width * (4 if deep else 1)
        for block in range(count):
            sizes = [(width, 1), (width, 3), (out, 1)] if deep else [(width, 3), (width, 3)]
            into = before
            for number, (wide, size) in enumerate(sizes, 1):
                conv(f"layer{stage + 1}.{block}.conv{number}", wide, into, size)
                norm(f"layer{stage + 1}.{block}.bn{number}", wide)
                into = wide
            if block == 0 and (stage > 0 or deep):
                conv(f"layer{stage + 1}.0.downsample.0", out, before, 1)
                norm(f"layer{stage + 1}.0.downsample.1", out)
            before = out
    state["fc.weight"], state["fc.bias"] = torch.randn(10, before, generator=generator), torch.zeros(10)
    return state


def forward(state, x, name):
    """The published network written out with functions: stem, four stages."""

    def norm(key, y):
        return F.batch_norm(y, *(state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    pyramid = [F.relu(norm("bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))]
    x = F.max_pool2d(pyramid[0], 3, 2, 1)
    for stage, count in enumerate(BLOCKS[name], 1):
        for block in range(count):
            key, stride = f"layer{stage}.{block}", 2 if block == 0 and stage > 1 else 1
            convolutions = 3 if name == "resnet50" else 2
            y = x
            for number in range(1, convolutions + 1):
                weight = state[f"{key}.conv{number}.weight"]
                # torchvision puts a bottleneck's stride into its 3x3 convolution
                moved = stride if number == (2 if convolutions == 3 else 1) else 1
                y = norm(f"{key}.bn{number}", F.conv2d(y, weight, stride=moved, padding=weight.shape[-1] // 2))
                y = F.relu(y) if number < convolutions else y
            if f"{key}.downsample.0.weight" in state:
                x = norm(f"{key}.downsample.1", F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride))
            x = F.relu(x + y)
        pyramid.append(x)
    return pyramid


@pytest.mark.parametrize("name", BLOCKS)
def test_the_normalisation_is_folded_into_the_first_layer(name, tmp_path):
    state = layout(name)
    file = tmp_path / "weights.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    found = convert(file, "torchvision", Torchvision(), **ABOUT)
    assert found.account.dropped == ("module.fc.weight", "module.fc.bias")
    assert len(found.account.used) == len(state) - 2
    save_backbone(tmp_path / "ours.safetensors", backbone=found.backbone, decoder=None, card=found.card)
    ours, _, card, _ = load_backbone(tmp_path / "ours.safetensors", in_channels=3, with_decoder=False)
    assert card.method == "torchvision"
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        theirs = forward(state, (image - mean) / std, name)[0]
        mine = ours.eval()(image)[0]
    inside = (
        ...,
        slice(2, -2),
        slice(2, -2),
    )  # the 7x7 convolution reaches over the border at the outermost two places
    torch.testing.assert_close(mine[inside], theirs[inside], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_all_levels_agree_where_no_border_is_seen(name, tmp_path):
    """Without the fold the two networks are one function, to the last level."""
    state = layout(name)
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)

    class Plain(Torchvision):
        def adjust(self, state):
            return []

    found = convert(file, "torchvision", Plain(), **ABOUT)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for mine, theirs in zip(found.backbone.eval()(image), forward(state, image, name), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def broken(tmp_path, kind):
    state = layout("resnet18")
    file = tmp_path / f"{kind}.pth"
    if kind == "code":
        file.write_bytes(pickle.dumps({"state_dict": Code()}))
        return file
    if kind == "truncated":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:2000])
        return file
    if kind == "half":
        state = {key: value for key, value in state.items() if not key.startswith("layer3")}
    if kind == "transposed":
        state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :32]
    if kind == "strange":
        state["head.extra.weight"] = torch.zeros(3)
    if kind == "other":
        state = {"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}
    if kind == "empty":
        state = {"epoch": 3}
    torch.save(state, file)
    return file


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("code", "would run code"),
        ("truncated", "is not a readable file of weights"),
        ("half", "missing 3"),
        ("transposed", r"mismatched 1: layer1.0.conv1.weight \[64, 32, 3, 3\] for \[64, 64, 3, 3\]"),
        ("strange", "unexplained 1: head.extra.weight"),
        ("other", "does not have the layout of family=torchvision"),
        ("empty", "holds no tensors by name"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(kind, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SslMedError, match=text) as caught:
        convert(broken(tmp_path, kind), "torchvision", Torchvision(), **ABOUT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", list_names("ssl_med.weights"))
def test_every_family_is_one_file_that_declares_itself(name):
    found = get_class("ssl_med.weights", name, kind="family", base=Family)
    assert found.citation
    assert found.licence


def test_import_from_the_command_line(tmp_path, capsys):
    from experiments.cli import main

    torch.save(layout("resnet18"), tmp_path / "foreign.pth")
    words = ["weights", "import", str(tmp_path / "foreign.pth"), f"out={tmp_path / 'ours.safetensors'}"]
    assert main([*words, "family=torchvsion"]) == 2
    assert "did you mean 'torchvision'" in capsys.readouterr().err
    assert main(words[:3]) == 2
    assert main(words) == 0  # the family is recognised
    said = capsys.readouterr().out
    assert "family: torchvision" in said
    assert "missing 0; mismatched 0; unexplained 0" in said
    assert main(["weights", "inspect", str(tmp_path / "ours.safetensors")]) == 0
    assert "method: torchvision" in capsys.readouterr().out
    assert main(words) == 2
    assert "is there already" in capsys.readouterr().err
    torch.save({"strange.weight": torch.zeros(2)}, tmp_path / "strange.pth")
    assert main(["weights", "import", str(tmp_path / "strange.pth"), f"out={tmp_path / 'x.safetensors'}"]) == 2
    assert "no family knows its 1 keys" in capsys.readouterr().err

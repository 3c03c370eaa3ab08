"""Each script of examples/ does what it says, quickly, and stays short enough to read."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet
from monai.networks.utils import copy_model_state

from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import DataSpec

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def script(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_examples_are_short_and_all_are_tested():
    lengths = {path.stem: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    assert lengths.keys() == {
        "pretrain_finetune",
        "plain_lightning",
        "own_method",
        "use_backbone",
        "models_genesis_in_monai",
    }
    assert max(lengths.values()) <= 60, lengths


@pytest.mark.parametrize("page", ["use-from-python", "use-our-transforms-in-monai"])
def test_the_page_shows_lines_of_the_examples(page):
    page = (FOLDER.parent / "docs" / "how-to" / f"{page}.md").read_text()
    tested = {line.strip() for path in FOLDER.glob("*.py") for line in path.read_text().splitlines()}
    shown = [line for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert shown
    assert {line.strip() for line in shown} <= tested


@pytest.mark.slow
def test_pretraining_finetuning_report_and_the_backbone_afterwards(tmp_path, capsys):
    script("pretrain_finetune")["main"](out=str(tmp_path))
    printed = capsys.readouterr().out
    assert "from pretrained: test AUROC 0." in printed
    assert (tmp_path / "report" / "report.html").is_file()
    network = script("use_backbone")["main"](str(tmp_path / "pretrained"))
    printed = capsys.readouterr().out
    assert "pretrained on chest14: 1 channel(s), 2D" in printed
    assert "window 0 to 255 grey level becomes 0 to 1" in printed
    assert all(p.grad is not None for p in network.head.parameters())


def test_plain_lightning():
    method = script("plain_lightning")["main"]("5")
    assert method.batches_seen == 5
    assert float(method.queue.keys.norm(dim=0).mean()) == pytest.approx(1, abs=1e-4)


def test_own_method_learns():
    """The method of the page solves its task better than the solver that always says the mean."""
    spec = DataSpec(name="noise", spatial_dims=2, in_channels=1, patch_size=(16, 16))
    torch.manual_seed(0)
    method = script("own_method")["Blackout"](spec=spec, backbone=backbone_config("unet", channels=(8, 16)))
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    for step in range(40):
        draw = torch.Generator().manual_seed(step)
        terms = method.losses({"image": 0.5 + 0.5 * torch.rand(16, 1, 16, 16, generator=draw)}, draw)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert float(terms["metric"]) < 0.5 * float(terms["baseline"])


@pytest.mark.slow
def test_models_genesis_in_plain_monai_learns(shared_phantom, tmp_path):
    scans = shared_phantom("lits", subjects=4, size=(32, 32, 32))
    weights = tmp_path / "genesis.pt"
    losses = script("models_genesis_in_monai")["main"](str(scans), "16", "32", str(weights))
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    finetuned = UNet(3, 1, 3, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1)
    _, filled, left = copy_model_state(finetuned, torch.load(weights, weights_only=True))
    assert len(left) <= 4 < len(filled)

"""The example of docs/how-to/add-a-backbone.md, as one file beside the shipped ones and no edit elsewhere."""

import re
import sys
from pathlib import Path

import pytest
import torch

import ssl_med.networks.backbones as package
from experiments.config.run import compose_finetune, compose_pretrain
from experiments.run.pretrained import build_network
from ssl_med.catalogue import list_names
from ssl_med.checkpoint import Card, save_backbone
from ssl_med.config import to_plain
from ssl_med.evaluation.transfer import Transfer
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.pyramid import PyramidDecoder
from ssl_med.spec import SslMedError

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-backbone.md"
SIZE = {2: (16, 16), 3: (16, 16, 8)}
DATA = {2: "chest14", 3: "lits"}


@pytest.fixture
def strided(tmp_path, monkeypatch):
    """`backbone.name=strided`, a file in another folder that the package looks into, too."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "strided.py").write_text(code)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield "strided"
    sys.modules.pop("ssl_med.networks.backbones.strided", None)
    vars(package).pop("strided", None)


def overrides(dims):
    size = str(list(SIZE[dims])).replace(" ", "")
    return ["trainer=cpu", f"data.patch_size={size}", "backbone.name=strided", "backbone.widths=[8,16,16]"]


def step(module, loss):
    """Loss before and after one step of gradient descent."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    value = loss()
    value.backward()
    assert all(p.grad is not None for p in parameters if p.requires_grad)
    optimizer.step()
    return float(value.detach()), float(loss().detach())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["simclr", "models_genesis"])
def test_one_file_is_pretrained_and_fine_tuned(strided, tmp_path, name, dims):
    assert strided in list_names(package.__name__)
    small = ["method.hidden_dim=8", "method.out_dim=8"] if name == "simclr" else []
    config = compose_pretrain([f"method={name}", f"data={DATA[dims]}", *overrides(dims), *small])
    assert to_plain(config.backbone) == {
        "name": "strided", "norm": "group", "init": "torch", "widths": [8, 16, 16], "flat_levels": 1,
        **{"input_mean": [], "input_std": []},
    }  # fmt: skip
    torch.manual_seed(0)
    method = config.method_class(
        config.method, spec=config.spec, backbone=config.backbone, optim=config.optim, batch_size=2
    )
    method.before_training(8)
    image = torch.rand(2, 1, *SIZE[dims])
    batch = {"image": image, "index": torch.arange(2), "id": ["a", "b"]}
    loss = lambda: method.losses(batch, torch.Generator().manual_seed(0))["loss"]  # noqa: E731
    before, after = step(method, loss)
    assert after < before
    path = tmp_path / "backbone.safetensors"
    card = Card(
        method=name, method_config={}, backbone=to_plain(config.backbone), spec=config.spec.to_dict(),
        skips=method.decoder.skips if method.decoder else None, steps=1, seed=0, versions={}, git="", subjects=(),
    )  # fmt: skip
    save_backbone(path, backbone=method.backbone, decoder=method.decoder, card=card)
    task = compose_finetune([f"task={DATA[dims]}", *overrides(dims), f"init={path}"])
    needs_decoder = task.spec.target == "mask"
    loaded = build_network(task, with_decoder=needs_decoder)
    for mine, theirs in zip(method.backbone.parameters(), loaded.backbone.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    module = Transfer(
        spec=task.spec, backbone=loaded.backbone, decoder=loaded.decoder, task=task.task, optim=task.optim, batch_size=2
    )
    classes = len(task.spec.class_names)
    labels = {"mask": (torch.rand(2, classes, *SIZE[dims]) > 0.5).float(), "label": torch.ones(2, classes)}
    labelled = {**batch, **labels}
    loss = lambda: module.task.loss(module.task.logits(image, module.backbone, module.decoder), labelled)  # noqa: E731
    before, after = step(module, loss)
    assert after < before


def test_strides_differ_by_axis(strided):
    """Slices that are thicker than pixels: sizes, divisor, decoder and refusal are those of each axis."""
    config = backbone_config(strided, widths=(4, 6, 8))
    backbone = build_backbone(config, spatial_dims=3, in_channels=1)
    assert backbone.strides == ((1, 1, 1), (2, 2, 1), (4, 4, 2))
    assert backbone.divisor == backbone.min_input_side == (4, 4, 2)
    pyramid = backbone(torch.rand(1, 1, 8, 12, 6))
    assert [tuple(level.shape[1:]) for level in pyramid] == [(4, 8, 12, 6), (6, 4, 6, 6), (8, 2, 3, 3)]
    decoder = backbone.build_decoder()
    assert isinstance(decoder, PyramidDecoder)
    assert [tuple(scale.shape[1:]) for scale in decoder.scales(pyramid)] == [(6, 4, 6, 6), (4, 8, 12, 6)]
    wrong = ["method=simclr", "data=lits", *overrides(3)]
    wrong[3] = "data.patch_size=[16,18,8]"
    message = r"\[16, 18, 8\] does not fit backbone strided: .* its own of \[4, 4, 2\]; try data.patch_size=\[16,16,8\]"
    with pytest.raises(SslMedError, match=message):
        compose_pretrain(wrong)


def test_a_network_of_some_dimensions_is_refused_in_others(strided, monkeypatch):
    from ssl_med.networks.backbones.strided import Strided

    monkeypatch.setattr(Strided, "dims", (2,))
    with pytest.raises(SslMedError, match="backbone strided exists in 2D, data 'lits' is 3D"):
        compose_pretrain(["method=simclr", "data=lits", *overrides(3)])

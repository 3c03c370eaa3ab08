"""Every method on every backbone in its dimensions: it builds, takes a step, resumes and travels, or is refused in one line."""

import copy
from dataclasses import replace

import pytest
import test_methods as sweep
import torch

from experiments.config.run import compose_pretrain
from ssl_med.checkpoint import Card, load_backbone, save_backbone
from ssl_med.config import to_plain
from ssl_med.spec import SslMedError

NETS = {
    "plainconv": ["backbone.features=[8,16,32]"],
    "resenc": ["backbone.features=[8,16,32]", "backbone.blocks=[1,1,1]"],
    "vgg16": ["backbone.channels=[8,16,32]", "backbone.convolutions=[1,1,2]"],
    "segresnet": ["backbone.filters=8", "backbone.blocks=[1,1,1]"],
    "vit": ["backbone.width=24", "backbone.depth=3", "backbone.heads=2", "backbone.patch=8", "backbone.grid=2",
            "backbone.decoder_width=8"],
    "monai": ["backbone.target=BasicUNet", "backbone.levels=[conv_0,down_1,down_2]",
              "backbone.args={features: [8,8,16,16,16,8], norm: batch}"],
    "dense_vnet": ["backbone.growth=[2,4]", "backbone.layers=[2,2]", "backbone.skip_channels=[4,4]", "backbone.entry=8"],
    "anatomix": ["backbone.filters=8", "backbone.halvings=2"],
    "swin_unetr": ["backbone.feature_size=24", "backbone.heads=[1,2,2,2]", "backbone.depths=[1,1,1,1]", "backbone.window=2"],
    "resnet10": ["backbone.decoder_channels=[16,16,8,8,8]"],
    "densenet121": [],
}  # fmt: skip
WIDE = ("swin_unetr", "resnet10", "densenet121")  # their last level has stride 32
# what CI trains on each network: a contrast, a restoration, both, patches, and a teacher; `make test-long` trains all methods
KINDS = ("simclr", "mae", "pcrl", "jigsaw", "byol")
# networks of which one step takes seconds, or whose last level patches of these small images do not reach
FEW = {
    ("densenet121", 2): ("simclr", "mae", "pcrl"),
    ("densenet121", 3): ("simclr", "mae", "pcrl"),
    ("resnet10", 3): KINDS,
    ("swin_unetr", 3): KINDS,
}
# of the slowest, a contrast and a restoration in CI
SLOWEST = {("densenet121", 2), ("resnet10", 3), ("swin_unetr", 3)}
# small crops and patches of 16 voxels that do not reach the last level of a network, for which the message names a larger crop
REFUSED = {("vit", "cpc", 3): "take data.patch_size", ("vit", "relative_position", 3): "take data.patch_size"}


def composed(name, dims, net):
    side = 32 if dims == 2 or net in WIDE else 16
    size = str([side] * dims).replace(" ", "")
    words = [f"data.patch_size={size}", f"backbone={net}", *NETS[net], *sweep.SMALL.get(name, [])]
    config = compose_pretrain([f"method={name}", f"data={sweep.DATA[dims]}", "trainer=cpu", *words])
    return config, replace(config.spec, in_channels=sweep.channels_of(name)), (side,) * dims


def built(config, spec):
    torch.manual_seed(0)
    method = config.method_class(config.method, spec=spec, backbone=config.backbone, optim=config.optim, batch_size=4)
    method.prepare(64)
    return method


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(KINDS, id="one of a kind", marks=pytest.mark.slow),
        pytest.param(tuple(sweep.CLASSES), id="all", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    ("net", "dims"),
    [
        pytest.param(net, dims, marks=pytest.mark.long if (net, dims) == ("densenet121", 3) else ())
        for net in NETS
        for dims in (2, 3)
    ],
)
def test_methods_train_on_it(net, dims, methods, tmp_path, monkeypatch):
    wrong = []
    few = ("simclr", "mae") if methods is KINDS and (net, dims) in SLOWEST else FEW.get((net, dims), methods)
    for name in [name for name in methods if name in few]:
        if dims not in sweep.CLASSES[name].dims:
            continue
        refusal = REFUSED.get((net, name, dims))
        try:
            config, spec, size = composed(name, dims, net)
            monkeypatch.setitem(sweep.SIZE, dims, size)
            method = built(config, spec)
            batch = sweep.batch_of(sweep.blobs(4, dims, channels=spec.in_channels))
            check_a_step(method, batch, built(config, spec))
            check_its_journey(method, config, spec, tmp_path / f"{name}.safetensors")
            if refusal:
                wrong.append(f"{name}: was refused before, and works now: take it out of REFUSED")
        except SslMedError as error:
            if not refusal or refusal not in str(error):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r:.300}")
    assert not wrong, "\n".join(wrong)


def check_a_step(method, batch, other):
    """The loss reaches every trained parameter of the encoder, and a copy that loads its state goes on alike."""
    terms = method.train().losses(batch, sweep.generator(0))
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"]), terms["loss"]
    unreached = [key for key, p in method.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not unreached, unreached
    with torch.no_grad():
        next(iter(other.backbone.parameters())).zero_()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    ours, theirs = (one.train().losses(batch, sweep.generator(1))["loss"].item() for one in (method, other))
    assert ours == theirs, (ours, theirs)


def check_its_journey(method, config, spec, path):
    """Encoder and decoder leave in a file and come back equal."""
    card = Card(
        method=config.name,
        method_config=to_plain(config.method),
        backbone=to_plain(config.backbone),
        spec=spec.to_dict(),
        skips=method.decoder.skips if method.decoder is not None else None,
        steps=1,
        seed=0,
        versions={},
        git="",
        subjects=(),
    )
    save_backbone(path, backbone=method.backbone, decoder=method.decoder, card=card)
    backbone, decoder, _, report = load_backbone(
        path, in_channels=spec.in_channels, with_decoder=method.decoder is not None
    )
    assert report.complete
    x = torch.rand(1, spec.in_channels, *spec.patch_size)
    with torch.no_grad():
        for own, other in zip(method.backbone.eval()(x), backbone.eval()(x), strict=True):
            assert torch.equal(own, other)
        if method.decoder is not None:
            pyramid = backbone(x)
            assert torch.equal(method.decoder.eval()(pyramid), decoder.eval()(pyramid))

"""Which parameter is trained from which step at which rate: read from the optimiser, and from what a training changes."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ssl_med.evaluation.protocols.finetune import TransferConfig, describe, parts, rate_factors, start_steps
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.evaluation.transfer import Transfer
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec, SslMedError

WIDTHS = {"unet": {"channels": (4, 8, 8, 16)}}  # three levels


class Data(pl.LightningDataModule):
    def __init__(self, target, batches):
        super().__init__()
        self.target, self.batches = target, batches

    def train_dataloader(self):
        g = torch.Generator().manual_seed(0)
        rows = []
        for _ in range(self.batches):
            mask = (torch.rand(4, 1, 16, 16, generator=g) > 0.5).float()
            label = torch.arange(4) % 2
            extra = {"mask": mask} if self.target == "mask" else {"label": label}
            rows.append({"image": torch.randn(4, 1, 16, 16, generator=g), "id": list("abcd"), **extra})
        return DataLoader(rows, batch_size=None)


def module_of(target="class", backbone="unet", **transfer):
    torch.manual_seed(0)
    spec = DataSpec(
        name="x", spatial_dims=2, in_channels=1, patch_size=(16, 16), target=target,
        class_names=("a", "b") if target == "class" else ("r",),
    )  # fmt: skip
    config = backbone_config(backbone, **WIDTHS.get(backbone, {}))
    encoder = build_backbone(config, spatial_dims=2, in_channels=1)
    decoder = encoder.build_decoder() if target == "mask" else None
    return Transfer(
        spec=spec, backbone=encoder, decoder=decoder, task=TaskConfig(flips=False, crop_scale=1, rotation_deg=0),
        optim=OptimConfig(name="adam", lr=0.01, schedule="step", step_every_epochs=1, gamma=0.5),
        batch_size=4, transfer=TransferConfig(**transfer),
    )  # fmt: skip


class Record(pl.Callback):
    """State of the encoder's levels, the head and the rates before each step."""

    def __init__(self):
        self.levels, self.head, self.rates, self.training = [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.note(trainer, module)

    def on_train_end(self, trainer, module):
        self.note(trainer, module)

    def note(self, trainer, module):
        found = module.backbone.levels_of_modules()
        states = [[v.clone() for m in level for v in m.state_dict().values()] for level in found]
        self.levels.append(states)
        others = [m for m in (module.decoder, module.task) if m is not None]
        self.head.append([p.detach().clone() for m in others for p in m.parameters()])
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        self.training.append([all(m.training for m in level) for level in found])


def train(module, steps, batches=4):
    record = Record()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, callbacks=[record], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=Data(module.spec.target, batches))
    return record


def changed(before, after):
    return [any(not torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(before, after, strict=True)]


@pytest.mark.parametrize("target", ["class", "mask"])
def test_a_frozen_encoder_keeps_weights_and_statistics_while_the_rest_learns(target):
    module = module_of(target, protocol="frozen")
    record = train(module, 3)
    assert changed(record.levels[0], record.levels[-1]) == [False] * 3
    assert record.training[1] == [False] * 3
    assert changed([record.head[0]], [record.head[-1]]) == [True]
    held = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for m in (module.decoder, module.task) if m is not None for p in m.parameters()}
    statistics = describe(module.transfer, module.backbone, norm="batch")
    assert statistics["statistics"] == "encoder: kept as loaded"
    assert statistics["level_starts"] == [None] * 3


def test_levels_thaw_at_their_step_and_not_before():
    """Last level from step 1, the middle one and the finest from step 3."""
    module = module_of(unfreeze=(1, 3))
    assert module.starts == (3, 3, 1)
    record = train(module, 5)
    trained = [changed(record.levels[s], record.levels[s + 1]) for s in range(5)]
    assert trained == [
        [False, False, False],
        [False, False, True],
        [False, False, True],
        [True, True, True],
        [True, True, True],
    ]
    # the module sets its levels' mode after the recording callback, hence one step later here
    assert record.training[4] == [True] * 3
    assert all(changed([record.head[s]], [record.head[s + 1]]) == [True] for s in range(5))


@pytest.mark.parametrize("backbone", ["unet", "resnet18"])
def test_layer_decay_gives_every_parameter_its_rate_at_every_step(backbone):
    module = module_of("mask" if backbone == "unet" else "class", backbone=backbone, layer_decay=0.5)
    levels = module.backbone.levels_of_modules()
    count = len(levels)
    steps = 6
    record = train(module, steps, batches=2)
    groups = module.trainer.optimizers[0].param_groups
    rate_of = {id(p): number for number, group in enumerate(groups) for p in group["params"]}
    assert set(rate_of) == {id(p) for p in module.parameters()}, "every parameter once"
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    for step in range(steps):
        base = 0.01 * 0.5 ** (step // 2)  # halved each epoch of two batches
        for level, modules in enumerate(levels):
            for p in (p for m in modules for p in m.parameters()):
                assert record.rates[step][rate_of[id(p)]] == pytest.approx(base * 0.5 ** (count - level))
        for m in (module.decoder, module.task):
            for p in m.parameters() if m is not None else ():
                assert record.rates[step][rate_of[id(p)]] == pytest.approx(base)


@pytest.mark.parametrize("backbone", ["unet", "resnet18", "resnet50"])
def test_levels_hold_every_parameter_once_finest_first(backbone):
    encoder = build_backbone(backbone_config(backbone, **WIDTHS.get(backbone, {})), spatial_dims=2, in_channels=1)
    levels = encoder.levels_of_modules()
    assert len(levels) == len(encoder.channels)
    found = [id(p) for level in levels for m in level for p in m.parameters()]
    assert sorted(found) == sorted(id(p) for p in encoder.parameters())
    # the gradient of a level's output reaches its own and finer levels alone
    for number in range(len(levels)):
        encoder.zero_grad()
        encoder(torch.randn(2, 1, 64, 64))[number].sum().backward()
        has = [any(p.grad is not None for m in level for p in m.parameters()) for level in levels]
        assert has == [True] * (number + 1) + [False] * (len(levels) - number - 1)


def test_without_a_protocol_the_optimiser_is_the_plain_one():
    module = module_of("mask")
    (only,) = parts(module.transfer, module.backbone, [module.decoder, module.task])
    assert [id(p) for p in only[0]] == [id(p) for p in module.parameters()]
    assert only[1] == 1
    assert module.waiting() == ()


def test_start_steps_and_rates():
    assert start_steps(TransferConfig(), 4) == (0, 0, 0, 0)
    assert start_steps(TransferConfig(unfreeze=(500,)), 3) == (500, 500, 500)
    assert start_steps(TransferConfig(unfreeze=(0, 10, 20)), 4) == (20, 20, 10, 0)
    assert start_steps(TransferConfig(protocol="frozen"), 2) == (math.inf, math.inf)
    assert rate_factors(TransferConfig(layer_decay=0.5), 3) == (0.125, 0.25, 0.5)
    with pytest.raises(SslMedError, match="unfreeze has 3 steps, the backbone has 2 levels"):
        start_steps(TransferConfig(unfreeze=(0, 1, 2)), 2)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"unfreeze": (5, 3)}, r"transfer.unfreeze \[5, 3\] must be steps that do not fall"),
        ({"protocol": "frozen", "unfreeze": (5,)}, "transfer.unfreeze trains the encoder"),
        ({"protocol": "frozen", "layer_decay": 0.5}, "transfer.layer_decay trains the encoder"),
        ({"decoder": "maybe"}, "transfer.decoder is 'maybe'; it must be auto, true or false"),
    ],
)
def test_contradictions_are_one_line(values, line):
    with pytest.raises(SslMedError, match=line):
        TransferConfig(**values)


def test_mixup_replays_by_seed_and_step_and_keeps_the_batch():
    """Images and soft labels are mixed by the same shares with the same partners; other steps mix otherwise."""
    module = module_of()
    module.task.config.mixup = 0.4
    image, label = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 16, 16), torch.arange(6) % 2
    batch = {"image": image, "label": label, "id": list("abcdef")}
    one, again = module.mix(batch), module.mix(batch)
    assert torch.equal(one["image"], again["image"])
    assert torch.equal(one["label"], again["label"])
    rng = np.random.default_rng([module.seed, 0, 1])
    share, order = rng.beta(0.4, 0.4, 6), rng.permutation(6)
    for k in range(6):
        assert float(one["image"][k, 0, 3, 3]) == pytest.approx(share[k] * k + (1 - share[k]) * order[k], abs=1e-5)
        ones = share[k] * (k % 2) + (1 - share[k]) * (order[k] % 2)
        assert one["label"][k].tolist() == pytest.approx([1 - ones, ones], abs=1e-6)
    assert torch.equal(label, torch.arange(6) % 2)
    assert one["id"] == batch["id"]
    module.batches_seen = 1
    assert not torch.equal(module.mix(batch)["image"], one["image"])

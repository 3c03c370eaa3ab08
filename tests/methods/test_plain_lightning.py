"""Methods with a plain Trainer and loaders that are not the suite's."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from test_methods import CLASSES
from torch.utils.data import DataLoader, IterableDataset

from ssl_med.networks.backbone import backbone_config
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec, SslMedError

SPEC = DataSpec(name="mine", spatial_dims=2, in_channels=1, patch_size=(16, 16))
IMAGES = [{"image": torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(8)]


class Rates(pl.Callback):
    """Learning rate of each optimiser step, and the samples of each batch; saves the state after three steps."""

    def __init__(self, saved):
        self.rates, self.seen, self.saved = [], [], saved

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(batch.get("index", torch.tensor([])).tolist())

    def on_train_batch_end(self, trainer, *rest):
        if self.saved is not None and trainer.global_step == 3:
            trainer.save_checkpoint(self.saved)


def make(name, **options):
    return CLASSES[name](spec=SPEC, backbone=backbone_config("unet", channels=(4, 8, 16)), **options)


def fit(method, loader, checkpoint=None, saved=None, **options):
    rates = Rates(saved)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rates],
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no validation, few workers
        trainer.fit(method, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer, rates


def test_epochs_of_the_schedule_are_those_of_the_loader():
    """8 images in batches of 2, two batches a step: 2 steps an epoch, one of warm-up, 4 in all."""
    optim = OptimConfig(lr=0.3, schedule="cosine", warmup_epochs=1)
    trainer, found = fit(
        make("rotation", optim=optim), DataLoader(IMAGES, batch_size=2), max_epochs=2, accumulate_grad_batches=2
    )
    assert trainer.global_step == 4
    assert found.rates == pytest.approx([0.1, 0.2, 0.3, 0.15])
    _, found = fit(make("rotation", optim=optim), DataLoader(IMAGES, batch_size=2), max_epochs=2, limit_train_batches=2)
    assert found.rates == pytest.approx([0.1, 0.2, 0.3, 0.15])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IMAGES)


def test_a_loader_without_a_length_needs_a_last_step_and_no_epochs():
    loader = DataLoader(Stream(), batch_size=4)
    _, found = fit(make("rotation", optim=OptimConfig(lr=0.2)), loader, max_steps=2)
    assert found.rates == pytest.approx([0.2, 0.1])
    with pytest.raises(SslMedError, match="the loader has no length"):
        fit(make("rotation", optim=OptimConfig(warmup_epochs=1)), loader, max_steps=2)
    with pytest.raises(SslMedError, match="PIRL keeps a memory of all training samples, and the loader does not say"):
        fit(make("pirl"), loader, max_steps=2)


def test_a_memory_gets_its_size_from_the_data_set():
    numbered = [{**sample, "index": i} for i, sample in enumerate(IMAGES)]
    method = make("pirl")
    fit(method, DataLoader(numbered, batch_size=4, shuffle=True), max_epochs=1)
    assert method.memory.seen.tolist() == [True] * 8
    method = make("pirl")
    method.prepare(20)
    fit(method, DataLoader(numbered, batch_size=4), max_epochs=1)
    assert len(method.memory.entries) == 20, "what was told is not counted again"


class Numbers:
    """Batches of one sample each that says its number; knows where it is, as the suite's own loaders do."""

    position = 0

    def __len__(self):
        return len(IMAGES)

    def __iter__(self):
        self.position %= len(IMAGES)
        while self.position < len(IMAGES):
            number, self.position = self.position, self.position + 1
            yield {"image": torch.stack([IMAGES[number]["image"]] * 2), "index": torch.tensor([number])}

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def test_a_resumed_training_of_epochs_goes_on_within_its_epoch(tmp_path):
    optim = OptimConfig(lr=0.8, schedule="cosine")
    whole = fit(make("rotation", optim=optim), Numbers(), saved=tmp_path / "three.ckpt", max_epochs=2)[1]
    assert whole.seen == [[i] for i in (*range(8), *range(8))]
    rest = fit(make("rotation", optim=optim), Numbers(), checkpoint=tmp_path / "three.ckpt", max_epochs=2)[1]
    assert rest.seen == whole.seen[3:]
    assert rest.rates == pytest.approx(whole.rates[3:])
    assert whole.rates[8] == pytest.approx(0.4), "half of the way along the cosine"


@pytest.mark.parametrize(
    ("name", "batch", "says"),
    [
        (
            "pcrl",
            {"image": torch.rand(2, 1, 16, 16), "id": ["a", "b"]},
            "batches hold image, id; PCRL also needs 'image2': ",
        ),
        ("pirl", {"image": torch.rand(2, 1, 16, 16)}, "PIRL also needs 'index': "),
        ("semantic_genesis", {"image": torch.rand(2, 1, 16, 16)}, "SemanticGenesis also needs 'instance': "),
        ("rotation", {}, "batches hold nothing; Rotation also needs 'image': "),
        ("rotation", torch.rand(2, 1, 16, 16), "yields Tensor; Rotation needs dictionaries with the key 'image'"),
        ("rotation", {"image": torch.rand(2, 3, 16, 16)}, r"\(2, 3, 16, 16\) of torch.float32.*says \(B, 1, 16, 16\)"),
        ("rotation", {"image": torch.zeros(2, 1, 16, 16, dtype=torch.uint8)}, "of torch.uint8"),
    ],
)
def test_a_batch_that_lacks_something_is_refused_in_one_line(name, batch, says):
    with pytest.raises(SslMedError, match=says) as refused:
        make(name).losses(batch)
    assert "\n" not in str(refused.value)


def test_the_batch_size_is_needed_only_where_a_rate_depends_on_it():
    loader = DataLoader(IMAGES, batch_size=4)
    with pytest.raises(SslMedError, match="lr_per_256 needs the samples of a step"):
        fit(make("rotation", optim=OptimConfig(lr_per_256=True)), loader, max_steps=1)
    _, found = fit(make("rotation", optim=OptimConfig(lr=6.4, lr_per_256=True), batch_size=4), loader, max_steps=1)
    assert found.rates == pytest.approx([0.1])

"""The moving average of fine-tuned weights: its values, what is tested and stored of it, and an exact resume."""

from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ssl_med.evaluation.protocols.finetune import TransferConfig
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.evaluation.transfer import Transfer
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec

DECAY = 0.3  # reached at the fourth step: (1 + 3) / (10 + 3) is above it
SPEC = DataSpec(name="x", spatial_dims=2, in_channels=1, patch_size=(16, 16), target="mask", class_names=("a",))


class Kept(pl.Callback):
    """Trained weights after each step."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        state = pl_module.state_dict()
        self.states.append({k: v.double().clone() for k, v in state.items() if not k.startswith("average.")})


def module_of(ema, spec=SPEC, **task):
    torch.manual_seed(0)
    backbone = build_backbone(backbone_config("unet", channels=(4, 8, 8)), spatial_dims=2, in_channels=1)
    return Transfer(
        spec=spec, backbone=backbone, decoder=backbone.build_decoder(), task=TaskConfig(flips=False, **task),
        optim=OptimConfig(name="sgd", lr=0.5, schedule="constant"), batch_size=2, transfer=TransferConfig(ema=ema),
    )  # fmt: skip


def fit(module, steps, checkpoint=None, accumulate=1, batches=1):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2 * batches, 1, 16, 16, generator=generator)
    samples = [
        {"image": x, "mask": (x > 0.7).float(), "label": k % 2, "id": str(k), "index": k} for k, x in enumerate(image)
    ]
    kept = Kept()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[kept], limit_val_batches=0, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples, batch_size=2), ckpt_path=checkpoint, weights_only=True)
    return trainer, kept.states


def test_it_follows_the_trained_weights_and_is_what_answers_and_is_stored(tmp_path):
    module = module_of(DECAY)
    mean = {k: v.double().clone() for k, v in module.state_dict().items() if not k.startswith("average.")}
    trainer, states = fit(module, 6)
    for step, state in enumerate(states):
        decay = min(DECAY, (1 + step) / (10 + step))
        for key, value in state.items():
            mean[key] = value if "tracked" in key else decay * mean[key] + (1 - decay) * value
    trainer.save_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert stored["state_dict"].keys() == mean.keys()  # as without an average
    for key, value in mean.items():
        assert torch.allclose(stored["state_dict"][key].double(), value, atol=1e-6), key
    moved = max(float((mean[k] - v).abs().max()) for k, v in states[-1].items() if "weight" in k)
    assert moved > 1e-3  # else the test tests nothing
    image = torch.rand(1, 1, 16, 16)
    module.eval()
    with torch.no_grad():
        answer = module.answer(image)
        plain = module.task.predict(image, module.backbone, module.decoder)
        module.settle()
        assert module.average is None
        assert torch.equal(module.task.predict(image, module.backbone, module.decoder), answer)
    assert not torch.allclose(plain, answer, atol=1e-3)
    module_of(0.0).load_state_dict(stored["state_dict"])  # a run without one reads it


def test_it_resumes_bit_by_bit(tmp_path):
    whole = module_of(0.9)
    fit(whole, 5)
    half = module_of(0.9)
    first, _ = fit(half, 3)
    first.save_checkpoint(tmp_path / "last.ckpt")
    rest = module_of(0.9)
    fit(rest, 5, checkpoint=str(tmp_path / "last.ckpt"))
    assert rest.average.steps == whole.average.steps == 5
    for key, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[key], value), key


def test_it_counts_optimiser_steps_and_off_is_off():
    module = module_of(DECAY)
    fit(module, 2, accumulate=3, batches=3)
    assert module.average.steps == 2
    assert module_of(0.0).average is None
    assert not [key for key in module_of(0.0).state_dict() if "average" in key]


def test_weights_of_classes_that_are_counted_before_training_are_no_weights_to_average():
    spec = replace(SPEC, target="class", class_names=("a", "b"))
    module = module_of(DECAY, spec, class_weights="balanced", crop_scale=1, rotation_deg=0)
    module.task.balance(torch.tensor([1, 3]), torch.tensor([4, 4]))
    fit(module, 2)
    assert module.average.steps == 2
    module.settle()

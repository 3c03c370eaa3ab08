"""data.normalisation through a pretraining, what starts from it, and a test on other data."""

import json

import pytest

from experiments.cli import main
from experiments.config.run import compose_pretrain
from experiments.run.pretrained import check_range
from ssl_med.spec import DataSpec, Intensity, SslMedError

SMALL = [
    "trainer=cpu",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.val_every_steps=2",
    "trainer.progress=false",
]
SMALL += ["backbone.channels=[8,8,16]", "data.patch_size=[16,16,8]", "data.crops_per_volume=2"]
TUNED = ["task.overlap=0", "task.pictures=[0,0,0,0]"]


def test_weights_of_the_unit_range_do_not_meet_standardised_images(shared_phantom):
    unit, zscore, dataset = (
        DataSpec("x", 3, 1, (8, 8, 8), Intensity(normalisation=word, mean=1.0))
        for word in ("unit", "zscore", "dataset")
    )
    check_range(zscore, dataset, "f")
    with pytest.raises(
        SslMedError, match=r"data.normalisation=unit: the weights of f .* set data.normalisation=zscore"
    ):
        check_range(zscore, unit, "f")
    root = shared_phantom("chest14", subjects=5)
    online = ["online.task=chest14", f"online.data.root={root}"]
    with pytest.raises(
        SslMedError, match=r"online.data.normalisation=unit: the pretraining on chest14 has data.normali"
    ):
        compose_pretrain(["method=rotation", "data=chest14", "data.normalisation=zscore", *online])


@pytest.mark.slow
def test_from_a_pretraining_to_a_test_on_other_data(shared_phantom, tmp_path, capsys):
    root = shared_phantom("lits", subjects=5)
    where = [f"data.root={root}", "data.normalisation=zscore"]
    first = tmp_path / "first"
    assert main(["pretrain", "method=mae", "data=lits", *where, *SMALL, f"out={first}"]) == 0
    card = json.loads((first / "summary.json").read_text())
    assert "zscore" in json.dumps(card)
    tune = ["finetune", "task=lits", f"init={first}", *SMALL, *TUNED, "data.allow_overlap=true"]
    capsys.readouterr()
    assert main([*tune, where[0], f"out={tmp_path / 'no'}"]) == 2
    assert "set data.normalisation=zscore" in capsys.readouterr().err
    assert main([*tune, *where, f"out={tmp_path / 'second'}"]) == 0
    words = ["external", str(tmp_path / "second"), "task=lits_liver", "map=same", where[0], "data.allow_overlap=true"]
    assert main([*words, "trainer=cpu", "task.overlap=0"]) == 0
    assert "data.normalisation=zscore" in capsys.readouterr().out

"""The leakage ledger: what took part in a pretraining is recognised in a task's held-out parts, and only that."""

import json
import shutil

import pytest

from datamodules.core.scans import Scan
from datamodules.lits import LitsConfig, LitsData
from datamodules.luna import LunaConfig, LunaData
from datamodules.phantoms import lits, luna
from experiments.cli import main
from experiments.run.session import ledger_of
from ssl_med.checkpoint import Card, read_card
from ssl_med.ledger import Ledger, Members, compare, file_key, salted
from ssl_med.spec import SslMedError

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=2", "backbone.name=unet"]
VOLUME = ["data.patch_size=[16,16,16]", "data.crops_per_volume=2", "trainer.max_steps=1", "trainer.val_every_steps=0"]
WIDTHS = ["backbone.channels=[8,8,16]"]


def members(*subjects, volumes=()):
    return Members(frozenset(map(salted, subjects)), frozenset(volumes))


def test_salted_keys_need_the_salt(monkeypatch):
    plain = salted("lits:1")
    assert plain == salted("lits:1") != salted("lits:2")
    assert len(plain) == 16
    monkeypatch.setenv("SSL_MED_SALT", "hospital")
    assert salted("lits:1") != plain


def test_a_file_is_known_by_its_content(tmp_path):
    content = bytes(range(256)) * 1000
    for name in ("a.nii.gz", "renamed.nii.gz"):
        (tmp_path / name).write_bytes(content)
    key = file_key(tmp_path / "a.nii.gz")
    assert key == file_key(tmp_path / "renamed.nii.gz")
    for place in (0, len(content) // 2, len(content) - 1):  # beginning, middle, end
        changed = bytearray(content)
        changed[place] ^= 1
        (tmp_path / "other").write_bytes(changed)
        assert file_key(tmp_path / "other") != key
    (tmp_path / "other").write_bytes(content + b"x")
    assert file_key(tmp_path / "other") != key
    (tmp_path / "small").write_bytes(b"abc")
    assert file_key(tmp_path / "small") != file_key(tmp_path / "a.nii.gz")
    for folder in ("series", "copy"):
        (tmp_path / folder).mkdir()
        for name in ("1", "2"):
            (tmp_path / folder / f"{folder}{name}").write_bytes(name.encode())
    assert file_key(tmp_path / "series") == file_key(tmp_path / "copy")
    with pytest.raises(SslMedError, match="none"):
        file_key(tmp_path / "none")


def test_what_counts_as_a_leak():
    pretrained = Ledger({"train": members("a", "b"), "val": members("c")})
    assert compare(
        pretrained, Ledger({"train": members("a"), "val": members("c"), "test": members("d")}), allow=False
    ) == (compare(pretrained, Ledger({}), allow=False))
    for part, subject in (("test", "a"), ("test", "c"), ("val", "b")):
        task = Ledger({part: members(subject, "x")})
        with pytest.raises(
            SslMedError, match=rf"saw 1 subjects and 0 files of the {part} part.*data\.allow_overlap=true"
        ):
            compare(pretrained, task, allow=False)
        leakage = compare(pretrained, task, allow=True)
        assert leakage.status == "allowed"
        assert leakage.subjects[part] == 1
    copy = Ledger({"test": members("z", volumes=["k"])})
    seen = Ledger({"train": members("a", volumes=["k", "l"])})
    assert compare(seen, copy, allow=True).volumes == {"val": 0, "test": 1}
    assert compare(None, copy, allow=False).status == "unknown"


def test_the_card_keeps_the_parts():
    ledger = Ledger({"train": members("a", volumes=["k"]), "val": members("c", volumes=["m"])})
    card = Card("m", {}, {}, {}, None, 0, 0, {}, "", **ledger.card_fields())
    assert card.ledger() == ledger
    assert len(card.subjects) == len(card.volumes) == len(card.validated) == 2
    assert card.summary()["volumes"] == 2
    assert Card("m", {}, {}, {}, None, 0, 0, {}, "", subjects=()).ledger() is None


def data_of(root, *, labelled=True, family=LitsData, config=LitsConfig, name="lits", **settings):
    data = family(
        config(name=name, root=str(root), patch_size=(16, 16, 16), **settings), labelled=labelled, batch_size=1
    )
    data.setup()
    return data


def test_identities(tmp_path):
    scans = lits.generate(tmp_path / "lits", subjects=4, seed=0, size=(24, 24, 24))
    series = luna.generate(tmp_path / "luna", subjects=3, seed=0, size=(32, 32, 32))
    mine = {name for part in data_of(scans).identities().values() for name in part}
    assert mine == {f"lits:{n}" for n in range(4)}  # never patient 1 of another data set
    luna_data = data_of(series, family=LunaData, config=LunaConfig, name="luna", labelled=False)
    uids = {name for part in luna_data.identities().values() for name in part}
    cases = [case for part in luna_data.parts.values() for case in part]
    assert uids == {f"uid:{case.name}" for case in cases}  # a LIDC copy of the series has the same
    assert len(uids) == len(cases) > 1
    # the voxels are compared, not the header, which names the data file
    files = [file for part in luna_data.image_files().values() for file in part]
    assert files
    assert not any(file.endswith(".mhd") for file in files)


def test_own_cases_belong_to_their_folder(tmp_path, monkeypatch):
    scans = lits.generate(tmp_path / "lits", subjects=4, seed=0, size=(24, 24, 24))
    path = str(scans / "volume-0.nii.gz")

    def index(self, root):
        return [Scan(f"Doe{n}", f"Doe{n}", (path,), path) for n in range(4)]

    monkeypatch.setattr(LitsData, "index", index)
    data = data_of(scans)
    names = [name for part in data.identities().values() for name in part]
    assert all(name.startswith(f"lits:{scans.resolve()}:Doe") for name in names)
    assert {part: [] for part in data.parts} == data.image_files()  # one file of four subjects tells them not apart
    cases = [case for part in data.parts.values() for case in part]
    assert all(case.name.startswith("case-") and "Doe" not in case.name for case in cases)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return lits.generate(tmp_path_factory.mktemp("ledger") / "lits", subjects=8, seed=0, size=(32, 32, 24))


@pytest.fixture(scope="module")
def pretrained(scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "pre"
    words = ["pretrain", "method=models_genesis", "data=lits", *VOLUME, *TINY, *WIDTHS, f"data.root={scans}"]
    assert main([*words, f"out={out}"]) == 0
    return out


def finetune(root, pretrained, out, *words):
    common = ["finetune", "task=lits", *TINY, *VOLUME, f"data.root={root}", f"init={pretrained}", f"out={out}"]
    return main([*common, *words])


def test_the_same_data_with_its_test_part_left_out_passes(scans, pretrained, tmp_path, capsys):
    assert finetune(scans, pretrained, tmp_path / "fine") == 0
    assert json.loads((tmp_path / "fine" / "summary.json").read_text())["leakage"]["status"] == "none"
    recorded = json.loads((pretrained / "subjects.json").read_text())
    data = data_of(scans, labelled=False)
    assert recorded == json.loads(json.dumps(ledger_of(data).to_dict()))
    card = read_card(pretrained / "backbone.safetensors")
    assert len(card.subjects) == len(card.volumes) == sum(len(x) for x in data.subjects().values())


def test_overlap_is_refused_or_told_in_every_report(scans, pretrained, tmp_path, capsys):
    other = ["data.split_seed=3"]
    capsys.readouterr()
    assert finetune(scans, pretrained, tmp_path / "no", *other) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ssl-med: leak: the pretraining saw ")
    assert "data.allow_overlap=true" in line
    assert not (tmp_path / "no").exists()
    assert finetune(scans, pretrained, tmp_path / "yes", *other, "data.allow_overlap=true") == 0
    summary = json.loads((tmp_path / "yes" / "summary.json").read_text())
    assert summary["leakage"]["status"] == "allowed"
    assert summary["leakage"]["subjects"]["test"] > 0
    assert any("the pretraining saw" in note for note in summary["notes"])
    assert main(["report", str(tmp_path), f"out={tmp_path / 'report'}"]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "report" / name).read_text()
        assert "LEAK: pretraining saw" in text
        assert "with overlap, as allowed" in text


@pytest.mark.slow
def test_a_copy_under_another_id_is_recognised(scans, pretrained, tmp_path, capsys):
    train = data_of(scans, labelled=False).parts["train"][0]
    other = lits.generate(tmp_path / "other", subjects=6, seed=5, size=(32, 32, 24))
    for path in other.glob("*-*.nii.gz"):  # other patients have other numbers
        kind, number = path.name.removesuffix(".nii.gz").split("-")
        path.rename(other / f"{kind}-{int(number) + 100}.nii.gz")
    assert finetune(other, pretrained, tmp_path / "apart") == 0
    test = data_of(other).parts["test"][0]
    shutil.copy(train.images[0], test.images[0])
    shutil.copy(train.mask, test.mask)
    capsys.readouterr()
    assert finetune(other, pretrained, tmp_path / "copy") == 2
    assert "0 subjects and 1 files of the test part" in capsys.readouterr().err


def test_another_salt_cannot_be_compared(scans, pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_MED_SALT", "hospital")
    assert finetune(scans, pretrained, tmp_path / "fine") == 0
    summary = json.loads((tmp_path / "fine" / "summary.json").read_text())
    assert summary["leakage"]["status"] == "unknown"
    assert any("another SSL_MED_SALT" in note for note in summary["notes"])

"""`ssl-med external` on phantoms: metrics of the mapped classes, refusals, leaks, and the table of the report."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from launchers import Inline
from sklearn.metrics import roc_auc_score

from datamodules.chest14 import Chest14Data
from datamodules.chexpert import CheXpertData
from datamodules.phantoms import chest14, chexpert, lits, medmnist, montgomery, msd, shenzhen
from experiments.cli import main
from experiments.commands import compare
from experiments.config.external import compose_external
from experiments.config.sources import CONF, names
from ssl_med.config import read_yaml
from ssl_med.evaluation.external import ClassMap, fit
from ssl_med.reports.run_folder import read_run

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

CPU = ["trainer=cpu", "trainer.progress=false", "task.pictures=[0,1,0,0]"]
TUNE = ["trainer.max_steps=2", "trainer.batch_size=4", "backbone.name=unet", "backbone.channels=[8,8,16]"]
IMAGE = ["data.patch_size=[32,32]", "data.image_size=36"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    shenzhen.generate(root / "shenzhen", subjects=24, seed=0)
    montgomery.generate(root / "montgomery", subjects=14, seed=0)
    chest14.generate(root / "chest14", subjects=20, seed=0)
    chexpert.generate(root / "chexpert", subjects=12, seed=0)
    lits.generate(root / "lits", subjects=8, seed=0, size=(32, 32, 24))
    lits.generate(root / "lits_b", subjects=4, seed=5, size=(40, 32, 24))
    return root


@pytest.fixture(scope="module")
def trained(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")

    def finetune(name, *words):
        assert main(["finetune", *CPU, *TUNE, *map(str, words), f"out={out / name}"]) == 0

    for seed in (0, 1):
        words = ["task=shenzhen", f"data.root={roots / 'shenzhen'}", *IMAGE, f"seed={seed}"]
        finetune(f"tb{seed}", *words, "task.hidden=8", "labels.fraction=0.5")
    finetune("chest", "task=chest14", f"data.root={roots / 'chest14'}", *IMAGE)
    small = [
        "data.patch_size=[16,16,8]",
        "data.crops_per_volume=2",
        "data.intensity_low=-150",
        "data.spacing_mm=[4,4,6]",
    ]
    both = "data.target_regions=liver+tumor"
    finetune("liver", "task=lits", f"data.root={roots / 'lits'}", *small, both, "data.split_ratios=[0.5,0.1,0.4]")
    return out


def run_external(run, out, *words, code=0):
    assert main(["external", str(run), *CPU, *map(str, words), f"out={out}"]) == code
    return json.loads((out / "summary.json").read_text()) if code == 0 else None


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_tuberculosis_in_and_out_of_domain_in_one_table(roots, trained, tmp_path, capsys):
    words = ["task=montgomery", f"data.root={roots / 'montgomery'}", "map=tuberculosis"]
    for seed in (0, 1):
        summary = run_external(trained / f"tb{seed}", tmp_path / "runs" / f"ext{seed}", *words)
    assert (summary["kind"], summary["trained_on"]["task"], summary["tested_on"]["part"]) == (
        "external",
        "shenzhen",
        "all",
    )
    assert summary["map"]["classes"] == {"normal": ["normal"], "tuberculosis": ["tuberculosis"]}
    assert summary["leakage"]["training"]["status"] == "none"
    assert summary["leakage"]["pretraining"] is None
    # all images of Montgomery, scored independently from the table of cases
    folder = tmp_path / "runs" / "ext1"
    rows = rows_of(folder / "test_cases.csv")
    assert len(rows) == summary["n_test"] == 14
    outside = roc_auc_score([int(r["case"][-1]) for r in rows], [float(r["score/tuberculosis"]) for r in rows])
    assert summary["metrics"]["test/auc"] == pytest.approx(outside)
    own = json.loads((trained / "tb1" / "summary.json").read_text())
    assert summary["metrics"]["in_domain/auc"] == own["metrics"]["test/auc"]
    assert summary["drop"]["estimate"] == pytest.approx(own["metrics"]["test/auc"] - outside)
    assert summary["interval"]["low"] <= outside <= summary["interval"]["high"]
    assert {"analysis-roc.png", "analysis-calibration.png"} <= {p.name for p in (folder / "figures").iterdir()}
    capsys.readouterr()
    run_external(trained / "tb1", folder, *words)
    assert "finished already" in capsys.readouterr().out
    shutil.copytree(trained / "tb0", tmp_path / "runs" / "tb0")
    assert main(["report", str(tmp_path / "runs"), f"out={tmp_path / 'report'}"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    mean = np.mean(
        [
            json.loads((tmp_path / "runs" / f"ext{k}" / "summary.json").read_text())["metrics"]["test/auc"]
            for k in (0, 1)
        ]
    )
    (line,) = [line for line in text.splitlines() if line.startswith("| scratch") and line.count("|") == 5]
    _, _, inside, out, drop, _ = line.split("|")
    assert f"{mean:.3f} ±" in out
    assert drop.strip()[0] in "+-"
    assert "(2)" in inside
    interval = summary["interval"]
    one = tmp_path / "one"
    assert main(["report", str(folder), f"out={one}"]) == 0
    assert (
        f"[{interval['low']:.3f}, {interval['high']:.3f}]" in (one / "report.md").read_text().partition("## Error")[0]
    )
    page = (tmp_path / "report" / "report.html").read_text()
    assert "In and out of domain" in page
    assert "shenzhen → montgomery" in page
    results = rows_of(tmp_path / "report" / "results.csv")
    assert sorted(row["kind"] for row in results) == ["external", "external", "finetune"]


@pytest.mark.slow
def test_a_table_tests_its_fine_tunings_elsewhere(roots, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "Workers", Inline)
    table = tmp_path / "away.yaml"
    table.write_text(
        """
        title: Tuberculosis elsewhere
        trainer: cpu
        seeds: [0, 1]
        settings:
          data: {patch_size: [32, 32], image_size: 36}
          backbone: {channels: [8, 8, 16]}
          trainer: {max_steps: 2, batch_size: 4}
        rows: {scratch: {}}
        columns:
          home: {task: shenzhen, fractions: [0.5, 1.0], settings: {task: {pictures: [0, 0, 0, 0]}}}
          away: {tests: home, task: montgomery, settings: {map: tuberculosis, task: {pictures: [0, 0, 0, 0]}}}
        """
    )
    command = ["compare", f"table={table}", f"root.shenzhen={roots / 'shenzhen'}", f"out={tmp_path / 'out'}"]
    assert main([*command, f"root.montgomery={roots / 'montgomery'}"]) == 0, capsys.readouterr()
    home = {path: read_run(path) for path in (tmp_path / "out" / "final").iterdir()}
    away = [run for run in home.values() if run.external]
    assert len(home) == 8
    assert len(away) == 4
    for run in away:
        before = home[next(p for p, x in home.items() if x.summary["hash"] == run.summary["trained_on"]["hash"])]
        assert (before.seed, before.fraction) == (run.seed, run.fraction)
        assert run.metrics["in_domain/auc"] == pytest.approx(before.value, nan_ok=True)
        assert run.summary["hash"] in run.name  # the folder was named before the training began
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| trained on shenzhen | in domain | out of domain: montgomery | drop |" in report
    assert "scratch, 50 % labels" in report
    printed = capsys.readouterr().out
    assert "8 runs, 0 of them done already" in printed
    assert "away at 50 %: scratch, seed 1: auc " in printed
    # what is wrong with a test is said before anything is trained
    again = [f"root.montgomery={tmp_path / 'none'}", f"out={tmp_path / 'other'}"]
    assert main([*command[:-1], *again, "columns.away.settings.map=tuberculose"]) == 2
    assert "away at 50 %: scratch, seed 0: map 'tuberculose' is unknown" in capsys.readouterr().err


def test_in_a_job_of_more_processes_than_devices(roots, trained, tmp_path, monkeypatch):
    job = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "ssl-med"}
    for key, value in job.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    words = ["task=montgomery", f"data.root={roots / 'montgomery'}", "map=tuberculosis"]
    assert run_external(trained / "tb0", tmp_path / "out", *words)["status"] == "done"


def test_the_test_part_and_a_map_of_words(roots, trained, tmp_path):
    words = ["task=montgomery", f"data.root={roots / 'montgomery'}", "part=test", "data.split_seed=3"]
    summary = run_external(trained / "tb0", tmp_path / "a", *words, "map=same")
    assert summary["n_test"] == 4
    with_one = [*words, "map.normal=tuberculosis", "map.tuberculosis=normal"]
    turned = run_external(trained / "tb0", tmp_path / "c", *with_one)
    assert turned["metrics"]["test/auc"] == pytest.approx(1 - summary["metrics"]["test/auc"])
    assert turned["metrics"]["in_domain/auc"] == summary["metrics"]["in_domain/auc"]


def test_seven_findings_of_chexpert(roots, trained, tmp_path):
    words = ["task=chexpert", f"data.root={roots / 'chexpert'}", "map=chest14_to_chexpert"]
    summary = run_external(trained / "chest", tmp_path / "run", *words)
    classes = summary["map"]["classes"]
    assert len(classes) == 7
    assert classes["Effusion"] == ["Pleural Effusion"]
    assert "Hernia" in summary["map"]["unmapped_trained"]
    assert any("Hernia" in note for note in summary["notes"])
    # the official tables, read once more: -1 is left out, blank is absent
    truth = {}
    for table in ("train.csv", "valid.csv"):
        for row in rows_of(roots / "chexpert" / table):
            name = row["Path"].partition("/")[2].removesuffix(".jpg")
            truth[name] = {ours: {"1.0": 1, "-1.0": None}.get(row[theirs], 0) for ours, (theirs,) in classes.items()}
    rows = rows_of(tmp_path / "run" / "test_cases.csv")
    assert {row["case"] for row in rows} == {name for name in truth if name.endswith("frontal")}
    each = {}
    for finding in classes:
        pairs = [(truth[row["case"]][finding], float(row[f"score/{finding}"])) for row in rows]
        labels, scores = zip(*((y, s) for y, s in pairs if y is not None), strict=True)
        if len(set(labels)) == 2:
            each[finding] = roc_auc_score(labels, scores)
    assert summary["metrics"]["test/auroc"] == pytest.approx(np.mean(list(each.values())))
    assert summary["metrics"]["test/auroc/Effusion"] == pytest.approx(each["Effusion"])
    inside = rows_of(trained / "chest" / "test_cases.csv")
    values = [
        roc_auc_score(y, [float(r[f"score/{f}"]) for r in inside])
        for f in classes
        if len(set(y := [r[f"label/{f}"] for r in inside])) == 2
    ]
    assert summary["metrics"]["in_domain/auroc"] == pytest.approx(np.mean(values))


def test_masks_of_another_source_are_prepared_as_the_trained_ones(roots, trained, tmp_path, capsys):
    msd.generate(tmp_path / "msd", subjects=3, seed=0, size=(40, 32, 24))
    labels = json.loads((tmp_path / "msd" / "dataset.json").read_text())["labels"]
    region = next(name for number, name in labels.items() if number != "0")
    words = ["task=lits_mg", f"data.root={roots / 'lits_b'}", "data.target_regions=liver+tumor"]
    # a phantom's patients 1 to 4 are patients 1 to 4 of LiTS, whatever they look like
    run_external(trained / "liver", tmp_path / "no", *words, "map=same", code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ssl-med: leak: the training saw ")
    assert not (tmp_path / "no").exists()
    summary = run_external(trained / "liver", tmp_path / "yes", *words, "map.liver=liver", "data.allow_overlap=true")
    assert summary["leakage"]["training"]["status"] == "allowed"
    assert any("the training saw" in note for note in summary["notes"])
    data = summary["config"]["data"]
    assert (data["intensity_low"], data["intensity_high"], data["patch_size"]) == (-150, 200, [16, 16, 8])
    assert data["spacing_mm"] == [4, 4, 6]
    assert summary["map"]["unmapped_trained"] == ["tumor"]
    inside = rows_of(trained / "liver" / "test_cases.csv")
    assert summary["metrics"]["in_domain/dice"] == pytest.approx(np.mean([float(r["dice/liver"]) for r in inside]))
    rows = rows_of(tmp_path / "yes" / "test_cases.csv")
    assert summary["metrics"]["test/dice"] == pytest.approx(np.mean([float(r["dice"]) for r in rows]))
    assert len(rows) == 4
    assert main(["report", str(tmp_path / "yes"), f"out={tmp_path / 'report'}"]) == 0
    assert "LEAK: training saw" in (tmp_path / "report" / "report.md").read_text()
    capsys.readouterr()
    other = ["task=msd", f"data.root={tmp_path / 'msd'}", f"map.liver={region}", "data.modalities=[FLAIR]"]
    found = run_external(trained / "liver", tmp_path / "msd_run", *other)
    assert found["n_test"] == 3
    assert (found["config"]["data"]["intensity"], found["config"]["data"]["intensity_low"]) == ("window", -150)
    assert "prepared as trained: data.patch_size=[16,16,8], data.intensity" in capsys.readouterr().out


def test_a_copied_file_is_a_leak_under_any_name(roots, trained, tmp_path, capsys):
    root = tmp_path / "own"
    shutil.copytree(roots / "montgomery" / "CXR_png", root / "CXR_png")
    subjects = json.loads((trained / "tb0" / "subjects.json").read_text())
    assert subjects["parts"]["train"]["volumes"]
    from ssl_med.ledger import file_key

    seen = next(
        path
        for path in sorted((roots / "shenzhen" / "CXR_png").glob("*.png"))
        if file_key(path) in subjects["parts"]["train"]["volumes"]
    )
    shutil.copy(seen, root / "CXR_png" / f"MCUCXR_0900_{seen.stem[-1]}.png")
    run_external(trained / "tb0", tmp_path / "run", "task=montgomery", f"data.root={root}", "map=tuberculosis", code=2)
    assert "the training saw 0 subjects and 1 files of the test part" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pretraining_is_compared_too(roots, tmp_path, capsys):
    words = ["data=lits", "data.patch_size=[16,16,8]", "data.crops_per_volume=2", "trainer.max_steps=1"]
    network = ["backbone.channels=[8,8,16]", "trainer.batch_size=2"]
    root = f"data.root={roots / 'lits_b'}"
    assert main(["pretrain", "method=models_genesis", *words, *network, *CPU[:2], root, f"out={tmp_path / 'pre'}"]) == 0
    msd.generate(tmp_path / "msd", subjects=6, seed=0, size=(32, 32, 24))
    tune = [
        "finetune",
        "task=msd",
        f"data.root={tmp_path / 'msd'}",
        f"init={tmp_path / 'pre'}",
        "data.intensity=window",
    ]
    tune.append("data.modalities=[FLAIR]")
    more = ["data.intensity_low=-200", "data.intensity_high=200", "data.patch_size=[16,16,8]", "trainer.max_steps=1"]
    assert main([*tune, *more, *CPU, "trainer.batch_size=2", f"out={tmp_path / 'run'}"]) == 0
    network = json.loads((tmp_path / "run" / "summary.json").read_text())["network"]
    region = network["spec"]["class_names"][0]
    capsys.readouterr()
    asked = ["task=lits", root, f"map.{region}=liver"]
    run_external(tmp_path / "run", tmp_path / "no", *asked, code=2)
    assert "leak: the pretraining saw 3 subjects and 3 files" in capsys.readouterr().err
    summary = run_external(tmp_path / "run", tmp_path / "yes", *asked, "data.allow_overlap=true")
    assert summary["leakage"]["training"]["status"] == "none"
    assert summary["leakage"]["pretraining"]["subjects"]["test"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["map=tuberculosis", "data.image_size=64"], "data.image_size=64, but RUN was trained with 36"),
        (["map=tuberculosi"], "map 'tuberculosi' is unknown; did you mean 'tuberculosis'?"),
        ([], "map is missing: say which class of the run (normal, tuberculosis)"),
        (["map=same", "data.split_seed=1"], "data.split is of part=test"),
        (["map=same", "part=train"], "part is 'train'; it must be all or test"),
        (["map=same", "map=same"], "'map' is given twice"),
        (["map=chest14_to_chexpert_competition"], "competition.yaml: key 'data.observations' is unknown"),
        (["map=same", "optim.lr=1"], "key 'optim' is unknown"),
        (["map=same", "trainer.max_steps=1"], "key 'trainer.max_steps' is unknown"),
        (["map=same", "task.hidden=2"], "key 'task.hidden' is unknown"),
        (["map.TB=tuberculosis"], "map.TB: the run was not trained on 'TB'"),
    ],
)
def test_wrong_words_are_one_line(words, message, roots, trained, tmp_path, capsys):
    run = trained / "tb0"
    message = message.replace("RUN", str(run))
    root = f"data.root={roots / 'montgomery'}"
    assert main(["external", str(run), "task=montgomery", root, *words, f"out={tmp_path / 'x'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ssl-med: ")
    assert message in line
    assert not (tmp_path / "x").exists()


def test_wrong_runs_and_other_dimensions_are_one_line(roots, trained, tmp_path, capsys):
    medmnist.generate(tmp_path / "colour", subjects=30, seed=0)
    done = trained / "tb0"
    broken = tmp_path / "broken"
    shutil.copytree(done, broken)
    (broken / "best.ckpt").write_bytes(b"not a checkpoint")
    gone = tmp_path / "gone"
    shutil.copytree(done, gone)
    (gone / "best.ckpt").unlink()
    old = tmp_path / "old"
    shutil.copytree(done, old)
    summary = json.loads((old / "summary.json").read_text())
    del summary["network"]
    (old / "summary.json").write_text(json.dumps(summary))
    root = f"data.root={roots / 'montgomery'}"
    for words, message in (
        ([str(tmp_path / "nowhere"), "task=montgomery", root], "no such folder; give the folder of a finished"),
        ([str(tmp_path), "task=montgomery", root], "is no finished fine-tuning: no summary.json"),
        ([str(old), "task=montgomery", root], "did not record its network"),
        ([str(broken), "task=montgomery", root], "best.ckpt: is no file that torch wrote; copy or download it again"),
        ([str(gone), "task=montgomery", root], "the tested weights of this run are gone"),
        (["task=montgomery", root], "give the folder of one finished fine-tuning"),
        ([str(done), "task=lits", f"data.root={roots / 'lits'}"], f"task=lits: is 3D, {done} was trained in 2D"),
        ([str(done), "task=bach", root], "was trained with 1 channels (grey), 'bach' has 3"),
        ([str(done), "task=montgomery_lungs", root], "the run was trained on classes, 'montgomery' has masks"),
        ([str(done), "task=montgomery", f"data.root={roots / 'chest14'}"], "is this montgomery?"),
        ([str(trained / "liver"), "task=brats", root], "was trained with 1 channels (ct), 'brats' has 4"),
        (
            [str(trained / "liver"), "task=brats", root, "data.modalities=[t1]"],
            "trained with intensities by window -150..200",
        ),
    ):
        assert main(["external", *words, "map=same", f"out={tmp_path / 'x'}"]) == 2, words
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line, line


def test_every_map_fits_the_data_it_names(tmp_path):
    assert {"tuberculosis", "chest14_to_chexpert", "lits_to_msd_liver", "brats_to_msd_brain"} <= set(names("map"))

    def classes(name):
        tree = read_yaml(CONF / "map" / f"{name}.yaml", name).tree
        found = {key: tuple(x) if isinstance(x, list) else (x,) for key, x in tree["classes"].items()}
        return ClassMap(found, tree.get("uncertain", "ignore")), tree.get("data", {})

    image = Chest14Data.make_spec(Chest14Data.Config(name="chest14"), labelled=True)
    for name, count in (("chest14_to_chexpert", 7), ("chest14_to_chexpert_competition", 5)):
        given, data = classes(name)
        other = CheXpertData.make_spec(CheXpertData.Config(name="chexpert", **data), labelled=True)
        mapped = fit(given, image, other)
        assert len(mapped.columns) == count
        assert not (name.endswith("competition") and mapped.external)
    other = CheXpertData.make_spec(CheXpertData.Config(name="chexpert"), labelled=True)
    assert len(fit(classes("chexpert_to_chest14")[0], other, image).columns) == 5
    from datamodules.brats import BratsData
    from datamodules.lits import LitsData
    from datamodules.msd import MsdData

    for name, family, modality, labels in (
        ("lits_to_msd_liver", LitsData, {"0": "CT"}, {"0": "background", "1": "liver", "2": "cancer"}),
        (
            "brats_to_msd_brain", BratsData, {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
            {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        ),
    ):  # fmt: skip
        table = {"modality": modality, "labels": labels, "training": []}
        (tmp_path / "dataset.json").write_text(json.dumps(table))
        other = MsdData.make_spec(MsdData.Config(name="msd", root=str(tmp_path)), labelled=True)
        trained_on = family.make_spec(family.Config(name="x"), labelled=True)
        mapped = fit(classes(name)[0], trained_on, other)
        assert not mapped.trained
        assert not mapped.external


def test_settings_are_shown_and_decide_the_folder(roots, trained, capsys):
    words = [str(trained / "tb0"), "task=montgomery", f"data.root={roots / 'montgomery'}", "map=same", *CPU]
    assert main(["external", *words, "--show"]) == 0
    assert "part: all" in capsys.readouterr().out
    one = compose_external(words)
    assert one.folder().name.startswith("montgomery-tb0-")
    assert one.hash() != compose_external([*words, "part=test"]).hash()
    assert one.hash() != compose_external([*words, "map.normal=tuberculosis", "map.tuberculosis=normal"]).hash()
    assert one.hash() == compose_external([*words, "trainer.num_workers=2"]).hash()


def decathlon(root, *, train, test, listed):
    """A task with `train` cases of imagesTr (four are listed), and `test` of imagesTs with labels in labelsTs."""
    rng = np.random.default_rng(train + 10 * test)
    for part, letter, count in (("Tr", "c", train), ("Ts", "t", test)):
        for k in range(count):
            for folder, array in (
                ("images", rng.integers(0, 900, (12, 12, 12))),
                ("labels", rng.integers(0, 2, (12, 12, 12))),
            ):
                path = root / f"{folder}{part}" / f"{letter}_{k}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    names = [f"c_{k}.nii.gz" for k in range(max(train, 4) if train != 1 else 1)]
    table = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "a"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [f"./imagesTs/t_{k}.nii.gz" for k in range(test)] if listed else [],
    }
    (root / "dataset.json").write_text(json.dumps(table))


def test_a_test_set_that_somebody_else_made(tmp_path, capsys):
    """Decathlon's imagesTs with labelsTs, with and without a training part; one subject; a MedMNIST test part alone."""
    decathlon(tmp_path / "all", train=8, test=0, listed=False)
    small = ["data.patch_size=[8,8,8]", "data.crops_per_volume=1", "data.split_ratios=[0.5,0.25,0.25]"]
    words = ["task=msd", f"data.root={tmp_path / 'all'}", *small, "init=scratch", f"out={tmp_path / 'run'}"]
    assert main(["finetune", *CPU, *TUNE, *words]) == 0
    for name, train, test, listed, expected in (
        ("listed", 0, 3, True, {"t_0", "t_1", "t_2"}),
        ("unlisted", 0, 2, False, {"t_0", "t_1"}),
        ("both", 4, 1, True, {"c_0", "c_1", "c_2", "c_3", "t_0"}),
        ("one", 1, 0, False, {"c_0"}),
    ):
        decathlon(tmp_path / name, train=train, test=test, listed=listed)
        where = ["task=msd", f"data.root={tmp_path / name}", "map=same"]
        run_external(tmp_path / "run", tmp_path / f"external-{name}", *where)
        rows = rows_of(tmp_path / f"external-{name}" / "test_cases.csv")
        assert len(rows) == len(expected)
    capsys.readouterr()
    run_external(tmp_path / "run", tmp_path / "none", *where, "part=test", code=2)
    assert "no test subject is left" in (said := capsys.readouterr().err)
    assert "part=all tests all of its 1" in said
    nodules = medmnist.generate(tmp_path / "nodules", subjects=60, seed=0)
    words = ["task=nodule2d", f"data.root={nodules}", "init=scratch", f"out={tmp_path / 'flat'}"]
    assert main(["finetune", *CPU, *TUNE, *words]) == 0
    with np.load(next(nodules.glob("*.npz"))) as arrays:
        (tmp_path / "alone").mkdir()
        images, labels = arrays["test_images"][:, ::-1], arrays["test_labels"]
        np.savez(tmp_path / "alone" / "alone.npz", test_images=images, test_labels=labels)
    for part in ("all", "test"):
        where = ["task=nodule2d", f"data.root={tmp_path / 'alone'}", "map=same", f"part={part}"]
        summary = run_external(tmp_path / "flat", tmp_path / f"alone-{part}", *where)
        assert summary["n_test"] == len(labels)
    words = ["task=nodule2d", f"data.root={tmp_path / 'alone'}", "init=scratch", f"out={tmp_path / 'no'}"]
    assert main(["finetune", *CPU, *TUNE, *words]) == 2
    assert "no training subject is left" in capsys.readouterr().err

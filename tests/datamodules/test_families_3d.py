"""Volumetric families beyond the first ones: from the phantom in its true layout to batches, runs and clear refusals."""

import bz2
import csv
import gzip
import hashlib
import importlib
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from datamodules.core.base import MedicalData
from datamodules.core.files import stem
from datamodules.core.readers import read_header, read_volume, source_files, voxel_file
from datamodules.formats.lidc_xml import Mark, Outline, Reading, agree, interior
from datamodules.phantoms._dicom import write_series
from datamodules.phantoms._files import write_metaimage, write_nifti, write_nrrd
from datamodules.phantoms.lidc import outline
from experiments.cli import main
from ssl_med.catalogue import get_class
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

SIZE = (40, 36, 32)
PATCH = (16, 16, 16)
# options that the tests use, and what a labelled batch holds
OPTIONS = {"candidates": {"subject_column": "patient"}, "lidc": {"spacing_mm": [4.0, 4.0, 4.0]}}
CHANNELS = {"msd": 4, "ms": 4}
LABELLED = {"msd": ("mask", 3), "ms": ("mask", 1), "lidc": ("mask", 1), "candidates": ("label", 2)}
FAMILIES = ["candidates", "lidc", "ms", "msd", "volumes"]
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=2", "trainer.max_steps=2"]
TINY += ["data.patch_size=[16,16,16]", "backbone.name=unet", "backbone.channels=[8,8,16]"]


@pytest.fixture(scope="module")
def phantoms(shared_phantom):
    """Root of each family's phantom, made when it is first asked for."""

    def root(name):
        if name in ("lidc", "volumes"):
            pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
        return shared_phantom(name, subjects=8, size=SIZE)

    return root


@pytest.fixture
def copy_of(phantoms, tmp_path):
    def copy(name):
        return shutil.copytree(phantoms(name), tmp_path / name)

    return copy


def module(name, root, *, labelled, ready=True, batch_size=2, **options):
    data_class = get_class("datamodules", name, kind="data", base=MedicalData)
    options = {"patch_size": PATCH, **OPTIONS.get(name, {}), **options}
    data = data_class(data_class.Config(name=name, root=str(root), **options), labelled=labelled, batch_size=batch_size)
    if ready:
        data.setup()
    return data


def refusal(name, root, **options):
    def read_all():
        data = module(name, root, **options)
        for part in ("train", "val", "test"):
            list(getattr(data, f"{part}_dataloader")())

    with pytest.raises(SslMedError) as found:
        read_all()
    line = str(found.value)
    assert "\n" not in line
    return line


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ssl-med: ")
    return line


def loaded(data, name):
    """The decoded scan of a case by its name."""
    (case,) = [case for cases in data.parts.values() for case in cases if case.name == name]
    return data.load(case)


# ------------------------------------------------------------------------------------------------ every family


@pytest.mark.parametrize("name", FAMILIES)
def test_unlabelled_batches(phantoms, name):
    data = module(name, phantoms(name), labelled=False)
    subjects = data.subjects()
    assert set(subjects) == {"train", "val"}
    assert not set(subjects["train"]) & set(subjects["val"])
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        for batch in batches:
            assert batch["image"].shape[1:] == (CHANNELS.get(name, 1), *PATCH)
            assert 0 <= batch["image"].min() < batch["image"].max() <= 1
            assert set(batch) == {"image", "id", "index"}
        assert np.mean([float(batch["image"].std()) for batch in batches]) > 0.05
    assert data.spec.target == "none"
    assert data.describe()["subjects"]["train"] == len(subjects["train"])


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_batches_and_the_same_test_subjects_left_out_of_pretraining(phantoms, name):
    key, width = LABELLED[name]
    data = module(name, phantoms(name), labelled=True)
    subjects = data.subjects()
    assert set(subjects) == {"train", "val", "test"}
    assert len({s for part in subjects.values() for s in part}) == sum(map(len, subjects.values()))
    assert len(data.spec.class_names) == width
    unlabelled = module(name, phantoms(name), labelled=False).subjects()
    assert not set(subjects["test"]) & {s for part in unlabelled.values() for s in part}
    positive = 0.0
    for part in ("train", "val", "test"):
        for batch in getattr(data, f"{part}_dataloader")():
            assert 0 <= batch["image"].min() < batch["image"].max() <= 1
            if key == "mask":
                assert batch["mask"].shape == (len(batch["id"]), width, *batch["image"].shape[2:])
                assert set(np.unique(batch["mask"])) <= {0.0, 1.0}
                positive += float(batch["mask"].sum())
            else:
                assert set(batch["label"].tolist()) <= {0, 1}
                positive += float(batch["label"].sum())
    assert positive > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrong_root_is_one_line(phantoms, name, capsys, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("nothing")
    words = ["pretrain", "method=simclr", f"data={name}", *TINY, f"out={tmp_path / 'run'}"]
    line = refused(capsys, *words, f"data.root={tmp_path / 'other'}")
    assert "data.root=" in line
    assert f"is this {name}?" in line
    assert "data.root=nowhere: no such folder" in refused(capsys, *words, "data.root=nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_from_the_command_line(phantoms, name, tmp_path):
    words = [*TINY, f"data.root={phantoms(name)}", *(f"data.{k}={v}" for k, v in OPTIONS.get(name, {}).items())]
    pre = ["pretrain", "method=models_genesis", f"data={name}", *words, "data.crops_per_volume=2"]
    assert main([*pre, f"out={tmp_path / 'pre'}"]) == 0
    assert json.loads((tmp_path / "pre" / "summary.json").read_text())["steps"] == 2
    if name not in LABELLED:
        return
    fine = ["finetune", f"task={name}", *words, f"init={tmp_path / 'pre'}", f"out={tmp_path / 'fine'}"]
    assert main(fine) == 0
    summary = json.loads((tmp_path / "fine" / "summary.json").read_text())
    assert "matched" in summary["init"]["report"]
    metric = "dice" if LABELLED[name][0] == "mask" else "auc"
    assert 0 <= summary["metrics"][f"test/{metric}"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_phantoms_are_reproducible_and_refuse_foreign_folders(phantoms, name, tmp_path):
    phantoms(name)  # skips without pydicom
    generate = importlib.import_module(f"datamodules.phantoms.{name}").generate

    def digest(root):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    small = (24, 24, 24)
    generate(tmp_path / "a", subjects=2, seed=3, size=small)
    generate(tmp_path / "b", subjects=3, seed=3, size=small)
    tables = ("dataset.json", "candidates.csv", "PHANTOM.txt")
    few = {path: code for path, code in digest(tmp_path / "a").items() if path.name not in tables}
    assert few
    more = digest(tmp_path / "b")
    assert all(more[path] == code for path, code in few.items())
    generate(tmp_path / "b", subjects=2, seed=3, size=small)
    assert digest(tmp_path / "b") == digest(tmp_path / "a")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("mine")
    with pytest.raises(SslMedError, match=rf"no {name} phantom"):
        generate(tmp_path / "mine", subjects=1, size=small)


# --------------------------------------------------------------------------------------------------------- msd


def test_msd_channels_and_classes_are_those_of_the_table(phantoms):
    root = phantoms("msd")
    data = module("msd", root, labelled=True)
    assert data.spec.channel_names == ("FLAIR", "T1w", "t1gd", "T2w")
    assert data.spec.class_names == ("edema", "non-enhancing tumor", "enhancing tumour")
    assert data.spec.intensity.kind == "percentile"
    name = data.parts["train"][0].name
    item = loaded(data, name)
    # RAS on disk, LPS in the batch
    stored = np.asarray(nib.load(root / "imagesTr" / f"{name}.nii.gz").dataobj)[::-1, ::-1]
    labels = np.asarray(nib.load(root / "labelsTr" / f"{name}.nii.gz").dataobj)[::-1, ::-1]
    for k in range(4):
        brain = stored[..., k] > 0
        low, high = np.percentile(stored[..., k][brain], [0.5, 99.5])
        expected = np.where(brain, np.clip((stored[..., k] - low) / (high - low), 0, 1), 0)
        assert np.abs(item.codes[k] / 65535 - expected).max() < 1e-4
    assert np.array_equal(item.mask, np.stack([labels == k for k in (1, 2, 3)]))


def test_msd_chooses_channels_and_joins_classes(phantoms):
    root = phantoms("msd")
    whole = module("msd", root, labelled=True)
    words = {"modalities": ("T2w", "0"), "classes": ("edema+2+enhancing tumour", "3")}
    data = module("msd", root, labelled=True, **words)
    assert data.spec.channel_names == ("T2w", "FLAIR")
    assert data.spec.class_names == words["classes"]
    name = data.parts["train"][0].name
    item, full = loaded(data, name), loaded(whole, name)
    assert np.array_equal(item.codes, full.codes[[3, 0]])
    assert np.array_equal(item.mask, np.stack([full.mask.max(0), full.mask[2]]))
    assert data.subjects() == whole.subjects()


def test_msd_test_images_serve_for_pretraining_only(phantoms):
    hidden = {"BRATS_004", "BRATS_008"}
    labelled = module("msd", phantoms("msd"), labelled=True).subjects()
    assert not hidden & {s for part in labelled.values() for s in part}
    unlabelled = module("msd", phantoms("msd"), labelled=False).subjects()
    assert hidden & {s for part in unlabelled.values() for s in part}


def test_msd_ct_gets_a_window_of_hu(copy_of):
    root = copy_of("msd")
    table = json.loads((root / "dataset.json").read_text())
    table["modality"] = {"0": "CT", "1": "CT", "2": "CT", "3": "CT"}
    (root / "dataset.json").write_text(json.dumps(table))
    spec = module("msd", root, labelled=False, ready=False).spec
    assert (spec.intensity.kind, spec.intensity.low, spec.intensity.high) == ("window", -1000, 1000)
    spec = module("msd", root, labelled=False, ready=False, intensity_low=-17.0, intensity_high=201.0).spec
    assert (spec.intensity.low, spec.intensity.high) == (-17, 201)


def test_msd_refusals(copy_of, tmp_path):
    root = copy_of("msd")
    (tmp_path / "two").mkdir()
    for task in ("Task01", "Task02"):
        (tmp_path / "two" / task).symlink_to(root)
    assert "Task01, Task02: point data.root at one of them" in refusal("msd", tmp_path / "two", labelled=True)
    assert "'T2' is not in dataset.json; did you mean 'T2w'?" in refusal("msd", root, labelled=True, modalities=("T2",))
    assert "data.classes: 'liver'" in refusal("msd", root, labelled=True, classes=("liver",))
    good = (root / "dataset.json").read_text()

    def spoil(**changes):
        (root / "dataset.json").write_text(json.dumps({**json.loads(good), **changes}))
        return refusal("msd", root, labelled=True)

    assert "holds 4 channels a voxel, 2 are expected" in spoil(modality={"0": "A", "1": "B"})
    assert "'modality' must number the channels" in spoil(modality={"1": "A", "2": "B"})
    assert "holds label 3; msd has (0, 1, 2)" in spoil(labels={"0": "b", "1": "x", "2": "y"})
    assert "has no label besides 0" in spoil(labels={"0": "b"})
    absent = [{"image": "./imagesTr/no.nii.gz", "label": "./labelsTr/no.nii.gz"}]
    assert "no.nii.gz, which is absent" in spoil(training=absent)
    twice = json.loads(good)["training"][:1] * 2
    assert "twice" in spoil(training=twice)
    (root / "dataset.json").write_text("{")
    assert "dataset.json: is no table of a Decathlon task" in refusal("msd", root, labelled=True)
    (root / "dataset.json").write_text(good)
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    assert "it has shape (39, 36, 32), that has (40, 36, 32)" in refusal("msd", root, labelled=True)


def test_msd_leaves_out_what_the_table_does_not_name(copy_of):
    root = copy_of("msd")
    first = next((root / "imagesTr").iterdir())
    shutil.copy(first, root / "imagesTr" / "new.nii.gz")
    shutil.copy(first, root / "imagesTr" / "._BRATS_001.nii.gz")  # macOS leaves such in the archives
    notes = module("msd", root, labelled=True).describe()["notes"]
    assert any(note.startswith("1 images of imagesTr and imagesTs are not named") for note in notes)


# ---------------------------------------------------------------------------------------------------------- ms


def test_ms_reads_each_sequence_and_the_mask(phantoms):
    root = phantoms("ms")
    data = module("ms", root, labelled=True, modalities=("T2", "FLAIR"))
    assert data.spec.channel_names == ("T2", "FLAIR")
    subjects = {s for part in data.subjects().values() for s in part}
    assert subjects == {f"patient0{k}" for k in (1, 2, 3, 5, 6, 7)}  # 4 and 8 have no mask
    case = data.parts["test"][0]
    assert re.fullmatch("case-[0-9a-f]{12}", case.name)  # folders may be named after patients
    item, folder = loaded(data, case.name), root / case.subject
    assert np.array_equal(item.mask[0], np.asarray(nib.load(folder / "mask.nii.gz").dataobj)[::-1, ::-1])
    flair = np.asarray(nib.load(folder / "FLAIR.nii.gz").dataobj)[::-1, ::-1]
    inside = flair > 0
    assert np.corrcoef(item.codes[1][inside], flair[inside])[0, 1] > 0.99


def test_ms_refusals_and_incomplete_subjects(copy_of):
    root = copy_of("ms")
    (root / "patient02" / "T1POST.nii.gz").unlink()
    line = refusal("ms", root, labelled=True)
    assert "patient02: lacks T1POST (it has FLAIR, T1, T2, mask)" in line
    data = module("ms", root, labelled=True, skip_incomplete=True)
    assert "1 subjects lack a modality and are left out" in data.describe()["notes"]
    assert "no subject has a file 'lesions'" in refusal("ms", root, labelled=True, mask="lesions", modalities=("T2",))
    assert "also in data.modalities" in refusal("ms", root, labelled=True, mask="T2")
    assert "data.classes ['a', 'a'] must be different" in refusal("ms", root, labelled=True, classes=("a", "a"))
    path = root / "patient03" / "T2.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[1:], image.affine), path)
    line = refusal("ms", root, labelled=True, skip_incomplete=True)
    assert "patient03/T2.nii.gz: does not lie on the grid" in line
    assert "it has shape (39, 36, 32)" in line
    for folder in root.glob("patient*"):  # the names of some distributions
        for path in folder.glob("*.nii.gz"):
            path.rename(folder / f"{folder.name}_{path.name}")
    data = module("ms", root, labelled=True, modalities=("T1",))
    assert len({s for part in data.subjects().values() for s in part}) == 6
    shutil.copy(root / "patient01" / "patient01_T1.nii.gz", root / "patient01" / "T1.nii.gz")
    assert "is a second copy of" in refusal("ms", root, labelled=True, modalities=("T1",))


# -------------------------------------------------------------------------------------------------- candidates


def test_candidates_cubes_lie_on_their_places(tmp_path):
    """Bright voxels in scans of two formats; the cube's middle voxel is the bright one."""
    rng = np.random.default_rng(0)
    shape, spacing, rows = (30, 26, 22), (0.8, 0.9, 2.0), []
    origin = np.array([-31.0, 12.0, 100.0])
    for n in range(12):
        array = np.full(shape, -900, np.int16)
        voxels = rng.permutation(np.stack(np.meshgrid(*(np.arange(2, 20, 5),) * 3), -1).reshape(-1, 3))[:2]
        for label, voxel in enumerate(voxels):
            array[tuple(voxel)] = 900 - 400 * label
            rows.append([f"s{n}", *(origin + voxel * spacing), label])
        place = {"spacing": spacing, "origin": origin}
        if n % 2:
            write_nifti(tmp_path / f"s{n}.nii.gz", array, codes="RAS", **place)
        else:
            write_nrrd(tmp_path / f"s{n}.nrrd", array, **place)

    def table(sign, name):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["scan", "R", "A", "S", "embolus"])
            writer.writerows([uid, sign * x, sign * y, z, label] for uid, x, y, z, label in rows)

    columns = ("scan", "R", "A", "S", "embolus")
    for coordinates, sign in (("LPS", 1), ("RAS", -1)):
        table(sign, "emboli.csv")
        options = {"table": "emboli.csv", "columns": columns, "coordinates": coordinates, "subject_column": ""}
        data = module("candidates", tmp_path, labelled=True, patch_size=(8, 8, 8), **options)
        seen = 0
        for batch in data.test_dataloader():
            for image, label in zip(batch["image"], batch["label"], strict=True):
                expected = ((900 - 400 * int(label)) + 1000) / 2000
                assert abs(float(image[0, 4, 4, 4]) - expected) < 1e-4
                seen += 1
        assert seen == 2 * len(data.parts["test"])
    line = refusal("candidates", tmp_path, labelled=True, **{**options, "coordinates": "LPS"})
    assert "lies outside scan" in line


def test_candidates_patients_with_several_scans_stay_together(phantoms):
    data = module("candidates", phantoms("candidates"), labelled=True)
    parts = {part: {stem(Path(case.images[0])) for case in cases} for part, cases in data.parts.items()}
    for patient in ("003", "006"):
        twins = {f"scan{patient}_1", f"scan{patient}_2"}
        assert any(twins <= names for names in parts.values())
    counts = data.describe()["positives"]
    rows = (phantoms("candidates") / "candidates.csv").read_text().splitlines()[1:]
    assert sum(part["positive"] for part in counts.values()) == sum(row.endswith(",1") for row in rows)
    # every candidate of the test part is scored, once
    ids = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert len(ids) == len(set(ids)) == sum(counts["test"].values())


def test_candidates_refusals(copy_of):
    root = copy_of("candidates")
    path = root / "candidates.csv"
    good = path.read_text().splitlines()

    def spoil(*lines, **options):
        path.write_text("\n".join(lines) + "\n")
        return refusal("candidates", root, labelled=True, **options)

    assert "column 'label' is missing" in spoil(good[0].replace("label", "class"), *good[1:])
    first = good[1].split(",")
    assert "line 2 holds a value that is no number" in spoil(
        good[0], ",".join([*first[:2], "left", *first[3:]]), *good[2:]
    )
    assert "label 0 or 1" in spoil(good[0], ",".join([*first[:5], "2"]), *good[2:])
    assert "line 2 lies outside scan scan001_1.nii.gz" in spoil(
        good[0], ",".join([*first[:2], "9000", *first[3:]]), *good[2:]
    )
    assert "gives its scan another 'patient'" in spoil(good[0], ",".join([first[0], "x", *first[2:]]), *good[2:])
    assert "has no row of the" in spoil(good[0], ",".join(["other", *first[1:]]))
    path.write_text("\n".join(good) + "\n")
    assert "data.columns ['uid'] must be the five columns" in refusal(
        "candidates", root, labelled=True, columns=("uid",)
    )
    assert "data.negatives_per_positive is 0" in refusal("candidates", root, labelled=True, negatives_per_positive=0)
    (root / "copy").mkdir()
    shutil.copy(root / "scans" / "scan001_1.nii.gz", root / "copy")
    assert "is a second volume 'scan001_1'" in refusal("candidates", root, labelled=True)
    shutil.rmtree(root / "copy")
    path.unlink()
    assert "candidates.csv: no such file" in refusal("candidates", root, labelled=True)
    assert module("candidates", root, labelled=False).subjects()["train"]  # pretraining needs no table


# -------------------------------------------------------------------------------------------------------- lidc


def votes_by_hand(folder):
    """Readers' masks of one series from XML and pixels, by flood filling each outline; summed over readers (x, y, z)."""
    import pydicom

    images = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    place = {image.SOPInstanceUID: k for k, image in enumerate(images)}
    total = np.zeros((images[0].Columns, images[0].Rows, len(images)), int)
    space = {"n": "http://www.nih.gov"}
    for session in ElementTree.parse(next(folder.glob("*.xml"))).getroot().findall("n:readingSession", space):
        seen = np.zeros(total.shape, bool)
        for roi in session.findall("n:unblindedReadNodule/n:roi", space):
            border = np.zeros(total.shape[:2], bool)
            for edge in roi.findall("n:edgeMap", space):
                border[int(edge.find("n:xCoord", space).text), int(edge.find("n:yCoord", space).text)] = True
            k = place[roi.find("n:imageSOP_UID", space).text]
            seen[:, :, k] |= ndimage.binary_fill_holes(border) & ~border
        total += seen
    return total


@pytest.mark.parametrize(("consensus", "need"), [("any", 1), ("half", 2), ("all", 4)])
def test_lidc_consensus_equals_a_count_of_readers(phantoms, consensus, need):
    root = phantoms("lidc")
    data = module("lidc", root, labelled=True, consensus=consensus, spacing_mm=None)
    cases = {case.name: case for cases in data.parts.values() for case in cases}
    found = 0
    for folder in sorted(root.glob("*/*/*")):
        if not list(folder.glob("*.xml")):
            continue  # the image
        expected = votes_by_hand(folder) >= need
        name = folder.parts[-3]
        assert (name in cases) == expected.any()
        if name in cases:
            assert np.array_equal(data.stored_labels(cases[name]), expected)
            count = ndimage.label(expected, np.ones((3, 3, 3)))[1]
            assert len(cases[name].nodules) == count
            found += count
    assert found > 0


def test_lidc_crops_are_centred_on_their_nodules_and_shifted_in_training_only(phantoms):
    root = phantoms("lidc")
    data = module("lidc", root, labelled=True, patch_size=(32, 32, 32), spacing_mm=(1.0, 1.0, 1.0))
    for batch in data.test_dataloader():
        for image, mask in zip(batch["image"], batch["mask"], strict=True):
            parts, _ = ndimage.label(mask[0].numpy(), np.ones((3, 3, 3)))
            assert parts[16, 16, 16] > 0
            where = np.argwhere(parts == parts[16, 16, 16])
            assert np.abs((where.min(0) + where.max(0)) / 2 - 16).max() <= 5  # voxels of about 5 mm on disk
            # a nodule is denser than the lung around it, a vessel may be there too
            assert image[0][mask[0] > 0].mean() > image[0][mask[0] == 0].mean()
    train = data.dataset(data.parts["train"], part="train")
    first, again, later = (train[(epoch, 0)] for epoch in (0, 0, 1))
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], later["image"])
    assert first["mask"].sum() > 0
    assert data.describe()["positives"]["train"]["nodule"] == len(train) >= len(data.parts["train"])


def test_lidc_groups_two_scans_of_a_patient_and_leaves_images_out(copy_of):
    root = copy_of("lidc")
    first = next(root.glob("LIDC-IDRI-0001/*/*"))
    shutil.move(next(root.glob("LIDC-IDRI-0002/*/*")), first.parent / "second")
    cases = module("lidc", root, labelled=False, ready=False).index(root)
    # images (DX) of two patients are no scans
    assert [case.name for case in cases] == [
        *("LIDC-IDRI-0001", "LIDC-IDRI-0001/2"),
        *(f"LIDC-IDRI-000{k}" for k in range(3, 9)),
    ]
    assert {case.subject for case in cases} == {f"LIDC-IDRI-000{k}" for k in (1, 3, 4, 5, 6, 7, 8)}


def test_lidc_refusals(copy_of):
    root = copy_of("lidc")
    readings = sorted(root.rglob("*.xml"))
    good = readings[0].read_text()
    other = readings[0].with_name("other.xml")
    other.write_text(good)  # the same reading twice, as TCIA's archive of readings holds it
    module("lidc", root, labelled=True)
    other.write_text(good.replace("<xCoord>", "<xCoord>1", 1))
    assert "reads the same series as" in refusal("lidc", root, labelled=True)
    other.write_text("<IdriReadMessage><a/></IdriReadMessage>")  # the reading of an image
    module("lidc", root, labelled=True)
    other.write_text("<LidcReadMessage>")
    assert "other.xml: is no readable XML" in refusal("lidc", root, labelled=True)
    other.unlink()
    readings[0].write_text(good.replace("<xCoord>", "<xCoord>x", 1))
    assert "no whole number" in refusal("lidc", root, labelled=True)
    readings[0].write_text(good.replace("<xCoord>", "<xCoord>99", 1))
    assert "leaves the images in" in refusal("lidc", root, labelled=True)
    readings[0].write_text(good.replace("<imageSOP_UID>2.25", "<imageSOP_UID>1.25"))
    assert "outlines an image that is not in" in refusal("lidc", root, labelled=True)
    for path in readings:
        path.unlink()
    assert "none of 8 CTs has a nodule by data.consensus=half" in refusal("lidc", root, labelled=True)
    assert module("lidc", root, labelled=False).subjects()["train"]


def test_interior_of_an_outline():
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(60), np.arange(60), indexing="ij")
    for _ in range(30):
        center, radius, squeeze = rng.uniform(25, 35, 2), rng.uniform(0.8, 12), rng.uniform(0.6, 1.6)
        mask = (x - center[0]) ** 2 + (squeeze * (y - center[1])) ** 2 <= radius**2
        if not mask.any():
            continue
        first, inside = interior(outline(mask))
        whole = np.zeros_like(mask)
        whole[first[0] : first[0] + inside.shape[0], first[1] : first[1] + inside.shape[1]] = inside
        assert np.array_equal(whole, mask)
    assert not interior([(3, 4)])[1].any()
    assert not interior([(3, 4), (4, 4)])[1].any()


def test_an_exclusion_is_cut_out(tmp_path):
    pytest.importorskip("pydicom")
    from datamodules.core.dicom import read_series_header

    array = np.zeros((20, 20, 4), np.int16)
    images = write_series(tmp_path / "s", array, spacing=(1, 1, 1), origin=(0, 0, 0), series="2.25.1", patient="p")
    x, y = np.meshgrid(np.arange(20), np.arange(20), indexing="ij")
    disc, hole = ((x - 9) ** 2 + (y - 9) ** 2 <= r**2 for r in (6, 2))
    outlines = tuple(Outline(images[1], tuple(outline(m)), m is disc) for m in (hole, disc))
    reading = Reading(tmp_path / "r.xml", 1, ((0, outlines),))
    series = read_series_header(str(tmp_path / "s"))
    (mark,) = reading.marks(series.images, series.grid.shape, folder=tmp_path)
    seen = np.zeros(array.shape, bool)
    seen[tuple(slice(s, s + n) for s, n in zip(mark.start, mark.mask.shape, strict=True))] = mark.mask
    assert np.array_equal(seen[:, :, 1], disc & ~hole)
    assert not seen[:, :, [0, 2, 3]].any()


def test_consensus_counts_a_reader_once_and_joins_what_touches():
    def mark(reader, start, size):
        return Mark(reader, np.array(start), np.ones(size, bool))

    # one reader draws two overlapping parts, another one whole; a third nodule lies apart
    marks = [mark(0, (0, 0, 0), (3, 3, 1)), mark(0, (2, 0, 0), (3, 3, 1)), mark(1, (0, 0, 0), (5, 3, 1))]
    marks.append(mark(2, (20, 20, 5), (2, 2, 2)))
    volume = {need: sorted(int(mask.sum()) for _, mask in agree(marks, need=need)) for need in (1, 2, 3)}
    assert volume == {1: [8, 15], 2: [15], 3: []}
    # diagonal neighbours are one nodule
    marks = [mark(0, (0, 0, 0), (1, 1, 1)), mark(0, (1, 1, 1), (1, 1, 1))]
    ((start, mask),) = agree(marks, need=1)
    assert start.tolist() == [0, 0, 0]
    assert mask.shape == (2, 2, 2)


# ----------------------------------------------------------------------------------------------------- volumes


def test_volumes_read_alike_from_every_format(tmp_path):
    pytest.importorskip("pydicom")
    array = np.random.default_rng(0).integers(-1000, 1000, (20, 18, 16)).astype(np.int16)
    place = {"spacing": (1.5, 1.25, 2.0), "origin": (-10.0, 20.0, 30.0)}
    for name in "abcd":
        (tmp_path / name).mkdir()
    write_nifti(tmp_path / "a" / "v.nii.gz", array, codes="RAS", **place)
    write_metaimage(tmp_path / "b", "v", array, packed=True, turned=True, **place)
    write_nrrd(tmp_path / "c" / "v.nrrd", array, **place)
    write_series(tmp_path / "d" / "v", array, series="2.25.7", patient="d", **place)
    (tmp_path / "e").mkdir()
    np.save(tmp_path / "e" / "v.npy", array)
    data = module("volumes", tmp_path, labelled=False, npy_spacing_mm=(1.5, 1.25, 2.0))
    cases = data.index(tmp_path)
    assert [(case.name, case.subject) for case in cases] == [(f"{c}/v", c) for c in "abcde"]
    items = [data.load(case) for case in cases]
    for item in items[1:]:
        assert np.array_equal(item.codes, items[0].codes)
    for item in items[1:4]:  # .npy has no position
        assert np.allclose(item.to_world, items[0].to_world)
    expected = np.clip((array.astype(float) + 1000) / 2000, 0, 1)
    assert np.abs(items[0].codes[0] / 65535 - expected).max() < 1e-4
    resampled = module("volumes", tmp_path, labelled=False, npy_spacing_mm=(1.5, 1.25, 2.0), spacing_mm=(3.0, 2.5, 2.0))
    shapes = {resampled.load(case).codes.shape for case in cases}
    assert shapes == {(1, 16, 16, 16)}  # 10 x 9 x 16, grown to a crop


def test_npy_axes_are_those_of_data_orientation(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (20, 18, 16)).astype(np.int16)
    np.save(tmp_path / "v.npy", array)
    items = []
    for codes in ("LPS", "RAS", "SAR"):
        data = module("volumes", tmp_path, labelled=False, orientation=codes)
        items.append(data.load(data.index(tmp_path)[0]).codes)
    assert np.array_equal(items[0], items[1])
    assert np.array_equal(items[0], items[2])
    line = refusal("volumes", tmp_path, labelled=False, spacing_mm=(1.0, 1.0, 1.0))
    assert "v.npy: says no voxel size" in line
    assert "data.npy_spacing_mm" in line


def test_volumes_subjects_by_rule(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (16, 16, 16)).astype(np.int16)
    for name in ("p1/t0.npy", "p1/deep/t1.npy", "p2/t0.npy", "p3.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, array)

    def subjects(rule, **options):
        data = module("volumes", tmp_path, labelled=False, subject=rule, **options)
        return [case.subject for case in data.index(tmp_path)], data

    assert subjects("folder")[0] == ["p1", "p1", "p2", "p3"]
    assert subjects("file")[0] == ["p1/deep/t1", "p1/t0", "p2/t0", "p3"]
    assert subjects(r"(p\d)")[0] == ["p1", "p1", "p2", "p3"]
    assert subjects(r"^p1/.*(t\d)", exclude=("p2/*", "p3.npy"))[0] == ["t1", "t0"]
    _, data = subjects("folder", exclude=("p2/*", "p3.npy"))
    notes = data.describe()["notes"]
    assert any("all 2 scans count as one subject" in note for note in notes)
    assert any("2 files are left out by data.exclude" in note for note in notes)
    assert "finds no subject in this path" in refusal("volumes", tmp_path, labelled=False, subject=r"p(\d)/")
    assert "is neither folder nor file" in refusal("volumes", tmp_path, labelled=False, subject="stem")
    assert "is no regular expression" in refusal("volumes", tmp_path, labelled=False, subject="(p")
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "p3.nii.gz")
    assert "is a second copy of" in refusal("volumes", tmp_path, labelled=False)


def test_volumes_refusals(copy_of):
    root = copy_of("volumes")
    dicom = root / "subject004" / "ct"
    sorted(dicom.iterdir())[5].unlink()
    line = refusal("volumes", root, labelled=False)
    assert "subject004/ct: slices are" in line
    assert "or leave it out, data.exclude=['subject004/ct']" in line
    assert module("volumes", root, labelled=False, exclude=("subject004/ct",)).subjects()["train"]
    shutil.rmtree(dicom)
    for path in root.rglob("*.npy"):
        np.save(path, np.abs(np.load(path)))
    line = refusal("volumes", root, labelled=False)
    assert "holds no value below 0, so it is no CT in HU; set data.intensity=percentile" in line
    assert module("volumes", root, labelled=False, intensity="percentile").spec.intensity.high == 99.5
    for path in root.rglob("*.npy"):
        np.save(path, np.array(["text"]))
    assert "ct.npy: holds <U4 values" in refusal("volumes", root, labelled=False)
    for path in root.rglob("*.npy"):
        path.write_bytes(b"\x93NUMPY")
    assert "is no readable .npy array" in refusal("volumes", root, labelled=False)


def test_volumes_have_no_labels_to_learn(phantoms, capsys):
    words = ["finetune", "task=msd", "data=volumes", "trainer=cpu", f"data.root={phantoms('volumes')}"]
    assert "has no labels to learn; choose a task that has" in refused(capsys, *words)


# -------------------------------------------------------------------------------------------------------- NRRD


def nrrd(path, array, fields, *, data=None, encoding="raw", end="\n"):
    lines = ["NRRD0005", "# made by hand", f"sizes: {' '.join(map(str, array.shape))}", f"encoding: {encoding}"]
    head = {"type": "int16", "dimension": "3", "endian": "little", **fields}
    lines += [f"{key}: {value}" for key, value in head.items() if value is not None] + ["mine:=not a field"]
    order = ">i2" if head["endian"] == "big" else "<i2"
    content = array.astype(order).tobytes(order="F")
    content = gzip.compress(content) if encoding in ("gzip", "gz") else content
    header = (end.join(lines) + end + end).encode()
    if data is None:
        path.write_bytes(header + content)
    else:
        path.write_bytes(header.rstrip() + f"\ndata file: {data}\n".encode())
        (path.parent / data).write_bytes(content)
    return str(path)


VECTORS = "(0,-0.7,0) (0.8,0,0) (0,0,2.5)"


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nrrd_voxels_and_world(tmp_path, encoding, endian, end):
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
    fields = {"space": "RAS", "space directions": VECTORS, "space origin": "(10,20,30)", "endian": endian}
    volume = read_volume(nrrd(tmp_path / "v.nrrd", array, fields, encoding=encoding, end=end))
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype == np.int16
    # right-anterior-superior to left-posterior-superior: the first two world axes change sign
    expected = [[0, -0.8, 0, -10], [0.7, 0, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    assert np.allclose(volume.to_world, expected)
    assert read_header(str(tmp_path / "v.nrrd")).shape == array.shape


def test_nrrd_with_a_data_file_and_spacings(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    path = nrrd(tmp_path / "v.nhdr", array, {"spacings": "1 2 3"}, data="v.raw.gz", encoding="gz")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.to_world, np.diag([1, 2, 3, 1]))
    path = nrrd(tmp_path / "w.nhdr", array, {"spacings": "1 2 3", "byte skip": "-1"}, data="w.raw")
    (tmp_path / "w.raw").write_bytes(b"something before" + (tmp_path / "w.raw").read_bytes())
    assert np.array_equal(read_volume(path).array, array)
    (tmp_path / "w.raw").unlink()
    with pytest.raises(SslMedError, match=r"its data file w.raw is missing"):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dimension": "4", "spacings": "1 1 1"}, "field 'dimension' is '4'"),
        ({"type": "block", "spacings": "1 1 1"}, "field 'type' is 'block'"),
        ({"endian": None, "spacings": "1 1 1"}, "field 'endian' is ''"),
        ({"spacings": "1 1"}, "field 'spacings' is '1 1'; 3 numbers"),
        ({"space": "LPS", "space directions": "none (1,0,0) (0,1,0)"}, "field 'space directions'"),
        ({"space": "LPS", "space directions": "(1,0,0) (1,0,0) (0,0,1)"}, "no valid voxel size or direction"),
        ({"spacings": "1 1 1", "line skip": "-1"}, "field 'line skip'"),
        ({"spacings": "1 1 1", "byte skip": "many"}, "field 'byte skip'"),
    ],
)
def test_nrrd_refusals(tmp_path, fields, says):
    path = nrrd(tmp_path / "v.nrrd", np.zeros((5, 4, 3), np.int16), fields)
    with pytest.raises(SslMedError) as found:
        read_volume(path)
    assert says in str(found.value)
    assert path in str(found.value)


@pytest.mark.parametrize("encoding", ["RAW", "GZIP", "bz2", "Txt", "ascii", "HEX"])
def test_nrrd_encodings_in_any_case_and_skips(tmp_path, encoding):
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype("<i2")
    raw, text = array.tobytes(order="F"), " ".join(map(str, array.ravel(order="F"))).encode()
    pack = {"GZIP": gzip.compress, "bz2": bz2.compress, "RAW": bytes, "HEX": lambda content: content.hex().encode()}
    lines = [
        "NRRD0004", "type: SHORT", "dimension: 3", "sizes: 5 4 3", "endian: LITTLE", f"encoding: {encoding}",
        "space: scanner-xyz", "space directions: (-1,0,0) (0,2,0) (0,0,3)", "line skip: 1", "data file: v.dat", "",
    ]  # fmt: skip
    skipped = encoding in ("GZIP", "bz2")  # of a packed file the bytes are those of its content
    lines.insert(3, "byte skip: 7" if skipped else "byte skip: 0")
    content = pack[encoding](b"7 bytes" + raw if skipped else raw) if encoding in pack else text
    (tmp_path / "v.nhdr").write_text("\n".join(lines))
    (tmp_path / "v.dat").write_bytes(b"one line\n" + content)
    volume = read_volume(str(tmp_path / "v.nhdr"))
    assert np.array_equal(volume.array, array)
    assert np.array_equal(volume.to_world, np.diag([-1, 2, 3, 1]))
    assert [remark.kind for remark in volume.remarks] == ["orientation"]


def test_nrrd_truncated_or_foreign(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, (5, 4, 3)).astype(np.int16)
    for encoding in ("raw", "gzip"):
        path = tmp_path / f"{encoding}.nrrd"
        nrrd(path, array, {"spacings": "1 1 1"}, encoding=encoding)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(SslMedError, match=r"holds 111 bytes but|is truncated or damaged"):
            read_volume(str(path))
    (tmp_path / "x.nrrd").write_bytes(b"hello")
    with pytest.raises(SslMedError, match="is not a NRRD file"):
        read_volume(str(tmp_path / "x.nrrd"))
    with pytest.raises(SslMedError, match=r"field 'encoding' is 'zstd'; it must be one of raw, gzip"):
        read_volume(nrrd(tmp_path / "b.nrrd", array, {"spacings": "1 1 1"}, encoding="zstd"))
    with pytest.raises(SslMedError, match="no such file"):
        read_volume(str(tmp_path / "none.nrrd"))
    (tmp_path / "x.tif").write_bytes(b"x")
    with pytest.raises(SslMedError, match="is no volume"):
        read_volume(str(tmp_path / "x.tif"))


# --------------------------------------------------------------------------------------------------- real data


@pytest.mark.realdata
def test_hippocampus_is_a_decathlon_task(shared_data):
    root = shared_data / "hippocampus"
    data = module("msd", root, labelled=True, patch_size=(32, 32, 32), batch_size=4)
    assert data.spec.class_names == ("Anterior", "Posterior")
    assert data.spec.in_channels == 1
    assert data.spec.intensity.kind == "percentile"
    assert data.describe()["subjects"] == {"train": 147, "val": 21, "test": 42}
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 1, 32, 32, 32)
    assert batch["mask"].shape == (4, 2, 32, 32, 32)
    case = data.parts["test"][0]
    item = data.load(case)
    assert min(item.codes.shape[1:]) >= 32
    labels = np.asarray(nib.load(case.mask).dataobj)
    assert item.mask.sum((1, 2, 3)).tolist() == [(labels == 1).sum(), (labels == 2).sum()]
    # left-right and front-back of the world stay: the front part lies in front (y grows to the back)
    front, back = (np.argwhere(region).mean(0) for region in item.mask)
    to_world = item.to_world[:3, :3]
    assert (to_world @ (front - back))[1] < 0


@pytest.mark.realdata
def test_ms_patients(shared_data):
    data = module("ms", shared_data / "ms", labelled=True, patch_size=(32, 32, 32))
    assert data.describe()["subjects"] == {"train": 1, "test": 1}
    items = [data.load(case) for part in ("train", "test") for case in data.parts[part]]
    assert sorted(int(item.mask.sum()) for item in items) == [1300, 49769]
    for item in items:
        assert item.codes.shape == (4, 182, 218, 182)
        flair, lesion = item.codes[0], item.mask[0] > 0
        assert flair[lesion].mean() > 1.3 * flair[(flair > 0) & ~lesion].mean()  # white-matter lesions are bright


@pytest.mark.realdata
def test_luna_read_as_anybodys_candidates_gives_the_same_cubes(shared_data):
    root = shared_data / "luna16"
    columns = ("seriesuid", "coordX", "coordY", "coordZ", "class")
    options = {
        "table": "candidates_V2.csv",
        "columns": columns,
        "subject_column": "",
        "classes": ("non-nodule", "nodule"),
    }
    own = module("candidates", root, labelled=True, **options)
    luna = module("luna", root, labelled=True)
    assert own.subjects() == luna.subjects()
    assert own.describe()["positives"] == luna.describe()["positives"]
    mine, theirs = (data.dataset(data.parts["test"], part="test") for data in (own, luna))
    assert len(mine) == len(theirs) > 60
    for index in range(0, len(mine), 7):
        first, second = mine[(0, index)], theirs[(0, index)]
        assert first["id"].rpartition("/")[2] == second["id"].rpartition("/")[2]  # names of anybody's scans are hashed
        assert first["label"] == second["label"]
        assert np.array_equal(first["image"], second["image"])


@pytest.mark.realdata
def test_real_scans_in_any_tree(shared_data):
    data = module("volumes", shared_data / "luna16", labelled=False, patch_size=(32, 32, 16), subject="file")
    assert len({case.subject for cases in data.parts.values() for case in cases}) == 5  # of 7, two are tested
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 1, 32, 32, 16)
    data = module("volumes", shared_data / "lits", labelled=False, exclude=("segmentation-*",))
    assert len(data.index(shared_data / "lits")) == 15
    assert "holds no value below 0" in refusal("volumes", shared_data / "lits", labelled=False, cache_gb=0.1)


def test_a_lidc_series_is_known_by_its_uid_too(phantoms):
    data = module("lidc", phantoms("lidc"), labelled=False, spacing_mm=(4.0, 4.0, 4.0))
    for part, keys in data.identities().items():
        uids = {f"uid:{case.uid}" for case in data.parts[part]}
        assert all(uids)
        assert set(keys) == uids | {f"lidc:{case.subject}" for case in data.parts[part]}


def test_the_data_file_of_a_nrrd_header_is_its_voxels(tmp_path):
    (tmp_path / "scan.raw").write_bytes(bytes(24))
    lines = ["NRRD0005", "type: uint8", "dimension: 3", "sizes: 2 3 4", "encoding: raw", "spacings: 1 1 1"]
    header = tmp_path / "scan.nhdr"
    header.write_text("\n".join([*lines, "data file: scan.raw", "", ""]))
    assert voxel_file(str(header)) == tmp_path / "scan.raw"
    assert source_files(str(header)) == [header, tmp_path / "scan.raw"]
    for bad in ("2.5 3 4", "nan 3 4", "0 3 4"):
        header.write_text("\n".join([*lines, "data file: scan.raw", "", ""]).replace("2 3 4", bad))
        with pytest.raises(SslMedError, match="NRRD field 'sizes' is"):
            read_header(str(header))


def test_the_remedy_of_a_file_that_cannot_be_read_leaves_that_file_out(tmp_path, capsys):
    for number in range(4):
        image = nib.Nifti1Image(
            np.random.default_rng(number).integers(-900, 500, (20,) * 3).astype(np.int16), np.eye(4)
        )
        nib.save(image, tmp_path / f"a[{number}] b.nii")
    (tmp_path / "a[1] b.nii").write_bytes(b"no scan")
    words = [
        "data=volumes",
        f"data.root={tmp_path}",
        "data.subject=file",
        f"store={tmp_path.parent / 'store'}",
        "workers=1",
    ]
    assert main(["prepare", *words]) == 2
    said = capsys.readouterr().err
    remedy = re.search(r"or leave it out, (data\.exclude=\[.*\])$", said, re.MULTILINE)[1]
    assert main(["prepare", *words, remedy]) == 0

"""The data doctor: every fault planted among 400 small scans is found, and nothing else; prepare and training obey."""

import json
import shutil
import time

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datamodules.chest14 import Chest14Data
from datamodules.core.quarantine import Entry, Quarantine, quarantine_line
from datamodules.doctor.examine import examine
from datamodules.doctor.fingerprint import (
    ALIKE,
    SAME,
    candidate_pairs,
    grid_of,
    same_above,
    similarity,
    texture_similarity,
    voxel_hash,
)
from datamodules.lits import LitsConfig, LitsData
from datamodules.luna import LunaConfig, LunaData
from datamodules.phantoms import chest14, luna
from experiments.cli import main
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

SCANS, EACH, SIDE = 400, 4, 16
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])  # stored as LPS
SOUND = "sound"
# in this order, EACH scans of each; the mask's file is at fault for the last ones
FAULTS = (
    "unreadable", "truncated", "nan", "infinite", "constant", "no_size", "absurd_size", "orientation", "forms", "4d",
    "duplicate", "near", "no_mask", "labels", "fractions", "mask_shape", "mask_geometry", "empty_mask", "mask_truncated",
)  # fmt: skip
# fault -> kind of finding, and whether it is the mask's
EXPECTED = {
    "unreadable": ("unreadable", False),
    "truncated": ("truncated", False),
    "nan": ("nan", False),
    "infinite": ("nan", False),
    "constant": ("constant", False),
    "no_size": ("geometry", False),
    "absurd_size": ("geometry", False),
    "orientation": ("orientation", False),
    "forms": ("forms", False),
    "4d": ("dimensions", False),
    "duplicate": ("duplicate", False),
    "near": ("near", False),
    "no_mask": ("refused", False),
    "labels": ("labels", True),
    "fractions": ("labels", True),
    "mask_shape": ("mask_shape", True),
    "mask_geometry": ("mask_geometry", True),
    "empty_mask": ("empty_mask", True),
    "mask_truncated": ("truncated", True),
}
HARMLESS = {"orientation", "forms", "empty_mask"}  # warnings and notes: nothing is left out for them


def fault_of(number):
    # faults stand far from each other and from the sound scans they copy
    return FAULTS[number // 5 % len(FAULTS)] if number % 5 == 0 and number // 5 < EACH * len(FAULTS) else SOUND


def scan(number):
    rng = np.random.default_rng(number)
    return (ndimage.gaussian_filter(rng.normal(0, 1, (SIDE,) * 3), 1.5) * 900 + rng.normal(0, 9, (SIDE,) * 3)).astype(
        np.int16
    )


def save(path, array, *, affine=AFFINE, forms=(1, 1), qform=None):
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, forms[0])
    image.set_qform(affine if qform is None else qform, forms[1])
    path.write_bytes(image.to_bytes())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def plant(root, number):
    fault = fault_of(number)
    image, mask = root / f"volume-{number}.nii", root / f"segmentation-{number}.nii"
    array, labels = scan(number), np.zeros((SIDE,) * 3, np.uint8)
    labels[3:9, 4:10, 5:11] = 1
    labels[5:7, 5:7, 6:8] = 2
    affine = AFFINE.copy()
    options = {}
    if fault in ("nan", "infinite"):
        array = array.astype(np.float32)
        array[2, 3, 4] = np.nan if fault == "nan" else np.inf
    elif fault == "constant":
        array[:] = -1000
    elif fault == "absurd_size":
        affine = np.diag([-400.0, -400.0, 2.0, 1.0])
    elif fault == "orientation":
        options["forms"] = (0, 0)
    elif fault == "forms":
        options["qform"] = np.diag([1.0, -1.0, 2.0, 1.0])
    elif fault == "4d":
        array = np.stack([array, array + 1], -1)
    elif fault == "duplicate":
        array = scan(number + 1).astype(np.float32)  # other type, other header, equal voxels
        affine = np.diag([-1.5, -1.5, 2.0, 1.0])
    elif fault == "near":
        inner = scan(number + 1)[1:, :, :-1].astype(np.float32)
        array = np.rint(ndimage.zoom(inner, 0.9, order=1) * 1.1 + 40).astype(np.int16)
        labels = labels[: array.shape[0], : array.shape[1], : array.shape[2]]
    save(image, array, affine=affine, **options)
    if fault == "labels":
        labels[0, 0, 0] = 7
    elif fault == "fractions":
        labels = labels * np.float32(0.5)
    elif fault == "mask_shape":
        labels = labels[:-1]
    elif fault == "empty_mask":
        labels[:] = 0
    mask_affine = AFFINE.copy() if fault == "absurd_size" else affine.copy()
    if fault == "mask_geometry":
        mask_affine[:3, 3] += 5
    save(mask, labels, affine=mask_affine, forms=options.get("forms", (1, 1)))
    if fault == "unreadable":
        image.write_bytes(b"no scan at all" * 100)
    elif fault == "truncated":
        cut(image)
    elif fault == "no_size":
        content = bytearray(image.read_bytes())
        content[76 + 4 : 76 + 16] = bytes(12)  # pixdim 1 to 3
        content[280 : 280 + 48] = bytes(48)  # the rows of the sform
        image.write_bytes(bytes(content))
    elif fault == "no_mask":
        mask.unlink()
    elif fault == "mask_truncated":
        cut(mask)


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory):
    root = tmp_path_factory.mktemp("hundreds")
    for number in range(SCANS):
        plant(root, number)
    return root


@pytest.fixture(scope="module")
def checked(hundreds, tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    code = main(["check", "data=lits", f"data.root={hundreds}", f"out={out}", "workers=2"])
    return code, out


def numbers(fault):
    return [number for number in range(SCANS) if fault_of(number) == fault]


def test_all_faults_are_found_and_nothing_else(hundreds):
    assert all(len(numbers(fault)) == EACH for fault in FAULTS)
    expected = set()
    for fault in FAULTS:
        kind, of_mask = EXPECTED[fault]
        stem = "segmentation" if of_mask else "volume"
        for number in numbers(fault):
            # of two copies the later name is reported
            pair = sorted(
                f"{stem}-{n}.nii" for n in ((number, number + 1) if kind in ("duplicate", "near") else (number,))
            )
            expected.add((kind, pair[-1]))
    checkup = examine(LitsData, LitsConfig(name="lits", root=str(hundreds)))
    assert {(finding.kind, finding.path) for finding in checkup.findings} == expected
    assert len(checkup.findings) == EACH * len(FAULTS)
    assert not checkup.clean


def test_report_and_quarantine(hundreds, checked, capsys):
    code, out = checked
    assert code == 1
    report = json.loads((out / "report.json").read_text())
    assert {kind: about["count"] for kind, about in report["kinds"].items()} == {
        kind: EACH * sum(EXPECTED[fault][0] == kind for fault in FAULTS) for kind in report["kinds"]
    }
    assert report["cases"] == SCANS
    listed = Quarantine.read(str(out / "quarantine.txt"), root=hundreds).reasons
    assert len(listed) == EACH * (len(FAULTS) - len(HARMLESS))
    assert all((hundreds / path).is_file() for path in listed)
    page = (out / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "volume-1" in (out / "report.md").read_text()
    assert str(hundreds) not in page + (out / "report.md").read_text() + (out / "report.json").read_text()


def data_of(root, *, labelled=True, **settings):
    config = LitsConfig(name="lits", root=str(root), patch_size=(8, 8, 8), **settings)
    return LitsData(config, labelled=labelled, batch_size=1)


def names(data):
    return {part: {case.name for case in cases} for part, cases in data.parts.items()}


@pytest.mark.slow
def test_training_leaves_out_what_is_listed_and_nothing_else(hundreds, checked, tmp_path):
    _, out = checked
    settings = {"quarantine": str(out / "quarantine.txt"), "quarantine_budget": 0.2}
    clean = tmp_path / "clean"
    clean.mkdir()
    for number in range(SCANS):  # the same ids, all sound: the split that the faulty copy must have too
        save(clean / f"volume-{number}.nii", np.zeros((8, 8, 8), np.int16))
        if fault_of(number) != "no_mask":
            save(clean / f"segmentation-{number}.nii", np.zeros((8, 8, 8), np.uint8))
    bad = {path.split("-")[1].split(".")[0] for path in Quarantine.read(settings["quarantine"], root=hundreds).reasons}
    for labelled in (True, False):
        data = data_of(hundreds, labelled=labelled, **settings)
        data.setup()
        # the whole copy is read without labels, for a volume without its mask cannot be used with them
        whole = data_of(clean, labelled=False)
        whole.setup()
        read = bad if labelled else bad - {str(n) for f in FAULTS if EXPECTED[f][1] for n in numbers(f)}
        for part in ("train", "val"):
            expected = {name for name in names(whole)[part] if name.removeprefix("volume-") not in read}
            assert names(data)[part] == expected
        (note,) = (note for note in data.notes if note.startswith("quarantine"))
        assert f"{len(read)} of {SCANS} cases are left out (quarantine.txt: " in note
        assert f"{EACH} truncated" in note or f"{2 * EACH} truncated" in note
    for case in data.parts["train"][:50]:
        data.load(case)  # what is left can be read


def test_a_budget_above_which_training_refuses(hundreds, checked):
    _, out = checked
    with pytest.raises(SslMedError, match=rf"would leave out {16 * EACH} of {SCANS} cases, more than .*_budget=0\.05"):
        data_of(hundreds, quarantine=str(out / "quarantine.txt")).setup()
    with pytest.raises(SslMedError, match=r"volume-\d+\.nii"):
        data_of(hundreds).setup()  # never a silent skip
    with pytest.raises(SslMedError, match=r"data\.quarantine=nowhere\.txt: cannot be read"):
        data_of(hundreds, quarantine="nowhere.txt").setup()


def test_the_summary_tells_of_the_quarantine(hundreds, checked, tmp_path, capsys):
    _, out = checked
    words = ["pretrain", "method=models_genesis", "data=lits", f"data.root={hundreds}", "trainer=cpu"]
    words += ["data.patch_size=[16,16,16]", "backbone.channels=[8,8,8]", "trainer.max_steps=1", "trainer.batch_size=2"]
    words += [f"data.quarantine={out / 'quarantine.txt'}", "data.quarantine_budget=0.2", f"out={tmp_path / 'run'}"]
    words += [
        "data.crops_per_volume=1",
        "trainer.progress=false",
        "trainer.val_every_steps=0",
        "data.split_ratios=[0.9,0.0,0.1]",
    ]
    assert main(words) == 0
    assert f"note: quarantine: {11 * EACH} of {SCANS} cases are left out" in capsys.readouterr().out
    assert any("quarantine" in note for note in json.loads((tmp_path / "run" / "summary.json").read_text())["notes"])


def test_quarantine_lines(tmp_path):
    strange = ["a b/c.nii", "#1.nii", "tab\there.nii", '"quoted".nii', " blank.nii", "plain/d.nii"]
    file = tmp_path / "q.txt"
    file.write_text("# a remark\n\n" + "\n".join(quarantine_line(Entry(path, "nan: 3\nvoxels")) for path in strange))
    listed = Quarantine.read(str(file), root=tmp_path)
    assert set(listed.reasons) == set(strange)
    assert listed.find(str(tmp_path / "plain" / "d.nii")) == "plain/d.nii"
    assert listed.find("plain/d.nii.gz") is None
    assert listed.find("/elsewhere/plain/d.nii") is None
    assert listed.count(["plain/d.nii", "#1.nii"]) == "2 nan"
    folder = Quarantine([Entry("case", "incomplete")], root=tmp_path)
    assert folder.find(str(tmp_path / "case" / "t1.nii")) == "case"
    for line in ("/etc/passwd\tx", "../up.nii\tx", '"broken\tx'):
        file.write_text(line)
        with pytest.raises(SslMedError, match=r"q\.txt: line 1"):
            Quarantine.read(str(file), root=tmp_path)


# --------------------------------------------------------------------------------------------- images and tables


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return chest14.generate(tmp_path_factory.mktemp("radiographs") / "images", subjects=12, seed=0, size=(64, 64))


@pytest.fixture
def images(radiographs, tmp_path):
    """A folder of one's own, for tests that damage files."""
    return shutil.copytree(radiographs, tmp_path / "images")


def kinds(checkup):
    return sorted((finding.kind, finding.path) for finding in checkup.findings)


def chest(root, **settings):
    return Chest14Data.Config(name="chest14", root=str(root), **settings)


@pytest.mark.slow
def test_sound_phantoms_are_clean(images, tmp_path):
    assert examine(Chest14Data, chest(images)).findings == ()
    root = luna.generate(tmp_path / "luna", subjects=4, seed=0, size=(48, 48, 40))
    checkup = examine(LunaData, LunaConfig(name="luna", root=str(root)))
    assert {finding.kind for finding in checkup.findings} <= {"left_handed", "oblique"}
    assert {case.name for case in checkup.source.cases} == {path.stem for path in root.rglob("*.mhd")}


def test_images_tables_and_lists(images):
    files = sorted(images.glob("images/*.png"))
    subject = {path.name: path.name.split("_")[0] for path in files}
    lists = {name: (images / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt")}
    gone, short, junk, flat = files[:4]
    gone.unlink()
    cut(short)
    junk.write_bytes(b"junk" * 50)
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(flat)
    extra = images / "images" / "99999999_000.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(extra)
    train = next(n for n in lists["train_val_list.txt"] if subject[n] not in {subject[p.name] for p in files[:4]})
    with (images / "test_list.txt").open("a") as file:
        file.write(f"\n{train}\n")
    checkup = examine(Chest14Data, chest(images))
    assert kinds(checkup) == sorted(
        [
            ("absent", gone.name),
            ("truncated", f"images/{short.name}"),
            ("unreadable", f"images/{junk.name}"),
            ("constant", f"images/{flat.name}"),
            ("unlisted", f"images/{extra.name}"),
            # once against the official training list, which data.split=random does not read
            ("straddling_unused", "train_val_list.txt"),
        ]
    )
    official = examine(Chest14Data, chest(images, split="official"))
    assert ("straddling", "train_val_list.txt") in kinds(official)
    # absent, truncated, unreadable, constant: with them left out the data can be used
    file = images.parent / "q.txt"
    file.write_text("\n".join(map(quarantine_line, checkup.quarantine())))
    data = Chest14Data(chest(images, quarantine=str(file), quarantine_budget=0.5), labelled=True, batch_size=1)
    data.setup()
    used = {case.name for cases in data.parts.values() for case in cases}
    assert used == {path.name for path in files[4:]}


def test_copies_across_the_split_and_across_data_sets(images, tmp_path):
    other = chest14.generate(tmp_path / "other", subjects=4, seed=9, size=(64, 64))
    data = Chest14Data(chest(images), labelled=True, batch_size=1)
    data.setup()
    train, test = data.parts["train"][0], data.parts["test"][0]
    shutil.copy(train.path, test.path)
    stolen = sorted(other.glob("images/*.png"))[0]
    shutil.copy(stolen, data.parts["train"][1].path)
    checkup = examine(Chest14Data, chest(images), others=[("chest14", Chest14Data, chest(other))])
    by_kind = {finding.kind: finding for finding in checkup.findings}
    assert set(by_kind) == {"duplicate", "duplicate_across"}
    assert set(by_kind["duplicate"].detail.split()) >= {"train", "test"}
    assert by_kind["duplicate_across"].other == f"images/{stolen.name}"
    assert by_kind["duplicate_across"].also_in == "chest14"


def test_the_command_says_what_is_wrong(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["check", "data=chest14", f"data.root={images}", f"out={out}", "workers=0"]) == 0
    assert "no error found" in capsys.readouterr().out
    for words, text in (
        ([], "data=NAME is missing"),
        (["data=chest14"], "data.root="),
        (["data=chest14", f"data.root={tmp_path / 'none'}"], "no such folder"),
        (["data=chest14", f"data.root={out}", "workers=0"], "is this chest14?"),
        (["data=chest14", f"data.root={images}", "with=lits"], "with=NAME:DIR"),
        (["data=chest14", f"data.root={images}", "wokers=2"], "did you mean 'workers'"),
    ):
        if "is this" in text:
            (tmp_path / "empty").mkdir()
            words[1] = f"data.root={tmp_path / 'empty'}"
        assert main(["check", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert text in line


def _kill(root, item):
    import os
    import signal

    if item == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_process_costs_one_file():
    from datamodules.doctor.pool import spread

    items = ["a", "b", "bad", *map(str, range(20))]
    results = {task[1]: result for task, result in spread(_kill, [("", item) for item in items], workers=2)}
    assert results == {item: None if item == "bad" else item for item in items}


def test_a_process_killed_while_tasks_are_handed_over_costs_one_file():
    from datamodules.doctor.pool import spread

    def items():
        yield "", "bad"
        time.sleep(0.5)  # by now the pool is known to be broken, and the next task cannot be handed over
        yield from (("", str(number)) for number in range(5))

    results = {task[1]: result for task, result in spread(_kill, items(), workers=2)}
    assert results == {"bad": None} | {str(number): str(number) for number in range(5)}


# ------------------------------------------------------------------------------------------------ fingerprints


def test_hash_is_of_values_not_of_types():
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert voxel_hash(array) == voxel_hash(array.astype(np.float32)) == voxel_hash(np.asfortranarray(array))
    assert voxel_hash(array) != voxel_hash(array.reshape(4, 3, 5))
    assert voxel_hash(array) != voxel_hash(array[::-1])
    half = array + np.float32(0.5)
    assert voxel_hash(half) != voxel_hash(array)


def test_grid_is_the_mean_of_equal_cells():
    array = np.random.default_rng(0).normal(size=(48, 24, 72))
    cells = array.reshape(24, 2, 24, 1, 24, 3).mean((1, 3, 5))
    expected = (cells - cells.mean()) / cells.std()
    np.testing.assert_allclose(grid_of(array), expected, atol=2e-3)


def altered(array, rng):
    """Up to 5 % off each face, 60 to 95 % of the voxels, a bent scale of intensities, noise."""
    crop = tuple(slice(round(rng.uniform(0, 0.05) * n), n - round(rng.uniform(0, 0.05) * n)) for n in array.shape)
    small = ndimage.zoom(array[crop].astype(np.float32), rng.uniform(0.6, 0.95, array.ndim), order=1)
    low, high = np.percentile(small, [0.5, 99.5])
    bent = np.clip((small - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.25)
    return bent * rng.uniform(0.8, 1.3) + rng.uniform(-0.2, 0.2) + rng.normal(0, 0.01, bent.shape)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("pattern", "copies"),
    [
        pytest.param("luna16/subset*/*.mhd", 1.0, marks=pytest.mark.long),
        pytest.param("lits/volume*.nii.gz", 1.0, marks=pytest.mark.long),
        ("hippocampus/imagesTr/*.nii.gz", 0.9),
        ("chest14/images/*.png", 0.8),
    ],
)
def test_copies_are_told_from_other_patients(shared_data, pattern, copies):
    """No false alarm among all pairs of different patients; most altered copies are found among all the others."""
    from datamodules.core.geometry import reorient
    from datamodules.core.readers import read_volume
    from datamodules.formats.pictures import read_image2d

    rng = np.random.default_rng(0)
    paths = sorted(shared_data.glob(pattern))
    assert paths
    arrays = [
        read_image2d(str(path)) if path.suffix == ".png" else reorient(read_volume(str(path)), "LPS").array
        for path in paths
    ]
    patients = [path.name.split("_")[0] if path.suffix == ".png" else path.name for path in paths]
    grids = np.stack([grid_of(array) for array in arrays])
    alike = [
        (i, j)
        for i, j in candidate_pairs(grids)
        if patients[i] != patients[j] and similarity(grids[i], grids[j]) > ALIKE
    ]
    assert max((texture_similarity(arrays[i], arrays[j]) for i, j in alike), default=0) <= SAME
    chosen = rng.permutation(len(arrays))[:12]
    made = [altered(arrays[k], rng) for k in chosen]
    both = np.concatenate([grids, np.stack([grid_of(array) for array in made])])
    seen = set(candidate_pairs(both))
    found = [
        (int(k), len(grids) + n) in seen
        and similarity(grids[k], both[len(grids) + n]) > ALIKE
        and texture_similarity(arrays[k], made[n]) > SAME
        for n, k in enumerate(chosen)
    ]
    assert np.mean(found) >= copies


def test_what_is_usual_raises_the_bar():
    assert same_above([0.9] * 5, 10) == SAME  # too few to tell
    assert same_above([0.0, 0.1, -0.1, 0.05, -0.05, 0.02], 15) == SAME
    alike = np.tanh(np.random.default_rng(0).normal(1.3, 0.1, 60))
    assert 0.93 < same_above(alike, 1000) < 0.97
    assert same_above(alike, 10) < same_above(alike, 10**6) < 1

"""LUNA16: candidates lie in the middle of their cubes, whatever the scan's frame; subsets, tables and the tissue filter."""

import csv
import shutil

import metaimage
import numpy as np
import pytest
import torch

from datamodules.core.candidates import CandidateCubes
from datamodules.core.intensity import TOP
from datamodules.core.readers import read_volume
from datamodules.luna import LunaConfig, LunaData
from datamodules.phantoms import luna
from ssl_med.spec import Need, SslMedError

PATCH = (8, 8, 6)


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    return luna.generate(tmp_path_factory.mktemp("p") / "luna", subjects=12, seed=0, size=(44, 36, 32))


def module(root, *, labelled, fraction=1.0, seed=0, need=None, batch_size=4, **settings):
    config = LunaConfig(**{"name": "luna", "root": str(root), "patch_size": PATCH, "tissue_max": 1.0, **settings})
    data = LunaData(config, labelled=labelled, batch_size=batch_size, label_fraction=fraction, seed=seed, need=need)
    data.setup()
    return data


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def samples(data, part):
    dataset = data.dataset(data.parts[part], part=part)
    return [dataset[0, index] for index in range(len(dataset))]


# --------------------------------------------------------------------------------------- planted spots


FRAMES = {
    "as it is": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "turned": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "upside down": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "axes swapped": ((0, 0, 1), (1, 0, 0), (0, -1, 0)),
    "mirrored": ((-1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def plant(root, frame, spots, *, spacing=(0.7, 0.8, 2.0), shape=(24, 20, 16)):
    """A scan of air in which voxel `spots[i]` has 100 * (i + 1) HU, and the table with those places."""
    (root / "subset0").mkdir(parents=True)
    array = np.full(shape, -1000, np.int16)
    table = ["seriesuid,coordX,coordY,coordZ,class"]
    offset = np.array([-40.5, 30.25, -99.0])
    for number, spot in enumerate(spots):
        array[tuple(spot)] = 100 * (number + 1)
        world = offset + np.array(frame).T @ (np.array(spot) * spacing)
        table.append("1.2.3," + ",".join(f"{v:.6f}" for v in world) + f",{number % 2}")
    metaimage.write(root / "subset0" / "1.2.3.mhd", array, offset=offset, spacing=spacing, rows=frame, packed=True)
    (root / "candidates_V2.csv").write_text("\n".join(table) + "\n")
    return root


SPOTS = [(12, 10, 8), (3, 17, 2), (0, 0, 0), (23, 19, 15), (20, 1, 9)]


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SLA"])
@pytest.mark.parametrize("frame", FRAMES)
def test_the_candidate_is_the_middle_voxel_of_its_cube(frame, orientation, tmp_path):
    root = plant(tmp_path, FRAMES[frame], SPOTS)
    config = LunaConfig(name="luna", root=str(root), patch_size=PATCH, orientation=orientation)
    data = LunaData(config, labelled=True, batch_size=1)
    cubes = CandidateCubes(data.index(root), data.load, patch=PATCH, seed=0, negatives_per_positive=None)
    assert len(cubes) == len(SPOTS)
    for number in range(len(SPOTS)):
        sample = cubes[0, number]
        assert sample["image"].shape == (1, *PATCH)
        assert sample["id"] == f"1.2.3/{number}"
        assert sample["label"] == number % 2
        found = float(sample["image"][0, 4, 4, 3]) * 2000 - 1000
        assert found == pytest.approx(100 * (number + 1), abs=0.1)
        assert float(sample["image"].sum()) == pytest.approx((1100 + 100 * number) / 2000, abs=1e-3), "the rest is air"


def test_candidates_survive_resampling(tmp_path):
    """On 1.4 mm voxels the planted voxel is smeared, but the brightest one is still the middle, or beside it."""
    root = plant(tmp_path, FRAMES["turned"], SPOTS[:2])
    config = LunaConfig(name="luna", root=str(root), patch_size=PATCH, spacing_mm=(1.4, 1.2, 1.0))
    data = LunaData(config, labelled=True, batch_size=1)
    cubes = CandidateCubes(data.index(root), data.load, patch=PATCH, seed=0, negatives_per_positive=None)
    for number in range(2):
        image = cubes[0, number]["image"][0]
        peak = np.array(np.unravel_index(int(image.argmax()), PATCH))
        assert np.abs(peak - [4, 4, 3]).max() <= 1


@pytest.mark.parametrize("labelled", [True, False])
def test_a_place_far_outside_is_refused_when_it_is_used(labelled, tmp_path):
    root = plant(tmp_path, FRAMES["as it is"], SPOTS)
    text = (root / "candidates_V2.csv").read_text().splitlines()
    (root / "candidates_V2.csv").write_text("\n".join([*text, "1.2.3,500,0,0,1"]) + "\n")
    data = LunaData(LunaConfig(name="luna", root=str(root), patch_size=PATCH), labelled=labelled, batch_size=1)
    if not labelled:
        assert len(data.index(root)) == 1
        return
    with pytest.raises(SslMedError, match=r"candidates_V2.csv: line 7 lies outside scan 1.2.3.mhd"):
        data.index(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.2.3,1,2,x,1", "line 2 holds a value that is no number"),
        ("1.2.3,1,2,3,2", "line 2 needs finite coordinates and class 0 or 1"),
        ("1.2.3,nan,2,3,1", "line 2 needs finite coordinates"),
        ("1.2.3,1,2", "line 2"),
    ],
)
def test_tables_that_cannot_be_used(line, message, tmp_path):
    root = plant(tmp_path, FRAMES["as it is"], SPOTS)
    (root / "candidates_V2.csv").write_text(f"seriesuid,coordX,coordY,coordZ,class\n{line}\n")
    with pytest.raises(SslMedError, match=f"candidates_V2.csv: {message}"):
        module(root, labelled=True)
    (root / "candidates_V2.csv").write_text("seriesuid,coordX,coordY,coordZ\n1.2.3,1,2,3\n")
    with pytest.raises(SslMedError, match=r"candidates_V2.csv: column 'class' is missing; it has seriesuid, coordX"):
        module(root, labelled=True)
    (root / "candidates_V2.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n9.9,1,2,3,1\n")
    with pytest.raises(SslMedError, match="has no row of the 1 scans below"):
        module(root, labelled=True)
    (root / "candidates_V2.csv").unlink()
    with pytest.raises(SslMedError, match=r"candidates.csv: no such file"):
        module(root, labelled=True)
    assert len(module(root, labelled=False).parts["train"]) == 1, "unlabelled use needs no table"


# ---------------------------------------------------------------------------------------------- phantom


def test_phantom_cubes_show_their_nodules(chests):
    """A nodule's middle is denser than what lies around it, also in the scan that is stored turned."""
    data = module(chests, labelled=True, split_ratios=(0.4, 0.1, 0.5), split_seed=1)
    every = {c.name: c for part in data.parts.values() for c in part}
    assert len(every) == 12
    turned = [n for n, c in every.items() if read_volume(c.images[0]).to_world[0, 0] < 0]
    assert len(turned) == 2
    cases = list(every.values())
    cubes = CandidateCubes(cases, data.load, patch=(8, 8, 8), seed=0, negatives_per_positive=None)
    inner, outer, of_turned = [], [], []
    for index in range(len(cubes)):
        sample = cubes[0, index]
        if not sample["label"]:
            continue
        hu = sample["image"][0].numpy() * 2000 - 1000
        inner.append(hu[3:6, 3:6, 3:6].max())
        shell = np.ones((8, 8, 8), bool)
        shell[2:7, 2:7, 2:7] = False
        outer.append(np.median(hu[shell]))
        of_turned.append(sample["id"].split("/")[0] in turned)
    inner, outer, of_turned = map(np.array, (inner, outer, of_turned))
    assert len(inner) > 15
    assert np.mean(inner) > np.mean(outer) + 150
    assert of_turned.any()
    assert np.mean(inner[of_turned]) > np.mean(outer[of_turned]) + 150


def test_ids_labels_and_counts_come_from_the_table(chests):
    table = rows(chests / "candidates_V2.csv")
    data = module(chests, labelled=True)
    for part in ("val", "test"):
        found = {s["id"]: int(s["label"]) for s in samples(data, part)}
        uids = set(data.subjects()[part])
        expected = {
            f"{row['seriesuid']}/{number}": int(row["class"])
            for number, row in enumerate(table)
            if row["seriesuid"] in uids
        }
        assert found == expected
        positives = data.describe()["positives"][part]
        assert positives == {"non-nodule": list(expected.values()).count(0), "nodule": sum(expected.values())}


def test_training_epochs_hold_all_nodules_and_new_negatives(chests):
    data = module(chests, labelled=True, negatives_per_positive=2)
    dataset = data.dataset(data.parts["train"], part="train")
    nodules = data.describe()["positives"]["train"]["nodule"]
    assert len(dataset) == 3 * nodules
    assert data.drawn(data.parts["train"]) == ([2 * nodules, nodules], [3 * nodules] * 2)
    negatives = []
    for epoch in range(3):
        found = [dataset[epoch, index] for index in range(len(dataset))]
        ids = [s["id"] for s in found]
        assert len(set(ids)) == len(ids)
        assert sum(s["label"] for s in found) == nodules
        negatives.append({s["id"] for s in found if not s["label"]})
        owners = dataset.owners(epoch)
        assert [dataset.cases[o].name for o in owners] == [i.split("/")[0] for i in ids]
    assert len({frozenset(n) for n in negatives}) == 3
    assert {s["id"] for s in (dataset[0, i] for i in range(len(dataset))) if not s["label"]} == negatives[0]
    more = module(chests, labelled=True, negatives_per_positive=10**6)
    counts = more.describe()["positives"]["train"]
    assert len(more.dataset(more.parts["train"], part="train")) == sum(counts.values()), "no candidate comes twice"


def test_batches(chests):
    data = module(chests, labelled=True, batch_size=5)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 1, *PATCH)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert batch["image"].min() >= 0
    assert batch["image"].max() <= 1
    total = sum(data.describe()["positives"]["test"].values())
    seen = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert len(seen) == len(set(seen)) == total
    sizes = [len(batch["id"]) for batch in data.test_dataloader()]
    assert set(sizes[:-1]) == {5}
    assert 1 <= sizes[-1] <= 5


def test_workers_change_no_candidate_and_no_crop(chests):
    """Each worker draws an epoch's negatives for itself; all must draw the same."""
    for settings in ({"labelled": True}, {"labelled": False, "crops_per_volume": 3}):
        reference = None
        for workers in (0, 2):
            data = module(chests, **settings)
            data.num_workers = workers
            loader = data.train_dataloader()
            found = [batch for _ in range(2) for batch in loader]
            reference = reference or found
            assert len(found) == len(reference) > 4
            for one, other in zip(found, reference, strict=True):
                assert one["id"] == other["id"]
                assert all(torch.equal(one[key], other[key]) for key in one if key != "id")


def test_subset_splits(chests):
    subset_of = {path.stem: int(path.parent.name[-1]) for path in chests.glob("subset*/*.mhd")}
    expected = {"mg": ({0, 1, 2, 3, 4}, {5, 6}, {7, 8, 9}), "pcrl": ({0, 1, 2, 3, 4, 5, 6}, {7}, {8, 9})}
    for name, subsets in expected.items():
        data = module(chests, labelled=True, split=name)
        for part, numbers in zip(("train", "val", "test"), subsets, strict=True):
            assert data.subjects()[part] == sorted(uid for uid, subset in subset_of.items() if subset in numbers)
        unlabelled = module(chests, labelled=False, split=name)
        assert unlabelled.subjects() == {part: data.subjects()[part] for part in ("train", "val")}


@pytest.mark.parametrize("split_seed", range(4))
def test_test_scans_are_never_pretrained_on(chests, split_seed, tmp_path):
    shutil.copytree(chests, tmp_path / "luna")
    table = tmp_path / "luna" / "candidates_V2.csv"
    lines = table.read_text().splitlines()
    without = sorted({line.split(",")[0] for line in lines[1:]})[:3]  # scans nobody has read
    table.write_text("\n".join(line for line in lines if line.split(",")[0] not in without) + "\n")
    labelled = module(tmp_path / "luna", labelled=True, split_seed=split_seed)
    unlabelled = module(tmp_path / "luna", labelled=False, split_seed=split_seed)
    assert not set(labelled.subjects()["test"]) & {s for p in unlabelled.subjects().values() for s in p}
    for part in ("train", "val"):
        assert set(labelled.subjects()[part]) <= set(unlabelled.subjects()[part])
    notes = labelled.describe()["notes"]
    assert "3 of 12 scans have no candidates" in notes
    assert any(note.startswith("no annotations_excluded.csv") for note in notes)
    # scans that nobody marked are scans of the test all the same, and their nodules are missed
    nodules = rows(tmp_path / "luna" / "annotations.csv")
    silent = {case.name for case in labelled.unused["test"]}
    assert silent == set(without) & {case.name for case in (*labelled.unused["test"], *labelled.parts["test"])}
    expected = [len(silent), sum(row["seriesuid"] in silent for row in nodules)]
    assert next(iter(labelled.test_dataloader()))["silent"][0].tolist() == expected
    assert "test" not in unlabelled.subjects()
    assert unlabelled.test_dataloader() == []


def test_the_smallest_budget_holds_a_nodule_scan(chests):
    with_nodule = {row["seriesuid"] for row in rows(chests / "candidates_V2.csv") if row["class"] == "1"}
    smaller = set()
    for fraction in (0.01, 0.3, 0.6, 1.0):
        data = module(chests, labelled=True, fraction=fraction, seed=4)
        chosen = set(data.subjects()["train"])
        assert chosen & with_nodule
        assert smaller <= chosen
        smaller = chosen


def test_tables_without_nodules_cannot_be_learned_from(chests, tmp_path):
    shutil.copytree(chests, tmp_path / "luna")
    table = tmp_path / "luna" / "candidates_V2.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line for line in lines[1:] if line.endswith(",0"))]) + "\n")
    with pytest.raises(SslMedError, match="no 'nodule' candidate is left to train on"):
        module(tmp_path / "luna", labelled=True)


def test_duplicates_and_absent_scans(chests, tmp_path):
    shutil.copytree(chests, tmp_path / "luna")
    first = next((tmp_path / "luna" / "subset0").glob("*.mhd"))
    shutil.copy(first, tmp_path / "luna" / "subset3")
    for data in first.parent.glob(f"{first.stem}.*raw"):
        shutil.copy(data, tmp_path / "luna" / "subset3")
    with pytest.raises(SslMedError, match=r"subset3/.*.mhd: is a second copy of .*subset0"):
        module(tmp_path / "luna", labelled=False)
    for path in [*first.parent.glob("*"), *(tmp_path / "luna" / "subset3").glob(f"{first.stem}*")]:
        path.unlink()
    shutil.rmtree(tmp_path / "luna" / "subset9")
    data = module(tmp_path / "luna", labelled=True)
    assert sum(data.describe()["cases"].values()) == 9
    assert data.notes[0].startswith("candidates_V2.csv names 3 scans that are not below")


def test_tissue_filter_and_margin_of_unlabelled_crops(chests):
    """At most the stated share of a crop lies above -150 HU, and no crop touches the border."""
    data = module(chests, labelled=False, tissue_max=0.15, border=(5, 4, 6), crops_per_volume=12)
    dataset = data.dataset(data.parts["train"], part="train")
    first = {}
    for index in range(len(dataset)):
        sample = dataset[0, index]
        hu = sample["image"].numpy() * 2000 - 1000
        assert (hu > -149.9).mean() <= 0.15
        first.setdefault(sample["id"], hu)
    means = [hu.mean() for hu in first.values()]
    assert np.mean(means) < -500, "crops lie in the lung"
    for case in data.parts["train"]:
        starts = list(dataset.read(case).starts.values())
        assert len(starts) == 1
        assert starts[0].offset == (5, 4, 6)
        shape = dataset.read(case).codes.shape[1:]
        assert starts[0].grid == tuple(n - p + 1 - 2 * b for n, p, b in zip(shape, PATCH, (5, 4, 6), strict=True))
    unfiltered = module(chests, labelled=False)
    assert unfiltered.content is None
    strict = module(chests, labelled=False, tissue_max=0.0, patch_size=(30, 30, 30))
    with pytest.raises(SslMedError, match=r"no crop of 30x30x30 voxels passes the filter; raise data.tissue_max"):
        strict.dataset(strict.parts["train"], part="train")[0, 0]


def test_pairs_for_contrastive_methods(chests):
    need = Need(pair=True, min_iou=0.3, pair_scales=((1, 1, 1), (1.5, 1.5, 1.5)))
    data = module(chests, labelled=False, need=need, batch_size=3)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == batch["image2"].shape == (3, 1, *PATCH)
    assert "label" not in batch
    one = data.dataset(data.parts["val"], part="val")
    again = module(chests, labelled=False, need=need, seed=5)
    other = again.dataset(again.parts["val"], part="val")
    for index in range(4):
        assert torch.equal(one[0, index]["image2"], other[3, index]["image2"])


def test_settings_that_cannot_work():
    for settings, message in (
        ({"border": (1, 2)}, r"data.border \[1, 2\]"),
        ({"border": (-1, 0, 0)}, "data.border"),
        ({"negatives_per_positive": 0}, "data.negatives_per_positive is 0"),
        ({"crops_per_volume": 0}, "data.crops_per_volume is 0"),
        ({"mixed_volumes": 0}, "data.mixed_volumes is 0"),
        ({"spacing_mm": (1.0, 1.0)}, "data.spacing_mm"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "data.spacing_mm"),
        ({"orientation": "LPX"}, "data.orientation"),
        ({"patch_size": (8, 8)}, "data.patch_size"),
    ):
        with pytest.raises(SslMedError, match=message):
            LunaData(LunaConfig(name="luna", **settings), labelled=False, batch_size=1)


def test_codes_are_hounsfield_units(chests):
    data = module(chests, labelled=False)
    for case in [c for part in data.parts.values() for c in part][:4]:
        raw = read_volume(case.images[0])
        turned = raw.to_world[0, 0] < 0
        expected = np.clip(raw.array[::-1, ::-1] if turned else raw.array, -1000, 1000)
        found = data.load(case).codes[0].astype(float) / TOP * 2000 - 1000
        assert np.abs(found - expected).max() < 0.02


# ------------------------------------------------------------------------------------------------ lesions


def test_candidates_know_the_nodule_that_they_mark(chests):
    data = module(chests, labelled=True)
    nodules = rows(chests / "annotations.csv")
    batches = list(data.test_dataloader())
    for batch in batches:
        assert {"case", "subject", "lesion", "lesions"} <= batch.keys()
        assert torch.equal(batch["case"], batch["subject"])  # one scan a patient
        for name, label, lesion, lesions in zip(
            *(batch[key] for key in ("id", "label", "lesion", "lesions")), strict=True
        ):
            uid, _, row = name.partition("/")
            own = [r for r in nodules if r["seriesuid"] == uid]
            assert lesions == len(own)
            if not label:
                assert lesion == -1
                continue
            place = rows(chests / "candidates_V2.csv")[int(row)]
            near = [sum((float(place[k]) - float(r[k])) ** 2 for k in ("coordX", "coordY", "coordZ")) for r in own]
            assert lesion == int(np.argmin(near))
    names = [name for batch in batches for name in batch["id"]]
    cases = [int(case) for batch in batches for case in batch["case"]]
    assert [data.parts["test"][case].name for case in cases] == [name.partition("/")[0] for name in names]
    assert "lesion" not in next(iter(data.train_dataloader()))


def test_two_candidates_may_mark_one_nodule_and_some_nodules_have_none(tmp_path):
    root = plant(tmp_path, FRAMES["as it is"], SPOTS)
    table = (root / "candidates_V2.csv").read_text().splitlines()
    cases = LunaData(LunaConfig(name="luna", root=str(root), patch_size=PATCH), labelled=True, batch_size=1)
    assert [c.lesion for c in cases.index(root)[0].candidates] == [-1, 0, -1, 1, -1]  # each positive for itself
    assert cases.index(root)[0].lesions == 2
    assert any("FROC counts every positive candidate as a nodule of its own" in note for note in cases.notes)
    x, y, z = table[2].split(",")[1:4]
    centres = [f"1.2.3,{float(x) + shift},{y},{z},8.0" for shift in (900, 30, 60)]
    (root / "annotations.csv").write_text("\n".join(["seriesuid,coordX,coordY,coordZ,diameter_mm", *centres]) + "\n")
    scan = cases.index(root)[0]
    assert [c.lesion for c in scan.candidates] == [-1, 1, -1, 1, -1]
    assert scan.lesions == 3
    # a negative within 4 mm of an excluded finding, or within 5 mm of one without a diameter, is not judged; a positive is
    table = (root / "candidates_V2.csv").read_text().splitlines()
    place = [[float(x) for x in line.split(",")[1:4]] for line in table[1:]]
    others = [f"1.2.3,{p[0] + 3.9},{p[1]},{p[2]},{d}" for p, d in zip(place, (8.0, 8.0, -1, -1, 7.0), strict=True)]
    (root / "annotations_excluded.csv").write_text(
        "\n".join(["seriesuid,coordX,coordY,coordZ,diameter_mm", *others]) + "\n"
    )
    assert [c.lesion for c in cases.index(root)[0].candidates] == [-2, 1, -2, 1, -1]
    (root / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,1,x,2,8\n")
    with pytest.raises(SslMedError, match=r"annotations.csv: line 2 holds a value that is no number"):
        cases.index(root)

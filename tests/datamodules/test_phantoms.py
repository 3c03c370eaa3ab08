"""Phantoms: true layouts, same bytes for the same seed, plausible labels, neither trivial nor unlearnable."""

import csv
import gzip
import hashlib
import zlib
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.phantoms import brats, chest14, lits, luna
from datamodules.phantoms._anatomy import Grid
from datamodules.phantoms._findings import _DRAW, FINDINGS, draw_radiograph
from datamodules.phantoms._radiograph import VIEW, Radiograph, draw_build
from ssl_med.catalogue import list_names
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

SMALL = {"luna": (40, 32, 28), "lits": (32, 32, 24), "brats": (24, 28, 24), "chest14": (48, 48)}
MODULES = {"luna": luna, "lits": lits, "brats": brats, "chest14": chest14}


def digest(root, pattern="**/*"):
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    return luna.generate(tmp_path_factory.mktemp("p") / "luna", subjects=8)


@pytest.fixture(scope="module")
def abdomens(tmp_path_factory):
    return lits.generate(tmp_path_factory.mktemp("p") / "lits", subjects=6)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return brats.generate(tmp_path_factory.mktemp("p") / "brats", subjects=6)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return chest14.generate(tmp_path_factory.mktemp("p") / "chest14", subjects=24, size=(64, 64))


# ------------------------------------------------------------------------------------------ all four


def test_every_data_set_has_its_phantom():
    assert set(list_names("datamodules")) <= set(list_names("datamodules.phantoms"))


@pytest.mark.parametrize("kind", MODULES)
def test_same_seed_same_bytes_and_subjects_do_not_depend_on_their_number(kind, tmp_path):
    make, size = MODULES[kind].generate, SMALL[kind]
    assert make(tmp_path / "a", subjects=2, seed=3, size=size) == tmp_path / "a"
    make(tmp_path / "c", subjects=3, seed=3, size=size)
    few = {name: code for name, code in digest(tmp_path / "a").items() if not name.endswith((".csv", ".txt"))}
    more = digest(tmp_path / "c")
    assert few
    assert all(more[name] == code for name, code in few.items())
    for table in (tmp_path / "a").glob("*.csv"):
        assert (tmp_path / "c" / table.name).read_text().startswith(table.read_text())
    make(tmp_path / "d", subjects=1, seed=4, size=size)
    other = digest(tmp_path / "d")
    assert not {code for name, code in few.items() if "seg" not in name} & set(other.values())
    # the same bytes again, and a smaller phantom in the place of a larger one leaves nothing behind
    make(tmp_path / "c", subjects=2, seed=3, size=size)
    assert digest(tmp_path / "c") == digest(tmp_path / "a")


@pytest.mark.parametrize("kind", MODULES)
def test_refuses_foreign_folders_and_bad_requests(kind, tmp_path):
    make = MODULES[kind].generate
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SslMedError, match=rf"is not empty and no {kind} phantom"):
        make(tmp_path, subjects=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(SslMedError, match="is a file"):
        make(tmp_path / "notes.txt", subjects=1)
    other = "lits" if kind != "lits" else "brats"
    MODULES[other].generate(tmp_path / "other", subjects=1, size=SMALL[other])
    with pytest.raises(SslMedError, match=f"no {kind} phantom"):
        make(tmp_path / "other", subjects=1)
    with pytest.raises(SslMedError, match="subjects is 0"):
        make(tmp_path / "new", subjects=0)
    with pytest.raises(SslMedError, match="seed is -1"):
        make(tmp_path / "new", subjects=1, seed=-1)
    with pytest.raises(SslMedError, match=r"size \[8\] must be"):
        make(tmp_path / "new", subjects=1, size=(8,))
    assert not (tmp_path / "new").exists()


def test_the_marker_says_that_it_is_synthetic(abdomens):
    text = (abdomens / "PHANTOM.txt").read_text()
    assert text.startswith("kind: lits\nseed: 0\nsubjects: 6\n")
    assert "ynthetic" in text


# ---------------------------------------------------------------------------------------------- luna


def read_scan(path):
    """Array (x, y, z), origin, spacing and direction signs, read by hand."""
    header = dict(line.split(" = ") for line in path.read_text().splitlines())
    content = (path.parent / header["ElementDataFile"]).read_bytes()
    if header["CompressedData"] == "True":
        assert int(header["CompressedDataSize"]) == len(content)
        content = zlib.decompress(content)
    shape = [int(n) for n in header["DimSize"].split()]
    array = np.frombuffer(content, "<i2").reshape(shape, order="F")
    numbers = {key: np.array(header[key].split(), float) for key in ("Offset", "ElementSpacing", "TransformMatrix")}
    return array, numbers["Offset"], numbers["ElementSpacing"], np.diag(numbers["TransformMatrix"].reshape(3, 3))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def position(row):
    return np.array([float(row[f"coord{axis}"]) for axis in "XYZ"])


def test_luna_layout(chests):
    names = sorted(path.name for path in chests.iterdir())
    assert names == ["PHANTOM.txt", "annotations.csv", "candidates_V2.csv", *(f"subset{k}" for k in range(10))]
    scans = sorted(chests.glob("subset*/*.mhd"))
    assert [scan.parent.name for scan in scans] == [f"subset{k}" for k in range(8)]
    assert len({scan.stem for scan in scans}) == 8
    assert all(scan.stem.startswith("2.25.") for scan in scans)
    assert Counter(p.suffix for p in chests.glob("subset*/*")) == {".mhd": 8, ".zraw": 6, ".raw": 2}
    uids = {scan.stem for scan in scans}
    assert {row["seriesuid"] for row in table(chests / "candidates_V2.csv")} == uids
    assert {row["seriesuid"] for row in table(chests / "annotations.csv")} <= uids


def test_luna_scans_are_chests_in_hounsfield_units(chests):
    turned = padded = 0
    for scan in chests.glob("subset*/*.mhd"):
        array, _, spacing, signs = read_scan(scan)
        assert array.shape == luna.SIZE
        np.testing.assert_allclose(spacing, [1.9, 1.896, 2.3], rtol=0.05)
        padded += array.min() == -2000
        turned += signs[0] < 0
        patient = array[:: int(signs[0]), :: int(signs[1])]
        inside = patient[20:100, 20:76, 20:]
        assert 0.25 < ((inside > -950) & (inside < -700)).mean() < 0.7  # lungs
        assert array.max() > 350  # bone
        # the spine is at the back: y grows towards it
        bone = np.argwhere(patient[50:70] > 300)
        assert bone[:, 1].mean() > 0.5 * array.shape[1]
        # the heart lies to the left: x grows towards the patient's left
        middle = patient[:, 20:48, 20:30] > -200
        assert middle[60:80].mean() > middle[40:60].mean()
    assert padded == 3
    assert turned == 1


def test_luna_candidates_lie_on_tissue_inside_the_lung(chests):
    scans = {scan.stem: read_scan(scan) for scan in chests.glob("subset*/*.mhd")}
    annotations = table(chests / "annotations.csv")
    assert all(4 < float(row["diameter_mm"]) < 15 for row in annotations)
    rows = table(chests / "candidates_V2.csv")
    assert sum(row["class"] == "1" for row in rows) == len(annotations) >= 10
    assert 15 < sum(row["class"] == "0" for row in rows) / len(scans) <= luna.NEGATIVES
    values = {"0": [], "1": []}
    for row in rows:
        array, offset, spacing, signs = scans[row["seriesuid"]]
        voxel = np.rint((position(row) - offset) * signs / spacing).astype(int)
        assert (voxel >= 0).all()
        near = array[tuple(slice(max(v - 1, 0), v + 2) for v in voxel)]
        values[row["class"]].append(near.max())
        gaps = [
            np.linalg.norm(position(row) - position(other)) - float(other["diameter_mm"])
            for other in annotations
            if other["seriesuid"] == row["seriesuid"]
        ]
        assert min(gaps, default=99) > 9.9 if row["class"] == "0" else min(gaps) < 0
    assert np.mean(np.array(values["1"]) > -250) > 0.95
    assert np.mean(np.array(values["0"]) > -500) > 0.9


@pytest.mark.slow
def test_luna_candidates_need_shape_not_brightness(chests):
    bright, shape, label, group = [], [], [], []
    rows = table(chests / "candidates_V2.csv")
    for number, scan in enumerate(sorted(chests.glob("subset*/*.mhd"))):
        array, offset, spacing, signs = read_scan(scan)
        array = np.clip(array.astype(np.float32), -1000, 400)
        scales = [(s, ndimage.gaussian_filter(array, s / spacing)) for s in (1.5, 2.5, 4, 6)]
        for row in (row for row in rows if row["seriesuid"] == scan.stem):
            voxel = np.rint((position(row) - offset) * signs / spacing).astype(int)
            voxel = np.clip(voxel, 1, np.array(array.shape) - 2)
            radii = [np.rint(mm / spacing).astype(int) for mm in (3, 6, 12)]
            boxes = [
                tuple(slice(max(v - r, 0), v + r + 1) for v, r in zip(voxel, reach, strict=True)) for reach in radii
            ]
            cubes = [array[box] for box in boxes]
            bright.append([value for cube in cubes for value in (cube.mean(), cube.max())])
            features = []
            for scale, smooth in scales:  # curvature along the main axes: equal for a ball, unequal for a tube
                box = smooth[tuple(slice(v - 1, v + 2) for v in voxel)]
                first = [np.gradient(box, h, axis=k) for k, h in enumerate(spacing)]
                hessian = [[np.gradient(g, h, axis=k)[1, 1, 1] for k, h in enumerate(spacing)] for g in first]
                second = [np.diff(box[tuple(slice(None) if j == k else 1 for j in range(3))], 2)[0] for k in range(3)]
                np.fill_diagonal(hessian := np.array(hessian), np.array(second) / spacing**2)
                features += [*np.linalg.eigvalsh((hessian + hessian.T) / 2) * scale**2, box[1, 1, 1]]
            shape.append(features)
            label.append(int(row["class"]))
            group.append(number)
    single = [roc_auc_score(label, column) for column in np.array(bright).T]
    assert max(max(auc, 1 - auc) for auc in single) < 0.8
    forest = RandomForestClassifier(200, random_state=0, class_weight="balanced", min_samples_leaf=2)
    guess = cross_val_predict(forest, shape, label, groups=group, cv=GroupKFold(3), method="predict_proba")[:, 1]
    assert roc_auc_score(label, guess) > 0.9


# ---------------------------------------------------------------------------------------------- lits


def load(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image


def test_lits_layout_and_orientation(abdomens):
    names = sorted(path.name for path in abdomens.glob("*.nii.gz"))
    assert names == sorted(f"{part}-{i}.nii.gz" for part in ("volume", "segmentation") for i in range(6))
    for i in range(6):
        volume, image = load(abdomens / f"volume-{i}.nii.gz")
        labels, mask = load(abdomens / f"segmentation-{i}.nii.gz")
        assert volume.dtype == np.int16
        assert labels.dtype == np.uint8
        assert volume.shape == labels.shape == lits.SIZE
        np.testing.assert_array_equal(image.affine, mask.affine)
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-3)
        assert "".join(nib.aff2axcodes(image.affine)) == ("LAS", "RAS", "LPS")[i % 3]
        np.testing.assert_allclose(image.header.get_zooms(), [1.81, 1.81, 2.0], rtol=0.07)
        # whatever the storage: the liver lies on the patient's right, the spine at the back
        liver = nib.affines.apply_affine(image.affine, np.argwhere(labels > 0)).mean(0)
        body = nib.affines.apply_affine(image.affine, np.argwhere(volume > -300)).mean(0)
        bone = nib.affines.apply_affine(image.affine, np.argwhere(volume > 350)).mean(0)
        assert liver[0] > body[0] + 10
        assert bone[1] < body[1]


def test_lits_gzip_carries_no_time(abdomens):
    content = (abdomens / "volume-0.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)
    assert len(gzip.decompress(content)) == 352 + 2 * np.prod(lits.SIZE)


def test_lits_label_statistics(abdomens):
    tumors = []
    for i in range(6):
        volume, _ = load(abdomens / f"volume-{i}.nii.gz")
        labels, image = load(abdomens / f"segmentation-{i}.nii.gz")
        millilitres = np.prod(image.header.get_zooms()) / 1000
        assert 150 < (labels > 0).sum() * millilitres < 500
        assert 40 < volume[labels == 1].mean() < 115
        assert ndimage.label(ndimage.binary_opening(labels > 0))[1] <= 3
        tumors.append((labels == 2).sum() * millilitres)
        if tumors[-1] > 0.5:
            assert volume[labels == 2].mean() < volume[labels == 1].mean() - 10
    assert 0 in np.round(tumors, 3)
    assert max(tumors) > 2


def best_window(values, mask, edges):
    """Dice of every window [edges[a], edges[b]) against the mask."""
    inside = np.concatenate([[0], np.cumsum(np.histogram(values[mask], edges)[0])])
    total = np.concatenate([[0], np.cumsum(np.histogram(values, edges)[0])])
    true, all_ = inside[None] - inside[:, None], total[None] - total[:, None]
    return np.where(all_ >= 0, 2 * true / np.maximum(all_ + mask.sum(), 1), 0)


def test_lits_liver_is_not_a_threshold(abdomens):
    dice = []
    for i in range(6):
        volume, labels = load(abdomens / f"volume-{i}.nii.gz")[0], load(abdomens / f"segmentation-{i}.nii.gz")[0]
        dice.append(best_window(volume, labels > 0, np.arange(-150, 300, 5)))
    assert np.mean(dice, axis=0).max() < 0.6  # one window for all
    assert max(one.max() for one in dice) < 0.7  # even a window fitted to each patient with its own mask


@pytest.mark.slow
def test_lits_liver_is_learnt_by_a_small_unet_in_tens_of_steps(tmp_path):
    import torch
    from monai.losses import DiceLoss
    from monai.networks.nets import UNet

    lits.generate(tmp_path / "lits", subjects=6, size=(48, 48, 32))
    images, masks = [], []
    for i in range(6):
        for part, into in (("volume", images), ("segmentation", masks)):
            image = nib.as_closest_canonical(nib.load(tmp_path / "lits" / f"{part}-{i}.nii.gz"))
            into.append(torch.from_numpy(image.get_fdata(dtype=np.float32))[None])
    x = (torch.stack(images).clip(-200, 250) + 200) / 450
    y = (torch.stack(masks) > 0).float()
    torch.manual_seed(0)
    net = UNet(3, 1, 1, channels=(8, 16, 32, 32), strides=(2, 2, 2), num_res_units=1, norm="batch")
    optimizer, loss = torch.optim.Adam(net.parameters(), 5e-3), DiceLoss(sigmoid=True)
    for step in range(60):
        pick = [step % 4, (step + 1) % 4]
        optimizer.zero_grad()
        loss(net(x[pick]), y[pick]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        found = net(x[4:]) > 0
    dice = 2 * (found * y[4:]).sum() / (found.sum() + y[4:].sum())
    assert dice > 0.75


# --------------------------------------------------------------------------------------------- brats


def case(folder):
    images = {name: load(folder / f"{folder.name}_{name}.nii.gz")[0] for name in brats.MODALITIES}
    return images, load(folder / f"{folder.name}_seg.nii.gz")[0]


def test_brats_layouts(heads, tmp_path):
    folders = sorted(path.name for path in heads.iterdir() if path.is_dir())
    assert folders == [f"BraTS20_Training_{i:03d}" for i in range(1, 7)]
    first = heads / folders[0]
    names = sorted(path.name for path in first.iterdir())
    assert names == [f"{folders[0]}_{end}.nii.gz" for end in ("flair", "seg", "t1", "t1ce", "t2")]
    image = nib.load(first / names[0])
    assert image.shape == brats.SIZE
    assert "".join(nib.aff2axcodes(image.affine)) == "LPS"
    np.testing.assert_allclose(image.header.get_zooms(), 2.25)
    new = brats.generate(tmp_path / "b21", subjects=1, layout="brats21", size=SMALL["brats"])
    assert (new / "BraTS2021_00000" / "BraTS2021_00000_t1ce.nii.gz").is_file()
    old = brats.generate(tmp_path / "b18", subjects=6, layout="brats18", size=SMALL["brats"])
    assert {path.parent.name for path in old.glob("*/Brats18_*")} == {"HGG", "LGG"}
    assert len(list(old.glob("?GG/Brats18_SIM*_1/Brats18_SIM*_1_seg.nii.gz"))) == 6
    brats.generate(tmp_path / "b18", subjects=1, layout="brats20", size=SMALL["brats"])
    assert not (old / "HGG").exists(), "an earlier layout must not stay behind"
    with pytest.raises(SslMedError, match="layout 'brats99' is unknown"):
        brats.generate(tmp_path / "x", subjects=1, layout="brats99")


def test_brats_brain_only_and_three_parts(heads):
    scales, enhancing = [], 0
    for folder in sorted(heads.glob("BraTS20*")):
        images, labels = case(folder)
        brain = images["t1"] > 0
        assert set(np.unique(labels)) <= {0, 1, 2, 4}
        assert 0.1 < brain.mean() < 0.5
        for array in images.values():
            np.testing.assert_array_equal(array > 0, brain)
            assert array.min() == 0
        assert not labels[~brain].any()
        healthy = brain & (labels == 0)
        middle = {name: np.median(array[healthy]) for name, array in images.items()}
        assert np.median(images["flair"][labels == 2]) > 1.2 * middle["flair"]
        assert np.median(images["t2"][labels == 2]) > 1.2 * middle["t2"]
        assert np.median(images["t1ce"][labels == 1]) < 0.9 * middle["t1ce"]
        if (labels == 4).any():
            enhancing += 1
            assert np.median(images["t1ce"][labels == 4]) > 1.1 * middle["t1ce"]
            # the rim lies around the core
            assert ndimage.binary_dilation(labels == 4, iterations=2)[labels == 1].mean() > 0.5
        scales.append([middle[name] for name in images])
    assert 4 <= enhancing <= 6
    assert np.max(scales) > 3 * np.min(scales), "units must differ between cases"


@pytest.mark.slow
def test_brats_tumor_needs_more_than_one_threshold_and_is_learnable(heads):
    single, features, target = [], [], []
    for folder in sorted(heads.glob("BraTS20*")):
        images, labels = case(folder)
        brain = images["t1"] > 0
        whole = labels > 0
        flair = images["flair"][brain].astype(float)
        single.append(best_window(flair, whole[brain], np.linspace(0, flair.max() + 1, 200)).max())
        columns = []
        for array in images.values():
            scaled = np.where(brain, array / np.median(array[brain]), 1)
            columns += [ndimage.gaussian_filter(scaled, sigma)[brain] for sigma in (0.5, 1.5, 4)]
        features.append(np.stack(columns, 1))
        target.append(whole[brain])
    assert np.mean(single) < 0.75
    pick = np.random.default_rng(0)
    train = [pick.choice(len(t), 4000, replace=False) for t in target[:4]]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(
        np.vstack([f[k] for f, k in zip(features, train, strict=False)]),
        np.concatenate([t[k] for t, k in zip(target, train, strict=False)]),
    )
    found, truth = model.predict(np.vstack(features[4:])), np.concatenate(target[4:])
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75


# ------------------------------------------------------------------------------------------- chest14


def entries(root):
    lines = (root / "Data_Entry_2017.csv").read_text().splitlines()
    return lines[0], [line.split(",") for line in lines[1:]]


def test_chest14_layout(images):
    header, rows = entries(images)
    assert header == chest14.HEADER
    assert all(len(row) == 12 and row[-1] == "" for row in rows)
    listed = sorted(path.name for path in (images / "images").iterdir())
    assert [row[0] for row in rows] == listed
    assert 45 < len(listed) < 100
    for name, labels, follow_up, patient, age, sex, view, *_ in rows:
        assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"
        found = labels.split("|")
        assert found == ["No Finding"] or (found == sorted(set(found)) and set(found) <= set(FINDINGS))
        assert 0 < int(age) < 95
        assert sex in "MF"
        assert view in ("PA", "AP")
    with Image.open(images / "images" / listed[0]) as image:
        assert image.mode == "L"
        assert image.size == (64, 64)
    train, test = ((images / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt"))
    assert sorted(train + test) == listed
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    assert 0.15 < len(test) / len(listed) < 0.35


def test_chest14_labels_are_plentiful(images):
    count = Counter(name for row in entries(images)[1] for name in row[1].split("|"))
    assert len(set(count) & set(FINDINGS)) >= 9
    assert 0.3 < count["No Finding"] / len(entries(images)[1]) < 0.6


def test_chest14_size_is_rows_by_columns(tmp_path):
    chest14.generate(tmp_path, subjects=1, size=(48, 40))
    with Image.open(next((tmp_path / "images").iterdir())) as image:
        assert image.size == (40, 48)


@pytest.mark.parametrize("name", sorted(_DRAW))
def test_chest14_finding_changes_the_sick_lung(name):
    grid = Grid((96, 96), (VIEW / 96, VIEW / 96))
    build = draw_build(np.random.default_rng(5), FINDINGS)
    image = Radiograph(grid, np.random.default_rng(7), build, [name], portable=False)
    image.body()
    _, seen = image.marks()
    before, side = image.density.copy(), build.side[name]
    veiled = _DRAW[name](image, side, seen)
    change = np.abs(image.density - before)
    assert change.max() > 0.05
    assert (veiled <= seen + 1e-6).all()
    assert 10 < (change > 0.02).sum() < 3000
    if name not in ("Edema", "Fibrosis", "Hernia"):  # the others are one-sided: all on the side of the label
        assert change[image.x * side < -25].max() < 0.02


@pytest.mark.slow
def test_chest14_large_findings_show_in_a_coarse_picture_but_not_in_its_mean():
    grid = Grid((64, 64), (VIEW / 64, VIEW / 64))

    def draw(findings, count, seed):
        rngs = [np.random.default_rng([seed, k]) for k in range(count)]
        pairs = [(rng, draw_build(rng, FINDINGS)) for rng in rngs]
        drawn = [draw_radiograph(grid, r, b, findings=findings, portable=k % 3 == 0) for k, (r, b) in enumerate(pairs)]
        return np.array(drawn, float).transpose(0, 2, 1)

    healthy, auc, trivial = draw([], 40, 99), {}, {}
    y = np.repeat([0, 1], [40, 18])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500, class_weight="balanced"))
    for seed, name in enumerate(("Cardiomegaly", "Effusion", "Edema", "Pleural_Thickening")):
        pixels = np.concatenate([healthy, draw([name], 18, seed)])
        blocks = pixels.reshape(-1, 16, 4, 16, 4)
        mean, spread = blocks.mean((2, 4)).reshape(len(y), -1), blocks.std((2, 4)).reshape(len(y), -1)
        mean = (mean - mean.mean(1, keepdims=True)) / mean.std(1, keepdims=True)
        score = cross_val_predict(model, np.hstack([mean, spread]), y, cv=5, method="decision_function")
        auc[name] = roc_auc_score(y, score)
        trivial[name] = abs(roc_auc_score(y, pixels.mean((1, 2))) - 0.5) + 0.5
    assert min(auc.values()) > 0.75, auc
    assert np.mean(list(auc.values())) > 0.85, auc
    assert np.mean(list(trivial.values())) < 0.65, trivial


# ------------------------------------------------------------------------------- against real headers


@pytest.mark.realdata
def test_headers_read_like_the_real_ones(shared_data, chests, images):
    real = next(shared_data.glob("luna16/subset*/*.mhd")).read_text().splitlines()
    packed = next(chests.glob("subset0/*.mhd")).read_text().splitlines()
    assert [line.split(" = ")[0] for line in packed] == [line.split(" = ")[0] for line in real]
    for name in ("annotations.csv", "candidates_V2.csv"):
        assert (chests / name).read_text().splitlines()[0] == (shared_data / "luna16" / name).read_text().splitlines()[
            0
        ]
    assert entries(images)[0] == entries(shared_data / "chest14")[0]

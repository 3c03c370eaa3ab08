"""ChestX-ray14: the table as it is distributed, official lists, patients, radiographs in one or twelve folders."""

import csv
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.chest14 import FINDINGS, Chest14Data
from datamodules.phantoms import chest14
from ssl_med.spec import Need, SslMedError


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return chest14.generate(tmp_path_factory.mktemp("p") / "chest14", subjects=24, seed=0, size=(40, 40))


@pytest.fixture
def copied(radiographs, tmp_path):
    return shutil.copytree(radiographs, tmp_path / "chest14")


def module(root, *, labelled=True, fraction=1.0, seed=0, need=None, batch_size=4, **settings):
    config = Chest14Data.Config(
        **{"name": "chest14", "root": str(root), "patch_size": (32, 32), "image_size": 36, **settings}
    )
    data = Chest14Data(config, labelled=labelled, batch_size=batch_size, label_fraction=fraction, seed=seed, need=need)
    data.setup()
    return data


def table(root):
    with (root / "Data_Entry_2017.csv").open() as file:
        return list(csv.reader(file))[1:]


def every(data):
    return [radiograph for part in data.parts.values() for radiograph in part]


# ------------------------------------------------------------------------------------------------ table


@pytest.mark.slow
def test_findings_as_classes_take_radiographs_of_one_finding_alone(shared_phantom):
    radiographs = shared_phantom("chest14", subjects=50, size=(36, 36))
    count = Counter(row for _, row, *_ in table(radiographs) if "|" not in row and row != "No Finding")
    classes = tuple(name for name, _ in count.most_common(2))
    data = module(radiographs, classes=classes)
    wanted = {name: row for name, row, *_ in table(radiographs) if row in classes}
    found = {radiograph.name: classes[int(radiograph.label[0])] for radiograph in every(data)}
    assert found == wanted
    assert len(set(found.values())) > 1
    assert (data.spec.target, data.spec.class_names) == ("class", classes)
    whole = module(radiographs)
    for part, cases in data.parts.items():  # one split, whatever is learned
        assert {case.subject for case in cases} <= {case.subject for case in whole.parts[part]}
    for wrong in (("Effusion",), ("Effusion", "Effusion"), ("Effusion", "Masses")):
        with pytest.raises(SslMedError, match=r"data\.classes"):
            module(radiographs, classes=wrong)


@pytest.mark.slow
def test_labels_are_those_of_the_table(radiographs):
    data = module(radiographs)
    found = {radiograph.name: radiograph for radiograph in every(data)}
    rows = table(radiographs)
    assert len(found) == len(rows) > 50
    for name, labels, _, patient, *_ in rows:
        assert found[name].subject == patient
        assert {f for f, value in zip(FINDINGS, found[name].label, strict=True) if value} == set(labels.split("|")) - {
            "No Finding"
        }
    assert data.spec.class_names == FINDINGS
    assert data.spec.target == "multilabel"
    counts = Counter()
    for part, cases in data.parts.items():
        positives = data.describe()["positives"][part]
        assert positives == {f: sum(radiograph.label[k] for radiograph in cases) for k, f in enumerate(FINDINGS)}
        counts.update(positives)
    assert counts == Counter(f for row in rows for f in row[1].split("|") if f != "No Finding") | Counter()


def test_batches_carry_images_and_labels(radiographs):
    data = module(radiographs, batch_size=5)
    found = {radiograph.name: radiograph for radiograph in every(data)}
    seen = []
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        for batch in loader:
            assert batch["image"].shape[1:] == (1, 32, 32)
            assert batch["image"].min() >= 0
            assert batch["image"].max() <= 1
            assert batch["label"].dtype == torch.float32
            assert [tuple(map(int, row)) for row in batch["label"].tolist()] == [found[n].label for n in batch["id"]]
            seen += batch["id"]
        assert set(data.subjects()[part]) >= {found[n].subject for n in batch["id"]}
    assert sorted(seen) == sorted(f.name for p in ("val", "test") for f in data.parts[p])
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 1, 32, 32)


def test_a_radiograph_is_resized_by_its_shorter_side_and_cut_in_the_middle(radiographs, tmp_path):
    columns = np.broadcast_to(np.arange(120), (80, 120))
    (tmp_path / "images").mkdir()
    for number in range(1, 4):
        Image.fromarray(columns.astype(np.uint8) * 2).save(tmp_path / "images" / f"0000000{number}_000.png")
    lines = [chest14.HEADER, *(f"0000000{n}_000.png,Mass,0,{n},50,M,PA,1,1,1,1," for n in range(1, 4))]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    data = module(tmp_path, image_size=40, split_ratios=(0.34, 0.33, 0.33))
    (batch,) = data.test_dataloader()
    image = batch["image"][0, 0]
    # 80 x 120 -> 40 x 60; columns 14..45 of it; pixel c of the small radiograph is the mean of 2c and 2c + 1 (and neighbours)
    expected = (2 * (np.arange(14, 46) + 0.5) * 2 - 1) / 255
    np.testing.assert_allclose(image, np.broadcast_to(expected, (32, 32)), atol=0.01)
    train = data.dataset(data.parts["train"], part="train")
    lefts = {round(float(train[e, 0]["image"][0, 0, 0]) * 255 / 4) for e in range(40)}
    assert len(lefts) > 15, "training crops move"
    pair = module(tmp_path, image_size=40, labelled=False, need=Need(pair=True), split_ratios=(0.34, 0.33, 0.33))
    sample = pair.dataset(pair.parts["train"], part="train")[0, 0]
    assert sample["image"].shape == sample["image2"].shape == (1, 32, 32)
    for name in ("image", "image2"):  # grey rises along columns at one rate, whatever the box
        assert (sample[name][0].diff(dim=1) > -1e-6).all()
        torch.testing.assert_close(sample[name][0], sample[name][0, :1].expand(32, 32), atol=1e-4, rtol=0)
    spans = []
    for epoch in range(30):
        sample = pair.dataset(pair.parts["train"], part="train")[epoch, 0]
        lows, highs = zip(*((float(sample[n].min()), float(sample[n].max())) for n in ("image", "image2")), strict=True)
        assert max(lows) < min(highs), "both crops show a common part"
        spans.append(highs[0] - lows[0])
    assert max(spans) > 1.3 * min(spans), "boxes differ in size"


def test_radiographs_in_numbered_folders(copied):
    flat = module(copied)
    tested = [(batch["id"], batch["image"]) for batch in flat.test_dataloader()]
    paths = sorted((copied / "images").glob("*.png"))
    for number, path in enumerate(paths):
        folder = copied / f"images_{number % 12 + 1:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    (copied / "images").rmdir()
    nested = module(copied)
    assert nested.subjects() == flat.subjects()
    assert [f.name for f in every(nested)] == [f.name for f in every(flat)]
    assert {f.path.split("/")[-3] for f in every(nested)} == {f"images_{k:03d}" for k in range(1, 13)}
    for (names, image), batch in zip(tested, nested.test_dataloader(), strict=True):
        assert batch["id"] == names
        assert torch.equal(batch["image"], image)


# ------------------------------------------------------------------------------------------------- splits


def test_no_patient_straddles(radiographs):
    for split, seed in (("random", 0), ("random", 1), ("official", 0), ("official", 1)):
        data = module(radiographs, split=split, split_seed=seed)
        parts = [set(s) for s in data.subjects().values()]
        assert len(parts) == 3
        assert len(set.union(*parts)) == sum(map(len, parts)) == 24
        for part, cases in data.parts.items():
            assert {f.name.split("_")[0].lstrip("0") for f in cases} == set(data.subjects()[part])


def test_official_lists(radiographs):
    listed = set((radiographs / "test_list.txt").read_text().split())
    for seed in range(3):
        data = module(radiographs, split="official", split_seed=seed)
        assert {radiograph.name for radiograph in data.parts["test"]} == listed
        assert len(data.subjects()["val"]) == 2, "an eighth of the 18 other patients"
        assert len(data.subjects()["train"]) == 16
        unlabelled = module(radiographs, split="official", split_seed=seed, labelled=False)
        assert unlabelled.subjects() == {p: data.subjects()[p] for p in ("train", "val")}
        assert not {radiograph.name for radiograph in every(unlabelled)} & listed


def test_official_lists_that_do_not_fit(copied):
    train, test = copied / "train_val_list.txt", copied / "test_list.txt"
    text = train.read_text(), test.read_text()
    patient = text[1].split("_")[0]
    follow_ups = [line for line in text[1].split() if line.startswith(patient)]
    train.write_text(text[0] + follow_ups[0] + "\n")
    with pytest.raises(SslMedError, match=rf"test_list.txt: patient {int(patient)} is also in train_val_list.txt"):
        module(copied, split="official")
    train.write_text(text[0] + "00099999_000.png\n")
    with pytest.raises(
        SslMedError, match=r"train_val_list.txt: image 00099999_000.png is not in the table or not on disk \(1 in"
    ):
        module(copied, split="official")
    assert module(copied, split="official", allow_missing=True).subjects()
    train.unlink()
    with pytest.raises(
        SslMedError,
        match=r"train_val_list.txt: cannot be read \(No such file or directory\); data.split=official needs it",
    ):
        module(copied, split="official")
    assert module(copied).subjects(), "other splits need no list"


def test_unlabelled_and_labelled_use_share_one_split(radiographs):
    for seed in range(5):
        labelled = module(radiographs, split_seed=seed).subjects()
        unlabelled = module(radiographs, split_seed=seed, labelled=False)
        assert unlabelled.subjects() == {part: labelled[part] for part in ("train", "val")}
        assert "label" not in next(iter(unlabelled.train_dataloader()))


def test_small_budgets_keep_rare_findings(radiographs):
    whole = module(radiographs)
    rare = whole.signatures(whole.parts["train"])
    counts = np.array([f.label for f in whole.parts["train"]]).sum(0)
    for subject, stratum in rare.items():
        own = np.array([f.label for f in whole.parts["train"] if f.subject == subject]).any(0)
        if not own.any():
            assert stratum == ""
        else:
            assert own[FINDINGS.index(stratum)]
            assert counts[FINDINGS.index(stratum)] == counts[own].min()
    smaller = set()
    for fraction in (0.1, 0.3, 0.6, 1.0):
        chosen = set(module(radiographs, fraction=fraction, seed=2).subjects()["train"])
        assert smaller <= chosen
        assert len(chosen) == max(1, round(fraction * len(rare)))
        smaller = chosen


# ---------------------------------------------------------------------------------------------- bad files


def test_missing_radiographs(copied):
    gone = sorted((copied / "images").glob("*.png"))[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(
        SslMedError, match=rf"names 2 images that are not below .*, first {gone[0].name}; .*allow_missing"
    ):
        module(copied)
    data = module(copied, allow_missing=True)
    assert data.describe()["notes"][0] == "2 images of the table are absent and left out"
    assert not {p.name for p in gone} & {f.name for f in every(data)}
    assert len(every(data)) == len(table(copied)) - 2


def test_tables_that_cannot_be_used(copied):
    path = copied / "Data_Entry_2017.csv"
    text = path.read_text()
    first, second = text.splitlines()[1:3]

    def refused(content, message):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SslMedError, match=message) as caught:
            module(copied)
        assert "Data_Entry_2017.csv" in str(caught.value)
        assert "\n" not in str(caught.value)

    name = first.split(",")[0]
    label = first.split(",")[1]
    refused(text.replace(f"{name},{label},", f"{name},Mas,", 1), f"image {name} has the unknown finding 'Mas'")
    fields = first.split(",")
    fields[3] = "x7"
    refused(text.replace(first, ",".join(fields), 1), f"image {name} has the Patient ID 'x7', not a number")
    refused(
        text.replace("Patient ID", "Patient", 1), "column 'Patient ID' is missing; it has Image Index, Finding Labels"
    )
    # a download that broke off within a row
    refused(text[: text.index(second) + len(second.split(",")[0])], "line 3 is cut off")
    refused(b"\xff\xfe" + text.encode("utf-16-le")[:-1], "is no table that can be read: it is not UTF-16")
    refused(b"PK\x03\x04" + bytes(range(256)), "is no table that can be read: it is not UTF-8")
    refused(b"\xff\xfe\x00" * 3001, r"is not UTF-16|column 'Image Index' is missing; it has .{0,400}$")
    path.write_bytes(text.encode("utf-16"))
    assert module(copied).subjects(), "as PowerShell writes it"
    path.write_text(text)
    (copied / "Data_Entry_2017_v2020.csv").write_text(text)
    with pytest.raises(SslMedError, match=r"needs one Data_Entry_2017\*.csv, it holds 2"):
        module(copied)
    path.unlink()
    assert module(copied).subjects(), "the newer table's name is read too"
    (copied / "Data_Entry_2017_v2020.csv").unlink()
    with pytest.raises(SslMedError, match=r"needs one Data_Entry_2017\*.csv, it holds 0"):
        module(copied)


def test_a_radiograph_listed_twice_is_refused(copied):
    path = copied / "Data_Entry_2017.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    name = lines[1].split(",")[0]
    with pytest.raises(SslMedError, match=f"Data_Entry_2017.csv: names image {name} twice"):
        module(copied)


def test_settings_that_cannot_work():
    with pytest.raises(SslMedError, match=r"data.image_size=30 is smaller than data.patch_size \[32, 32\]"):
        module(".", image_size=30)
    with pytest.raises(SslMedError, match=r"data.patch_size \[32, 32, 32\] has 3 numbers; the data is 2D"):
        module(".", patch_size=(32, 32, 32), image_size=64)


def test_images_of_one_patient_share_a_number_in_evaluation(radiographs):
    data = module(radiographs, batch_size=3)
    found = {}
    for batch in data.test_dataloader():
        for name, case, subject in zip(batch["id"], batch["case"].tolist(), batch["subject"].tolist(), strict=True):
            radiograph = data.parts["test"][case]
            assert radiograph.name == name
            assert found.setdefault(subject, radiograph.subject) == radiograph.subject
    assert len(found) == len(set(found.values())) == len({radiograph.subject for radiograph in data.parts["test"]})
    assert len(found) < len(data.parts["test"])

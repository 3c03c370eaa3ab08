"""The store holds what the files hold, to the last voxel, or says in one line why it cannot be read."""

import errno
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from datamodules.core import arrays
from datamodules.core.arrays import StoredArray, write_array
from datamodules.core.intensity import histogram, is_small, scale_of_counts, scale_of_values
from datamodules.core.lazy import LazyCodes
from datamodules.core.starts import TiledStarts, find_starts, integral, tile_starts, tissue_weight
from datamodules.core.store import JOURNAL, MANIFEST, Item, _same, content_hash
from datamodules.formats.grids import Volume
from experiments.cli import main
from experiments.commands.prepare import prepare
from experiments.config.data import compose_prepare
from experiments.run.lock import FolderLock
from ssl_med.catalogue import list_names
from ssl_med.spec import Intensity, Need, SslMedError

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {
    "luna": {"subjects": 8, "size": (40, 32, 28)},
    "lits": {"subjects": 6, "size": (32, 32, 24)},
    "brats": {"subjects": 6, "size": (24, 28, 24)},
    "chest14": {"subjects": 12, "size": (64, 80)},
}
PATCH = {"luna": "[16,12,8]", "lits": "[16,36,8]", "brats": "[16,12,8]", "chest14": "[32,24]"}
PAIR = Need(pair=True, min_iou=0.2, pair_scales=((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (0.5, 0.5, 0.5)))


@pytest.fixture(scope="module")
def raw(tmp_path_factory, shared_phantom):
    folder = tmp_path_factory.mktemp("raw")
    for name, options in FAMILIES.items():
        (folder / name).symlink_to(shared_phantom(name, **options))
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet():
    before = os.environ.get("SSL_MED_QUIET")
    os.environ["SSL_MED_QUIET"] = "1"
    yield
    os.environ.pop("SSL_MED_QUIET") if before is None else os.environ.update(SSL_MED_QUIET=before)


def words(raw, kind, *more):
    size = ["data.image_size=40"] if kind == "chest14" else ["data.crops_per_volume=3"]
    return [f"data={kind}", f"data.root={raw / kind}", f"data.patch_size={PATCH[kind]}", *size, *more]


def build(raw, kind, *more, labelled=False, need=None, batch_size=2, **options):
    where = [word for word in more if word.startswith("data.store=")]
    data = compose_prepare([*words(raw, kind, *(word for word in more if word not in where)), "store=unused"])[1]
    data.config.store = where[0].partition("=")[2] if where else ""
    return type(data)(data.config, need=need, labelled=labelled, batch_size=batch_size, **options)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == right[key].dtype
            assert torch.equal(value.nan_to_num(-9), right[key].nan_to_num(-9)), key
        elif isinstance(value, np.ndarray):
            assert np.array_equal(value, right[key]), key
        else:
            assert value == right[key], key


def samples(data, part, every=1):
    data.setup()
    dataset = data.dataset(data.parts[part], part=part)
    return [dataset[epoch, index] for epoch in (0, 1) for index in range(0, len(dataset), every)]


# ------------------------------------------------------------------------------------------ same samples


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("luna", "brats") else ()) for kind in FAMILIES]
)
@pytest.mark.parametrize("use", ["unlabelled", "labelled", "pair"])
@pytest.mark.parametrize(
    "more", [(), ("data.orientation=RAS", "data.spacing_mm=[3,2.5,4]")], ids=["as acquired", "resampled"]
)
def test_samples_from_the_store_are_those_from_the_files(raw, tmp_path, kind, use, more):
    if kind == "chest14" and more:
        pytest.skip("images have no spacing")
    options = {"labelled": use == "labelled", "need": PAIR if use == "pair" else None, "seed": 3}
    if kind == "luna" and use != "labelled":
        more = (*more, "data.tissue_max=0.6", "data.border=[2,3,1]")
    if kind == "brats" and use == "labelled":
        more = (*more, "data.modalities=[t1ce,flair]")
    store = prepare(words(raw, kind, f"store={tmp_path / 's'}", "workers=1", *more))
    source, stored = (build(raw, kind, *more, *where, **options) for where in ((), (f"data.store={store}",)))
    for part in ("train", "val", *(["test"] if options["labelled"] else [])):
        expected = samples(source, part, every=2)
        assert expected
        if part == "train":
            # nothing of the files is needed any more but their names and sizes
            assert not any(isinstance(stored.load(case).codes, np.ndarray) for case in samples_cases(stored, kind))
        for one, other in zip(expected, samples(stored, part, every=2), strict=True):
            assert_same(one, other)
    assert any(float(sample["image"].std()) > 0 for sample in expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({*list_names("datamodules")} - {*FAMILIES, "medmnist"}))
def test_every_family_trains_from_a_store(shared_phantom, tmp_path, kind):
    flat = compose_prepare([f"data={kind}", "store=x"])[1].spec.spatial_dims == 2
    size = (64, 72) if flat else (40, 36, 32)
    root = shared_phantom(kind, subjects=8, size=size)
    more = ["data.image_size=40", "data.patch_size=[32,24]"] if flat else ["data.patch_size=[16,12,8]"]
    asked = [f"data={kind}", f"data.root={root}", *more]
    store = prepare([*asked, f"store={tmp_path / 's'}", "workers=1"])
    sides = []
    for where in ("", str(store)):
        data = compose_prepare([*asked, "store=unused"])[1]
        data.config.store = where
        sides.append(samples(data, "train", every=5))
        try:
            labelled = type(data)(data.config, labelled=True, batch_size=2)
            labelled.setup()
        except SslMedError:  # too few phantoms of a class, or classes that only the user knows
            continue
        if labelled.spec.target != "none":
            sides[-1] += samples(labelled, "train", every=5)
    assert sides[0]
    for one, other in zip(*sides, strict=True):
        assert_same(one, other)


def test_a_family_without_a_store_says_so(tmp_path, capsys):
    module = importlib.import_module("datamodules.phantoms.medmnist")
    root = module.generate(tmp_path / "raw")
    assert main(["prepare", "data=medmnist", f"data.root={root}", f"store={tmp_path / 's'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data=medmnist has no store; leave data.store out" in line
    assert not (tmp_path / "s").exists()


def test_prepare_honours_the_quarantine(raw, tmp_path):
    shutil.copytree(raw / "lits", tmp_path / "lits")
    (tmp_path / "lits" / "volume-1.nii.gz").write_bytes(b"broken")
    asked = words(tmp_path, "lits", f"store={tmp_path / 's'}", "workers=1")
    with pytest.raises(SslMedError, match=r"volume-1\.nii\.gz"):
        prepare(asked)
    path = tmp_path / "lits" / "segmentation-2.nii.gz"
    path.write_bytes(path.read_bytes()[:900])
    listed = tmp_path / "quarantine.txt"
    listed.write_text("volume-1.nii.gz\tunreadable\nsegmentation-2.nii.gz\ttruncated\n")
    store = prepare([*asked, f"data.quarantine={listed}", "data.quarantine_budget=0.2"])
    assert len(json.loads((store / MANIFEST).read_text())["items"]) == 5 + 4


def samples_cases(data, kind):
    data.setup()
    return [] if kind == "chest14" else data.parts["train"]


@pytest.mark.parametrize("window", [("-1000", "400"), ("-160", "240"), ("0", "255")])
def test_another_window_needs_no_new_store(raw, tmp_path, window):
    store = prepare(words(raw, "lits", f"store={tmp_path / 's'}", "workers=1"))
    before = sorted((store / "arrays").rglob("*.b2nd"))
    more = [f"data.intensity_low={window[0]}", f"data.intensity_high={window[1]}"]
    pairs = zip(
        samples(build(raw, "lits", *more), "train"),
        samples(build(raw, "lits", *more, f"data.store={store}"), "train"),
        strict=True,
    )
    for one, other in pairs:
        assert_same(one, other)
    assert sorted((store / "arrays").rglob("*.b2nd")) == before


def test_workers_and_resume_see_the_same_crops(raw, tmp_path):
    store = prepare(words(raw, "lits", f"store={tmp_path / 's'}", "workers=1"))
    everything = [f"data.store={store}", "data.split_ratios=[0.8,0.1,0.1]"]
    one = list(build(raw, "lits", *everything).train_dataloader())
    two = list(build(raw, "lits", *everything, num_workers=2).train_dataloader())
    again = build(raw, "lits", *everything, num_workers=1).train_dataloader()
    again.load_state_dict({"epoch": 0, "position": 2})
    rest = list(again)
    assert len(one) == len(two) == len(rest) + 2
    for left, right in [*zip(one, two, strict=True), *zip(one[2:], rest, strict=True)]:
        assert_same(left, right)


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["luna", "ms_float"])
def test_real_scans_come_back_bit_by_bit(shared_data, tmp_path, kind):
    if kind == "luna":
        path = sorted((shared_data / "luna16").glob("subset*/*.mhd"))[0]
        from datamodules.core.readers import read_volume

        array = read_volume(str(path)).array
    else:  # a scale factor in the header makes floats of them
        array = np.asanyarray(nib.load(shared_data / "ms" / "patient07" / "FLAIR.nii.gz").dataobj)
        assert array.dtype.kind == "f"
    record = write_array(tmp_path, "a" * 32, array)
    back = read_all(tmp_path, record)
    assert np.array_equal(back, array)
    assert record.nbytes < 0.55 * 2 * array.size


# ------------------------------------------------------------------------------------------- exactness


def read_all(folder, record):
    stored = StoredArray(folder / "arrays" / record.name[:2] / f"{record.name}.b2nd", record, source="x")
    numbers = np.concatenate(list(stored.slabs()))
    return numbers if stored.palette is None else stored.palette[numbers]


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda r: r.integers(-1024, 3071, (70, 65, 40)).astype(np.int16), "<i2"),
        (lambda r: r.integers(0, 200, (70, 65, 40)).astype(np.int32), "|u1"),
        (lambda r: r.integers(0, 60000, (7, 6, 5)).astype(np.float64), "<u2"),
        (lambda r: r.integers(-90000, 90000, (7, 6, 5)), "<i4"),
        (lambda r: (r.integers(-500, 500, (30, 20, 10)) * np.float32(0.37) - 4.5).astype(np.float64), "<u2"),
        (lambda r: r.normal(size=(30, 20, 10)).astype(np.float32), "<u2"),  # few enough values for a list of them
        (lambda r: r.normal(size=(70, 65, 40)).astype(np.float32), "<f4"),
        (lambda r: r.normal(size=(70, 65, 40)), "<f8"),
        (lambda r: r.integers(0, 256, (300, 270)).astype(np.uint8), "|u1"),
        (lambda r: np.asfortranarray(r.integers(-9, 9, (70, 9, 8)).astype(np.int16))[::-1].transpose(1, 0, 2), "<i2"),
    ],
)
def test_arrays_come_back_exactly_in_the_narrowest_type(tmp_path, make, dtype):
    array = make(np.random.default_rng(0))
    record = write_array(tmp_path, "ab" * 16, array)
    assert record.dtype == dtype
    assert np.array_equal(read_all(tmp_path, record), array)
    assert (record.low, record.high) == (array.min(), array.max())
    assert record.mean == pytest.approx(array.astype(float).mean())


@pytest.mark.parametrize("dtype", ["i2", "u1", "u2", "f4", "f8"])
def test_percentiles_are_those_of_numpy_to_the_last_bit(dtype):
    rng = np.random.default_rng(1)
    for _ in range(40):
        array = (rng.normal(size=(5, 6, 7)) * 40).astype(dtype)
        low, high = sorted(rng.uniform(0, 100, 2))
        intensity = Intensity("percentile", low, high)
        if is_small(array.dtype):
            scale = scale_of_counts(*histogram(array), intensity, source="x")
        else:
            scale = scale_of_values(array, intensity, source="x")
        expected = np.percentile(array[array != 0].astype(float), [low, high])
        assert scale.low == expected[0]
        assert scale.high == (expected[1] if expected[1] > expected[0] else expected[0] + 1)


def test_start_tables_equal_the_starts_of_the_whole_volume():
    rng = np.random.default_rng(2)
    passed = 0
    for k in range(25):
        shape = tuple(int(n) for n in rng.integers(9, 30, 3))
        size = tuple(int(rng.integers(1, n + 1)) for n in shape)
        margin = None if k % 3 else (2, 0, 9)
        codes = (uniform_filter(rng.random(shape), 5) > 0.5).astype(np.uint16)
        weight = tissue_weight(codes, 1)
        limits = {"low": 0.3, "high": 0.55} if k % 2 else {"low": 0.0, "high": 0.45}
        whole = find_starts(shape, size, total=integral(weight), margin=margin, **limits)
        table = tile_starts(iter(weight), shape, size, margin=margin, **limits)
        tiled = TiledStarts.of(size, shape, margin, lambda table=table: table)
        assert (tiled.grid, tiled.offset, tiled.count) == (whole.grid, whole.offset, whole.count)
        starts = np.stack(np.unravel_index(np.arange(np.prod(whole.grid)), whole.grid), 1)
        assert np.array_equal(tiled.passes(starts), whole.passes(starts))
        if whole.count:
            passed += 1
            one, two = (np.random.default_rng(k) for _ in range(2))
            assert np.array_equal(whole.draw(one), tiled.draw(two))
            assert np.array_equal(whole.draw_pair(0.2, one), tiled.draw_pair(0.2, two))
            assert np.array_equal(whole._pick(one), tiled._pick(two))
    assert passed > 10


def test_the_hash_knows_voxels_and_geometry_and_nothing_else():
    array = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    code = content_hash(Volume(array, np.eye(4)))
    assert code == content_hash(Volume(np.asfortranarray(array), np.eye(4)))
    assert code == content_hash(Volume(array.astype(">i2"), np.eye(4)))
    changed = array.copy()
    changed[4, 5, 6] += 1
    assert code != content_hash(Volume(changed, np.eye(4)))
    assert code != content_hash(Volume(array, np.diag([1, 1, 2, 1.0])))
    assert code != content_hash(Volume(array.reshape(5, 7, 6), np.eye(4)))


# ------------------------------------------------------------------------------------ stale and damaged


@pytest.fixture
def small(raw, tmp_path):
    """A copy of the abdomens and its store."""
    shutil.copytree(raw / "lits", tmp_path / "lits")
    return tmp_path, prepare(words(tmp_path, "lits", f"store={tmp_path / 's'}", "workers=1"))


def refused(folder, store, match, *more):
    with pytest.raises(SslMedError, match=match) as caught:
        build(folder, "lits", f"data.store={store}", *more).setup()
    assert "\n" not in str(caught.value)


def test_a_changed_source_is_stale_until_it_is_prepared_again(small):
    folder, store = small
    path = folder / "lits" / "volume-1.nii.gz"
    image = nib.load(path)
    array = np.asanyarray(image.dataobj).copy()
    array[3, 4, 5] += 1
    nib.save(nib.Nifti1Image(array, image.affine), path)
    refused(
        folder, store, rf"data.store={store}: is stale, {path} or its array was changed .*ssl-med prepare data=lits"
    )
    prepare(words(folder, "lits", f"store={store}", "workers=1"))
    pairs = (samples(build(folder, "lits", *where), "train") for where in ((), (f"data.store={store}",)))
    for one, other in zip(*pairs, strict=True):
        assert_same(one, other)
    named = {a["name"] for r in json.loads((store / MANIFEST).read_text())["items"].values() for a in r["arrays"]}
    assert {path.stem for path in store.rglob("*.b2nd")} == named, "the old array is gone"


def test_a_touched_source_is_not_compressed_again(small):
    folder, store = small
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.b2nd")}
    for path in (folder / "lits").glob("*.nii*"):
        os.utime(path, (1e9, 1e9))
    refused(folder, store, "is stale")
    prepare(words(folder, "lits", f"store={store}", "workers=1"))
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.b2nd")} == times
    build(folder, "lits", f"data.store={store}").setup()


def test_other_settings_and_formats_are_refused(small, tmp_path):
    folder, store = small
    refused(
        folder, store, 'prepared with data.orientation="LPS", now it is "RAS"; set it alike', "data.orientation=RAS"
    )
    refused(folder, store, r"data.spacing_mm=null, now it is \[2.0, 2.0, 2.0\]", "data.spacing_mm=[2,2,2]")
    with pytest.raises(SslMedError, match=r"data\.orientation"):
        prepare(words(folder, "lits", f"store={store}", "data.orientation=RAS"))
    refused(folder, tmp_path / "none", "is no store; make one: ssl-med prepare data=lits")
    manifest = store / MANIFEST
    good = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**good, "format": 0}))
    refused(folder, store, "has format 0, this version reads 2; prepare a new store")
    manifest.write_text(json.dumps({**good, "data": "luna"}))
    refused(folder, store, "was prepared for data=luna, not lits")
    manifest.write_text(manifest.read_text()[:100])
    refused(folder, store, f"{manifest}: is no manifest")
    images = [key for key, record in good["items"].items() if len(record["arrays"]) == 1]
    manifest.write_text(json.dumps({**good, "items": {k: v for k, v in good["items"].items() if k not in images[:2]}}))
    refused(folder, store, r"does not hold .* are missing\); run `ssl-med prepare")


def test_a_moved_data_set_keeps_its_store(small):
    folder, store = small
    (folder / "lits").rename(folder / "moved")
    (folder / "lits").mkdir()
    data = build(folder, "lits", f"data.store={store}")
    data.config.root = str(folder / "moved")
    data.setup()
    assert data.dataset(data.parts["train"], part="train")[0, 0]["image"].shape == (1, 16, 36, 8)


@pytest.mark.parametrize("how", ["bit", "cut", "gone", "description"])
def test_a_damaged_chunk_is_named_and_repaired(small, how):
    folder, store = small
    data = build(folder, "lits", f"data.store={store}")
    data.setup()
    case = data.parts["train"][0]
    (item,) = data.items(case, labels=False)
    path = store / data.store.array_path(data.store.record(item).arrays[0])
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "description":
        content[-150] ^= 1
    else:
        content[len(content) // 3] ^= 4
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    fresh = build(folder, "lits", f"data.store={store}")
    with pytest.raises(SslMedError, match=r"is stale|is damaged|damaged description|cannot be opened") as caught:
        samples(fresh, "train")
    assert case.images[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "ssl-med prepare" in str(caught.value)
    prepare(words(folder, "lits", f"store={store}", "workers=1", "verify=true"))
    pairs = (samples(build(folder, "lits", *where), "train") for where in ((), (f"data.store={store}",)))
    for one, other in zip(*pairs, strict=True):
        assert_same(one, other)


def test_a_damaged_table_is_made_anew(raw, tmp_path):
    more = ["data.tissue_max=0.6"]
    store = prepare(words(raw, "luna", f"store={tmp_path / 's'}", "workers=1", *more))
    tables = sorted((store / "derived").rglob("*.npy"))
    expected = samples(build(raw, "luna", *more), "train")
    assert len(tables) == 8
    for number, table in enumerate(tables):
        content = bytearray(table.read_bytes())
        content[-20 if number % 2 else 3] ^= 1
        table.write_bytes(content[: 50 if number == 5 else None])
    for one, other in zip(expected, samples(build(raw, "luna", *more, f"data.store={store}"), "train"), strict=True):
        assert_same(one, other)


# ------------------------------------------------------------------------------------------- preparing


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_the_second_call_does_nothing_and_the_raw_folder_is_left_alone(raw, tmp_path, capsys):
    before = snapshot(raw / "brats")
    store = prepare(words(raw, "brats", f"store={tmp_path / 's'}", "workers=1"))
    after = snapshot(store)
    prepare(words(raw, "brats", f"store={store}", "workers=1"))
    assert "nothing to do" in capsys.readouterr().out
    assert {p: v for p, v in snapshot(store).items() if p.name != ".lock"} == {
        p: v for p, v in after.items() if p.name != ".lock"
    }
    assert snapshot(raw / "brats") == before


@pytest.mark.slow
def test_several_workers_make_the_same_store(raw, tmp_path):
    one = prepare(words(raw, "brats", f"store={tmp_path / 'a'}", "workers=1"))
    two = prepare(words(raw, "brats", f"store={tmp_path / 'b'}", "workers=2"))
    assert (one / MANIFEST).read_bytes() == (two / MANIFEST).read_bytes()


def test_names_of_patients_are_not_in_the_store(raw, tmp_path):
    for path in (raw / "lits").glob("*.nii*"):
        target = tmp_path / "lits" / "SMITH^JOHN" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    store = prepare(words(tmp_path, "lits", f"store={tmp_path / 's'}", "workers=1"))
    for path in store.rglob("*"):
        assert "SMITH" not in str(path.relative_to(tmp_path))
        assert not path.is_file() or b"SMITH" not in path.read_bytes()


def test_a_method_prepares_the_tables_of_its_crops(raw, tmp_path):
    store = prepare(words(raw, "luna", f"store={tmp_path / 's'}", "workers=1", "data.tissue_max=0.9"))
    one = len(list((store / "derived").rglob("*.npy")))
    prepare(words(raw, "luna", f"store={store}", "workers=1", "data.tissue_max=0.9", "method=pcrl"))
    assert len(list((store / "derived").rglob("*.npy"))) > one


KILL = """
import os, signal, sys
import datamodules.core.convert as module
from experiments.commands import prepare
made = 0
def stop(*args, write=module.write_array):
    global made
    made += 1
    if made > 5:
        (args[0] / "arrays" / args[1][:2]).mkdir(parents=True, exist_ok=True)
        (args[0] / "arrays" / args[1][:2] / f".{args[1]}.b2nd.99").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args)
module.write_array = stop
prepare.prepare(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_costs_no_finished_case(raw, tmp_path):
    asked = words(raw, "lits", f"store={tmp_path / 's'}", "workers=1")
    done = commands.run(KILL, *asked, function=commands.script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = tmp_path / "s"
    refused(raw, store, "is not finished; run the same `ssl-med prepare` again")
    lines = (store / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 2, "header and one case: an image, its labels and their rows; a second was half done"
    with (store / "journal.jsonl").open("a") as file:
        file.write('{"half a li')
    first = {a["name"] for r in json.loads(lines[1]).values() for a in r["arrays"]}
    kept = {path: path.stat().st_mtime_ns for path in store.rglob("*.b2nd") if path.stem in first}
    assert kept
    prepare(asked)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(store.rglob(".*.b2nd.*"))
    whole = prepare(words(raw, "lits", f"store={tmp_path / 't'}", "workers=1"))
    assert (store / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(raw, tmp_path):
    slow = "import time, experiments.commands.prepare as p; w = p._work; p._work = lambda *a, **k: time.sleep(60)\n"
    code = f"{slow}import sys; p.prepare(sys.argv[1:])"
    asked = words(raw, "lits", f"store={tmp_path / 's'}", "workers=2")
    parent = commands.Forked(code, *asked, function=commands.script)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    if not children.parent.is_dir():
        pytest.skip("needs /proc")
    try:
        wait_for(lambda: len(children.read_text().split()) >= 2, seconds=120)
        workers = [Path("/proc") / pid for pid in children.read_text().split()]
        time.sleep(0.5)  # the watch begins with the worker
    finally:
        parent.kill()
    wait_for(lambda: not any(worker.is_dir() and " Z " not in (worker / "stat").read_text() for worker in workers))
    prepare(asked)  # and the lock is free


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_bad_files_are_named_and_the_others_finished(raw, tmp_path, capsys):
    shutil.copytree(raw / "lits", tmp_path / "lits")
    good = nib.load(tmp_path / "lits" / "segmentation-3.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asanyarray(good.dataobj)[:-1], good.affine), tmp_path / "lits" / "segmentation-3.nii.gz"
    )
    path = tmp_path / "lits" / "volume-1.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    asked = words(tmp_path, "lits", f"store={tmp_path / 's'}", "workers=2")
    assert main(["prepare", *asked]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert f"{path}: is truncated" in lines[0]
    assert "segmentation-3.nii.gz: does not lie on the grid of" in lines[1]
    assert "2 of 6 cases could not be converted" in lines[2]
    items = json.loads((tmp_path / "s" / MANIFEST).read_text())["items"]
    assert len(items) == 4 * 2 + 1
    shutil.copytree(raw / "lits", tmp_path / "lits", dirs_exist_ok=True)
    assert main(["prepare", *asked]) == 0
    assert len(json.loads((tmp_path / "s" / MANIFEST).read_text())["items"]) == 12


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ([], "store=DIR is missing"),
        (["store=ROOT/inside"], "lies in data.root"),
        (["store=OTHER"], "is not empty and no store"),
        (["store=OTHER/file"], "is a file"),
        (["store=NEW", "workers=-1"], "'workers' is -1"),
        (["store=NEW", "wrokers=1"], "key 'wrokers' is unknown; did you mean 'workers'"),
        (["data.store=NEW"], "prepare writes to store=DIR, not data.store"),
        (["store=NEW", "method=pcrll"], "method 'pcrll' is unknown; did you mean 'pcrl'"),
    ],
)
def test_wrong_requests_are_one_line(raw, tmp_path, capsys, asked, match):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    places = {"ROOT": str(raw / "lits"), "OTHER": str(tmp_path / "other"), "NEW": str(tmp_path / "new")}
    for word, place in places.items():
        asked = [text.replace(word, place) for text in asked]
    assert main(["prepare", *words(raw, "lits", *asked)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line
    assert not (tmp_path / "new").exists()


def test_two_preparations_at_once_are_refused(raw, tmp_path):
    store = prepare(words(raw, "brats", f"store={tmp_path / 's'}", "workers=1"))
    with (
        FolderLock(store, "another one is at work"),
        pytest.raises(SslMedError, match="another `ssl-med prepare` is writing to it"),
    ):
        prepare(words(raw, "brats", f"store={store}", "workers=1"))


def test_a_store_that_cannot_be_written_is_read_all_the_same(raw, tmp_path, monkeypatch):
    store = prepare(words(raw, "luna", f"store={tmp_path / 's'}", "workers=1", "data.tissue_max=0.6"))

    def no(path, content):
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr("datamodules.core.store.write_atomic", no)
    more = ["data.tissue_max=0.55"]  # tables of its own
    pairs = (samples(build(raw, "luna", *more, *where), "train") for where in ((), (f"data.store={store}",)))
    for one, other in zip(*pairs, strict=True):
        assert_same(one, other)


# ------------------------------------------------------------------------------------ memory and speed

PEAK = """
import re, sys
from pathlib import Path
from experiments.commands import prepare
def kilobytes():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resampled = "data.spacing_mm=[1,1,1.5]"
for k, more in enumerate(([], [resampled])):
    prepare.prepare([*sys.argv[1:4], f"store={sys.argv[4]}/warm{k}", *more])
before = kilobytes()
for k, more in enumerate(([], [resampled])):
    prepare.prepare([sys.argv[1], f"data.root={sys.argv[5]}", sys.argv[3], f"store={sys.argv[4]}/store{k}", *more])
    print(kilobytes() - before)
"""


@pytest.mark.slow
def test_peak_memory_is_three_volumes(raw, tmp_path):
    """As acquired, then resampled, in one process: a peak once reached is not forgotten, so the second bounds the first."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs /proc")
    shape = (320, 320, 260)
    rng = np.random.default_rng(0)
    array = (rng.integers(-60, 60, shape, dtype=np.int16) - 400).astype(np.int16)
    (tmp_path / "big").mkdir()
    for number in range(2):
        nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 1.2, 1])), tmp_path / "big" / f"volume-{number}.nii.gz")
    mask = nib.Nifti1Image((array > -400).astype(np.uint8), np.diag([0.8, 0.8, 1.2, 1]))
    nib.save(mask, tmp_path / "big" / "segmentation-0.nii.gz")
    first = ["data=lits", f"data.root={raw / 'lits'}", "workers=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SSL_MED_QUIET": "1"}
    command = [sys.executable, "-c", PEAK, *first, str(tmp_path), str(tmp_path / "big")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peaks = [int(line) * 1024 / array.nbytes for line in done.stdout.splitlines() if line.isdecimal()]
    assert len(peaks) == 2
    assert all(1 < peak < 3 for peak in peaks), f"{peaks} volumes"


def test_a_crop_touches_few_bytes(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1000, (192, 192, 96), dtype=np.int16)  # noise: as incompressible as it gets
    record = write_array(tmp_path, "cd" * 16, array)
    stored = StoredArray(tmp_path / "arrays" / "cd" / f"{'cd' * 16}.b2nd", record, source="x")
    stored.read([40, 50, 20], [104, 114, 52])
    touched = [
        stored._array.schunk.get_chunk(int(np.ravel_multi_index(p, stored._grid))) for p in np.argwhere(stored._good)
    ]
    assert len(touched) == 8
    assert sum(map(len, touched)) <= 2e6


def test_training_opens_the_store_lazily(raw, tmp_path, monkeypatch):
    store = prepare(words(raw, "lits", f"store={tmp_path / 's'}", "workers=1"))
    data = build(raw, "lits", f"data.store={store}", labelled=True)
    data.setup()
    dataset = data.dataset(data.parts["train"], part="train")
    read = []
    plain = LazyCodes.part
    monkeypatch.setattr(LazyCodes, "part", lambda self, low, high: read.append((low, high)) or plain(self, low, high))
    dataset[0, 0]
    assert [[b - a for a, b in zip(low, high, strict=True)] for low, high in read] == [[16, 32, 8]]
    assert resource.getpagesize() > 0


def test_prepare_composes_data_and_need():
    settings, data = compose_prepare(["data=luna", "data.root=x", "store=y", "workers=3", "method=pcrl"])
    assert (settings.store, settings.workers, settings.verify) == ("y", 3, False)
    assert data.need.pair
    assert not data.labelled


def test_a_source_of_the_same_size_and_time_is_seen_to_have_changed(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(bytes(3 * 2**16))
    item, times = Item("film", (str(path),)), path.stat()
    before = item.signature()
    assert _same(before, item.signature())
    assert _same([before[0][:2]], item.signature()), "a store of version 0.1"
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert item.signature()[0][:2] == before[0][:2]
    assert not _same(before, item.signature())


def test_a_limit_of_file_sizes_is_one_line_and_leaves_no_part(tmp_path):
    import resource

    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
            write_array(tmp_path, "abcd", np.random.default_rng(0).integers(0, 60000, (64, 64, 64)).astype("u2"))
        except SslMedError as error:
            (tmp_path / "told").write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    path = tmp_path / "arrays" / "ab" / "abcd.b2nd"
    assert (
        (tmp_path / "told")
        .read_text()
        .startswith(f"cannot write {path}: File too large; raise the limit of file sizes")
    )
    assert list((tmp_path / "arrays" / "ab").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_ends_preparing_in_one_line_and_loses_no_case(raw, tmp_path, capsys, monkeypatch, workers):
    asked = words(raw, "lits", f"store={tmp_path / 's'}", f"workers={workers}")
    original, written = arrays._write, []

    def full(part, name, array):
        written.append(name)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(part, name, array)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "_write", full)
        assert main(["prepare", *asked]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"ssl-med: cannot write .*b2nd: No space left on device; free space there, .* goes on", line)
    kept = (tmp_path / "s" / JOURNAL).read_text().splitlines()
    assert len(kept) > 1 or workers == 2
    assert main(["prepare", *asked]) == 0
    assert len(json.loads((tmp_path / "s" / MANIFEST).read_text())["items"]) == 12

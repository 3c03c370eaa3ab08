"""data.normalisation: z-scores of images and of data sets against slow references, from files and from a store."""

import math

import numpy as np
import pytest
import torch

from datamodules.core.intensity import TOP, decode, encode, norm_of
from experiments.commands.prepare import prepare
from experiments.config.data import compose_prepare
from experiments.config.run import compose_finetune
from ssl_med.contract import InputContract
from ssl_med.spec import DataSpec, Intensity, SslMedError

WINDOW, PERCENTILE = ("window", -100.0, 150.0), ("percentile", 2.0, 98.0)
CT = {"normalisation": "dataset", "mean": 40.0, "sd": 25.0}


def reference(channel, kind, low, high, normalisation, mean, sd):
    """Voxel by voxel, from the raw values of one channel."""
    values = [float(v) for v in channel.ravel()]
    if kind == "percentile":
        low, high = np.percentile([v for v in values if v != 0], [low, high])
    clipped = [min(max(v, low), high) for v in values]
    counted = [c for v, c in zip(values, clipped, strict=True) if v != 0 or normalisation != "zscore_nonzero"]
    if kind == "percentile" and normalisation == "zscore":  # zeros are background, as dark as anything
        clipped = [low if v == 0 else c for v, c in zip(values, clipped, strict=True)]
        counted = clipped
    if normalisation != "dataset":
        mean = sum(counted) / len(counted)
        sd = math.sqrt(sum((c - mean) ** 2 for c in counted) / len(counted))
    found = [
        0.0 if v == 0 and normalisation == "zscore_nonzero" else (c - mean) / sd
        for v, c in zip(values, clipped, strict=True)
    ]
    return np.array(found).reshape(channel.shape)


@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 6, 5, 4)], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "f4"])
@pytest.mark.parametrize(
    ("limits", "norm"),
    [
        (WINDOW, {"normalisation": "zscore"}),
        (WINDOW, {"normalisation": "zscore_nonzero"}),
        (WINDOW, CT),
        (PERCENTILE, {"normalisation": "zscore"}),
        (PERCENTILE, {"normalisation": "zscore_nonzero"}),
    ],
)
def test_every_mode_equals_its_reference(shape, dtype, limits, norm):
    rng = np.random.default_rng(0)
    image = rng.integers(0 if "u" in dtype or limits is PERCENTILE else -200, 200, shape).astype(dtype)
    image[rng.random(shape) < 0.3] = 0
    intensity = Intensity(*limits, "unit", **norm)
    codes = np.stack([encode(channel, intensity, source="x") for channel in image])
    found = decode(codes, norm_of(codes, intensity)).numpy()
    arguments = (norm["normalisation"], norm.get("mean", 0.0), norm.get("sd", 1.0))
    expected = np.stack([reference(channel, *limits, *arguments) for channel in image])
    np.testing.assert_allclose(found, expected, atol=2e-3)  # the step of a code, in deviations
    if norm["normalisation"] == "zscore_nonzero":
        np.testing.assert_array_equal(found == 0, image == 0)


def spec_of(intensity):
    return DataSpec("x", 3, 1, (2, 2, 2), intensity)


@pytest.mark.parametrize(
    "intensity",
    [
        Intensity(*WINDOW, "unit"),
        Intensity(*WINDOW, "unit", "zscore"),
        Intensity(*WINDOW, "unit", "zscore_nonzero"),
        Intensity(*WINDOW, "unit", **CT),
        Intensity(*PERCENTILE, "unit"),
        Intensity(*PERCENTILE, "unit", "zscore"),
        Intensity(*PERCENTILE, "unit", "zscore_nonzero"),
    ],
)
def test_the_transform_of_a_contract_does_what_the_data_do(intensity):
    rng = np.random.default_rng(1)
    image = rng.integers(1 if intensity.kind == "percentile" else -200, 200, (1, 5, 6, 7)).astype(np.float32)
    image[rng.random(image.shape) < 0.3] = 0
    codes = np.stack([encode(channel, intensity, source="x") for channel in image])
    mine = InputContract.of(spec_of(intensity)).transform()(torch.from_numpy(image)[None])[0]
    torch.testing.assert_close(mine, decode(codes, norm_of(codes, intensity)), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("over", "counted"), [("image", 8), ("nonzero", 6)])  # zeros are values like others, or none
def test_a_z_score_of_a_contract_is_that_of_the_data(over, counted):
    values = [-2.0, -1.0, 0.0, 1.0, 2.0, 0.0, 3.0, -3.0]
    expected = [value / math.sqrt(28 / counted) for value in values]
    image = torch.tensor(values).view(1, 1, 2, 2, 2)
    contract = InputContract(modality="MR", patch_size=(2, 2, 2), scaling="zscore", over=over)
    torch.testing.assert_close(contract.transform()(image).flatten(), torch.tensor(expected))
    intensity = contract.intensity()
    codes = encode(image[0].numpy(), intensity, source="x")
    torch.testing.assert_close(
        decode(codes, norm_of(codes, intensity)).flatten(), torch.tensor(expected), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("normalisation", ["zscore", "zscore_nonzero"])
@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value_becomes_zero(normalisation, value):
    intensity = Intensity(*WINDOW, "unit", normalisation)
    codes = encode(np.full((1, 4, 4, 4), value, np.int16), intensity, source="x")
    assert decode(codes, norm_of(codes, intensity)).abs().max() < 1e-6


def test_a_crop_is_standardised_by_its_whole_image_and_unit_changes_nothing():
    codes = np.random.default_rng(0).integers(0, TOP, (2, 9, 9)).astype(np.uint16)
    norm = norm_of(codes, Intensity(*WINDOW, "unit", "zscore"))
    whole = decode(codes, norm)
    assert torch.equal(decode(codes[:, 2:6, 3:9], norm), whole[:, 2:6, 3:9])
    torch.testing.assert_close(whole.flatten(1).mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert norm_of(codes, Intensity(*WINDOW)) is None


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("lits", ["data.normalisation=zscore"]),
        ("lits", ["data.normalisation=dataset", "data.intensity_mean=100", "data.intensity_sd=40"]),
        ("msd", ["data.intensity=percentile", "data.normalisation=zscore_nonzero"]),
        ("chest14", ["data.normalisation=zscore", "data.image_size=36"]),
    ],
)
@pytest.mark.slow
def test_loaders_give_the_same_from_files_and_from_a_store_alone_and_in_batches(shared_phantom, tmp_path, kind, more):
    root = shared_phantom(kind, subjects=5)
    size = (
        ["data.patch_size=[32,32]"] if kind == "chest14" else ["data.patch_size=[16,16,8]", "data.crops_per_volume=2"]
    )
    asked = [f"data={kind}", f"data.root={root}", *size, *more]
    store = prepare([*asked, f"store={tmp_path / 's'}", "workers=1"])
    seen = []
    for place in ("", str(store)):
        data = compose_prepare([*asked, "store=unused"])[1]
        data.config.store = place
        data = type(data)(data.config, labelled=kind != "chest14", batch_size=3)
        data.setup()
        batch = next(iter(data.train_dataloader()))
        dataset = data.dataset(data.parts["train"], part="train")
        alone = {(sample := dataset[0, index])["id"]: sample["image"] for index in range(len(dataset))}
        if kind == "chest14":  # one sample of each image
            assert all(torch.equal(image, alone[name]) for name, image in zip(batch["id"], batch["image"], strict=True))
        seen.append(batch["image"])
        whole = data.dataset(data.parts["val"], part="val")[0, 0]["image"]
        if "zscore" in more[-1] or "zscore" in more[0]:
            inside = whole[whole != 0] if "nonzero" in more[-1] else whole
            assert abs(float(inside.mean())) < (0.5 if kind == "chest14" else 0.01)  # a crop of the middle of a film
            assert abs(float(inside.std(correction=0)) - 1) < (0.5 if kind == "chest14" else 0.01)
    assert torch.equal(*seen)


def test_a_card_carries_it_and_old_cards_have_none():
    spec = DataSpec("x", 3, 1, (8, 8, 8), Intensity(*WINDOW, "HU", **CT))
    tree = spec.to_dict()
    assert tree["intensity"] == {"kind": "window", "low": -100.0, "high": 150.0, "unit": "HU", **CT}
    assert DataSpec.from_dict(tree) == spec
    plain = DataSpec("x", 3, 1, (8, 8, 8), Intensity(*WINDOW)).to_dict()
    assert plain["intensity"].keys() == {"kind", "low", "high", "unit"}
    assert not DataSpec.from_dict(plain).intensity.standardised


def test_contradictions_are_refused():
    with pytest.raises(SslMedError, match=r"normalisation=dataset has one mean .* take data.normalisation=zscore"):
        Intensity(*PERCENTILE, "unit", "dataset")
    with pytest.raises(
        SslMedError, match=r"command line: data.intensity_mean=3 has no effect, since data.normalisation is"
    ):
        compose_finetune(["task=lits", "data.intensity_mean=3"])

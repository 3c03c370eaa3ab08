"""Intensity codes: ends of the window, precision, and the same numbers whatever the stored type."""

import numpy as np
import pytest
import torch

from datamodules.core.intensity import TOP, code_of, decode, encode
from ssl_med.spec import Intensity, SslMedError

HU = Intensity("window", -1000.0, 1000.0, "HU")


def codes_by_hand(values, low, high):
    return [round(min(max((float(v) - low) / (high - low), 0.0), 1.0) * 65535) for v in np.ravel(values)]


def test_window_ends_and_beyond():
    codes = encode(np.array([-32768, -3024, -1001, -1000, 0, 1000, 1001, 32767], np.int16), HU, source="x")
    assert codes.dtype == np.uint16
    assert codes.tolist() == [0, 0, 0, 0, 32768, TOP, TOP, TOP]
    assert [code_of(v, HU) for v in (-5000.0, -1000.0, 0.0, 1000.0, 5000.0)] == [0, 0, 32768, TOP, TOP]
    assert decode(codes).tolist()[::7] == [0.0, 1.0]


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "<u2", ">u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("window", [(-1000.0, 1000.0), (-200.0, 200.0), (0.0, 255.0), (-17.3, 201.9)])
def test_every_stored_type_gives_the_code_of_its_value(dtype, window):
    rng = np.random.default_rng(0)
    low, high = (-1500, 1500) if dtype not in ("i1", "u1") else (-128, 127)
    values = rng.integers(0 if "u" in dtype else low, high, (5, 6, 7)).astype(dtype)
    if "f" in dtype:
        values += rng.random(values.shape).astype(dtype)
    intensity = Intensity("window", *window)
    codes = encode(values, intensity, source="x")
    assert codes.shape == values.shape
    expected = codes_by_hand(values, *window)
    np.testing.assert_allclose(codes.ravel().astype(int), expected, atol=0 if "f" not in dtype else 1)
    assert [code_of(float(v), intensity) for v in values.ravel()[:50]] == expected[:50]


def test_all_values_of_16_bits_keep_order_and_whole_hounsfield_units_stay_apart():
    every = np.arange(-32768, 32768, dtype=np.int16)
    codes = encode(every, HU, source="x").astype(int)
    assert (np.diff(codes) >= 0).all()
    inside = codes[(every >= -1000) & (every <= 1000)]
    assert len(set(inside.tolist())) == 2001
    assert np.diff(inside).min() >= 32
    np.testing.assert_array_equal(codes, encode(every.astype(np.float64), HU, source="x"))


@pytest.mark.parametrize("window", [(-1000.0, 1000.0), (-200.0, 200.0), (0.0, 4095.0)])
def test_decoding_errs_by_half_a_code_at_most(window):
    low, high = window
    values = np.random.default_rng(1).uniform(low, high, 20000)
    unit = decode(encode(values, Intensity("window", low, high), source="x"))
    assert unit.dtype == torch.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    error = np.abs(unit.numpy().astype(float) * (high - low) + low - values).max()
    assert error <= (high - low) * (0.5 / TOP + 1e-7)


def test_decode_of_every_code_returns_to_it():
    codes = np.arange(TOP + 1, dtype=np.uint16)
    unit = decode(codes).numpy()
    assert unit[0] == 0
    assert unit[-1] == 1
    np.testing.assert_array_equal(np.rint(unit.astype(float) * TOP), codes)


def percentile_by_hand(values, q):
    """Linear interpolation between the sorted values (Hyndman and Fan's definition 7)."""
    ordered = sorted(map(float, values))
    place = (len(ordered) - 1) * q / 100
    below = int(place)
    return ordered[below] + (place - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_percentiles_are_those_of_the_voxels_that_are_not_zero(dtype):
    rng = np.random.default_rng(2)
    array = rng.integers(1, 200, (12, 11, 10)).astype(dtype)
    array[rng.random(array.shape) < 0.6] = 0
    brain = array[array != 0]
    low, high = percentile_by_hand(brain, 5), percentile_by_hand(brain, 90)
    codes = encode(array, Intensity("percentile", 5.0, 90.0), source="x")
    expected = np.array(codes_by_hand(array, low, high)).reshape(array.shape)
    expected[array == 0] = 0
    np.testing.assert_array_equal(codes, expected)
    # air does not shift the window: the same brain in more air has the same codes
    more = np.pad(array, 9)
    np.testing.assert_array_equal(encode(more, Intensity("percentile", 5.0, 90.0), source="x")[9:-9, 9:-9, 9:-9], codes)


def test_percentiles_of_units_below_zero():
    """z-scored images: the background 0 lies amid the brain's values and still becomes 0."""
    rng = np.random.default_rng(3)
    array = rng.normal(-1, 2, (10, 10, 10)).astype(np.float32)
    air = rng.random(array.shape) < 0.5
    array[air] = 0
    codes = encode(array, Intensity("percentile", 1.0, 99.0), source="x")
    assert not codes[air].any()
    assert codes[array < 0].max() > 0.4 * TOP
    assert (np.diff(codes[~air][np.argsort(array[~air])].astype(int)) >= 0).all()


def test_volumes_without_contrast():
    with pytest.raises(SslMedError, match=r"scan.nii: every voxel is 0; remove the case or repair the file"):
        encode(np.zeros((4, 4, 4), np.int16), Intensity("percentile", 0.5, 99.5), source="scan.nii")
    flat = encode(np.full((4, 4, 4), 7, np.int16), Intensity("percentile", 0.5, 99.5), source="scan.nii")
    assert not flat.any()
    with pytest.raises(SslMedError, match="low 5 must be below high 5"):
        Intensity("window", 5.0, 5.0)
    with pytest.raises(SslMedError, match="percentiles lie between 0 and 100"):
        Intensity("percentile", -1.0, 99.0)

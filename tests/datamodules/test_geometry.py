"""Orientation, resampling and world coordinates against brute force: no voxel may move in the patient."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from datamodules.core.geometry import (
    axis_codes,
    change_between,
    check_orientation,
    laid_on,
    reorient,
    resample,
    resampled_shape,
    spacing_of,
    world_to_voxel,
)
from datamodules.formats.grids import Volume
from ssl_med.spec import SslMedError

DIRECTION = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
ALL = ["".join(c) for axes in permutations(("LR", "PA", "SI")) for c in product(*axes)]


def frame(codes, *, spacing=(1.0, 1.0, 1.0), offset=(0.0, 0.0, 0.0), tilt=0.0):
    """(4, 4) LPS matrix whose voxel axes run towards `codes`, all tilted by some degrees about an oblique axis."""
    a = np.deg2rad(tilt)
    k = np.array([[0, -3, 2], [3, 0, -1], [-2, 1, 0]]) / np.sqrt(14)  # cross product with (1, 2, 3) / sqrt(14)
    turn = np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k  # Rodrigues
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.array([DIRECTION[c] for c in codes], float).T * spacing
    matrix[:3, 3] = offset
    return matrix


def places(to_world, shape):
    """World position of every voxel, (N, 3), the last index fastest."""
    index = np.array(list(np.ndindex(*shape)))
    return index @ to_world[:3, :3].T + to_world[:3, 3]


# ------------------------------------------------------------------------------------------ orientation


def test_there_are_48_orientations():
    assert len(set(ALL)) == 48
    for codes in ALL:
        check_orientation(codes)
        assert axis_codes(frame(codes)) == codes


@pytest.mark.parametrize("tilt", [0.0, 20.0])
@pytest.mark.parametrize("source", ALL)
def test_reorient_moves_no_voxel(source, tilt):
    shape = (2, 3, 4)
    to_world = frame(source, spacing=(0.7, 1.1, 2.5), offset=(10, -20, 3.5), tilt=tilt)
    volume = Volume(np.arange(24, dtype=np.int16).reshape(shape), to_world)
    at = {tuple(np.round(p, 6)): v for p, v in zip(places(to_world, shape), volume.array.ravel(), strict=True)}
    for target in ALL:
        found = reorient(volume, target)
        assert axis_codes(found.to_world) == target
        cosines = found.to_world[:3, :3] / spacing_of(found.to_world)
        for axis, code in enumerate(target):
            assert cosines[:, axis] @ DIRECTION[code] > np.cos(np.deg2rad(tilt + 1))
        assert sorted(found.array.shape) == [2, 3, 4]
        moved = places(found.to_world, found.array.shape)
        assert [at[tuple(np.round(p, 6) + 0.0)] for p in moved] == found.array.ravel().tolist()


@pytest.mark.parametrize("codes", ["", "LP", "LPSS", "LLS", "LRS", "XPS", "lps"])
def test_orientations_that_name_no_three_axes(codes):
    with pytest.raises(SslMedError, match=f"data.orientation '{codes}' must name"):
        check_orientation(codes)


# ------------------------------------------------------------------------------------------- resampling


def triangle(line, old, new):
    """Linear resampling of the last axis from its definition: a triangle as wide as the larger of both voxels."""
    ratio = new / old
    width = max(1.0, ratio)
    size = int(np.floor(line.shape[-1] * old / new + 1e-6))
    columns = []
    for i in range(size):
        middle = (i + 0.5) * ratio  # in old voxels, from the outer face
        weight = np.maximum(0, 1 - np.abs(np.arange(line.shape[-1]) + 0.5 - middle) / width)
        columns.append(line @ weight / weight.sum())
    return np.stack(columns, -1)


SPACINGS = [
    ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)),
    ((0.7, 0.8, 2.5), (1.5, 1.5, 1.5)),
    ((1.5, 1.1, 3.0), (0.9, 0.6, 1.0)),
    ((2.0, 2.0, 2.0), (2.0, 3.0, 1.0)),
    ((0.68, 0.68, 1.25), (1.8, 1.8, 2.2)),
]


@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_resampling_is_the_triangle_filter_axis_by_axis(old, new):
    array = np.random.default_rng(0).normal(size=(17, 20, 13)).astype(np.float32)
    found = resample(Volume(array, frame("LPS", spacing=old)), new)
    expected = array.astype(float)
    for axis in range(3):
        expected = np.moveaxis(triangle(np.moveaxis(expected, axis, -1), old[axis], new[axis]), -1, axis)
    assert found.array.shape == expected.shape == resampled_shape(array.shape, frame("LPS", spacing=old), new)
    np.testing.assert_allclose(found.array, expected, atol=2e-5)
    np.testing.assert_allclose(spacing_of(found.to_world), new, rtol=1e-12)


def test_resampling_to_smaller_voxels_is_linear_interpolation_at_the_world_positions():
    old = Volume(
        np.random.default_rng(1).normal(size=(6, 7, 8)).astype(np.float32), frame("RAI", spacing=(2, 3, 4), tilt=15)
    )
    new = resample(old, (1.3, 0.9, 1.7))
    voxels = world_to_voxel(places(new.to_world, new.array.shape), old.to_world)
    expected = ndimage.map_coordinates(old.array.astype(float), voxels.T, order=1, mode="nearest")
    np.testing.assert_allclose(new.array.ravel(), expected, atol=2e-5)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SLA"])
@pytest.mark.parametrize(("old", "new"), SPACINGS)
@pytest.mark.parametrize("nearest", [False, True])
def test_resampling_keeps_the_outer_corner_and_directions(codes, old, new, nearest):
    volume = Volume(np.zeros((17, 20, 13), np.uint8), frame(codes, spacing=old, offset=(5, -7, 9), tilt=10))
    found = resample(volume, new, nearest=nearest)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    np.testing.assert_allclose(found.to_world @ corner, volume.to_world @ corner, atol=1e-9)
    np.testing.assert_allclose(
        found.to_world[:3, :3] / spacing_of(found.to_world), volume.to_world[:3, :3] / spacing_of(volume.to_world)
    )
    # the far faces: less than one new voxel is lost, nothing is added
    lost = np.array(volume.array.shape) * old - np.array(found.array.shape) * new
    assert (lost > -1e-6).all()
    assert (lost < np.array(new)).all()


@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_constants_ramps_and_edges_stay_where_they_are(old, new):
    to_world = frame("LPS", spacing=old, offset=(3, 4, 5))
    flat = resample(Volume(np.full((17, 20, 13), -1000, np.int16), to_world), new)
    np.testing.assert_allclose(flat.array, -1000, rtol=1e-6)
    slope = np.array([2.0, -3.0, 0.5])
    ramp = (places(to_world, (17, 20, 13)) @ slope).reshape(17, 20, 13).astype(np.float32)
    found = resample(Volume(ramp, to_world), new)
    expected = (places(found.to_world, found.array.shape) @ slope).reshape(found.array.shape)
    reach = [int(np.ceil(max(1, n / o) / (n / o))) for o, n in zip(old, new, strict=True)]  # new voxels next to a face
    inside = tuple(slice(r, n - r - 1) for r, n in zip(reach, found.array.shape, strict=True))
    assert found.array[inside].size > 0
    # where voxels grow by no whole factor the sampled triangle moves a ramp by up to a twentieth of an old voxel
    moves = [0.05 * o if n > o and n % o else 0.0 for o, n in zip(old, new, strict=True)]
    np.testing.assert_allclose(found.array[inside], expected[inside], rtol=0, atol=np.abs(slope) @ moves + 1e-3)
    # a bright half: the face between the voxels is where the profile crosses one half; it is read off by linear
    # interpolation between new voxels, which is good to a tenth of one
    for axis in range(3):
        step = np.zeros((17, 20, 13), np.float32)
        step[(slice(None),) * axis + (slice(6, None),)] = 1
        face = to_world[axis, 3] + 5.5 * old[axis]
        found = resample(Volume(step, to_world), new)
        line = found.array[tuple(slice(None) if a == axis else 2 for a in range(3))]
        position = found.to_world[axis, 3] + np.arange(line.size) * new[axis]
        assert np.interp(0.5, line, position) == pytest.approx(face, abs=1e-3 + (0.1 * new[axis] if moves[axis] else 0))


def test_larger_voxels_do_not_alias():
    """What has periods shorter than a new voxel comes out at an eighth or less (1/9 at ratio 3)."""
    for ratio in (2.0, 2.6, 3.0, 4.0):
        for frequency in np.linspace(1 / ratio, 0.5, 7):  # cycles per old voxel
            wave = np.cos(2 * np.pi * frequency * np.arange(96) + 0.3)
            volume = Volume(np.broadcast_to(wave, (4, 4, 96)).astype(np.float32), np.eye(4))
            found = resample(volume, (1.0, 1.0, ratio)).array[2, 2, 2:-2]
            assert np.abs(found).max() < 0.125, (ratio, frequency)
            across = Volume(np.broadcast_to(wave[:, None, None], (96, 4, 4)).astype(np.float32), np.eye(4))
            assert np.abs(resample(across, (ratio, 1.0, 1.0)).array[2:-2, 2, 2]).max() < 0.125, (ratio, frequency)


@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_labels_are_those_of_the_voxel_that_holds_the_new_centre(old, new):
    labels = np.random.default_rng(2).integers(0, 5, (9, 8, 7)).astype(np.uint8)
    found = resample(Volume(labels, frame("LPS", spacing=old)), new, nearest=True)
    assert found.array.dtype == np.uint8
    for index in np.ndindex(found.array.shape):
        middle = np.array([(i + 0.5) * n / o for i, n, o in zip(index, new, old, strict=True)])
        # on a face between two voxels either is right
        either = product(*({int(m - 1e-9), int(m + 1e-9)} for m in middle))
        assert found.array[index] in [labels[source] for source in either]


@pytest.mark.parametrize(
    ("old", "new"), [*SPACINGS, ((0.7, 0.3, 0.9), (1.4, 0.6, 0.3)), ((3.1, 0.9, 5.0), (3.0, 3.0, 3.0))]
)
def test_image_and_labels_share_one_grid(old, new):
    rng = np.random.default_rng(4)
    for _ in range(10):
        shape = tuple(rng.integers(8, 40, 3))
        to_world = frame("LPS", spacing=old)
        image = resample(Volume(np.zeros(shape, np.int16), to_world), new)
        labels = resample(Volume(np.zeros(shape, np.uint8), to_world), new, nearest=True)
        assert image.array.shape == labels.array.shape == resampled_shape(shape, to_world, new)
        np.testing.assert_array_equal(image.to_world, labels.to_world)


@pytest.mark.parametrize("stored", [0.7, 0.68, 0.1, 0.3, 1.1, 1.37])
def test_spacing_in_single_precision_loses_no_slice(stored):
    """NIfTI stores the spacing in 32 bits: 10 voxels of 0.7 mm are 5 of 1.4 mm, though 0.7 in 32 bits is a little less."""
    rounded = float(np.float32(stored))
    for count in (10, 48, 155, 512):
        for factor in (2, 0.5):
            volume = Volume(np.zeros((count, 2, 2), np.float32), frame("LPS", spacing=(rounded,) * 3))
            for nearest in (False, True):
                found = resample(volume, (factor * stored, stored, stored), nearest=nearest)
                assert found.array.shape == (count // factor, 2, 2)


def test_spacing_that_is_there_already_changes_nothing():
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), frame("LPS", spacing=(0.7, 0.7, 1.25)))
    assert resample(volume, (0.7, 0.70001, 1.25)) is volume
    with pytest.raises(SslMedError, match=r"data.spacing_mm \[5.0, 5.0, 5.0\] leaves no voxel of a \(2, 3, 4\) volume"):
        resample(volume, (5.0, 5.0, 5.0))


# -------------------------------------------------------------------------------------------- positions


def test_world_to_voxel_is_the_inverse():
    rng = np.random.default_rng(0)
    for codes in ALL:
        to_world = frame(
            codes, spacing=rng.uniform(0.4, 5, 3), offset=rng.uniform(-300, 300, 3), tilt=rng.uniform(0, 40)
        )
        voxels = rng.uniform(-10, 500, (20, 3))
        world = np.array(
            [[sum(to_world[a, b] * v[b] for b in range(3)) + to_world[a, 3] for a in range(3)] for v in voxels]
        )
        np.testing.assert_allclose(world_to_voxel(world, to_world), voxels, atol=1e-9)
    np.testing.assert_array_equal(world_to_voxel(to_world[None, :3, 3], to_world), [[0, 0, 0]])


def test_a_position_stays_itself_through_reorientation_and_resampling():
    """A single bright voxel, found again at its world position on the new grid."""
    rng = np.random.default_rng(5)
    for codes in ALL[::5]:
        to_world = frame(codes, spacing=(0.8, 1.0, 2.0), offset=(-50, 20, 7), tilt=8)
        array = np.zeros((30, 24, 16), np.float32)
        spot = rng.integers(6, [24, 18, 10])
        array[tuple(spot)] = 1
        moved = resample(reorient(Volume(array, to_world), "LPS"), (1.6, 1.4, 1.2))
        mass = places(moved.to_world, moved.array.shape)
        centre = (mass * moved.array.reshape(-1, 1)).sum(0) / moved.array.sum()
        np.testing.assert_allclose(centre, to_world[:3, :3] @ spot + to_world[:3, 3], atol=0.5)


def test_a_grid_is_laid_on_another_by_flips_and_swaps_or_refused():
    """Every one of the 48 ways to save one scan gives the same voxels at the same places."""
    array = np.arange(60).reshape(3, 4, 5)
    first = Volume(array, np.diag([0.5, 0.7, 2.0, 1.0]))
    for axes in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            change = np.stack([axes, signs], 1)
            saved = nib.orientations.apply_orientation(array, change)
            world = first.to_world @ nib.orientations.inv_ornt_aff(change, array.shape)
            found = laid_on(Volume(saved, world), first.grid, path="a", source="b")
            np.testing.assert_array_equal(found.array, array)
            np.testing.assert_array_equal(found.to_world, first.to_world)
    for moved, fits in ((0.24, True), (0.26, False)):  # half of the smallest voxel is 0.25 mm
        world = first.to_world.copy()
        world[0, 3] += moved
        assert (change_between(Volume(array, world).grid, first.grid)[1] == "") == fits
    with pytest.raises(SslMedError, match="a: does not lie on the grid of b: voxels of one index lie up to 1 mm apart"):
        laid_on(Volume(array, first.to_world + np.eye(4, k=3)), first.grid, path="a", source="b")
    with pytest.raises(SslMedError, match="it has shape"):
        laid_on(Volume(array[1:], first.to_world), first.grid, path="a", source="b")

"""Axes, voxel sizes and world coordinates. World is LPS in millimetres throughout, as in ITK and LUNA16."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F

from datamodules.formats.grids import Array, Header, Volume, corners
from ssl_med.spec import SslMedError

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def axis_codes(to_world: Array) -> str:
    """The patient direction in which each voxel axis increases, "LPS" for an axis-aligned ITK volume."""
    return "".join(nib.orientations.aff2axcodes(_LPS_TO_RAS @ to_world))


def axes_matrix(codes: str, spacing: tuple[float, ...]) -> Array:
    """The (4, 4) map to LPS of a volume whose axes increase towards `codes`, voxel 0 at the origin."""
    ornt = nib.orientations.axcodes2ornt(tuple(codes), labels=(("R", "L"), ("A", "P"), ("I", "S")))
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (world, sign) in enumerate(ornt):
        matrix[int(world), axis] = sign * spacing[axis]
    return matrix


def check_orientation(codes: str) -> None:
    """Refuses anything that is not one letter of each of L/R, P/A and S/I."""
    if len(codes) != 3 or any(sum(code in pair for code in codes) != 1 for pair in ("LR", "PA", "SI")):
        raise SslMedError(f"data.orientation '{codes}' must name one of L/R, A/P and S/I each, as in LPS")


def reorient(volume: Volume, codes: str) -> Volume:
    """Flips and swaps axes (no interpolation) so that they increase towards `codes`; positions are kept."""
    ornt = nib.orientations
    now = ornt.io_orientation(_LPS_TO_RAS @ volume.to_world)
    change = ornt.ornt_transform(now, ornt.axcodes2ornt(tuple(codes)))
    if np.array_equal(change, [[0, 1], [1, 1], [2, 1]]):
        return volume
    back = ornt.inv_ornt_aff(change, volume.array.shape)
    return Volume(ornt.apply_orientation(volume.array, change), volume.to_world @ back, volume.remarks)


def change_between(grid: Header, reference: Header) -> tuple[Array, str]:
    """The flips and swaps of axes that lay a grid on the reference, and why there are none, or "".

    Two grids are the same when, after those, no corner lies half a voxel of the reference from where it should be: up to
    there the nearest voxel of the one is the voxel of the same index in the other, so that resampling would change nothing.
    Headers differ by less for no reason but rounding (32-bit matrices, quaternions, decimals of DICOM).

    Returns:
        nibabel's (3, 2) axis and flip of each axis of the grid; the reason.
    """
    ornt = nib.orientations
    same = np.array([[0, 1], [1, 1], [2, 1]], float)
    if _nowhere(grid) != _nowhere(reference):
        without = "its header" if _nowhere(grid) else "that header"
        return same, f"{without} does not say how the voxels lie in the patient"
    turn = np.linalg.solve(reference.to_world[:3, :3], grid.to_world[:3, :3])  # each axis in steps of the reference's
    axes = np.abs(turn).argmax(0)
    if sorted(axes) != [0, 1, 2]:
        return same, "its axes are turned"
    change = np.stack([axes, np.sign(turn[axes, range(3)])], 1)
    shape = tuple(grid.shape[axis] for axis in np.argsort(axes))
    if why := shapes_differ(shape, reference.shape):
        return same, why
    off = corners(shape) @ (grid.to_world @ ornt.inv_ornt_aff(change, grid.shape) - reference.to_world).T
    apart = float(np.linalg.norm(off[:, :3], axis=1).max())
    if apart > 0.5 * min(spacing_of(reference.to_world)):
        return same, f"voxels of one index lie up to {apart:.3g} mm apart"
    return change, ""


def laid_on(volume: Volume, reference: Header, *, path: str, source: str, remedy: str = "") -> Volume:
    """The volume on the grid of the reference, by flips and swaps of axes alone.

    Args:
        volume: what is laid.
        reference: the grid.
        path: file of the volume, for messages.
        source: file that has the reference's grid.
        remedy: as in `misfit`.

    Raises:
        SslMedError: they are not one grid.
    """
    change, why = change_between(volume.grid, reference)
    if why:
        raise misfit(path, source, why, remedy=remedy)
    return Volume(nib.orientations.apply_orientation(volume.array, change), reference.to_world, reference.remarks)


def misfit(path: str, source: str, why: str, *, remedy: str = "") -> SslMedError:
    """The refusal of a file that does not lie on another; `remedy`: what may be done besides resampling."""
    return SslMedError(
        f"{path}: does not lie on the grid of {source}: {why}; resample it to that grid, or correct the wrong header{remedy}"
    )


def shapes_differ(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    """That two grids differ in shape, or ''."""
    return "" if tuple(shape) == tuple(other) else f"it has shape {tuple(shape)}, that has {tuple(other)}"


def _nowhere(grid: Header) -> bool:
    return any(remark.kind == "orientation" for remark in grid.remarks)


def spacing_of(to_world: Array) -> tuple[float, ...]:
    """Voxel size in millimetres along each voxel axis."""
    return tuple(float(size) for size in np.linalg.norm(to_world[:3, :3], axis=0))


def resampled_shape(shape: tuple[int, ...], to_world: Array, spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Grid size after `resample`: as many whole new voxels as fit between the outer faces of the old grid."""
    # headers store spacings in 32 bits: a voxel that is short of fitting by rounding alone does fit
    pairs = zip(shape, spacing_of(to_world), spacing, strict=True)
    return tuple(math.floor(n * (old / new) * (1 + 1e-5)) for n, old, new in pairs)


def resample(volume: Volume, spacing: tuple[float, ...], *, nearest: bool = False) -> Volume:
    """A grid of exactly `spacing` millimetres that starts at the same outer corner.

    Linear with a widened filter where the voxel grows (no aliasing), or nearest neighbour for label maps. Whole numbers
    are rounded to whole numbers again: half a unit is far below the noise of a scan, and a store keeps them in two bytes.

    Raises:
        SslMedError: the volume is thinner than one new voxel.
    """
    old = spacing_of(volume.to_world)
    if np.allclose(old, spacing, rtol=1e-4):
        return volume
    shape = resampled_shape(volume.array.shape, volume.to_world, spacing)
    if min(shape) < 1:
        raise SslMedError(f"data.spacing_mm {list(spacing)} leaves no voxel of a {volume.array.shape} volume")
    ratio = np.array(spacing) / np.array(old)  # one new voxel, in old voxels
    if nearest:
        array = volume.array
        for axis, (size, step) in enumerate(zip(shape, ratio, strict=True)):
            picked = np.minimum(((np.arange(size) + 0.5) * step).astype(int), array.shape[axis] - 1)
            array = np.take(array, picked, axis=axis)
    else:
        array = _resampled(volume.array, shape, ratio)
    to_world = volume.to_world.copy()
    to_world[:3, :3] *= ratio
    to_world[:3, 3] += volume.to_world[:3, :3] @ (0.5 * ratio - 0.5)
    return Volume(array, to_world, volume.remarks)


def _resampled(array: Array, shape: tuple[int, ...], ratio: Array) -> Array:
    """Planes first, then between them; a few planes at a time, so that memory holds the source and the result only."""
    # torch takes the floor of the size times the scale
    least = [math.nextafter(new / n, math.inf) for new, n in zip(shape[:2], array.shape[:2], strict=True)]
    rows, columns = (max(float(1 / r), c) for r, c in zip(ratio[:2], least, strict=True))
    planes: dict[int, Array] = {}
    # Fortran order: whole planes are written
    out = np.empty(shape, array.dtype if array.dtype.kind in "iu" else np.float32, order="F")
    for k in range(shape[2]):
        low, weights = _triangle(k, float(ratio[2]), array.shape[2])
        for j in [j for j in planes if j < low]:
            del planes[j]
        total = np.zeros(shape[:2], np.float32)
        for j, weight in enumerate(weights, start=low):
            if j not in planes:
                x = torch.from_numpy(np.ascontiguousarray(array[:, :, j], np.float32))
                planes[j] = _planar(x[None], rows, columns)[0].numpy()
            total += weight * planes[j]
        out[:, :, k] = np.rint(total) if out.dtype.kind in "iu" else total
    return out


def _triangle(k: int, ratio: float, count: int) -> tuple[int, Array]:
    """First source sample and weights of sample `k` of a grid whose steps are `ratio` long: linear, no aliasing."""
    centre, reach = (k + 0.5) * ratio, max(ratio, 1.0)
    low, high = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), count)
    weights = 1 - np.abs(np.arange(low, high) + 0.5 - centre) / reach
    weights = np.clip(weights, 0, None)
    return low, (weights / weights.sum()).astype(np.float32)


def _planar(x: torch.Tensor, rows: float, columns: float) -> torch.Tensor:
    # a scale factor, unlike a size, keeps the spacing exact when the grid does not divide evenly
    factors = (rows, columns)
    return F.interpolate(x[None], scale_factor=factors, mode="bilinear", antialias=True)[0]


def world_to_voxel(points: Array, to_world: Array) -> Array:
    """(N, 3) millimetres in LPS -> (N, 3) fractional voxel indices; 0 is the centre of the first voxel."""
    offsets = np.asarray(points, float) - to_world[:3, 3]
    voxels: Array = np.linalg.solve(to_world[:3, :3], offsets.T).T
    return voxels

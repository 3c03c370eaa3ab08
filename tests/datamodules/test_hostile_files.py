"""Files that are legal, nearly so, or traps: what is read has the values of an independent reading, all else is one line.

One row a kind: what is planted, in which family of `test_strange_files.MAKERS`, and what is said of it; "" where it is read.
`ssl-med check` and a training of one epoch are both asked, and must agree. `WORDS` and `LEVELS` hold independent readings.
"""

import gzip
import json
import os
import re
import shutil
import socket
import struct
import zlib

import metaimage
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from test_strange_files import AFFINE, CASES, SIDE, bytes_of, header, images, nifti, nrrd, scan, verdicts, volumes

from datamodules.core.readers import read_volume
from datamodules.formats.pictures import read_image2d
from datamodules.phantoms._dicom import write_series

# ------------------------------------------------------------------------------------------------- volumes


def slices(root, data, name):
    """A file a slice, which ITK's MetaImage knows."""
    path = header(root)
    lines = "".join(f"{name % k}\n" for k in range(SIDE)) if data == "LIST" else ""
    path.write_text(path.read_text().replace("scan0.raw", data) + lines)
    path.with_suffix(".raw").unlink()
    for k in range(SIDE):
        (root / (name % k)).write_bytes(scan(0)[:, :, k].tobytes(order="F"))


def detached(root):
    nrrd(root, b"", encoding="gzip", data_file="scan0.raw.gz")
    (root / "scan0.nrrd").rename(root / "scan0.nhdr")
    whole = scan(0).astype("<i2").tobytes(order="F")
    (root / "scan0.raw.gz").write_bytes(gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]))


def members(root):
    whole = (root / "scan0.nii").read_bytes()
    (root / "scan0.nii").unlink()
    (root / "scan0.nii.gz").write_bytes(gzip.compress(whole[:400]) + gzip.compress(whole[400:]))


def big_nifti(root):
    nib.save(nib.Nifti1Image(scan(0), AFFINE, nib.Nifti1Header(endianness=">")), root / "scan0.nii")
    assert (root / "scan0.nii").read_bytes()[:4] == struct.pack(">i", 348)


def shaped(*shape):
    def plant(root):
        array = np.random.default_rng(0).integers(-900, 500, shape).astype(np.int16)
        nifti(root / "scan0.nii", array)

    return plant


def field(place, code, *numbers):
    """Writes into a NIfTI header, by the bytes of nifti1.h."""
    return lambda root: bytes_of(root / "scan0.nii", place, struct.pack(code, *numbers))


def qform_only(root):
    image = nib.Nifti1Image(scan(0), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(np.diag([-1.0, -1, 2, 1]), 1)
    nib.save(image, root / "scan0.nii")


def flat_direction(root):
    for row, place in enumerate((280, 296, 312)):
        bytes_of(root / "scan0.nii", place, struct.pack("<4f", *([1.0, 0, 1, 0] if row == 0 else [0.0, 1, 0, 0])))


def renamed(name):
    return lambda root: (root / "scan0.nii").rename(os.path.join(root, name))


def cases_apart(root):
    nifti(root / "SCAN0.nii", scan(77))


def pipe(name):
    return lambda root: os.mkfifo(root / name)


def listener(root):
    here = os.getcwd()
    os.chdir(root)  # the name of a socket may have some hundred bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("scan9.nii")
    finally:
        os.chdir(here)


VOLUMES = {
    "MetaImage, a file a slice in a list": (lambda r: slices(r, "LIST", "s%d.raw"), "is not one file; save the volume with"),
    "MetaImage, a file a slice by pattern": (
        lambda r: slices(r, f"s%03d.raw 0 {SIDE - 1} 1", "s%03d.raw"), "is not one file; save the volume with",
    ),
    "NRRD, header apart, packed in two members": (detached, ""),
    "NRRD, big-endian": (lambda r: nrrd(r, scan(0).astype(">i2").tobytes(order="F"), endian="big"), ""),
    "MetaImage, big-endian": (lambda r: (r / "scan0.nii").unlink() or metaimage.write(r / "scan0.mhd", scan(0), big=True), ""),
    "NIfTI in two members": (members, ""),
    "NIfTI, big-endian": (big_nifti, ""),
    "NIfTI of four axes, one volume": (shaped(SIDE, SIDE, SIDE, 1), ""),
    "NIfTI of four axes, two volumes": (shaped(SIDE, SIDE, SIDE, 2), "one 3D volume|dimensions"),
    "scale 0": (field(112, "<2f", 0.0, 7.0), ""),
    "scale NaN": (field(112, "<2f", np.nan, np.nan), ""),
    "scale 1, intercept NaN": (field(112, "<2f", 1.0, np.nan), "scan0.nii: "),
    "negative voxel size, sform": (field(80, "<f", -1.0), ""),
    "negative voxel size, qform": (lambda r: (qform_only(r), field(80, "<f", -1.0)(r)), "no valid voxel size"),
    "qform only": (qform_only, ""),
    "no form": (lambda r: (field(252, "<2h", 0, 0)(r)), ""),
    "no form and a voxel size of 0": (lambda r: (field(252, "<2h", 0, 0)(r), field(80, "<f", 0.0)(r)), "no valid voxel size"),
    "two axes in one direction": (flat_direction, "scan0.nii: "),
    "one slice": (shaped(SIDE, SIDE, 1), ""),
    "an axis of length 0": (field(42, "<h", 0), "scan0.nii: "),
    "no byte": (lambda r: (r / "scan0.nii").write_bytes(b""), "scan0.nii: "),
    "a line break in a name": (renamed("a\nb.nii"), ""),
    "a leading dash": (renamed("-rf.nii"), ""),
    "signs of patterns in a name": (renamed("[a-z]*?{x}.nii"), ""),
    "a name of 255 bytes": (renamed("n" * 251 + ".nii"), ""),
    "names that differ in case": (cases_apart, ""),
    "a pipe": (pipe("scan9.nii"), "scan9.nii: is a pipe, a socket or a device"),
    "a socket": (listener, "scan9.nii: is a pipe, a socket or a device"),
    "a pipe of another kind": (pipe("progress"), ""),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------- DICOM


def series(change=lambda paths: None):
    """Four series as folders; `change` gets the files of the first, from the top down."""

    def plant(root):
        for number in range(CASES):
            (root / f"scan{number}.nii").unlink()
            place = root / f"scan{number}"
            write_series(
                place,
                scan(number),
                spacing=(1, 1, 1),
                origin=(0, 0, 0),
                series=f"2.25.{number + 1}",
                patient=f"{number}",
            )
        change(sorted((root / "scan0").iterdir()))

    return plant


def edited(count, **values):
    """Sets attributes in the first `count` files of a series; callables get the data set."""

    def change(paths):
        import pydicom

        for path in paths[:count]:
            image = pydicom.dcmread(path)
            for key, value in values.items():
                setattr(image, key, value(image) if callable(value) else value)
            image.save_as(path)

    return change


def lower(image):
    x, y, z = image.ImagePositionPatient
    return [x, y, float(z) + 0.5]


def twelve_bits(paths):
    import pydicom

    for k, path in enumerate(paths):
        image = pydicom.dcmread(path)
        stored = twelve(k)
        image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = (stored & 0x0FFF).astype("<u2").tobytes()  # the upper four bits are not part of the number
        image.save_as(path)


def twelve(k):
    return np.random.default_rng(k).integers(-2048, 2048, (SIDE, SIDE))


def run_length(paths):
    import pydicom

    for path in paths:
        image = pydicom.dcmread(path)
        image.compress(pydicom.uid.RLELossless)
        image.save_as(path)


def unknown_syntax(paths):
    import pydicom

    image = pydicom.dcmread(paths[0])
    image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no stream"])
    image["PixelData"].VR = "OB"
    image.save_as(paths[0], enforce_file_format=False)


SERIES = {
    "series": (series(), ""),
    "series without a slice": (series(lambda p: p[4].unlink()), "slices are 1 mm apart, but 2 mm after"),
    "series with a slice twice": (series(lambda p: shutil.copy(p[4], p[4].with_name("again.dcm"))), "lie at one position"),
    "series of varying spacing": (series(edited(5, ImagePositionPatient=lower)), "mm apart, but"),
    "series of two orientations": (series(edited(1, ImageOrientationPatient=[0, 1, 0, 1, 0, 0])), "differ in orientation"),
    "series of two patients": (series(edited(9, PatientID="another")), "holds images of 2 patients"),
    "two series in a folder": (series(edited(9, SeriesInstanceUID="2.25.99")), "holds 2 DICOM series"),
    "series, run lengths": (series(run_length), ""),
    "series, no decoder": (series(unknown_syntax), "scan0"),
    "series of 12 bits with a sign": (series(twelve_bits), ""),
    "series in palette colours": (series(edited(99, PhotometricInterpretation="PALETTE COLOR")), "is a color image"),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------- images


def levels(number=0, high=256):
    return np.random.default_rng(number).integers(0, high, (40, 40))


def colours():
    return np.random.default_rng(3).integers(0, 256, (40, 40, 3)).astype("u1")


def pixels(mode, array=None, ending="png", **options):
    def plant(root):
        made = Image.fromarray(colours()).convert(mode) if array is None else Image.fromarray(array)
        (root / "i0.png").unlink()
        made.save(root / f"i0.{ending}", **options)

    return plant


def interlaced(root):
    """PNG by Adam7, by the words of its specification: seven passes over the pixels."""
    array, rows = levels().astype("u1"), b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in array[y::dy, x::dx])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (root / "i0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def table(change):
    def plant(root):
        path = root / "Data_Entry_2017.csv"
        path.write_bytes(change(path.read_text()).encode())

    return plant


IMAGES = {
    "palette": (pixels("P"), ""),
    "transparency": (pixels("RGBA"), ""),
    "grey with transparency": (pixels("LA"), ""),
    "16-bit grey": (pixels("", (levels() * 200).astype("u2")), "grey levels from"),
    "interlaced": (interlaced, ""),
    "1 bit": (pixels("1"), ""),
    "CMYK": (pixels("CMYK", ending="jpg"), ""),
    "an image of 2 x 2": (pixels("", levels().astype("u1")[:2, :2]), ""),
}  # fmt: skip
TABLES = {
    "semicolons": (table(lambda text: text.replace(",", ";")), "Data_Entry_2017.csv: .*column"),
    "line ends of Windows": (table(lambda text: text.replace("\n", "\r\n")), ""),
    "line ends of old Macs": (table(lambda text: text.replace("\n", "\r")), ""),
    "a quoted line break": (table(lambda text: text.replace(",No Finding,", ',"No\nFinding",', 1)), "Finding"),
    "a row twice": (table(lambda text: text + text.splitlines()[1] + "\n"), "twice|again|second"),
    "a column twice": (table(lambda text: text.replace("Patient ID", "Finding Labels", 1)), "column"),
    "an empty line": (table(lambda text: text.replace("\n", "\n\n")), ""),
    "a short row": (table(lambda text: text + "00000001_000.png\n"), "Data_Entry_2017.csv"),
    "a zero byte": (table(lambda text: text.replace("No", "N\0o", 1)), "Data_Entry_2017.csv"),
}  # fmt: skip


def not_a_number(root):
    text = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**text, "spacing": float("nan")}))


def endless(root):
    (root / "dataset.json").write_text('{"training": ' + "[" * 100000)


JSONS = {
    "NaN in a field that nobody reads": (not_a_number, "dataset.json: .*NaN is no number"),
    "lists without end": (endless, "dataset.json: .*nested too deeply"),
}

ROWS = {
    **{name: ("volumes", *row) for name, row in {**VOLUMES, **SERIES}.items()},
    **{name: ("images", *row) for name, row in IMAGES.items()},
    **{name: ("chest14", *row) for name, row in TABLES.items()},
    **{name: ("msd", *row) for name, row in JSONS.items()},
}
FAST = {"a pipe", "two axes in one direction", "a quoted line break"}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in ROWS])
def test_check_and_training_agree(kind, tmp_path, capfd):
    family, plant, says = ROWS[kind]
    checked, trained, listed, told = verdicts(family, plant, tmp_path, capfd)
    assert (min(checked, 1), trained) == ((1, 2) if says else (0, 0)), listed + told
    if says:
        assert re.search(says, told), told
        assert re.search(says, listed), listed
        assert (told.count("ssl-med: "), told.count("Traceback")) == (1, 0), told


# ------------------------------------------------------------------------------------------------- values


def grey(array):
    """Luminance by ITU-R 601-2, as PIL's manual has it for RGB."""
    return array @ np.array([299, 587, 114]) / 1000


def of_palette(array):
    """What is left of colours when they are those of a web palette; written and read by PIL, turned to grey here."""
    return grey(np.asarray(Image.fromarray(array).convert("P").convert("RGB")))


def of_cmyk(path):
    """Inverted inks, as Adobe writes them, times black: PIL's formula of colours, without a profile."""
    inks = np.asarray(Image.open(path)).astype(float)
    return grey(np.clip(255 - inks[..., :3] - inks[..., 3:], 0, 255))


ONE = (1.0, 1.0, 1.0)
WORDS = {  # the file, its voxels as stored, the voxel size in mm
    "NRRD, header apart, packed in two members": ("scan0.nhdr", scan, ONE),
    "NRRD, big-endian": ("scan0.nrrd", scan, ONE),
    "MetaImage, big-endian": ("scan0.mhd", scan, ONE),
    "NIfTI in two members": ("scan0.nii.gz", scan, ONE),
    "NIfTI, big-endian": ("scan0.nii", scan, ONE),
    "NIfTI of four axes, one volume": (
        "scan0.nii", lambda _: np.random.default_rng(0).integers(-900, 500, (SIDE,) * 3), ONE,
    ),
    "scale 0": ("scan0.nii", scan, ONE),
    "scale NaN": ("scan0.nii", scan, ONE),
    "negative voxel size, sform": ("scan0.nii", scan, ONE),
    "qform only": ("scan0.nii", scan, (1.0, 1.0, 2.0)),
    "no form": ("scan0.nii", scan, ONE),
    "series": ("scan0", scan, ONE),
    "series, run lengths": ("scan0", scan, ONE),
    "series of 12 bits with a sign": (
        "scan0", lambda _: np.stack([twelve(k).T for k in reversed(range(SIDE))], 2), ONE,
    ),
}  # fmt: skip
LEVELS = {
    "palette": lambda root: of_palette(colours()),
    "transparency": lambda root: grey(colours()),
    "grey with transparency": lambda root: grey(colours()),
    "interlaced": lambda root: levels(),
    "1 bit": lambda root: np.asarray(Image.fromarray(colours()).convert("1")) * 255,
    "CMYK": lambda root: of_cmyk(root / "i0.jpg"),
}


@pytest.mark.parametrize("kind", WORDS)
def test_voxels_equal_an_independent_reading(kind, tmp_path):
    name, expected, spacing = WORDS[kind]
    volumes(tmp_path)
    VOLUMES.get(kind, SERIES.get(kind))[0](tmp_path)
    volume = read_volume(str(tmp_path / name))
    assert np.array_equal(volume.array, expected(0))
    assert np.allclose(np.linalg.norm(volume.to_world[:3, :3], axis=0), spacing)


@pytest.mark.parametrize("kind", LEVELS)
def test_grey_levels_equal_an_independent_reading(kind, tmp_path):
    images(tmp_path)
    IMAGES[kind][0](tmp_path)
    (path,) = tmp_path.glob("i0.*")
    assert np.abs(read_image2d(str(path)).astype(float) - LEVELS[kind](tmp_path)).max() <= 1, "rounding apart"

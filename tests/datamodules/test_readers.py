"""Readers: every voxel and every millimetre as the format's description says; damaged files are one line with their name."""

import gzip
import io
import logging
import struct
import zlib

import metaimage
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules.core.readers import read_header, read_labels, read_volume
from datamodules.formats.pictures import read_color, read_image2d
from ssl_med.spec import SslMedError

SHAPE = (3, 4, 5)
# an oblique right-handed frame: columns are the directions of the three voxel axes
TURN = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3


def numbers(element):
    """One array that uses the ends of the type's range."""
    rng = np.random.default_rng(3)
    if element in ("MET_FLOAT", "MET_DOUBLE"):
        return rng.normal(size=SHAPE).astype("f4" if element == "MET_FLOAT" else "f8") * 1000
    dtype = np.dtype(metaimage.CODES[element])
    array = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, SHAPE, dtype=dtype, endpoint=True)
    array[0, 0, 0], array[2, 3, 4] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return array


def places(header_or_volume, shape=SHAPE):
    """World position of every voxel, (*shape, 3)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ header_or_volume.to_world[:3, :3].T + header_or_volume.to_world[:3, 3]


# -------------------------------------------------------------------------------------------- MetaImage


@pytest.mark.parametrize("element", metaimage.CODES)
@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "zraw"])
def test_metaimage_every_element_type_and_byte_order(element, big, packed, tmp_path):
    array = numbers(element)
    volume = read_volume(str(metaimage.write(tmp_path / "s.mhd", array, element=element, big=big, packed=packed)))
    assert volume.array.dtype == array.dtype  # native byte order too
    np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "zraw"])
def test_metaimage_header_before_the_voxels(packed, tmp_path):
    array = numbers("MET_SHORT")
    path = metaimage.write(tmp_path / "s.mhd", array, before=b"seven b", skip=7, packed=packed)
    np.testing.assert_array_equal(read_volume(str(path)).array, array)
    path = metaimage.write(tmp_path / "end.mhd", array, before=b"any number of bytes", skip=-1)
    np.testing.assert_array_equal(read_volume(str(path)).array, array)


@pytest.mark.parametrize("packed", [False, True])
def test_metaimage_in_one_file(packed, tmp_path):
    array = numbers("MET_USHORT")
    path = metaimage.write(tmp_path / "s.mha", array, element="MET_USHORT", local=True, packed=packed)
    np.testing.assert_array_equal(read_volume(str(path)).array, array)


@pytest.mark.parametrize("name", ["TransformMatrix", "Rotation", "Orientation"])
def test_metaimage_world_positions(name, tmp_path):
    rows, spacing, offset = TURN.T, (0.5, 0.7, 2.5), (-10.5, 20.25, 3.0)
    words = " ".join(f"{v:.17g}" for v in rows.ravel())
    path = metaimage.write(
        tmp_path / "s.mhd", numbers("MET_SHORT"), spacing=spacing, offset=offset,
        **{"TransformMatrix": None, name: words},
    )  # fmt: skip
    header = read_header(str(path))
    assert header.shape == SHAPE
    found = places(header)
    for i, j, k in np.ndindex(SHAPE):
        steps = (i * spacing[0], j * spacing[1], k * spacing[2])
        expected = [offset[a] + sum(steps[axis] * rows[axis][a] for axis in range(3)) for a in range(3)]
        np.testing.assert_allclose(found[i, j, k], expected, atol=1e-12)
    np.testing.assert_array_equal(read_volume(str(path)).to_world, header.to_world)


def test_metaimage_defaults_and_other_spellings(tmp_path):
    array = numbers("MET_SHORT")
    path = metaimage.write(
        tmp_path / "s.mhd", array, TransformMatrix=None, Offset=None, HeaderSize=None, BinaryData=None
    )
    np.testing.assert_array_equal(read_header(str(path)).to_world, np.eye(4))
    path = metaimage.write(
        tmp_path / "o.mhd", array, Offset=None, Position="1 2 3", ElementSpacing=None, ElementSize="1 1 4"
    )
    np.testing.assert_array_equal(
        read_header(str(path)).to_world, [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]]
    )
    path = metaimage.write(tmp_path / "m.mhd", array, big=True, BinaryDataByteOrderMSB=None, ElementByteOrderMSB="True")
    np.testing.assert_array_equal(read_volume(str(path)).array, array)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "zraw"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_metaimage_truncated(packed, share, tmp_path):
    path = metaimage.write(tmp_path / "s.mhd", numbers("MET_SHORT"), packed=packed)
    data = path.with_suffix(".zraw" if packed else ".raw")
    data.write_bytes(data.read_bytes()[: int(share * data.stat().st_size)])
    assert read_header(str(path)).shape == SHAPE
    with pytest.raises(SslMedError, match=r"s.z?raw: .*download it again") as caught:
        read_volume(str(path))
    assert "\n" not in str(caught.value)


def test_metaimage_data_longer_than_the_header_says(tmp_path):
    path = metaimage.write(tmp_path / "s.mhd", numbers("MET_SHORT"))
    with path.with_suffix(".raw").open("ab") as file:
        file.write(b"xx")
    with pytest.raises(SslMedError, match=r"s.raw: holds 122 bytes but s.mhd says 120 \(3x4x5 of 2 bytes\)"):
        read_volume(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"NDims": 2}, "NDims is 2"),
        ({"NDims": None}, "NDims is None"),
        ({"ElementNumberOfChannels": 3}, "several channels"),
        ({"ElementType": "MET_BIT"}, "ElementType 'MET_BIT'"),
        ({"DimSize": "3 4"}, "needs dimsize with 3 numbers, not '3 4'"),
        ({"DimSize": None}, "needs dimsize with 3 numbers"),
        ({"DimSize": "3 -4 5"}, "must be positive"),
        ({"DimSize": "3 4 2.5"}, "dimsize"),
        ({"DimSize": "3 4 nan"}, "dimsize"),
        ({"DimSize": "3 4 inf"}, "dimsize"),
        ({"HeaderSize": "1e30"}, "headersize"),
        ({"HeaderSize": "nan"}, "headersize"),
        ({"Position": "1 2 3"}, "0 0 0 and 1 2 3 are given for offset; keep one of them"),
        ({"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "True"}, "False and True are given"),
        ({"ElementSpacing": "1 0 1"}, "no valid voxel size or direction"),
        ({"ElementSpacing": "1 nan 1"}, "elementspacing|no valid voxel size"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "no valid voxel size or direction"),
        ({"Offset": "a b c"}, "needs offset with 3 numbers, not 'a b c'"),
    ],
)  # fmt: skip
def test_metaimage_header_that_cannot_be_used(fields, message, tmp_path):
    path = metaimage.write(tmp_path / "s.mhd", numbers("MET_SHORT"), **fields)
    with pytest.raises(SslMedError, match=message) as caught:
        read_volume(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_metaimage_files_that_are_absent_or_no_header(tmp_path):
    path = metaimage.write(tmp_path / "s.mhd", numbers("MET_SHORT"))
    path.with_suffix(".raw").unlink()
    with pytest.raises(SslMedError, match=r"s.mhd: its data file s.raw is missing beside it; copy both"):
        read_header(str(path))
    with pytest.raises(SslMedError, match=r"absent.mhd: no such file"):
        read_header(str(tmp_path / "absent.mhd"))
    (tmp_path / "folder.mhd").mkdir()
    with pytest.raises(SslMedError, match="cannot be read"):
        read_header(str(tmp_path / "folder.mhd"))
    (tmp_path / "text.mhd").write_text("a letter\nto somebody\n")
    with pytest.raises(SslMedError, match=r"text.mhd: is not a MetaImage header"):
        read_header(str(tmp_path / "text.mhd"))
    for name in ("LIST", "slice%03d.raw 1 5 1"):
        (tmp_path / "many.mhd").write_text(path.read_text().replace("s.raw", name))
        with pytest.raises(SslMedError, match="is not one file"):
            read_header(str(tmp_path / "many.mhd"))


# ------------------------------------------------------------------------------------------------ NIfTI


def oblique():
    matrix = np.eye(4)
    matrix[:3, :3] = TURN * [0.5, 0.75, 2.0]
    matrix[:3, 3] = [5, -7, 11]
    return matrix


FLIPPED = np.array([[-1.5, 0, 0, 4], [0, 0, 2.0, -3], [0, 1.25, 0, 2], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("matrix", [oblique(), FLIPPED, np.diag([-1.0, -1, 3, 1])], ids=["oblique", "flipped", "lps"])
@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_world_positions_are_lps(matrix, form, ending, tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(array, None)
    image.set_sform(matrix if form == "sform" else None, int(form == "sform"))
    image.set_qform(matrix if form == "qform" else None, int(form == "qform"))
    path = tmp_path / f"s{ending}"
    nib.save(image, path)
    header, volume = read_header(str(path)), read_volume(str(path))
    np.testing.assert_array_equal(volume.array, array)
    assert header.shape == SHAPE
    expected = np.array([[matrix[:3, :3] @ index + matrix[:3, 3] for index in np.ndindex(SHAPE)]]).reshape(*SHAPE, 3)
    expected[..., :2] *= -1  # NIfTI counts to the right and to the front
    np.testing.assert_allclose(places(header), expected, atol=1e-5)
    np.testing.assert_array_equal(header.to_world, volume.to_world)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", ">f4", "f8"])
def test_nifti_stored_types(dtype, tmp_path):
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    nib.save(nib.Nifti1Image(array, np.eye(4), header), tmp_path / "s.nii.gz")
    np.testing.assert_array_equal(read_volume(str(tmp_path / "s.nii.gz")).array, array)


def test_nifti_scale_factor_is_applied(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(SHAPE)
    content = bytearray(nib.Nifti1Image(stored, np.eye(4)).to_bytes())
    content[112:120] = struct.pack("<ff", 0.25, -8.0)  # scl_slope, scl_inter
    (tmp_path / "s.nii").write_bytes(content)
    volume = read_volume(str(tmp_path / "s.nii"))
    np.testing.assert_allclose(volume.array, stored * 0.25 - 8)
    with pytest.raises(SslMedError, match=r"s.nii: a mask must hold whole numbers 0..255, found values -8..6.75"):
        read_labels(str(tmp_path / "s.nii"))


def test_nifti_dimensions(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(SHAPE)
    nib.save(nib.Nifti1Image(array[..., None, None], np.eye(4)), tmp_path / "s.nii")
    np.testing.assert_array_equal(read_volume(str(tmp_path / "s.nii")).array, array)
    assert read_header(str(tmp_path / "s.nii")).shape == SHAPE
    for bad in (np.stack([array, array], -1), array[0]):
        nib.save(nib.Nifti1Image(bad, np.eye(4)), tmp_path / "bad.nii.gz")
        for read in (read_volume, read_header):
            with pytest.raises(SslMedError, match=r"bad.nii.gz: has shape .*one 3D volume a file is needed"):
                read(str(tmp_path / "bad.nii.gz"))


@pytest.mark.parametrize("kind", ["RGB", "complex"])
def test_nifti_of_no_plain_numbers_is_refused(kind, tmp_path):
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if kind == "RGB" else np.dtype("c8")
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "s.nii.gz")
    with pytest.raises(SslMedError, match=r"s.nii.gz: .*one number a voxel"):
        read_volume(str(tmp_path / "s.nii.gz"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted_and_named(value, tmp_path):
    array = np.zeros(SHAPE, np.float32)
    array[0, 1, 2] = array[2, 2, 2] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "s.nii.gz")
    metaimage.write(tmp_path / "s.mhd", array, element="MET_FLOAT")
    for name in ("s.nii.gz", "s.mhd"):
        with pytest.raises(SslMedError, match=f"{name}: 2 voxels are NaN or infinite"):
            read_volume(str(tmp_path / name))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_nifti_truncated(ending, share, tmp_path):
    path = tmp_path / f"s{ending}"
    array = np.random.default_rng(0).integers(-999, 999, (12, 12, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SslMedError) as caught:
        read_volume(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(SslMedError, match=r"absent.nii.gz: no such file"):
        read_volume(str(tmp_path / "absent.nii.gz"))


def test_headers_with_wrong_bytes_never_end_in_a_traceback(tmp_path):
    """Random bytes in headers: either something is read, or one line that names the file."""
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
    rng = np.random.default_rng(0)
    good = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)).to_bytes()
    meta = metaimage.write(tmp_path / "good.mhd", np.zeros(SHAPE, np.int16)).read_bytes()
    letters = b"0123456789 -.=\nnaif ABxeTMrue\x00\xff"
    said = []
    for turn in range(600):
        content = bytearray(good if turn % 2 else meta)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(352 if turn % 2 else len(meta))
            content[place] = rng.integers(256) if turn % 2 else letters[rng.integers(len(letters))]
        path = tmp_path / ("s.nii.gz" if turn % 2 else "s.mhd")
        path.write_bytes(gzip.compress(bytes(content), 1) if turn % 2 else bytes(content))
        for read in (read_header, read_volume):
            try:
                with np.errstate(all="ignore"):
                    read(str(path))
            except SslMedError as error:
                said.append(str(error))
    assert len(said) > 100
    assert all(str(tmp_path) in line and "\n" not in line for line in said)


# ------------------------------------------------------------------------------------------------ labels


def test_labels_are_whole_numbers(tmp_path):
    array = np.zeros(SHAPE, np.float64)
    array[1, 1, 1], array[2, 3, 4] = 2, 255
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "m.nii.gz")
    labels = read_labels(str(tmp_path / "m.nii.gz"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, array)
    for value in (0.5, -1, 256, 1e6):
        bad = array.copy()
        bad[0, 0, 0] = value
        nib.save(nib.Nifti1Image(bad, np.eye(4)), tmp_path / "m.nii.gz")
        with pytest.raises(SslMedError, match=r"m.nii.gz: a mask must hold whole numbers 0..255"):
            read_labels(str(tmp_path / "m.nii.gz"))


# ------------------------------------------------------------------------------------------------- images


def test_images_keep_their_grey_levels(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image2d(str(tmp_path / "grey.png")), grey)
    deep = rng.integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = read_image2d(str(tmp_path / "deep.png"))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, deep)
    color = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    color[..., 3] = 255
    for mode, array in (("rgb", color[..., :3]), ("rgba", color)):
        Image.fromarray(array).save(tmp_path / f"{mode}.png")
        luminance = color[..., :3] @ [0.299, 0.587, 0.114]  # ITU-R 601-2
        np.testing.assert_allclose(read_image2d(str(tmp_path / f"{mode}.png")), luminance, atol=1)


def test_images_that_cannot_be_read(tmp_path):
    with pytest.raises(SslMedError, match=r"absent.png: no such file"):
        read_image2d(str(tmp_path / "absent.png"))
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(buffer, "PNG")
    content = buffer.getvalue()
    huge = bytearray(content)
    huge[16:24] = struct.pack(">II", 30000, 30000)
    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    broken = bytearray(content)
    broken[60] ^= 0xFF
    path = tmp_path / "image.png"
    for bad in (b"", content[:20], content[: len(content) // 2], bytes(broken), b"GIF89a", bytes(huge)):
        path.write_bytes(bad)
        with pytest.raises(SslMedError, match=r"image.png: cannot be read as an image .*; download it again") as caught:
            read_image2d(str(path))
        assert "\n" not in str(caught.value)


def tiff(path, array, *, photometric=1, kind=1):
    """An uncompressed TIFF (6.0) of one strip, in the byte order of the array; kind: 1 unsigned, 2 signed, 3 float."""
    order = ">" if array.dtype.byteorder == ">" else "<"
    tags = {
        256: array.shape[1], 257: array.shape[0], 258: 8 * array.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1,
        278: array.shape[0], 279: array.nbytes, 339: kind,
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    start = b"II" if order == "<" else b"MM"
    path.write_bytes(start + struct.pack(f"{order}HI", 42, 8 + array.nbytes) + array.tobytes() + directory)
    return str(path)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("u1", 1),
        ("i1", 2),
        ("<u2", 1),
        (">u2", 1),
        ("<i2", 2),
        (">i2", 2),
        ("<u4", 1),
        ("<i4", 2),
        ("<f4", 3),
        (">f4", 3),
    ],
)
def test_tiff_keeps_its_numbers(dtype, kind, tmp_path):
    array = np.random.default_rng(0).integers(-100 if kind == 2 else 0, 120, (5, 7)).astype(dtype)
    if kind == 3:
        array /= 7
    else:
        array[0, 0], array[4, 6] = np.iinfo(dtype).min, np.iinfo(dtype).max
    found = read_image2d(tiff(tmp_path / "x.tif", array, kind=kind))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_zero_as_white_is_turned_over(dtype, tmp_path):
    array = np.arange(35).reshape(5, 7).astype(dtype)
    found = read_image2d(tiff(tmp_path / "x.tif", array, photometric=0))
    np.testing.assert_array_equal(found, np.iinfo(dtype).max - array)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_is_turned_as_its_exif_orientation_says(ending, mode, tmp_path):
    array = np.arange(36, dtype=np.uint8).reshape(3, 12)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter to the right
    Image.fromarray(array).convert(mode).save(tmp_path / f"x{ending}", exif=exif)
    np.testing.assert_array_equal(read_image2d(str(tmp_path / f"x{ending}")), np.rot90(array, -1))
    np.testing.assert_array_equal(read_color(str(tmp_path / f"x{ending}"))[0], np.rot90(array, -1))


# ------------------------------------------------------------------------------------ headers and how they are taken


@pytest.mark.parametrize(("unit", "scale"), [(0, 1), (1, 1e3), (2, 1), (3, 1e-3)])
def test_lengths_of_nifti_are_turned_into_mm(unit, scale, tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag([-1, -2, 3, 1.0]) / [scale, scale, scale, 1])
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "s.nii.gz")
    header = read_header(str(tmp_path / "s.nii.gz"))
    np.testing.assert_allclose(header.to_world, np.diag([1, 2, 3, 1.0]), rtol=1e-6)
    assert [remark.kind for remark in header.remarks] == (["units"] if scale != 1 else [])


def test_odd_headers_get_a_remark(tmp_path):
    array = np.zeros(SHAPE, np.int16)

    def kinds(image):
        nib.save(image, tmp_path / "s.nii")
        return [remark.kind for remark in read_header(str(tmp_path / "s.nii")).remarks]

    turned = nib.Nifti1Image(array, np.eye(4))
    turned.set_qform(np.diag([-1.0, -1, 1, 1]), 1)
    assert kinds(turned) == ["forms"]
    nowhere = nib.Nifti1Image(array, None)
    nowhere.set_sform(None, 0)
    nowhere.set_qform(None, 0)
    assert kinds(nowhere) == ["orientation"]
    assert kinds(nib.Nifti1Image(array, np.eye(4) + np.eye(4, k=1) * [0, 0, 0.3, 0])) == ["shear"]
    path = metaimage.write(tmp_path / "s.mhd", array, ElementSpacing=None)
    assert [remark.kind for remark in read_header(str(path)).remarks] == ["size"]
    np.testing.assert_array_equal(read_header(str(path)).to_world, np.eye(4))


def test_a_packed_file_is_verified_to_its_end(tmp_path):
    array = numbers("MET_SHORT")
    content = nib.Nifti1Image(array, np.eye(4)).to_bytes()
    for name, packed in (("sum", gzip.compress(content)), ("length", gzip.compress(content))):
        damaged = bytearray(packed)
        damaged[-8 if name == "sum" else -4] ^= 1
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(damaged)
        with pytest.raises(SslMedError, match=rf"{name}.nii.gz: is truncated or damaged"):
            read_volume(str(path))
    path = metaimage.write(tmp_path / "s.mhd", array, packed=True)
    data, whole = path.with_suffix(".zraw"), zlib.compress(array.tobytes(order="F"))
    data.write_bytes(
        gzip.compress(array.tobytes(order="F")[:50]) + gzip.compress(array.tobytes(order="F")[50:]) + bytes(9)
    )
    np.testing.assert_array_equal(read_volume(str(path)).array, array)  # members, and zeros behind them
    for bad in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-4], whole + b"more", zlib.compress(bytes(10**6))):
        data.write_bytes(bad)
        with pytest.raises(SslMedError, match=r"s.zraw: (is truncated or damaged|holds more than)"):
            read_volume(str(path))


def test_metaimage_as_metaio_reads_it(tmp_path):
    array = numbers("MET_SHORT")
    path = metaimage.write(tmp_path / "s.mhd", array, BinaryData="False")
    path.with_suffix(".raw").write_text(" ".join(map(str, array.ravel(order="F"))))
    np.testing.assert_array_equal(read_volume(str(path)).array, array)
    path = metaimage.write(tmp_path / "t.mhd", array, ElementSpacing="-1 2 3", ElementSize="9 9 9")
    np.testing.assert_array_equal(read_header(str(path)).to_world, np.diag([-1, 2, 3, 1.0]))
    path.write_text("\n" + path.read_text().replace(" = ", ":").replace("\n", "\n\n"))
    np.testing.assert_array_equal(read_volume(str(path)).array, array)


def test_labels_within_a_thousandth_of_a_whole_number(tmp_path):
    array = np.zeros(SHAPE)
    array[0, 0, 0], array[1, 1, 1] = 1.0000153, 1.9991
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "m.nii")
    assert (read_labels(str(tmp_path / "m.nii"))[0, 0, 0], read_labels(str(tmp_path / "m.nii"))[1, 1, 1]) == (1, 2)
    array[1, 1, 1] = 1.998
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "m.nii")
    with pytest.raises(SslMedError, match="whole numbers"):
        read_labels(str(tmp_path / "m.nii"))

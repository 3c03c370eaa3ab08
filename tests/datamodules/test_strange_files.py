"""Files of the kinds that data sets really hold: `ssl-med check` and a step of training say the same of each, or read the same.

One row a kind: what is planted, in which family, and what is said of it; "" where it is read. The values that are read are held
by the tests of readers and families.
"""

import gzip
import json
import re
import struct
import zlib

import metaimage
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from experiments.cli import main

SIDE, CASES = 20, 4
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def scan(number):
    return np.random.default_rng(number).integers(-900, 500, (SIDE,) * 3).astype(np.int16)


def volumes(root):
    for number in range(CASES):
        nib.save(nib.Nifti1Image(scan(number), AFFINE), root / f"scan{number}.nii")


def patients(root):
    """Two sequences and a mask a patient."""
    for number in range(CASES):
        (root / f"p{number}").mkdir()
        for k, name in enumerate(("FLAIR", "T1")):
            nib.save(nib.Nifti1Image(scan(10 * number + k), AFFINE), root / f"p{number}" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image((scan(number) > 0).astype("u1"), AFFINE), root / f"p{number}" / "mask.nii.gz")


def task(root):
    rows = []
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir()
    for number in range(CASES):
        nib.save(nib.Nifti1Image(scan(number), AFFINE), root / "imagesTr" / f"c_{number}.nii.gz")
        nib.save(nib.Nifti1Image((scan(number) > 0).astype("u1"), AFFINE), root / "labelsTr" / f"c_{number}.nii.gz")
        rows.append({"image": f"./imagesTr/c_{number}.nii.gz", "label": f"./labelsTr/c_{number}.nii.gz"})
    table = {"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "a"}, "training": rows, "test": []}
    (root / "dataset.json").write_text(json.dumps(table))


def images(root):
    for number in range(8):
        Image.fromarray(np.abs(scan(number)[:, :, 0] % 256).astype("u1")).resize((40, 40)).save(root / f"i{number}.png")


def radiographs(root):
    (root / "images").mkdir()
    names = [f"{number + 1:08d}_000.png" for number in range(9)]
    for number, name in enumerate(names):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40)).astype("u1")).save(
            root / "images" / name
        )
    rows = "".join(f"{name},No Finding,{number}\n" for number, name in enumerate(names))
    (root / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels,Patient ID\n" + rows)
    (root / "train_val_list.txt").write_text("\n".join(names[:6]))
    (root / "test_list.txt").write_text("\n".join(names[6:]))


MAKERS = {"volumes": volumes, "ms": patients, "msd": task, "images": images, "chest14": radiographs}
EVERY = ["data.content_min=0", "data.crops_per_volume=1", "data.split_ratios=[1,0,0]"]
SETTINGS = {
    "volumes": ["data.subject=file", *EVERY],
    "ms": ["data.modalities=[FLAIR,T1]", *EVERY],
    "msd": EVERY,
    "images": ["data.image_size=32", "data.split_ratios=[1,0,0]"],
    "chest14": ["data.image_size=32", "data.split=official"],
}


# ------------------------------------------------------------------------------------------------- what is planted


def nifti(path, array, affine=AFFINE, **fields):
    image = nib.Nifti1Image(array, affine)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)


def bytes_of(path, place, content):
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(whole)


def gigabytes(root):
    bytes_of(root / "scan0.nii", 42, struct.pack("<3h", 2000, 2000, 2000))


def wrong_sum(root):
    packed = bytearray(gzip.compress((root / "scan0.nii").read_bytes(), 0))
    packed[9000] ^= 0x40  # in a stored block: only the sum at the end knows
    (root / "scan0.nii").unlink()
    (root / "scan0.nii.gz").write_bytes(packed)


def wrong_length(root):
    packed = bytearray(gzip.compress((root / "scan0.nii").read_bytes()))
    packed[-4:] = struct.pack("<I", 12)
    (root / "scan0.nii").unlink()
    (root / "scan0.nii.gz").write_bytes(packed)


def turned_channel(root):
    """The same patient space, saved in other axes: read, on the grid of the first."""
    path = root / "p0" / "T1.nii.gz"
    array = np.asarray(nib.load(path).dataobj)
    other = array.transpose(2, 0, 1)[::-1]
    affine = np.array([[0, -1.0, 0, 0], [0, 0, -1, 0], [-1, 0, 0, SIDE - 1], [0, 0, 0, 1]])
    nifti(path, np.ascontiguousarray(other), affine)


def mirrored_mask(root):
    nifti(root / "p0" / "mask.nii.gz", (scan(0) > 0).astype("u1"), np.diag([1.0, -1, 1, 1]))


def shifted_channel(root):
    affine = AFFINE.copy()
    affine[0, 3] = 0.6
    nifti(root / "p0" / "T1.nii.gz", scan(1), affine)


def rounded_channel(root):
    nifti(root / "p0" / "T1.nii.gz", scan(1), AFFINE * [1.01, 1, 1, 1])


def other_size(root):
    nifti(root / "p0" / "T1.nii.gz", scan(1), AFFINE * [2, 1, 1, 1])


def scaled_labels(root):
    """What nibabel makes of a mask that takes over the header of a CT."""
    for number in range(CASES):
        image = nib.Nifti1Image(scan(0), AFFINE)
        mask = (scan(number) > 0).astype(float)
        nib.save(nib.Nifti1Image(mask, AFFINE, image.header), root / "labelsTr" / f"c_{number}.nii.gz")


def colours(root):
    nib.save(nib.Nifti1Image(np.zeros((SIDE,) * 3, [(c, "u1") for c in "RGB"]), AFFINE), root / "imagesTr/c_3.nii.gz")


def phases(root):
    nib.save(nib.Nifti1Image((scan(0) + 1j * scan(1)).astype("c8"), AFFINE), root / "imagesTr" / "c_3.nii.gz")


def header(root, name="scan0.mhd", **fields):
    (root / "scan0.nii").unlink()
    return metaimage.write(root / name, scan(0), **fields)


def gzip_zraw(root):
    path = header(root, packed=True)
    path.with_suffix(".zraw").write_bytes(gzip.compress(scan(0).tobytes(order="F")))


def blank_lines(root):
    path = header(root)
    path.write_text(path.read_text().replace("=", ":").replace("\n", "\n\n"))


def outside(root):
    path = header(root)
    (root.parent / "elsewhere.raw").write_bytes(path.with_suffix(".raw").read_bytes())
    path.write_text(path.read_text().replace("scan0.raw", "../elsewhere.raw"))


def damaged_zraw(root):
    path = header(root, packed=True).with_suffix(".zraw")
    path.write_bytes(path.read_bytes()[:-4] + b"sums")


def nrrd(root, content=None, **fields):
    (root / "scan0.nii").unlink()
    known = {
        "type": "int16", "dimension": "3", "sizes": f"{SIDE} {SIDE} {SIDE}", "endian": "little", "encoding": "raw",
        "space": "LPS", "space_directions": "(1,0,0) (0,1,0) (0,0,1)", **fields,
    }  # fmt: skip
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in known.items() if value]
    body = scan(0).astype("<i2").tobytes(order="F") if content is None else content
    (root / "scan0.nrrd").write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + body)


def words(array):
    return " ".join(map(str, array.ravel(order="F"))).encode()


def tiff(path, array, *, photometric=1, kind=1):
    """An uncompressed little-endian TIFF of one strip."""
    data = array.tobytes()
    tags = [
        (256, array.shape[1]), (257, array.shape[0]), (258, 8 * array.itemsize), (259, 1), (262, photometric), (273, 8),
        (277, 1), (278, array.shape[0]), (279, len(data)), (339, kind),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II" + struct.pack("<HI", 42, 8 + len(data)) + data + directory)


def level(number, dtype):
    return (np.random.default_rng(number).random((40, 40)) * 200).astype(dtype)


def bomb(root):
    whole = bytearray((root / "i0.png").read_bytes())
    whole[16:24] = struct.pack(">II", 12000, 12000)
    whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    (root / "i0.png").write_bytes(whole)


def pages(root):
    first = Image.fromarray(level(0, "u1"))
    first.save(root / "i0.tif", save_all=True, append_images=[Image.fromarray(level(1, "u1"))])


def table(root, encoding, name="Data_Entry_2017.csv", extra=""):
    (root / name).write_bytes(((root / name).read_text() + extra).encode(encoding))


KINDS = {
    # grids
    "a channel in other axes": ("ms", turned_channel, ""),
    "a channel rounded by less than half a voxel": ("ms", rounded_channel, ""),
    "a channel 0.6 voxels away": ("ms", shifted_channel, "voxels of one index lie up to"),
    "a channel of another voxel size": ("ms", other_size, "voxels of one index lie up to"),
    "metres": ("volumes", lambda r: nifti(r / "scan0.nii", scan(0), AFFINE * [0.001, 0.001, 0.001, 1], xyzt_units=1), ""),
    "mm called metres": ("volumes", lambda r: nifti(r / "scan0.nii", scan(0), xyzt_units=1), "no valid voxel size"),
    "sheared": ("volumes", lambda r: nifti(r / "scan0.nii", scan(0), AFFINE + np.eye(4, k=1) * [0, 0, 0.3, 0]), ""),
    # number types
    "labels with a scale factor": ("msd", scaled_labels, ""),
    "colours": ("msd", colours, "c_3.nii.gz: holds .* one number a voxel is needed"),
    "phases": ("msd", phases, "c_3.nii.gz: holds complex64 values; one number a voxel is needed"),
    "float TIFF of the window": ("images", lambda r: tiff(r / "i0.tif", level(0, "f4"), kind=3), ""),
    "float TIFF from 0 to 1": ("images", lambda r: tiff(r / "i0.tif", level(0, "f4") / 200, kind=3), "grey levels from 0"),
    "negative TIFF": ("images", lambda r: tiff(r / "i0.tif", level(0, "i2") - 99, kind=2), "grey levels from -99"),
    "32-bit TIFF": ("images", lambda r: tiff(r / "i0.tif", level(0, "u4") * 16), "grey levels from 0 to 31"),
    "0 as white in float": ("images", lambda r: tiff(r / "i0.tif", level(0, "f4"), photometric=0, kind=3), "0 is white"),
    "double TIFF": ("images", lambda r: tiff(r / "i0.tif", level(0, "f8"), kind=3), "cannot be read as an image"),
    "pages": ("images", pages, "i0.tif: holds 2 pages"),
    # damage
    "a wrong sum": ("volumes", wrong_sum, "scan0.nii.gz: is truncated or damaged .CRC"),
    "a wrong length": ("volumes", wrong_length, "scan0.nii.gz: is truncated or damaged"),
    "a wrong sum of zlib": ("volumes", damaged_zraw, "scan0.zraw: is truncated or damaged"),
    "a NIfTI header of gigabytes": ("volumes", gigabytes, "cannot hold"),
    "a MetaImage header of gigabytes": ("volumes", lambda r: header(r, DimSize="2000 2000 2000"), "cannot hold"),
    "a packed MetaImage header of gigabytes": (
        "volumes", lambda r: header(r, DimSize="2000 2000 2000", packed=True), "cannot hold",
    ),
    "a NRRD header of gigabytes": ("volumes", lambda r: nrrd(r, sizes="2000 2000 2000"), "cannot hold"),
    "an image of 12000 x 12000": ("images", bomb, "12000 x 12000 pixels, which .* bytes cannot hold"),
    "a table in UTF-16": ("chest14", lambda r: table(r, "utf-16"), ""),
    "lists in UTF-16": ("chest14", lambda r: [table(r, "utf-16", f"{n}_list.txt") for n in ("train_val", "test")], ""),
    "a table in UTF-8 with a mark": ("chest14", lambda r: table(r, "utf-8-sig"), ""),
    "a table in Latin-1": ("chest14", lambda r: table(r, "latin-1", extra="\xe9,No Finding,9\n"), "is not UTF-8"),
    "a list in UTF-16 without a mark": ("chest14", lambda r: table(r, "utf-16-le", "test_list.txt"), "test_list.txt: image"),
    "dataset.json in Latin-1": ("msd", lambda r: (r / "dataset.json").write_bytes(b'{"\xe9": 1}'), "dataset.json: .*UTF-8"),
    # what ITK reads
    "no voxel size": ("volumes", lambda r: header(r, ElementSpacing=None), ""),
    "blank lines and colons": ("volumes", blank_lines, ""),
    "gzip in .zraw": ("volumes", gzip_zraw, ""),
    "a data file outside": ("volumes", outside, "scan0.mhd: its data file .* lies outside of"),
    "two offsets": ("volumes", lambda r: header(r, Position="1 2 3"), "are given for offset"),
    "GZIP": ("volumes", lambda r: nrrd(r, gzip.compress(scan(0).tobytes(order="F")), encoding="GZIP"), ""),
    "Txt": ("volumes", lambda r: nrrd(r, words(scan(0)), encoding="Txt"), ""),
    "scanner-xyz": ("volumes", lambda r: nrrd(r, space="scanner-xyz"), ""),
    "LZW": ("volumes", lambda r: nrrd(r, encoding="lzw"), "field 'encoding' is 'lzw'"),
}  # fmt: skip
FAST = {"a channel in other axes", "a wrong sum", "float TIFF from 0 to 1"}


def verdicts(family, plant, tmp_path, capfd):
    """Exit codes of `check` and of a training, and what each says of a data set in which something is planted."""
    root = tmp_path / "data"
    root.mkdir()
    MAKERS[family](root)
    plant(root)
    flat = family in ("images", "chest14")
    patch = "[16,16]" if flat else "[16,16,16]"
    data = [f"data={family}", f"data.root={root}", f"data.patch_size={patch}", *SETTINGS[family]]
    checked = main(["check", *data, "use=pretrain", "workers=0", f"out={tmp_path / 'check'}"])
    refused = capfd.readouterr().err  # of what says what the data are, before a file is looked at
    # an epoch, so that every case is read
    asked = ["method=simclr", f"trainer.max_steps={4 if flat else 2}", "trainer.batch_size=2"]
    trained = main(["pretrain", *data, *asked, f"out={tmp_path / 'run'}", "trainer=cpu", "trainer.num_workers=0"])
    listed = (tmp_path / "check" / "quarantine.txt").read_text() if checked < 2 else refused
    return checked, trained, listed, capfd.readouterr().err


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in KINDS])
def test_check_and_training_agree(kind, tmp_path, capfd):
    family, plant, says = KINDS[kind]
    checked, trained, listed, told = verdicts(family, plant, tmp_path, capfd)
    assert (min(checked, 1), trained) == ((1, 2) if says else (0, 0)), listed + told
    if says:
        assert re.search(says, told), told
        assert re.search(says, listed), listed


def test_check_says_why_a_file_cannot_be_read(tmp_path, capsys):
    MAKERS["msd"](tmp_path)
    phases(tmp_path)
    assert main(["check", "data=msd", f"data.root={tmp_path}", "workers=0", f"out={tmp_path / 'check'}"]) == 1
    why = "holds complex64 values; one number a voxel is needed (no RGB, no phase)"
    assert f"error   cannot be read: {tmp_path / 'imagesTr' / 'c_3.nii.gz'}: {why}\n" in capsys.readouterr().out
    report = (tmp_path / "check" / "report.md").read_text()
    assert why in report
    assert str(tmp_path) not in report

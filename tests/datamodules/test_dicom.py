"""DICOM series: order, geometry, rescale, what is refused, and that no header value of a patient gets out."""

import logging
import os
import warnings

import numpy as np
import pytest

from datamodules.core.dicom import is_dicom, modality_of, read_dicom_image, read_series, read_series_header
from datamodules.core.files import find_volumes, stem
from datamodules.core.readers import read_header, read_volume
from experiments.cli import main
from ssl_med.spec import SslMedError

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid  # noqa: E402

NAME, IDENTIFIER = "Zwiebelfisch^Leopoldine", "PID-83510274"
SPACING = (0.7, 0.9, 2.5)  # between columns, between rows, between slices
ORIGIN = np.array([-80.0, -63.5, 12.25])
CT = "1.2.840.10008.5.1.4.1.1.2"


def voxels(shape=(12, 10, 8)):
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def turned(degrees=(20, -35, 50)):
    """A rotation about all three axes: its columns are the directions of rows, columns and the normal."""
    a, b, c = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def write(folder, array, *, rotation=None, change=None, names=None, slope=1, intercept=-1024, dtype="<i2"):
    """A series of HU (x, y, z), files named at random; `change(image, k)` edits an image before it is saved."""
    rotation = np.eye(3) if rotation is None else rotation
    folder.mkdir(parents=True, exist_ok=True)
    count = array.shape[2]
    names = names or [f"IM{n:04d}.dcm" for n in np.random.default_rng(1).permutation(count)]
    series, study = generate_uid(), generate_uid()
    for k in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(str(folder / names[k]), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
        image.SeriesInstanceUID, image.StudyInstanceUID = series, study
        image.PatientName, image.PatientID, image.PatientBirthDate = NAME, IDENTIFIER, "19310228"
        image.ReferringPhysicianName, image.Modality = NAME, "CT"
        image.InstanceNumber = 1  # says nothing about the place
        image.Columns, image.Rows = array.shape[:2]
        image.PixelSpacing = [str(SPACING[1]), str(SPACING[0])]
        place = ORIGIN + rotation[:, 2] * k * SPACING[2]
        image.ImagePositionPatient = [f"{value:.8f}" for value in place]
        image.ImageOrientationPatient = [f"{value:.8f}" for value in (*rotation[:, 0], *rotation[:, 1])]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = int(dtype == "<i2")
        image.RescaleSlope, image.RescaleIntercept = str(slope), str(intercept)
        image.PixelData = np.rint((array[:, :, k].T - intercept) / slope).astype(dtype).tobytes()
        if change is not None:
            change(image, k)
        image.save_as(folder / names[k], enforce_file_format=True)
    return folder


def refusal(folder):
    with pytest.raises(SslMedError) as found:
        read_volume(str(folder))
    line = str(found.value)
    assert "\n" not in line
    assert str(folder) in line
    for secret in (NAME, "Zwiebelfisch", IDENTIFIER, "19310228"):
        assert secret not in line
    return line


def test_files_in_any_order_give_the_volume(tmp_path):
    array = voxels()
    volume = read_volume(str(write(tmp_path / "s", array)))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    expected = np.diag([*SPACING, 1.0])
    expected[:3, 3] = ORIGIN
    assert np.allclose(volume.to_world, expected)
    header = read_header(str(tmp_path / "s"))
    assert header.shape == array.shape
    assert np.array_equal(header.to_world, volume.to_world)
    series = read_series_header(str(tmp_path / "s"))
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in series.files]
    assert list(series.images) == uids
    assert modality_of(str(tmp_path / "s")) == "CT"


def test_an_oblique_series_lies_where_the_standard_puts_each_pixel(tmp_path):
    rotation, array = turned(), voxels()
    series = read_series_header(str(write(tmp_path / "s", array, rotation=rotation)))
    volume = read_series(str(tmp_path / "s"))
    for path in series.files:
        image = pydicom.dcmread(path)
        # PS3.3 C.7.6.2.1.1: P = S + X dj i + Y di j, with i the column and j the row
        s = np.array(image.ImagePositionPatient, float)
        x, y = np.split(np.array(image.ImageOrientationPatient, float), 2)
        di, dj = map(float, image.PixelSpacing)
        k = series.images.index(image.SOPInstanceUID)
        for i, j in ((0, 0), (11, 0), (3, 9)):
            place = s + x * dj * i + y * di * j
            assert np.allclose(volume.to_world @ [i, j, k, 1], [*place, 1], atol=1e-4)
            hu = image.pixel_array[j, i] * float(image.RescaleSlope) + float(image.RescaleIntercept)
            assert volume.array[i, j, k] == hu


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype", "shift", "kind"),
    [
        (1, -1024, "<u2", 0, np.int16),
        (2, -2000, "<i2", 0, np.int16),
        (0.5, 0, "<i2", 0, np.int16),
        (0.25, 0, "<i2", 0.25, np.float32),  # not whole
        (1, 40000, "<u2", 41200, np.float32),  # beyond int16
    ],
)
def test_rescale(tmp_path, slope, intercept, dtype, shift, kind):
    array = (voxels() // 2 * 2).astype(type(shift)) + shift
    volume = read_volume(str(write(tmp_path / "s", array, slope=slope, intercept=intercept, dtype=dtype)))
    assert volume.array.dtype == kind
    assert np.array_equal(volume.array, array)


def test_a_slope_of_its_own_for_each_image_as_pet_has(tmp_path):
    array = voxels() % 500

    def scale(image, k):
        stored = (array[:, :, k].T * 8).astype("<i2")
        image.RescaleSlope, image.RescaleIntercept, image.PixelData = "0.125", "0", stored.tobytes()
        if k == 0:  # the first one alone would fit int16
            image.RescaleSlope, image.PixelData = "1", array[:, :, k].T.astype("<i2").tobytes()

    assert np.allclose(read_volume(str(write(tmp_path / "s", array, change=scale))).array, array)


def test_a_missing_slice_is_counted(tmp_path):
    array = voxels()
    folder = write(tmp_path / "s", array, names=[f"{k}.dcm" for k in range(8)])
    (folder / "3.dcm").unlink()
    (folder / "4.dcm").unlink()
    line = refusal(folder)
    assert "2.5 mm apart, but 7.5 mm after 2.dcm" in line
    assert "about 2 of 8 slices missing" in line


def test_two_images_at_one_place(tmp_path):
    folder = write(tmp_path / "s", voxels(), names=[f"{k}.dcm" for k in range(8)])
    copy = pydicom.dcmread(folder / "5.dcm")
    copy.SOPInstanceUID = generate_uid()
    copy.save_as(folder / "copy.dcm")
    assert "5.dcm and copy.dcm lie at one position" in refusal(folder)


def _localizer(image, k):
    if k == 2:
        image.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]


def _larger(image, k):
    if k == 2:
        image.PixelSpacing = ["1.1", "1.1"]


def _other_series(image, k):
    if k % 2:
        image.SeriesInstanceUID = "1.2.3.4"


def _tilted(image, k):
    image.ImagePositionPatient = [ORIGIN[0], ORIGIN[1] + 0.8 * k, ORIGIN[2] + 2.5 * k]


def _no_place(image, k):
    if k == 1:
        del image.ImagePositionPatient


def _frames(image, k):
    image.NumberOfFrames = 4


def _color(image, k):
    image.SamplesPerPixel = 3


def _no_pixels(image, k):
    if k == 4:
        del image.PixelData


def _short(image, k):
    if k == 4:
        image.PixelData = image.PixelData[:100]


def _compressed(image, k):
    image.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEGLSLossless


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_localizer, "images differ in orientation (2 kinds)"),
        (_larger, "images differ in pixel spacing (2 kinds)"),
        (_other_series, "holds 2 DICOM series"),
        (_tilted, "tilted gantry"),
        (_no_place, "has no ImagePositionPatient"),
        (_frames, "multi-frame"),
        (_color, "color image"),
        (_no_pixels, "pixels are missing or truncated"),
        (_short, "pixels are missing or truncated"),
        (_compressed, "JPEG-LS"),
    ],
)
def test_what_is_no_volume_is_one_line(tmp_path, change, says):
    assert says in refusal(write(tmp_path / "s", voxels(), change=change))


def test_a_damaged_file_a_single_image_and_an_empty_folder(tmp_path):
    folder = write(tmp_path / "s", voxels())
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:140])
    assert path.name in refusal(folder)
    assert "holds 1 DICOM images" in refusal(write(tmp_path / "one", voxels((12, 10, 1))))
    (tmp_path / "none").mkdir()
    assert "holds 0 DICOM images" in refusal(tmp_path / "none")


def test_run_length_coded_pixels_need_no_extra_decoder(tmp_path):
    array = voxels()
    folder = write(
        tmp_path / "s", array, change=lambda image, k: image.compress(RLELossless, generate_instance_uid=False)
    )
    assert np.array_equal(read_volume(str(folder)).array, array)


def test_one_image_and_the_two_senses_of_grey(tmp_path):
    array = voxels()[:, :, :1]

    def turn(image, k):
        image.PhotometricInterpretation = "MONOCHROME1"

    image = read_dicom_image(str(write(tmp_path / "a", array, names=["a.dcm"]) / "a.dcm"))
    assert np.array_equal(image, array[:, :, 0].T)
    for dtype, whole in (("<u2", 65535 - 2048), ("<i2", -1 - 2048)):
        folder = write(tmp_path / dtype[1], array, names=["a.dcm"], change=turn, dtype=dtype)
        # stored values are turned over within 16 bits; the intercept of -1024 counts before and after
        assert np.array_equal(read_dicom_image(str(folder / "a.dcm")), whole - array[:, :, 0].T.astype(float))
    with pytest.raises(SslMedError, match="is multi-frame"):
        read_dicom_image(str(write(tmp_path / "f", array, names=["a.dcm"], change=_frames) / "a.dcm"))


def test_series_are_found_by_their_files(tmp_path):
    write(tmp_path / "a" / "s1", voxels(), names=[f"IM{k}" for k in range(8)])  # no ending, as on a hospital's disc
    write(tmp_path / "a" / "1.2.840.5", voxels(), names=[f"1.2.840.5.{k}" for k in range(8)])
    (tmp_path / "a" / "s1" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "a" / "README").write_text("text")
    np.save(tmp_path / "a" / "v.npy", voxels())
    (tmp_path / "a" / "._v.npy").write_bytes(b"x")
    (tmp_path / "a" / ".hidden").mkdir()
    np.save(tmp_path / "a" / ".hidden" / "v.npy", voxels())
    os.symlink(tmp_path / "a", tmp_path / "a" / "s1" / "loop")
    found = find_volumes(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/1.2.840.5", "a/s1", "a/v.npy"]
    assert [stem(path) for path in found] == ["1.2.840.5", "s1", "v"]
    assert np.array_equal(read_volume(str(found[1])).array, read_volume(str(found[0])).array)
    assert not is_dicom(tmp_path / "a" / "README")


def test_without_pydicom_the_line_says_what_to_install(tmp_path, monkeypatch):
    folder = write(tmp_path / "s", voxels())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    assert "pip install 'ssl-med[dicom]'" in refusal(folder)


@pytest.mark.slow
def test_a_patient_is_named_nowhere(tmp_path, capsys, caplog):
    """Pretrains on series with planted names; every artefact, log line and warning is searched for them."""

    def odd(image, k):  # values that pydicom warns about, quoting them
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.add_new("StudyID", "SH", NAME * 3)
            image.add_new("AccessionNumber", "SH", IDENTIFIER * 4)

    for n in range(3):
        write(tmp_path / "data" / f"case{n}" / "ct", voxels((24, 24, 16)), change=odd)
    capsys.readouterr()
    words = ["pretrain", "method=models_genesis", "data=volumes", f"data.root={tmp_path / 'data'}", "trainer=cpu"]
    words += ["trainer.max_steps=2", "trainer.batch_size=2", "data.patch_size=[16,16,16]", "backbone.channels=[8,8,16]"]
    words += ["backbone.name=unet", "data.crops_per_volume=2", f"out={tmp_path / 'run'}", "tracking.wandb=offline"]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert main(words) == 0
        for path in (tmp_path / "data").rglob("IM0003.dcm"):
            path.write_bytes(path.read_bytes()[:-200])
        assert main([*words[:-2], f"out={tmp_path / 'second'}"]) == 2
    printed = capsys.readouterr()
    assert "done: 2 steps" in printed.out
    assert "IM0003.dcm: its pixels are missing or truncated" in printed.err
    written = [path for run in ("run", "second") for path in (tmp_path / run).rglob("*") if path.is_file()]
    assert {"summary.json", "backbone.safetensors", "metrics.jsonl"} <= {path.name for path in written}
    texts = [path.read_bytes() for path in written]
    texts += [text.encode() for text in (printed.out, printed.err, caplog.text, *(str(w.message) for w in warned))]
    for secret in ("Zwiebelfisch", IDENTIFIER, "19310228"):
        assert not any(secret.encode() in text for text in texts)


def _modality_lut(image, k):
    del image.RescaleSlope, image.RescaleIntercept
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.ModalityLUTType = "US"
    item.LUTData = np.array([10, 20, 40, 80], "<u2").tobytes()
    image.ModalityLUTSequence = pydicom.Sequence([item])


def test_a_modality_lut_is_applied_and_one_beside_a_slope_refused(tmp_path):
    array = np.arange(120).reshape(12, 10, 1) % 4
    folder = write(tmp_path / "s", array.astype(np.int16), names=["a.dcm"], change=_modality_lut, dtype="<u2")
    found = read_dicom_image(str(folder / "a.dcm"))
    stored = pydicom.dcmread(folder / "a.dcm").pixel_array
    assert np.array_equal(found, np.array([10, 20, 40, 80])[np.clip(stored, 0, 3)])

    def both(image, k):
        _modality_lut(image, k)
        image.RescaleSlope, image.RescaleIntercept = 2, 0

    folder = write(tmp_path / "b", array.astype(np.int16), names=["a.dcm"], change=both, dtype="<u2")
    with pytest.raises(SslMedError, match=r"a.dcm: has a Modality LUT Sequence and a rescale slope"):
        read_dicom_image(str(folder / "a.dcm"))


def test_damaged_run_lengths_are_no_missing_decoder_and_pixels_that_cannot_be_there_are_refused(tmp_path):
    def damaged(image, k):
        image.PixelData = pydicom.encaps.encapsulate([b"\1" + bytes(63) + b"\x05"])
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless

    assert "missing or truncated, or damaged" in refusal(write(tmp_path / "s", voxels(), change=damaged))

    def huge(image, k):
        image.Rows = image.Columns = 3000

    assert "missing or truncated" in refusal(write(tmp_path / "h", voxels(), change=huge))

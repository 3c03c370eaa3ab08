import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image
from report_samples import blob_volume

from ssl_med.reports.figures import pictures


def near(pixels, color, tolerance=0.12):
    return (np.abs(pixels / 255.0 - np.array(to_rgb(color))) < tolerance).all(-1)


def drawn(tmp_path, **arrays):
    path = pictures.save_overlay(tmp_path / "new" / "x.png", class_names=("liver",), case="11", **arrays)
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_patients_right_is_on_the_left_and_the_front_is_up(tmp_path):
    truth = np.zeros((1, 40, 40, 9), bool)
    truth[0, 3:13, 4:12, 2:7] = True  # low x: patient's right; low y: front
    empty = np.zeros_like(truth)
    pixels = drawn(tmp_path, image=truth.astype(np.float32), truth=truth, prediction=empty)
    panel = pixels[50:-50, : pixels.shape[1] // 3]
    rows, columns = np.nonzero(near(panel, pictures.TRUTH))
    assert columns.mean() < panel.shape[1] / 2
    assert rows.mean() < panel.shape[0] / 2
    assert not near(panel, pictures.PREDICTION).any()  # an empty mask draws nothing


def test_truth_is_green_and_prediction_magenta_where_they_lie(tmp_path):
    pixels = drawn(tmp_path, **blob_volume(shift=8))
    panel = pixels[50:-50, : pixels.shape[1] // 3]
    green, magenta = near(panel, pictures.TRUTH), near(panel, pictures.PREDICTION)
    assert green.sum() > 100
    assert np.nonzero(magenta)[1].min() > np.nonzero(green)[1].min() + 10  # shifted to larger x: to the right


def test_slices_follow_the_foreground():
    masks = np.zeros((2, 4, 4, 50), bool)
    masks[0, :, :, 10:20] = True
    masks[1, :2, :, 10:20] = True
    assert pictures.choose_slices(masks) == [11, 14, 17]
    assert pictures.choose_slices(np.zeros((1, 4, 4, 50), bool)) == [10, 25, 40]
    for depth in (1, 2, 7, 24, 31, 32):  # a crop has its candidate in slice n // 2
        chosen = pictures.choose_slices(np.zeros((1, 4, 4, depth), bool))
        assert depth // 2 in chosen
    masks = np.zeros((1, 4, 4, 50), bool)
    masks[0, 0, 0, 7] = True
    assert pictures.choose_slices(masks) == [7]


@pytest.mark.parametrize("size", [(30, 40), (30, 40, 12)])
def test_odd_input_is_drawn(tmp_path, size):
    constant = np.full((2, *size), 3.0, np.float32)
    empty, full = np.zeros((2, *size), bool), np.ones((2, *size), bool)
    path = pictures.save_overlay(tmp_path / "x.png", image=constant, truth=empty, prediction=full, channel=1)
    assert near(np.asarray(Image.open(path).convert("RGB")), pictures.PREDICTION).any()
    figure = pictures.overlay(constant, empty, empty, class_names=("whole", "core"))
    words = [text.get_text() for text in figure.texts]
    assert "Dice: whole 1.000, core 1.000" in words
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["truth", "prediction", "whole", "core"]


def test_equal_pictures_are_equal_files(tmp_path):
    first = drawn(tmp_path, **blob_volume(shift=2))
    one = (tmp_path / "new" / "x.png").read_bytes()
    second = drawn(tmp_path, **blob_volume(shift=2))
    assert (first == second).all()
    assert (tmp_path / "new" / "x.png").read_bytes() == one


def test_dice():
    a, b = np.array([1, 1, 0], bool), np.array([0, 1, 0], bool)
    assert pictures.dice(a, b) == pytest.approx(2 / 3)
    assert pictures.dice(~a & a, ~b & b) == 1.0


@pytest.mark.parametrize("size", [(30, 40), (30, 40, 12)])
def test_an_image_is_seen_through_regions_that_cover_it(size):
    grey = np.linspace(0, 1, int(np.prod(size))).reshape(1, *size)
    whole = np.ones((1, *size), bool)
    figure = pictures.overlay(grey, whole, ~whole, class_names=["organ"])
    for axes in figure.axes:
        assert len(axes.images) == 1
        for drawn in axes.collections:
            assert all(len(color) == 0 or color[3] < 1 for color in drawn.get_facecolor())
    bare = pictures.overlay(grey, ~whole, ~whole, class_names=["organ"])

    def middle(made):
        canvas = FigureCanvasAgg(made)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        height, width = pixels.shape[:2]
        return pixels[height * 2 // 5 : height // 2, width * 3 // 10 : width * 7 // 10]

    if len(size) == 2:
        assert np.array_equal(middle(figure), middle(bare))


def test_the_picture_of_a_case_has_one_ending():
    from ssl_med.reports.escape import picture_stem, picture_stems

    assert picture_stem("00000001_000.png") == "00000001_000"
    assert picture_stem("site/p1.NII.GZ") == "site_p1"
    assert picture_stem("1.2.840.5/3") == "1.2.840.5_3"
    assert picture_stem("volume-3") == "volume-3"
    stems = picture_stems(["a.png", "a.jpg", "A", "b.png"])
    assert stems["b.png"] == "b"
    assert len({stem.lower() for stem in stems.values()}) == 4


@pytest.mark.parametrize(
    ("size", "names", "case"),
    [
        ((64, 64), ("left lung", "right lung"), "MCUCXR_0006_1"),
        ((32, 32, 20), ("whole tumour", "tumour core", "enhancing tumour"), "BraTS-GLI-00000-000"),
        (
            (48, 48),
            tuple(f"region number {k}" for k in range(7)),
            "a-case-of-a-long-name-that-fills-more-than-the-width",
        ),
    ],
)
def test_no_text_lies_on_another_or_outside(size, names, case):
    truth = np.zeros((len(names), *size))
    truth[:, 8:20, 8:20] = 1
    figure = pictures.overlay(np.random.default_rng(0).random((1, *size)), truth, truth, class_names=names, case=case)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole, legend = figure.bbox, figure.legends[0].get_window_extent()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.texts]
    assert not boxes[0].overlaps(boxes[1])
    panels = [axes.get_window_extent() for axes in figure.axes]
    for box in (*boxes, legend):
        assert box.x0 >= whole.x0 - 1
        assert box.x1 <= whole.x1 + 1
        assert not any(box.y0 < panel.y1 - 1 and panel.y0 + 1 < box.y1 for panel in panels)

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from datamodules.core.candidates import Candidate, Lesion, mark_lesions
from ssl_med.evaluation import scores
from ssl_med.evaluation.scores import (
    FROC_RATES,
    IGNORED,
    auroc,
    balanced_accuracy,
    dice_per_region,
    froc,
    iou_per_region,
    multilabel_auroc,
    quadratic_kappa,
    surface_per_region,
)
from ssl_med.evaluation.tasks import marks as marks_of


def slow_dice(prediction, truth):
    both = total = 0
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        both += p and t
        total += int(p) + int(t)
    return 2 * both / total if total else 1.0


@pytest.mark.parametrize("shape", [(2, 5, 6), (3, 4, 5, 6)])
def test_dice_equals_counting(shape):
    g = torch.Generator().manual_seed(0)
    prediction, truth = (torch.rand(shape, generator=g) > 0.6 for _ in range(2))
    expected = [slow_dice(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert dice_per_region(prediction, truth).tolist() == pytest.approx(expected, abs=1e-12)


def test_dice_conventions_for_empty_masks():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    assert dice_per_region(empty, empty).item() == 1
    assert dice_per_region(full, empty).item() == 0
    assert dice_per_region(empty, full).item() == 0
    assert dice_per_region(full, full).item() == 1


def slow_auc(truth, score):
    pairs = wins = 0
    for t1, s1 in zip(truth, score, strict=True):
        for t0, s0 in zip(truth, score, strict=True):
            if t1 == 1 and t0 == 0:
                pairs += 1
                wins += 1.0 if s1 > s0 else 0.5 if s1 == s0 else 0.0
    return wins / pairs


def test_auroc_is_the_probability_of_ranking_a_positive_higher():
    rng = np.random.default_rng(0)
    truth, score = rng.integers(0, 2, 60), rng.integers(0, 8, 60) / 8  # with ties
    assert auroc(truth, score) == pytest.approx(slow_auc(truth, score), abs=1e-12)
    assert np.isnan(auroc(np.zeros(5), np.arange(5.0)))


def test_multilabel_mean_leaves_out_undefined_classes():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (40, 3))
    truth[:, 1] = 0
    score = rng.random((40, 3))
    mean, each = multilabel_auroc(truth, score)
    assert np.isnan(each[1])
    assert mean == pytest.approx((slow_auc(truth[:, 0], score[:, 0]) + slow_auc(truth[:, 2], score[:, 2])) / 2)


def test_multilabel_leaves_out_unknown_labels():
    rng = np.random.default_rng(2)
    truth, score = rng.integers(0, 2, (50, 2)).astype(float), rng.random((50, 2))
    truth[rng.random((50, 2)) < 0.3] = np.nan
    _, each = multilabel_auroc(truth, score)
    for k in range(2):
        pairs = [(int(t), s) for t, s in zip(truth[:, k], score[:, k], strict=True) if t == t]
        assert each[k] == pytest.approx(slow_auc(*zip(*pairs, strict=True)), abs=1e-12)


def slow_kappa(truth, answer, classes):
    """Weighted kappa by counting all pairs of an observed truth and an observed answer."""
    pairs = list(zip(truth, answer, strict=True))
    observed = sum((t - a) ** 2 / (classes - 1) ** 2 for t, a in pairs) / len(pairs)
    chance = sum((t - a) ** 2 / (classes - 1) ** 2 for t in truth for a in answer) / len(pairs) ** 2
    return 1 - observed / chance


def test_quadratic_kappa_equals_counting():
    rng = np.random.default_rng(3)
    for classes in (2, 3, 5):
        truth = rng.integers(0, classes, 70)
        answer = np.where(rng.random(70) < 0.5, truth, rng.integers(0, classes, 70))
        got = quadratic_kappa(truth, answer, classes)
        assert got == pytest.approx(slow_kappa(truth.tolist(), answer.tolist(), classes), abs=1e-12)
        assert quadratic_kappa(truth, truth, classes) == 1
    assert quadratic_kappa(np.array([0, 4]), np.array([4, 0]), 5) == -1
    # a far mistake costs more than a near one
    truth = np.array([0, 1, 2, 3, 4, 0])
    near, far = truth.copy(), truth.copy()
    near[0], far[0] = 1, 4
    assert quadratic_kappa(truth, near, 5) > quadratic_kappa(truth, far, 5)
    assert np.isnan(quadratic_kappa(np.zeros(4, int), np.zeros(4, int), 5))


def test_balanced_accuracy_weighs_classes_alike():
    truth, answer = np.array([0] * 9 + [2]), np.zeros(10, int)
    assert balanced_accuracy(truth, answer) == 0.5  # class 1 is absent and not counted
    assert balanced_accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 0])) == pytest.approx((1 + 1 / 3) / 2)


# --- surfaces --------------------------------------------------------------------------------------------------


def slow_surface(mask):
    """Voxels of a mask with a neighbour across a face that is outside, or beyond the border of the image."""
    found = []
    for place in itertools.product(*map(range, mask.shape)):
        if not mask[place]:
            continue
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = list(place)
                other[axis] += step
                if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                    found.append(place)
                    break
            else:
                continue
            break
    return found


def slow_distances(one, other, spacing):
    """Millimetres from each voxel of one surface to the nearest of the other."""
    return [min(math.dist([a * s for a, s in zip(p, spacing, strict=True)],
                          [b * s for b, s in zip(q, spacing, strict=True)]) for q in other) for p in one]  # fmt: skip


def slow_percentile(values, percent):
    """Linear between the closest ranks."""
    ordered, place = sorted(values), (len(values) - 1) * percent / 100
    low = math.floor(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


@pytest.mark.parametrize(
    ("size", "spacing"), [((9, 8, 7), (0.7, 1.5, 3.0)), ((7, 7, 6), (1, 1, 1)), ((14, 12), (0.5, 2))]
)
@pytest.mark.parametrize("share", [0.05, 0.45, 0.9])  # single voxels, a sponge, a body that touches the border
def test_surface_metrics_equal_brute_force(size, spacing, share):
    g = torch.Generator().manual_seed(int(100 * share))
    prediction, truth = (torch.rand((2, *size), generator=g) < share for _ in range(2))
    distance, overlap = surface_per_region(prediction, truth, spacing=spacing, tolerance=1.5)
    for k in range(2):
        one, other = slow_surface(prediction[k].numpy()), slow_surface(truth[k].numpy())
        there, back = slow_distances(one, other, spacing), slow_distances(other, one, spacing)
        expected = max(slow_percentile(there, 95), slow_percentile(back, 95))
        assert distance[k].item() == pytest.approx(expected, rel=1e-6)
        within = sum(d <= 1.5 + 1e-9 for d in there) + sum(d <= 1.5 + 1e-9 for d in back)
        assert overlap[k].item() == within / (len(there) + len(back))


def test_tree_and_distance_map_agree(monkeypatch):
    g = torch.Generator().manual_seed(0)
    prediction, truth = (torch.rand((1, 20, 18, 16), generator=g) < share for share in (0.3, 0.02))
    found = []
    for dense in (0.0, 1.0):
        monkeypatch.setattr(scores, "_DENSE", dense)
        found.append([x.item() for x in surface_per_region(prediction, truth, spacing=(0.7, 1.1, 2.5), tolerance=1.0)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_surface_metrics_of_a_shifted_box_are_known():
    box = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    box[:, 5:11, 5:11, 5:11] = True
    moved = box.roll(2, 3)
    distance, overlap = surface_per_region(moved, box, spacing=(1.0, 1.0, 2.5), tolerance=5.0)
    assert distance.item() == 5.0  # two voxels of 2.5 mm
    assert overlap.item() == 1.0  # a distance of exactly the tolerance is within it
    assert surface_per_region(moved, box, spacing=(1.0, 1.0, 2.5), tolerance=4.9)[1].item() < 1
    assert [x.item() for x in surface_per_region(box, box, spacing=(1, 1, 1), tolerance=0.0)] == [0.0, 1.0]


def test_surface_conventions_for_empty_masks(recwarn):
    empty, box = torch.zeros(1, 6, 8, dtype=torch.bool), torch.ones(1, 6, 8, dtype=torch.bool)
    for prediction, truth, expected in (
        (empty, empty, [0.0, 1.0]),
        (box, empty, [10.0, 0.0]),
        (empty, box, [10.0, 0.0]),
    ):
        got = surface_per_region(prediction, truth, spacing=(1.0, 1.0), tolerance=1.0)
        assert [x.item() for x in got] == expected  # the diagonal of 6 x 8 mm is 10 mm
    assert not recwarn.list


def test_iou_over_thresholds_equals_counting():
    g = torch.Generator().manual_seed(0)
    logits, truth = 3 * torch.randn((3, 6, 7, 5), generator=g), torch.rand((3, 6, 7, 5), generator=g) < 0.4
    truth[2] = False
    logits[2] = -1.0
    logits[2, 0, 0, 0] = 1.0  # probability .73: a false voxel at the first five thresholds
    iou, mean = iou_per_region(logits, truth)
    for k in range(3):
        p, t = logits[k].double().sigmoid().flatten().tolist(), truth[k].flatten().tolist()
        each = []
        for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
            both = sum(x > threshold and y for x, y in zip(p, t, strict=True))
            union = sum(x > threshold or y for x, y in zip(p, t, strict=True))
            each.append(both / union if union else 1.0)
        assert iou[k].item() == pytest.approx(each[0], abs=1e-12)
        assert mean[k].item() == pytest.approx(sum(each) / 10, abs=1e-12)
    assert (iou[2].item(), mean[2].item()) == (0.0, 0.5)
    dice = dice_per_region(logits > 0, truth)
    assert iou.tolist() == pytest.approx((dice / (2 - dice)).tolist(), abs=1e-12)


# --- FROC ------------------------------------------------------------------------------------------------------


def slow_froc(score, lesion, *, lesions, scans):
    """Walks down the thresholds one by one; between two false positives the line starts where the vertical step ends."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(score), reverse=True):
        found = {number for s, number in zip(score, lesion, strict=True) if s >= threshold and number >= 0}
        false = sum(s >= threshold and number == -1 for s, number in zip(score, lesion, strict=True))
        points.append((false / scans, len(found) / lesions))
    result = []
    for wanted in FROC_RATES:
        left = [point for point in points if point[0] <= wanted][-1]
        right = next((point for point in points if point[0] > wanted), left)
        share = (wanted - left[0]) / (right[0] - left[0]) if right != left else 0
        result.append(left[1] + share * (right[1] - left[1]))
    return result


def challenge(nodules, excluded, marks, scans):
    """LUNA16's rules from geometry: every nodule takes its best mark within its radius, all marks at nodules and at excluded
    findings leave, the rest are false positives; a ROC curve of the two kinds, scaled, and linear interpolation of it.

    nodules, excluded: [(scan, centre, radius)]; marks: [(scan, centre, score)].
    """
    near = lambda mark, finding: mark[0] == finding[0] and math.dist(mark[1], finding[1]) < finding[2]  # noqa: E731
    best = [max((m[2] for m in marks if near(m, nodule)), default=None) for nodule in nodules]
    true = [score for score in best if score is not None]
    false = [m[2] for m in marks if not any(near(m, finding) for finding in (*nodules, *excluded))]
    fpr, tpr, _ = roc_curve([1] * len(true) + [0] * len(false), true + false)
    return np.interp(FROC_RATES, fpr * len(false) / scans, tpr * len(true) / len(nodules))


@pytest.mark.parametrize("seed", range(8))
def test_cpm_equals_the_rules_of_the_challenge_from_geometry(seed):
    rng = np.random.default_rng(seed)
    scans, silent = 12, 3  # scans without a mark; one of them has a nodule
    findings = [(int(rng.integers(scans)), (100.0 * k, 0.0, 0.0), float(rng.uniform(2, 10))) for k in range(20)]
    nodules = [*findings[:14], (scans, (0.0, 0.0, 0.0), 5.0)]
    excluded = findings[14:]
    marks = []
    for k, (scan, centre, radius) in enumerate(findings):
        for _ in range(rng.integers(0, 4)):  # none, one, or several at one finding
            place = np.array(centre) + rng.uniform(-0.5, 0.5, 3) * radius
            marks.append((scan, tuple(place), round(float(rng.normal(1.5 if k < 14 else 0.5)), seed % 3 + 1)))
    marks += [
        (int(rng.integers(scans)), (-50.0, float(k), 0.0), round(float(rng.normal()), seed % 3 + 1)) for k in range(60)
    ]
    rows, total = [], 0
    seen = sorted({mark[0] for mark in marks})
    for scan in seen:
        own = [mark for mark in marks if mark[0] == scan]
        here = [Lesion(f[1], f[2]) for f in nodules if f[0] == scan]
        apart = [Lesion(f[1], f[2]) for f in excluded if f[0] == scan]
        hit = [any(math.dist(m[1], one.world) < one.radius for one in here) for m in own]
        found, count = mark_lesions([Candidate(k, m[1], int(hit[k])) for k, m in enumerate(own)], here, apart)
        total += len(here)
        rows += [
            {"scan": scan, "lesion": c.lesion, "lesions": count if here else 0, "score": m[2], "label": c.label,
             "silent_scans": scans + silent - len(seen), "silent_lesions": len(nodules) - sum(n[0] in seen for n in nodules)}
            for c, m in zip(found, own, strict=True)
        ]  # fmt: skip
    lesion, lesions, count = marks_of(rows)
    assert (lesions, count) == (len(nodules), scans + silent)
    got = froc(np.array([row["score"] for row in rows]), lesion, lesions=lesions, scans=count)
    assert got == pytest.approx(challenge(nodules, excluded, marks, scans + silent), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_froc_equals_walking_down_the_thresholds(seed):
    rng = np.random.default_rng(seed)
    scans, lesions, n = 4, 9, 120
    lesion = np.where(rng.random(n) < 0.2, rng.integers(0, 7, n), -1)  # lesions 7 and 8 have no candidate
    lesion[rng.random(n) < 0.1] = IGNORED
    score = np.round(rng.normal(lesion >= 0, 1), 1 if seed % 2 else 6)  # with ties, and without
    got = froc(score, lesion, lesions=lesions, scans=scans)
    assert got == pytest.approx(slow_froc(score.tolist(), lesion.tolist(), lesions=lesions, scans=scans), abs=1e-12)
    assert got[-1] <= 7 / 9
    assert (np.diff(got) >= 0).all()


def test_froc_by_hand():
    # two scans; lesion 0 is marked twice and found by its better mark, lesion 1 below two false positives
    score, lesion = np.array([0.9, 0.2, 0.8, 0.7, 0.6]), np.array([0, 0, -1, -1, 1])
    got = froc(score, lesion, lesions=2, scans=2)
    assert got.tolist() == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]  # a vertical step at one false positive per scan
    assert froc(score, lesion, lesions=4, scans=2).tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5]
    # one scan: below one false positive only the first of three nodules is found, however many follow it
    fault = froc(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, -1, 1, 2, -1]), lesions=3, scans=1)
    assert fault.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 1, 1, 1])
    assert np.isnan(froc(score[2:4], lesion[2:4], lesions=0, scans=2)).all()
    assert froc(score[:1], lesion[:1], lesions=1, scans=1).tolist() == [1.0] * 7
    assert froc(np.array([0.3]), np.array([-1]), lesions=1, scans=1).tolist() == [0.0] * 7

import math

import numpy as np
import pytest
import torch

from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec, SslMedError


def spec_of(target, names, dims=3):
    return DataSpec(
        name="x", spatial_dims=dims, in_channels=1, patch_size=(16,) * dims, target=target, class_names=names
    )


def task_of(spec, **config):
    cfg = backbone_config("unet", channels=(4, 8, 16))
    backbone = build_backbone(cfg, spatial_dims=spec.spatial_dims, in_channels=1)
    decoder = backbone.build_decoder()
    return task_class(spec)(TaskConfig(**config), spec, backbone, decoder), backbone, decoder


@pytest.mark.parametrize("dims", [2, 3])
def test_segmentation_predicts_images_larger_than_a_patch(dims):
    torch.manual_seed(0)
    task, backbone, decoder = task_of(spec_of("mask", ("liver", "tumor"), dims))
    for module in (task, backbone, decoder):
        module.eval()
    image = torch.rand(1, 1, *(24,) * dims)
    with torch.no_grad():
        logits = task.predict(image, backbone, decoder)
        patch = task.predict(image[(..., *[slice(0, 16)] * dims)], backbone, decoder)
        direct = task.logits(image[(..., *[slice(0, 16)] * dims)], backbone, decoder)
    assert logits.shape == (1, 2, *(24,) * dims)
    assert torch.allclose(patch, direct, atol=1e-4)  # one window: the weights cancel


def test_segmentation_rows_and_summary():
    task, *_ = task_of(spec_of("mask", ("liver", "tumor")))
    truth = torch.zeros(2, 2, 4, 4, 4)
    truth[0, 0, :2] = 1
    batch = {"mask": truth, "id": ["a", "b"]}
    logits = torch.where(truth > 0, 3.0, -3.0)
    logits[1, 1, 0, 0, 0] = 5.0  # one false voxel in an empty region
    rows = task.rows(logits, batch)
    assert rows[0] == {"case": "a", "dice": 1.0, "dice/liver": 1.0, "dice/tumor": 1.0}
    assert rows[1]["dice/tumor"] == 0.0
    assert task.summarize(rows) == {"dice": 0.75, "dice/liver": 1.0, "dice/tumor": 0.5}


def test_classification_scores_are_probabilities_and_auc_uses_them():
    task, *_ = task_of(spec_of("class", ("no", "yes")))
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    batch = {"label": torch.tensor([0, 1, 1]), "id": ["a", "b", "c"]}
    rows = task.rows(logits, batch)
    assert rows[0]["score/yes"] == pytest.approx(1 / (1 + math.exp(2)))
    summary = task.summarize(rows)
    assert summary["auc"] == 1.0
    assert summary["accuracy"] == pytest.approx(2 / 3)


def test_multilabel_states_how_many_classes_are_scored():
    task, *_ = task_of(spec_of("multilabel", ("a", "b"), 2))
    batch = {"label": torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), "id": ["x", "y", "z"]}
    summary = task.summarize(task.rows(torch.tensor([[1.0, 0], [0.0, 1], [2.0, 0]]), batch))
    assert summary["classes_scored"] == 1
    assert summary["auroc"] == summary["auroc/a"] == 1.0
    assert "auroc/b" not in summary


def test_a_loss_that_does_not_fit_is_refused():
    with pytest.raises(SslMedError, match=r"task.loss is 'ce', which does not fit masks; choose one of auto, dice"):
        task_of(spec_of("mask", ("liver",)), loss="ce")
    with pytest.raises(SslMedError, match="has no labels to learn"):
        task_class(spec_of("none", ()))


def test_multilabel_loss_is_mean_binary_cross_entropy():
    task, *_ = task_of(spec_of("multilabel", ("a", "b"), 2))
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(3, 2)), rng.integers(0, 2, (3, 2))
    expected = np.mean(
        [-math.log(p if y else 1 - p) for p, y in zip((1 / (1 + np.exp(-logits))).flat, label.flat, strict=True)]
    )
    got = task.loss(torch.tensor(logits), {"label": torch.tensor(label, dtype=torch.float32)})
    assert float(got) == pytest.approx(expected, abs=1e-6)


def test_unknown_labels_count_neither_in_the_loss_nor_in_the_score():
    task, *_ = task_of(spec_of("multilabel", ("a", "b"), 2))
    nan = float("nan")
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]], requires_grad=True)
    batch = {"label": torch.tensor([[1.0, nan], [0.0, 1.0], [nan, 0.0]]), "id": ["x", "y", "z"]}
    loss = task.loss(logits, batch)
    terms = [math.log1p(math.exp(-1.0)), math.log1p(math.exp(0.5)), math.log1p(math.exp(-3.0)), math.log(2)]
    assert float(loss.detach()) == pytest.approx(sum(terms) / 4, abs=1e-6)
    loss.backward()
    assert (logits.grad == 0).tolist() == [[False, True], [False, False], [True, False]]
    rows = task.rows(logits.detach(), batch)
    assert rows[0]["label/b"] is None
    assert task.summarize(rows)["auroc"] == 1.0
    nothing = task.loss(logits, {"label": torch.full((3, 2), nan)})
    assert float(nothing.detach()) == 0


def test_grades_have_a_kappa_and_many_classes_a_mean_auc():
    spec = spec_of("class", ("none", "mild", "severe"), 2)
    task, *_ = task_of(spec, ordered=True)
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 2.0, 1.0], [0, 0, 3.0]])
    batch = {"label": torch.tensor([0, 1, 2, 2]), "id": list("wxyz")}
    summary = task.summarize(task.rows(logits, batch))
    assert summary["accuracy"] == 0.75
    assert summary["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    # disagreement 1 of weight 1; by chance: counts (1, 1, 2) against (1, 2, 1)
    chance = (1 * 2 * 1 + 1 * 1 * 4 + 1 * 1 * 1 + 1 * 1 * 1 + 2 * 1 * 4 + 2 * 2 * 1) / 4
    assert summary["kappa"] == pytest.approx(1 - 1 / chance)
    assert summary["classes_scored"] == 3
    assert summary["auc"] == 1.0
    plain, *_ = task_of(spec)
    assert "kappa" not in plain.summarize(plain.rows(logits, batch))


def test_the_test_part_measures_surfaces_where_the_voxel_size_is_known():
    task, *_ = task_of(spec_of("mask", ("whole", "core")), tolerance_mm=2.0)
    truth = torch.zeros(1, 2, 12, 12, 12)
    truth[0, 0, 2:6, 2:6, 2:6] = 1
    logits = torch.where(truth.roll(1, 4) > 0, 1.0, -3.0)  # one voxel of 3 mm along z; probability .73
    batch = {"mask": truth, "id": ["a"], "spacing": torch.tensor([[1.0, 1.0, 3.0]])}
    row = task.test_rows(logits, batch)[0]
    assert row["iou/whole"] == pytest.approx(48 / 80)
    assert row["iou_50_95/whole"] == pytest.approx(48 / 80 / 2)  # thresholds .5 to .7; above, nothing is found
    assert row["hd95_mm/whole"] == 3.0
    assert row["hd95_mm"] == 1.5  # the core is empty in both
    assert row["surface_dice/core"] == row["iou/core"] == row["iou_50_95/core"] == 1.0
    assert 0 < row["surface_dice/whole"] < 1
    summary = task.summarize([{"case": "a", "subject": 0, **row}])
    assert summary["hd95_mm"] == 1.5
    assert "subject" not in summary
    del batch["spacing"]
    assert not [key for key in task.test_rows(logits, batch)[0] if key.startswith(("hd95", "surface"))]
    assert "iou" not in task.rows(logits, batch)[0]  # validation stays cheap
    single, *_ = task_of(spec_of("mask", ("liver",)))
    assert "iou/liver" not in single.test_rows(logits[:, :1], {"mask": truth[:, :1], "id": ["a"]})[0]


def test_candidates_have_a_froc():
    task, *_ = task_of(spec_of("class", ("no", "yes")))
    score = torch.tensor([0.9, 0.2, 0.8, 0.7, 0.6])
    batch = {"label": torch.tensor([1, 1, 0, 0, 1]), "id": list("abcde"), "case": torch.tensor([0, 0, 0, 1, 1])}
    # both scans have a lesion 0; that of the first is marked twice, and the second has one that nobody marked
    batch |= {"lesion": torch.tensor([0, 0, -1, -1, 0]), "lesions": torch.tensor([1, 1, 1, 2, 2])}
    rows = task.test_rows(torch.stack([torch.zeros(5), torch.logit(score)], 1), batch)
    summary = task.summarize(rows)
    third = 1 / 3
    found = [summary[f"sensitivity/{rate}"] for rate in ("0.125", "0.25", "0.5", "1", "2", "4", "8")]
    assert found == pytest.approx([third, third, third, 2 * third, 2 * third, 2 * third, 2 * third])
    assert summary["cpm"] == pytest.approx(11 / 21)
    assert "cpm" not in task.summarize(task.rows(torch.zeros(5, 2), batch))


def test_how_right_a_case_is():
    task, *_ = task_of(spec_of("class", ("no", "yes")))
    assert task.goodness({"label": 1, "score/no": 0.7, "score/yes": 0.3}) == 0.3
    task, *_ = task_of(spec_of("multilabel", ("a", "b", "c"), 2))
    row = {"label/a": 1, "label/b": 0, "label/c": None, "score/a": 0.6, "score/b": 0.2, "score/c": 0.9}
    assert task.goodness(row) == pytest.approx((0.6 + 0.8) / 2)
    assert math.isnan(task.goodness({**row, "label/a": None, "label/b": None}))
    task, *_ = task_of(spec_of("mask", ("a",)))
    assert task.goodness({"dice": 0.4}) == 0.4


def test_training_targets_of_classes_are_smoothed_and_weighted_and_evaluation_is_plain():
    task, *_ = task_of(spec_of("class", ("no", "yes")), label_smoothing=0.2, class_weights="balanced")
    task.balance(torch.tensor([3, 1]), torch.tensor([4, 4]))
    logits, label = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    total = 0.0
    for z, y in zip(logits.tolist(), label.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in z))
        for k, weight in enumerate((4 / 6, 2.0)):
            total -= weight * (0.9 if k == y else 0.1) * (z[k] - norm)
    batch = {"label": label}
    assert float(task.train().loss(logits, batch)) == pytest.approx(total / 2, abs=1e-6)
    assert float(task.train().loss(logits, {"label": task.soft(label)})) == pytest.approx(total / 2, abs=1e-6)
    plain = (
        -sum(z[y] - math.log(sum(map(math.exp, z))) for z, y in zip(logits.tolist(), label.tolist(), strict=True)) / 2
    )
    assert float(task.eval().loss(logits, batch)) == pytest.approx(plain, abs=1e-6)
    assert "weight" not in task.state_dict()


@pytest.mark.parametrize(
    ("target", "config", "words"),
    [
        ("mask", {"mixup": 0.2}, "task.mixup is for classes and findings"),
        ("mask", {"class_weights": "balanced"}, "task.class_weights is for classes"),
        ("multilabel", {"label_smoothing": 0.1}, "task.label_smoothing spreads"),
    ],
)
def test_settings_of_other_targets_are_refused(target, config, words):
    with pytest.raises(SslMedError, match=words):
        task_of(spec_of(target, ("a", "b")), **config)


@pytest.mark.parametrize(("target", "dims", "axes"), [("class", 2, ("row", "column")), ("multilabel", 3, ("x",))])
def test_mirrored_answers_of_whole_images_do_not_know_which_mirroring_they_saw(target, dims, axes):
    torch.manual_seed(0)
    task, backbone, _ = task_of(spec_of(target, ("a", "b"), dims), mirrored_test=True, flip_axes=axes)
    task.eval(), backbone.eval()
    image = torch.rand(2, 1, *(16,) * dims)
    sides = [[], [2]] if len(axes) == 1 else [[], [2], [3], [2, 3]]
    with torch.no_grad():
        each = [task.logits(image.flip(side), backbone, None) for side in sides]
        answer = task.predict(image, backbone, None)
        turned = task.predict(image.flip(sides[-1]), backbone, None)
    assert not torch.allclose(each[0], each[-1], atol=1e-5)
    assert torch.allclose(answer, torch.stack(each).mean(0), atol=1e-6)
    assert torch.allclose(answer, turned, atol=1e-6)

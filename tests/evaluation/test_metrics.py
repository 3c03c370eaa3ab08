"""The table of metrics: a worse answer is recognised as worse by every one of them, and none is missing."""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from ssl_med.evaluation.metrics import METRICS, UNRATED, Metric, conventions, metric_of
from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.losses.contrastive import info_nce
from ssl_med.losses.restoration import mse
from ssl_med.methods.core.measures import collapse, retrieval
from ssl_med.methods.core.predictive import classify
from ssl_med.spec import DataSpec, SslMedError

BACKBONE = SimpleNamespace(out_channels=4, channels=(4,))


def summary(target, names, logits, **batch):
    """What a task says of test samples with these logits."""
    dims = max(2, logits.ndim - 2)
    spec = DataSpec(
        name="x", spatial_dims=dims, in_channels=1, patch_size=(16,) * dims, target=target, class_names=names
    )
    task = task_class(spec)(TaskConfig(ordered=True), spec, BACKBONE, BACKBONE)
    batch["id"] = [f"{k:02d}" for k in range(len(logits))]
    found = task.summarize(task.test_rows(logits, batch))
    assert found.keys() - UNRATED.keys() == {*task.test_metrics(names)}, "what a column of a comparison may name"
    return found


def mask_metrics(right):
    truth = torch.zeros(1, 2, 12, 12, 12)
    truth[:, :, 4:9, 4:9, 4:9] = 1
    logits = 6 * torch.roll(truth, 0 if right else 2, -1) - 3
    return summary("mask", ("liver", "tumor"), logits, mask=truth, spacing=torch.ones(1, 3))


def class_metrics(right):
    lesion = torch.tensor([-1] * 16 + [0, 1, 2, 3])
    label = (lesion >= 0).long()
    logits = torch.stack([torch.zeros(20), 4.0 * label - 2], 1)
    if not right:
        logits[[*range(9), 17, 18]] *= -1  # more false positives than the last operating point
    zero = torch.zeros(20, dtype=torch.long)
    return summary("class", ("no", "yes"), logits, label=label, case=zero, lesion=lesion, lesions=zero + 4)


def finding_metrics(right):
    label = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    logits = 2 * label - 1
    if not right:
        logits[0] *= -2
    return summary("multilabel", ("Edema", "Mass"), logits, label=label)


def pair_metrics(right):
    one = F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    other = one if right else one.roll(1, 0)
    same = one if right else one[:1] * torch.arange(1.0, 9)[:, None]  # all on one line
    signs = collapse(same, F.normalize(torch.stack([same, other]), dim=2))
    return {**{key: float(value) for key, value in signs.items()}, "retrieval": float(retrieval(one, other)["metric"])}


def term_metrics(right):
    target = torch.eye(4)
    logits = 3 * (target if right else target.roll(1, 0))
    keys = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    contrast = info_nce(F.normalize(logits, dim=1), target, F.normalize(keys, dim=0), temperature=0.1)
    told = classify(logits, torch.arange(4))
    named = {
        "mse": (
            "mse",
            "restore",
            "restore_o",
            "restore_m",
            "restore_h",
            "restore_mixed_o",
            "restore_mixed_h",
            "deep",
            "discover",
        ),
        "contrast": ("contrast", "contrast_mix", "contrast_features", "compare", "compare_small", "image", "patches"),
        "loss": ("loss", "order", "rotation", "mask", "classify"),
        "accuracy": ("triplet_accuracy", "rotation_accuracy", "mask_accuracy"),
    }
    values = {"mse": mse(logits / 3, target), "contrast": contrast, "loss": told["loss"], "accuracy": told["metric"]}
    return {name: float(values[of]) for of, several in named.items() for name in several}


@pytest.fixture(scope="module")
def answers():
    """Logged key -> its value for a right and for a worse answer, as the suite computes it."""
    makers = (mask_metrics, class_metrics, finding_metrics, pair_metrics, term_metrics)
    found = {}
    for maker in makers:
        right, wrong = maker(True), maker(False)
        assert right.keys() == wrong.keys()
        found |= {key: (value, wrong[key]) for key, value in right.items()}
    return {**found, "samples_per_second": (20.0, 10.0)}


@pytest.mark.parametrize("name", METRICS)
def test_a_worse_answer_is_recognised_as_worse(answers, name):
    keys = [key for key in answers if key not in UNRATED and metric_of(key).name == name]
    assert keys, "give a right and a worse answer for this metric"
    for key in keys:
        right, wrong = answers[key]
        metric = metric_of(key)
        assert metric.better(right, wrong), key
        assert not metric.better(wrong, right), key
        assert metric.reaches(right, wrong)
        assert not metric.reaches(wrong, right)
        assert metric.better(wrong, math.nan)
        assert not metric.better(math.nan, wrong)
        assert [metric.best([math.nan, wrong, right, right]), metric.best([right, wrong])] == [2, 0]
        assert (metric.mode, metric.goal) == (("max", "maximize") if metric.higher_is_better else ("min", "minimize"))


def test_what_tasks_log_is_in_the_table(answers):
    assert set(answers) >= {"hd95_mm/tumor", "sensitivity/0.125", "cpm", "auroc/Mass", "positives", "classes_scored"}
    assert all(key in UNRATED or metric_of(key).convention for key in answers)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("val/dice", "dice"),
        ("test/hd95_mm/liver", "hd95_mm"),
        ("auroc/Pleural Effusion", "auroc"),
        ("dice/a/b", "dice"),
        ("online/knn_balanced_accuracy", "balanced_accuracy"),
        ("in_domain/auc", "auc"),
        ("curve/iou", "iou"),
        ("collapse/effective_rank", "effective_rank"),
        ("train/loss", "loss"),
    ],
)
def test_a_logged_key_names_its_metric(key, name):
    assert metric_of(key) is METRICS[name]
    assert isinstance(metric_of(key), Metric)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("val/dicee", "val/dicee: is no metric, so whether higher or lower is better is unknown; did you mean 'dice'?"),
        ("foo/dice", "foo/dice: is no metric"),
        ("online/auc", "online/auc: is no metric"),
        ("test/positives", "neither a higher nor a lower value is better"),
        ("val/mse_baseline", "val/mse_baseline: does not depend on what was learned; name val/mse"),
        ("", "is no metric"),
    ],
)
def test_an_unknown_direction_is_refused_in_one_line(key, said):
    with pytest.raises(SslMedError) as refused:
        metric_of(key)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_conventions_of_what_a_run_tested():
    told = conventions(["test/dice", "test/dice/liver", "test/hd95_mm", "val/iou", "in_domain/auc"])
    assert list(told) == ["dice", "hd95_mm"]
    assert told["dice"] == "per case and region; truth and prediction both empty -> 1, only one of them empty -> 0"


def test_the_table_itself_imports_no_torch():
    code = (
        "import sys, types; sys.modules['torch'] = types.SimpleNamespace(Tensor=object); "
        "import ssl_med.evaluation.metrics as m; print(len(m.METRICS), [x for x in sys.modules if x.startswith('torch.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(METRICS)} []"

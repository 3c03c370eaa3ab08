"""Maps of classes: what they refuse, what they make of labels, answers and test cases of both data sets."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ssl_med.evaluation.bootstrap import Interval, bootstrap, difference_of, mean_of
from ssl_med.evaluation.external import ClassMap, External, fit
from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec, SslMedError

NETWORK = backbone_config("unet", channels=(8, 8, 16), norm="group")


def spec(target, *names, name="a"):
    return DataSpec(name, 2, 1, (16, 16), orientation="", target=target, class_names=names)


def task_of(trained, mapped):
    """A task at its initialisation, and the same one behind a map."""
    backbone = build_backbone(NETWORK, spatial_dims=2, in_channels=1).eval()
    decoder = backbone.build_decoder().eval() if trained.target == "mask" else None
    task = task_class(trained)(TaskConfig(), trained, backbone, decoder).eval()
    return task, External(task, mapped, backbone, decoder), backbone, decoder


CLASSES = spec("class", "normal", "benign", "cancer")
OTHER = spec("class", "none", "polyp", "tumour", "artefact", name="b")
FINDINGS = spec("multilabel", "Edema", "Effusion", "Mass")


@pytest.mark.parametrize(
    ("classes", "trained", "other", "message"),
    [
        (
            {"nomal": ("none",)},
            CLASSES,
            OTHER,
            r"map.nomal: the run was not trained on 'nomal'; there are: normal, benign",
        ),
        ({"normal": ("nothing",)}, CLASSES, OTHER, r"map.normal: 'b' has no class 'nothing'; there are: none, polyp"),
        ({"normal": ()}, CLASSES, OTHER, r"map.normal names no class of 'b'"),
        ({}, CLASSES, OTHER, r"map: no class of the run \(normal, benign, cancer\) stands for one of 'b'"),
        ({"normal": ("none",)}, CLASSES, OTHER, r"map: only normal is mapped; a task of classes needs two"),
        ({"benign": ("polyp",), "cancer": ("polyp", "tumour")}, CLASSES, OTHER, r"'polyp' counts as two classes"),
        ({"normal": ("liver",)}, CLASSES, spec("mask", "liver", name="b"), r"trained on classes, 'b' has masks"),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(classes, trained, other, message):
    with pytest.raises(SslMedError, match=message) as caught:
        fit(ClassMap(classes), trained, other)
    assert "\n" not in str(caught.value)
    with pytest.raises(SslMedError, match="uncertain is 'maybe'; it must be one of ignore, zeros, ones"):
        ClassMap({}, "maybe")


def test_classes_are_scored_among_the_mapped_ones_alone():
    mapped = fit(ClassMap({"cancer": ("polyp", "tumour"), "normal": ("none",)}), CLASSES, OTHER)
    assert mapped.spec.class_names == ("normal", "cancer")  # the order of the training, whatever that of the words
    assert (mapped.trained, mapped.external) == (("benign",), ("artefact",))
    assert any("benign" in note for note in mapped.notes())
    assert any("artefact" in note for note in mapped.notes())
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    label = torch.arange(40) % 4
    _, external, *_ = task_of(CLASSES, mapped)
    batch = {"id": [f"{k:02d}" for k in range(40)], "label": label}
    rows = external.test_rows(mapped.logits(logits, "class"), batch)
    kept = external.counted(rows)
    assert [row["case"] for row in kept] == [f"{k:02d}" for k in range(40) if k % 4 != 3]
    truth = np.array([k % 4 > 0 for k in range(40) if k % 4 != 3])
    score = torch.exp(logits[:, 2]) / (torch.exp(logits[:, 0]) + torch.exp(logits[:, 2]))
    chosen = score.numpy()[np.arange(40) % 4 != 3]
    metrics = external.summarize(rows)
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, chosen))
    assert metrics["accuracy"] == pytest.approx(((chosen > 0.5) == truth).mean())
    assert metrics["positives"] == truth.sum()
    with pytest.raises(SslMedError, match="no external case has a mapped class"):
        external.summarize([row for row in rows if row["label"] == -1])


def test_in_domain_cases_are_scored_as_the_network_would_be():
    """What a table of the trained run holds, reduced to the mapped classes, equals reducing the logits."""
    mapped = fit(ClassMap({"normal": ("none",), "cancer": ("tumour",)}), CLASSES, OTHER)
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    task, external, *_ = task_of(CLASSES, mapped)
    label = torch.arange(30) % 3
    table = task.test_rows(logits, {"id": [str(k) for k in range(30)], "label": label})
    table = [{**row, "label": float(row["label"]), "subject": 4.0} for row in table]  # as a CSV reads
    rows = mapped.rows(table, CLASSES)
    assert [row["case"] for row in rows] == [str(k) for k in range(30) if k % 3 != 1]
    direct = mapped.logits(logits, "class").softmax(1)[label != 1]
    assert [row["score/cancer"] for row in rows] == pytest.approx(direct[:, 1].tolist())
    assert all(isinstance(row["label"], int) and row["subject"] == 4 for row in rows)
    assert external.summarize(rows)["auc"] == pytest.approx(roc_auc_score(label[label != 1] == 2, direct[:, 1]))


def test_findings_of_several_columns_and_uncertain_labels():
    other = spec("multilabel", "a", "b", "c", name="b")
    label = torch.tensor([[1, 0, 0], [0, 0, 1], [0, math.nan, 0], [1, math.nan, 1]])
    expected = {"ignore": [1, 0, math.nan, 1], "zeros": [1, 0, 0, 1], "ones": [1, 0, 1, 1]}
    for uncertain, wanted in expected.items():
        mapped = fit(ClassMap({"Effusion": ("a", "b"), "Mass": ("c",)}, uncertain), FINDINGS, other)
        got = mapped.batch({"label": label})["label"]
        assert got[:, 0].tolist() == pytest.approx(wanted, nan_ok=True)
        assert got[:, 1].tolist() == [0, 1, 0, 1]
    assert mapped.logits(torch.tensor([[1.0, 2.0, 3.0]]), "multilabel").tolist() == [[2.0, 3.0]]
    table = [
        {"case": "x", "subject": 3.0}
        | {f"{kind}/{n}": 0.5 for kind in ("label", "score") for n in FINDINGS.class_names}
    ]
    (row,) = mapped.rows(table, FINDINGS)
    assert set(row) == {"case", "subject", "label/Effusion", "score/Effusion", "label/Mass", "score/Mass"}


def test_classes_meet_findings_each_against_the_rest():
    other = spec("multilabel", "tumour", "other", name="b")
    mapped = fit(ClassMap({"cancer": ("tumour",)}), CLASSES, other)
    assert mapped.spec.target == "multilabel"
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    assert mapped.logits(logits, "class").sigmoid()[:, 0].tolist() == pytest.approx(logits.softmax(1)[:, 2].tolist())
    back = fit(ClassMap({"Mass": ("polyp", "tumour")}), FINDINGS, OTHER)
    assert back.batch({"label": torch.tensor([0, 1, 2, 3])})["label"].tolist() == [[0], [1], [1], [0]]
    rows = mapped.rows(
        [{"case": "x", "label": 2.0, "score/normal": 0.1, "score/benign": 0.2, "score/cancer": 0.7}], CLASSES
    )
    assert rows == [{"case": "x", "label/cancer": 1, "score/cancer": 0.7}]


def test_masks_of_several_regions_and_their_values():
    trained, other = spec("mask", "liver", "tumor"), spec("mask", "liver", "cancer", "vessel", name="b")
    mapped = fit(ClassMap({"liver": ("liver", "cancer")}), trained, other)
    mask = torch.zeros(1, 3, 16, 16)
    mask[0, 0, :4], mask[0, 1, 4:8], mask[0, 2, 8:] = 1, 1, 1
    _, external, backbone, decoder = task_of(trained, mapped)
    batch = {"id": ["x"], "mask": mask, "image": torch.rand(1, 1, 16, 16)}
    logits = torch.full((1, 2, 16, 16), -1.0)
    logits[0, 0, :6] = 1.0
    (row,) = external.test_rows(mapped.logits(logits, "mask"), batch)
    assert row["dice"] == pytest.approx(2 * 6 / (6 + 8))
    assert row["iou"] == pytest.approx(6 / 8)
    assert set(row) == {"case", "dice", "dice/liver", "iou", "iou_50_95"}
    answer = external.predict(batch["image"], backbone, decoder)
    assert torch.equal(answer, external.trained.predict(batch["image"], backbone, decoder)[:, :1])
    assert external.picture(answer, batch)["truth"].sum() == 8 * 16
    table = [{"case": "y", "subject": 1.0, "dice": 0.5, "dice/liver": 0.9, "dice/tumor": 0.1}]
    table[0] |= {"iou": 0.4, "iou/liver": 0.7, "iou/tumor": 0.1}
    wanted = {"case": "y", "subject": 1, "dice": 0.9, "dice/liver": 0.9, "iou": 0.7}
    assert mapped.rows(table, trained) == [wanted]
    whole = fit(ClassMap({"liver": ("liver",), "tumor": ("cancer",)}), trained, other)
    assert whole.rows(table, trained)[0]["dice"] == 0.5


def test_the_interval_of_a_drop_is_that_of_independent_samples():
    """For symmetric intervals it is the root of the sum of squares; it covers a difference of means as often as stated."""
    one, other = (Interval(e, e - h, e + h, 0.95, "expanded", 1000, 9) for e, h in ((0.9, 0.03), (0.7, 0.04)))
    drop = difference_of(one, other)
    assert (drop.estimate, drop.low, drop.high) == pytest.approx((0.2, 0.15, 0.25))
    skewed = difference_of(Interval(0.9, 0.8, 0.92, 0.95, "expanded", 1000, 9), other)
    assert skewed.high - skewed.estimate == pytest.approx(math.hypot(0.02, 0.04))
    assert skewed.estimate - skewed.low == pytest.approx(math.hypot(0.1, 0.04))
    nothing = difference_of(one, Interval(0.7, math.nan, math.nan, 0.95, "expanded", 1000, 2, reason="2 subjects"))
    assert nothing.reason == "2 subjects"
    assert math.isnan(nothing.low)
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        pair = [rng.exponential(1, 40), rng.exponential(1, 25)]
        found = difference_of(*(bootstrap(mean_of(x), range(len(x)), resamples=300) for x in pair))
        inside += found.low <= 0 <= found.high
    assert 0.90 <= inside / 200 <= 0.99

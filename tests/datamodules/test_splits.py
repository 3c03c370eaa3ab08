"""Splits and label budgets: by subject, seeded, counted by hand."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from datamodules.core.base import MedicalData
from datamodules.core.splits import check_split, file_split, label_budget, random_split, share_split
from datamodules.lits import LitsConfig, LitsData
from ssl_med.spec import SslMedError

PAPER = (0.7, 0.1, 0.2)


def sizes(split):
    return tuple(len(split[part]) for part in ("train", "val", "test"))


# -------------------------------------------------------------------------------------------- at random


@pytest.mark.parametrize(
    ("count", "expected"),
    [(131, (91, 13, 27)), (888, (621, 88, 179)), (10, (7, 1, 2)), (20, (14, 2, 4)), (5, (3, 1, 1)), (3, (1, 1, 1)),
     (2, (1, 0, 1)), (1, (1, 0, 0)), (30805, (21563, 3080, 6162))],
)  # fmt: skip
def test_floor_floor_rest(count, expected):
    names = [f"p{i}" for i in range(count)]
    split = random_split(names, ratios=PAPER, seed=0)
    assert sizes(split) == expected
    assert sorted(split["train"] + split["val"] + split["test"]) == sorted(names)


@pytest.mark.parametrize("ratios", [PAPER, (0.6, 0.2, 0.2), (0.34, 0.33, 0.33), (0.01, 0.01, 0.98), (0.5, 0.0, 0.5)])
def test_every_size_is_partitioned_and_validated(ratios):
    for count in range(1, 60):
        names = [str(i) for i in range(count)]
        split = random_split(names, ratios=ratios, seed=count)
        assert sorted(name for members in split.values() for name in members) == sorted(names)
        assert split["train"]
        assert bool(split["val"]) == (ratios[1] > 0 and (count >= 3 or math.floor(ratios[1] * count) > 0))
        assert bool(split["test"]) == (count > 1)


def test_a_share_of_nothing_gets_nobody():
    for count in range(1, 40):
        names = [str(i) for i in range(count)]
        for ratios in ((0.9, 0.1, 0.0), (0.66, 0.34, 0.0), (1.0, 0.0, 0.0)):
            split = random_split(names, ratios=ratios, seed=0)
            assert not split["test"], "without a test share all the rest trains"
            assert len(split["val"]) == (max(math.floor(ratios[1] * count + 1e-9), count >= 3) if ratios[1] else 0)


def test_seeded_and_independent_of_order_and_repetition():
    names = [f"patient {i}" for i in range(50)]
    split = random_split(names, ratios=PAPER, seed=7)
    assert random_split(reversed(names), ratios=PAPER, seed=7) == split
    assert random_split(names + names[:9], ratios=PAPER, seed=7) == split
    assert random_split(iter(set(names)), ratios=PAPER, seed=7) == split
    others = [random_split(names, ratios=PAPER, seed=s) for s in range(8)]
    assert len({tuple(o["test"]) for o in others}) == 8
    # each subject is tested about equally often over many seeds
    tested = Counter(n for s in range(400) for n in random_split(names, ratios=PAPER, seed=s)["test"])
    assert min(tested.values()) > 45
    assert max(tested.values()) < 120


@pytest.mark.parametrize("ratios", [(0.7, 0.1, 0.1), (0.7, 0.3), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_ratios_that_are_no_shares(ratios):
    with pytest.raises(SslMedError, match=r"data.split_ratios \[.*\] must be three shares"):
        random_split("abc", ratios=ratios, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(SslMedError, match=r"data.split_seed is -1; it must be 0 or more"):
        random_split("abc", ratios=PAPER, seed=-1)


# --------------------------------------------------------------------------------------------- from files


@pytest.fixture
def write(tmp_path):
    def to(tree):
        path = tmp_path / "splits.json"
        path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
        return str(path)

    return to


def test_file_split_reads_lists_and_keys(write):
    known = [str(i) for i in range(8)]
    tree = {"train": [1, 2, 3], "val": ["4"], "test": [5, "6"]}
    expected = {"train": ["1", "2", "3"], "val": ["4"], "test": ["5", "6"]}
    assert file_split(write(tree), known=known, test_is_val=False) == expected
    assert file_split(write({"lits": tree, "x": 1}) + ":lits", known=known, test_is_val=False) == expected
    assert file_split(write({"train": [1], "test": [2]}), known=known, test_is_val=False)["val"] == []
    two = write({"train": [1, 2], "val": [3]})
    assert file_split(two, known=known, test_is_val=True) == {"train": ["1", "2"], "val": [], "test": ["3"]}


@pytest.mark.parametrize(
    ("tree", "key", "message"),
    [
        ("{not json", "", "is not valid JSON"),
        ({"train": [1]}, ":lits", "has no key 'lits'"),
        ([1, 2], ":lits", "has no key 'lits'"),
        ([1, 2], "", "needs lists of subject ids under train, val and test"),
        ({"val": [1], "test": [2]}, "", "needs lists of subject ids"),
        ({"train": "1", "val": [], "test": []}, "", "needs lists of subject ids"),
        ({"train": [1], "val": "2", "test": []}, "", "'val' is .*; it must be a list"),
        ({"train": [1], "val": [2]}, "", "has no 'test' list; add one, or set data.test_is_val=true"),
        ({"train": [1], "val": [9], "test": [2]}, "", r"'9' in 'val' is not below data.root \(1 in all\)"),
    ],
)
def test_file_split_errors(tree, key, message, write):
    spelled = write(tree) + key
    with pytest.raises(SslMedError, match=message) as caught:
        file_split(spelled, known=["1", "2"], test_is_val=False)
    assert str(caught.value).startswith("data.split_file ")
    assert "splits.json" in str(caught.value)


def test_file_split_needs_a_file_and_no_contradiction(write, tmp_path):
    with pytest.raises(SslMedError, match=r"absent.json: cannot be read"):
        file_split(str(tmp_path / "absent.json"), known=[], test_is_val=False)
    tree = {"train": [1], "val": [2], "test": [3]}
    with pytest.raises(SslMedError, match=r"has a 'test' list; data.test_is_val=true is for files without one"):
        file_split(write(tree), known=["1", "2", "3"], test_is_val=True)


def test_a_patient_in_two_parts_is_refused():
    with pytest.raises(SslMedError, match=r"here: subject 'b' is in both 'train' and 'test'; keep it in one part"):
        check_split({"train": ["a", "b"], "val": ["c"], "test": ["d", "b"]}, source="here")
    with pytest.raises(SslMedError, match=r"here: subject 'c' is listed twice in 'val'"):
        check_split({"train": ["a"], "val": ["c", "c"], "test": []}, source="here")
    assert check_split({"train": ["a"], "test": ["b"]}, source="") == {"train": ["a"], "val": [], "test": ["b"]}


# ---------------------------------------------------------------------------------------------- budgets


def cohort(rng, count, strata):
    return {f"s{i:03d}": f"class {rng.integers(strata)}" for i in range(count)}


FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0)


@pytest.mark.parametrize("strata", [1, 2, 3, 6])
def test_budgets_are_nested_counted_and_stratified(strata):
    rng = np.random.default_rng(0)
    for seed in range(40):
        signatures = cohort(rng, int(rng.integers(2, 120)), strata)
        members = Counter(signatures.values())
        total = len(signatures)
        smaller = set()
        for fraction in FRACTIONS:
            budget = label_budget(signatures, fraction=fraction, seed=seed)
            assert budget == sorted(set(budget))
            assert smaller <= set(budget)
            smaller = set(budget)
            assert len(budget) == max(1, round(fraction * total))
            drawn = Counter(signatures[name] for name in budget)
            for stratum, size in members.items():
                # spread evenly: the count of a stratum errs by less than 1 at any place of the merged order, and the
                # common place errs by the sum of the others' errors, so that two strata err by less than 1
                share = size / total
                bound = 1 if len(members) <= 2 else (1 - share) + share * (len(members) - 1)
                assert abs(drawn[stratum] - len(budget) * share) <= bound + 1e-9
    assert smaller == set(signatures)


@pytest.mark.parametrize("lead", ["class 0", "class 1"])
def test_the_smallest_budget_holds_the_lead_stratum(lead):
    rng = np.random.default_rng(1)
    for seed in range(60):
        signatures = {f"s{i}": f"class {int(rng.random() < 0.1)}" for i in range(40)}
        if lead not in signatures.values():
            continue
        smaller = set()
        for fraction in FRACTIONS:
            budget = set(label_budget(signatures, fraction=fraction, seed=seed, lead=lead))
            assert any(signatures[name] == lead for name in budget)
            assert smaller <= budget
            smaller = budget


def test_budgets_do_not_depend_on_the_order_of_subjects_but_on_the_seed():
    signatures = cohort(np.random.default_rng(2), 60, 3)
    back = dict(reversed(signatures.items()))
    for seed in range(10):
        assert label_budget(signatures, fraction=0.3, seed=seed) == label_budget(back, fraction=0.3, seed=seed)
    assert len({tuple(label_budget(signatures, fraction=0.3, seed=seed)) for seed in range(10)}) == 10
    chosen = Counter(n for seed in range(600) for n in label_budget(signatures, fraction=0.1, seed=seed))
    assert len(chosen) == 60
    assert max(chosen.values()) < 4 * 600 * 0.1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_fractions_outside_of_their_range(fraction):
    with pytest.raises(SslMedError, match=r"labels.fraction is .*; it must be above 0 and at most 1"):
        label_budget({"a": ""}, fraction=fraction, seed=0)


# --------------------------------------------------------------------------------- through a data module


class Listed(LitsData):
    """LiTS with subjects that are given, not found: 30 with masks, and 10 more scans for unlabelled use."""

    def index(self, root):
        from datamodules.core.scans import Scan

        return [Scan(f"v{i}", str(i), ("x",), "m" if i < 30 else "", 1) for i in range(30 if self.labelled else 40)]

    def check_case(self, case):
        """There are no files to look at."""


def module(tmp_path, *, labelled, fraction=1.0, seed=0, **settings) -> MedicalData:
    return Listed(
        LitsConfig(name="lits", root=str(tmp_path), **settings),
        labelled=labelled, batch_size=2, label_fraction=fraction, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("split_seed", range(6))
def test_test_subjects_are_never_pretrained_on(split_seed, tmp_path):
    supervised = module(tmp_path, labelled=True, split_seed=split_seed)
    supervised.setup()
    for seed in (0, 1):  # the run's seed changes nothing
        unlabelled = module(tmp_path, labelled=False, split_seed=split_seed, seed=seed)
        unlabelled.setup()
        tested = set(supervised.subjects()["test"])
        assert tested
        assert "test" not in unlabelled.subjects()
        for part in ("train", "val"):
            assert not tested & set(unlabelled.subjects()[part])
            assert set(supervised.subjects()[part]) <= set(unlabelled.subjects()[part])
    assert sizes({p: supervised.subjects()[p] for p in ("train", "val", "test")}) == (21, 3, 6)


def test_label_budgets_leave_validation_and_test_alone(tmp_path):
    whole = module(tmp_path, labelled=True)
    whole.setup()
    before = set()
    for fraction in (0.05, 0.2, 0.5, 1.0):
        part = module(tmp_path, labelled=True, fraction=fraction, seed=3)
        part.setup()
        assert part.subjects()["val"] == whole.subjects()["val"]
        assert part.subjects()["test"] == whole.subjects()["test"]
        assert before <= set(part.subjects()["train"])
        before = set(part.subjects()["train"])
        assert part.describe()["labels"] == {"subjects": len(before), "of": len(whole.subjects()["train"])}
    assert before == set(whole.subjects()["train"])


def test_split_options_of_a_module(tmp_path, write):
    with pytest.raises(SslMedError, match=r"data.split 'randon' is unknown; did you mean 'random'\?"):
        module(tmp_path, labelled=False, split="randon").setup()
    with pytest.raises(SslMedError, match=r"data.split=file needs data.split_file=FILE.json"):
        module(tmp_path, labelled=False, split="file").setup()
    both = write({"train": [1, 2], "val": [2], "test": [3]})
    with pytest.raises(SslMedError, match="subject '2' is in both 'train' and 'val'"):
        module(tmp_path, labelled=True, split="file", split_file=both).setup()
    with pytest.raises(SslMedError, match="no training subject is left"):
        module(tmp_path, labelled=True, split="file", split_file=write({"train": [], "test": [1]})).setup()
    with pytest.raises(SslMedError, match="no test subject is left"):
        module(tmp_path, labelled=True, split="file", split_file=write({"train": [1], "test": []})).setup()
    data = module(tmp_path, labelled=True, split="file", split_file=write({"train": [1], "val": [2]}), test_is_val=True)
    data.setup()
    assert data.subjects() == {"train": ["1"], "test": ["2"]}
    assert data.describe()["notes"] == [
        "the split file has no test list: its val list is the test part",
        "no validation part: the last weights are used",
    ]
    assert data.val_dataloader() == []
    tested = module(tmp_path, labelled=True, split="file", split_file=write({"train": [1], "val": [2], "test": [3]}))
    tested.setup()
    assert tested.describe()["notes"] == []


# ------------------------------------------------------------------------------ shots, and shares for pretraining


def test_shots_are_nested_and_count_each_stratum():
    signatures = cohort(np.random.default_rng(3), 90, 4)
    members = Counter(signatures.values())
    for seed in range(20):
        smaller = set()
        for shots in (1, 2, 5, 9, 200):
            budget = label_budget(signatures, shots=shots, seed=seed)
            assert budget == sorted(set(budget))
            assert smaller <= set(budget)
            smaller = set(budget)
            assert Counter(signatures[name] for name in budget) == {k: min(n, shots) for k, n in members.items()}
    assert len({tuple(label_budget(signatures, shots=2, seed=seed)) for seed in range(10)}) == 10


def test_shares_divide_each_group_and_are_nested():
    groups = {"labelled": [f"a{i}" for i in range(20)], "": [f"b{i}" for i in range(10)]}
    larger = set()
    for share, count in ((0.95, (19, 9)), (0.9, (18, 9)), (0.8, (16, 8)), (0.7, (14, 7)), (0.6, (12, 6))):
        first, second = share_split(groups, share=share, seed=0)
        assert sorted(first + second) == sorted(groups["labelled"] + groups[""])
        assert not set(first) & set(second)
        assert tuple(sum(name[0] == letter for name in first) for letter in "ab") == count
        assert not larger or set(first) <= larger
        larger = set(first)
    assert share_split({"": ["x", "y"]}, share=0.95, seed=0)[1], "labels keep somebody"
    assert len({tuple(share_split(groups, share=0.5, seed=s)[0]) for s in range(10)}) == 10
    with pytest.raises(SslMedError, match=r"data.pretrain_share is 1; it must lie in"):
        share_split(groups, share=1.0, seed=0)


@pytest.mark.parametrize("share", [0.6, 0.8, 0.9, 0.95])
def test_pretraining_and_labels_get_different_training_patients(share, tmp_path):
    plain, unshared = module(tmp_path, labelled=True), module(tmp_path, labelled=False)
    labelled = module(tmp_path, labelled=True, pretrain_share=share)
    unlabelled = module(tmp_path, labelled=False, pretrain_share=share, seed=7)
    for data in (plain, unshared, labelled, unlabelled):
        data.setup()
    mine, theirs = (set(data.subjects()["train"]) for data in (labelled, unlabelled))
    whole = set(plain.subjects()["train"])
    assert not mine & theirs
    assert mine | (theirs & whole) == whole
    assert len(mine) == len(whole) - math.floor(share * len(whole) + 1e-9)
    # scans without labels have no use but pretraining
    assert set(unshared.subjects()["train"]) - whole == theirs - whole
    assert labelled.subjects()["test"] == plain.subjects()["test"]
    assert labelled.labels_of == len(mine)
    assert labelled.notes == [f"pretraining has {share:g} of the training subjects, labels the rest"]


class Twice(Listed):
    """Two scans a patient."""

    def index(self, root):
        from datamodules.core.scans import Scan

        return [Scan(f"v{i}", str(i // 2), ("x",), "m", 1) for i in range(40)]


def test_a_share_by_image_prints_its_leak(tmp_path):
    sides = []
    for labelled in (True, False):
        config = LitsConfig(name="lits", root=str(tmp_path), pretrain_share=0.5, share_by="image")
        data = Twice(config, labelled=labelled, batch_size=2)
        data.setup()
        sides.append(data)
    cases = [{case.name for case in data.parts["train"]} for data in sides]
    assert not cases[0] & cases[1]
    both = set(sides[0].subjects()["train"]) & set(sides[1].subjects()["train"])
    assert both, "a patient of two scans lies on both sides"
    (note,) = sides[0].notes
    assert (
        f"LEAK: {len(both)} of the {len(sides[0].subjects()['train'])} subjects here are on the other side too" in note
    )
    config = LitsConfig(name="lits", root=str(tmp_path), pretrain_share=0.5)
    by_patient = [Twice(config, labelled=labelled, batch_size=2) for labelled in (True, False)]
    for data in by_patient:
        data.setup()
    assert not set(by_patient[0].subjects()["train"]) & set(by_patient[1].subjects()["train"])

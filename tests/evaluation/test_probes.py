"""Probes against loops and scikit-learn; features against single images; the cache against its keys."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ssl_med.evaluation.features import Features, cached, check_levels, extract, pooled, weights_key
from ssl_med.evaluation.protocols.fewshot import FewshotConfig, draw_episodes, episode_answers, fewshot
from ssl_med.evaluation.protocols.knn import KnnConfig, knn, knn_scores
from ssl_med.evaluation.protocols.linear import LinearConfig, linear
from ssl_med.evaluation.protocols.pretext_position import position_samples
from ssl_med.evaluation.protocols.pretext_rotation import rotation_samples
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec, SslMedError

NAN = float("nan")


def spec_of(target, names):
    return DataSpec(name="x", spatial_dims=2, in_channels=1, patch_size=(16, 16), target=target, class_names=names)


def features(n, k, seed, d=6, spread=1.5):
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % k
    x = torch.randn(k, d, generator=torch.Generator().manual_seed(0))[label] + spread * torch.randn(n, d, generator=g)
    return Features(tuple(f"{seed}/{i}" for i in range(n)), x, label)


@pytest.mark.slow
def test_the_linear_probe_is_that_of_the_paper():
    """45 values, the first best on validation, final fit on train and validation: a loop over scikit-learn."""
    spec = spec_of("class", ("a", "b", "c"))
    train, val, test = features(60, 3, 1), features(30, 3, 2), features(40, 3, 3)
    config = LinearConfig()
    grid = config.grid()
    assert (len(grid), float(grid[0]), float(grid[-1])) == (45, pytest.approx(1e-6), pytest.approx(1e5))
    assert torch.allclose(grid[1:] / grid[:-1], torch.tensor(10 ** (11 / 44), dtype=torch.float64))
    best, best_c = -1.0, None
    for l2 in grid.tolist():
        fit = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(train.x.numpy(), train.label.numpy())
        value = fit.score(val.x.numpy(), val.label.numpy())
        if value > best:
            best, best_c = value, 1 / l2
    both = train + val
    fit = LogisticRegression(C=best_c, max_iter=5000, tol=1e-10).fit(both.x.numpy(), both.label.numpy())
    outcome = linear(config, spec, train, val, test, refit=True)
    assert outcome.chosen["val/accuracy"] == pytest.approx(best)
    assert outcome.chosen["l2"] == pytest.approx(1 / best_c)
    expected = fit.predict_proba(test.x.numpy())
    assert np.abs(outcome.logits.softmax(1).numpy() - expected).max() < 1e-3
    alone = linear(config, spec, train, val, test, refit=False)
    assert not torch.allclose(alone.logits, outcome.logits)


@pytest.mark.slow
def test_findings_choose_their_own_strength_by_auroc():
    spec = spec_of("multilabel", ("x", "y", "never"))
    parts = []
    for seed in (1, 2, 3):
        base = features(80, 4, seed)
        label = torch.stack([(base.label < 2).float(), (base.label % 2).float(), torch.zeros(80)], 1)
        label[::7, 1] = NAN
        parts.append(Features(base.ids, base.x, label))
    train, val, test = parts
    outcome = linear(LinearConfig(), spec, train, val, test, refit=False)
    grid = LinearConfig().grid()
    for k, name in enumerate(("x", "y")):
        rows, seen = ~train.label[:, k].isnan(), ~val.label[:, k].isnan()
        values = []
        for l2 in grid.tolist():
            fit = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(train.x[rows], train.label[rows, k])
            values.append(roc_auc_score(val.label[seen, k], fit.decision_function(val.x[seen])))
        chosen = int((grid.log() - math.log(outcome.chosen[f"l2/{name}"])).abs().argmin())
        assert values[chosen] == pytest.approx(max(values), abs=3e-3)
    assert not outcome.logits[:, 2].any()
    assert any("never" in note for note in outcome.notes)


@pytest.mark.parametrize("target", ["class", "multilabel"])
def test_neighbours_vote_as_a_loop_does(target):
    database, queries = features(50, 3, 1), features(20, 3, 2)
    names = ("a", "b", "c")
    if target == "multilabel":
        label = torch.nn.functional.one_hot(database.label, 3).float()
        label[::5, 1] = NAN
        database = Features(database.ids, database.x, label)
    got = knn_scores(queries.x, database, spec_of(target, names), neighbours=[1, 7], temperature=0.1)
    for row, x in enumerate(queries.x.double()):
        cosine = [float(x @ y / (x.norm() * y.norm())) for y in database.x.double()]
        order = sorted(range(50), key=lambda i: -cosine[i])
        for g, k in enumerate((1, 7)):
            for c in range(3):
                total = part = 0.0
                for i in order[:k]:
                    y = float(database.label[i] == c) if target == "class" else float(database.label[i, c])
                    if y == y:
                        weight = math.exp(cosine[i] / 0.1)
                        total, part = total + weight, part + weight * y
                assert float(got[g, row, c]) == pytest.approx(part / total if total else 0.5, abs=1e-9)


def test_the_number_of_neighbours_is_chosen_on_validation():
    spec = spec_of("class", ("a", "b"))
    train, val, test = features(40, 2, 1), features(60, 2, 2), features(30, 2, 3)
    outcome = knn(KnnConfig(neighbours=(1, 5, 15, 500)), spec, train, val, test)
    values = {}
    for k in (1, 5, 15):
        votes = knn_scores(val.x, train, spec, neighbours=[k], temperature=0.07)[0]
        values[k] = float((votes.argmax(1) == val.label).double().mean())
    assert outcome.chosen == {"neighbours": max(values, key=values.get), "val/accuracy": max(values.values())}
    assert torch.allclose(outcome.logits.softmax(1).sum(1), torch.ones(30, dtype=torch.float64))
    with pytest.raises(SslMedError, match="none is as small as the 40 training samples"):
        knn(KnnConfig(neighbours=(100,)), spec, train, val, test)


@pytest.mark.parametrize("pool", [False, True])
def test_episodes_equal_the_loop(pool):
    support, query = features(90, 3, 1), features(90, 3, 2)
    query = support if pool else query
    rows = [np.flatnonzero(support.label.numpy() == k) for k in range(3)]
    rng = np.random.default_rng(0)
    first, second = draw_episodes(rows, rows, ways=2, shots=5, queries=4, count=50, rng=rng, pool=pool)
    right = episode_answers(support.x, query.x, first, second)
    for e in range(50):
        chosen = [int(support.label[first[e, w, 0]]) for w in range(2)]
        assert len(set(chosen)) == 2
        means = [support.x[first[e, w]].double().mean(0) for w in range(2)]
        for w in range(2):
            assert len(set(first[e, w].tolist())) == 5
            assert len(set(second[e, w].tolist())) == 4
            assert set(support.label[first[e, w]].tolist()) == set(query.label[second[e, w]].tolist()) == {chosen[w]}
            if pool:
                assert not set(first[e, w].tolist()) & set(second[e, w].tolist())
            for q in range(4):
                z = query.x[second[e, w, q]].double()
                distances = [float(((z - mean) ** 2).sum()) for mean in means]
                assert bool(right[e, w, q]) == (distances.index(min(distances)) == w)


def test_few_shot_states_its_interval_and_its_needs():
    spec = spec_of("class", tuple("abcdef"))
    train, test = features(240, 6, 1), features(180, 6, 2)
    found = fewshot(FewshotConfig(episodes=40), spec, train, test, seed=0)
    each = found.accuracy.numpy()
    assert each.shape == (40,)
    assert found.metrics == pytest.approx({"accuracy": each.mean(), "accuracy_ci95": 1.96 * each.std() / math.sqrt(40)})
    assert int(found.asked.sum()) == 40 * 5 * 15, "five ways where there are as many classes"
    assert int(found.right.sum()) == pytest.approx(each.mean() * 40 * 75)
    again = fewshot(FewshotConfig(episodes=40), spec, train, test, seed=0)
    assert torch.equal(found.accuracy, again.accuracy)
    two = fewshot(
        FewshotConfig(episodes=2), spec_of("class", ("a", "b", "c")), features(90, 3, 1), features(90, 3, 2), seed=0
    )
    assert "2-way 20-shot" in two.notes[-1]
    with pytest.raises(SslMedError, match="class 'a' has 40 support and 30 query samples, an episode needs 50 and 15"):
        fewshot(FewshotConfig(shots=50), spec, train, test, seed=0)


def test_few_shot_of_findings_takes_samples_with_one_finding():
    spec = spec_of("multilabel", ("a", "b", "rare"))
    base = features(120, 2, 1)
    label = torch.cat([torch.nn.functional.one_hot(base.label, 2), torch.zeros(120, 1)], 1).float()
    label[:40] = 1.0  # several findings
    label[40:44, 0] = NAN
    part = Features(base.ids, base.x, label)
    found = fewshot(FewshotConfig(episodes=20, shots=5, queries=5), spec, part, part, seed=1)
    assert not found.asked[:44].any()
    assert any("rare" in note for note in found.notes)


def test_features_are_those_of_single_images_and_the_mode_is_evaluation():
    torch.manual_seed(0)
    backbone = build_backbone(backbone_config("unet", channels=(4, 8, 16)), spatial_dims=2, in_channels=1)
    with torch.no_grad():
        for _ in range(3):  # statistics away from their start
            backbone.train()(torch.randn(8, 1, 16, 16))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.randn(10, 1, 16, 16)
    batches = [
        {"id": [str(i) for i in rows], "image": images[rows], "label": torch.tensor(rows)}
        for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])
    ]
    levels = check_levels(backbone, (0, -1))
    assert levels == (0, 1)

    def samples_of(batch):
        return batch["id"], pooled(backbone, batch["image"], levels), batch["label"]

    found = extract(backbone, batches, samples_of, device=torch.device("cpu"))
    assert found.ids == tuple(map(str, range(10)))
    assert found.label.tolist() == list(range(10))
    for i in range(10):
        pyramid = backbone(images[i : i + 1])
        expected = torch.cat([level.mean((2, 3)) for level in pyramid], 1)[0]
        assert torch.allclose(found.x[i], expected, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    for wrong in ((), (2,), (0, -2), (1, 1)):
        with pytest.raises(SslMedError, match=r"probe.levels \[.*\] must be different levels of the backbone, 0"):
            check_levels(backbone, wrong)


def test_the_cache_gives_back_what_it_got_and_survives_damage(tmp_path):
    made = []

    def make():
        made.append(1)
        return Features(("a", "b"), torch.randn(2, 3), torch.tensor([[1.0, NAN], [0.0, 1.0]]))

    path = tmp_path / "deep" / "train-1.safetensors"
    first, known = cached(path, make)
    second, again = cached(path, make)
    assert (known, again, len(made)) == (False, True, 1)
    assert second.ids == first.ids
    assert torch.equal(second.x, first.x)
    assert torch.equal(second.label.isnan(), first.label.isnan())
    path.write_bytes(path.read_bytes()[:50])
    assert cached(path, make)[1] is False
    assert len(made) == 2


def test_the_key_of_weights_sees_every_weight_and_statistic():
    backbone = build_backbone(backbone_config("unet", channels=(4, 8)), spatial_dims=2, in_channels=1)
    keys = {weights_key(backbone)}
    assert weights_key(backbone) in keys
    for value in backbone.state_dict().values():
        with torch.no_grad():
            value.view(-1)[0] += 1
        keys.add(weights_key(backbone))
    assert len(keys) == 1 + len(backbone.state_dict())


@pytest.mark.parametrize("dims", [2, 3])
def test_pretexts_show_every_class_of_every_crop(dims):
    torch.manual_seed(0)
    config = backbone_config("unet", channels=(4, 8, 16))
    backbone = build_backbone(config, spatial_dims=dims, in_channels=1).eval()
    shape = (24, 18, 4)[:dims]
    batch = {"image": torch.randn(3, 1, *shape), "id": ["p", "p", "q"], "index": torch.arange(3)}
    with torch.no_grad():
        names, x, label = rotation_samples(backbone, batch, (1,))
        assert len(set(names)) == 12
        assert torch.bincount(label).tolist() == [3] * 4
        square = batch["image"][:, :, 3:21]
        for row, (turn, image) in enumerate((t, i) for t in range(4) for i in range(3)):
            turned = torch.rot90(square[image : image + 1], turn, (2, 3))
            assert torch.allclose(x[row], backbone.pool(backbone(turned))[0], atol=1e-5)
            assert int(label[row]) == turn
        names, x, label = position_samples(backbone, batch, (1,))
        assert torch.bincount(label).tolist() == [3] * 8
        assert x.shape == (24, 32)
        left = [k for k, name in enumerate(names) if name == "q/2/left"]
        cells = [batch["image"][2:, :, 8:16, 6:12], batch["image"][2:, :, 8:16, 0:6]]
        expected = torch.cat([backbone.pool(backbone(cell))[0] for cell in cells])
        assert torch.allclose(x[left[0]], expected, atol=1e-5)
    small = {**batch, "image": torch.randn(3, 1, *(5, 5, 4)[:dims])}
    with pytest.raises(SslMedError, match="gives cells of 1 x 1; the backbone needs cells of 2 x 2 or more"):
        position_samples(backbone, small, (1,))

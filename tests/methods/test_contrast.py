"""The contrastive and distillation methods against their equations."""

import math

import pytest
import torch
from test_methods import batch_of, blobs, generator, make, step
from torch.nn import functional as F

from ssl_med.losses.distillation import sinkhorn
from ssl_med.methods.core.multicrop import crops, small_size
from ssl_med.methods.core.schedule import Schedule, ScheduleConfig, cosine_to
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.ranges import check_ranges
from ssl_med.spec import SslMedError


def train(method, images, steps, lr=1e-2):
    optimizer = torch.optim.SGD(method.parameters(), lr=lr)
    return [step(method, optimizer, batch_of(images), s) for s in range(steps)]


# --- schedules -------------------------------------------------------------------------------------------------------


class Run:
    """What a schedule asks of a trainer."""

    def __init__(self, steps):
        self.estimated_stepping_batches = steps


class Module:
    """What a schedule asks of a method."""

    def __init__(self, steps=None):
        self._trainer = None if steps is None else Run(steps)


def test_schedule_follows_trainer_config_or_nothing_and_resumes():
    own, trainers = Schedule(ScheduleConfig(schedule_steps=10)), Schedule(ScheduleConfig())
    for _ in range(4):
        own.advance(), trainers.advance()
    assert own.share(Module()) == own.share(Module(1000)) == 0.4
    assert trainers.share(Module(16)) == 0.25
    assert trainers.share(Module(2)) == 1.0
    assert trainers.share(Module()) == 0.0  # nobody says where it ends
    assert trainers.share(Module(float("inf"))) == 0.0
    resumed = Schedule(ScheduleConfig(schedule_steps=10))
    resumed.load_state_dict(own.state_dict())
    assert resumed.done == 4
    with pytest.raises(SslMedError, match="schedule_steps"):
        check_ranges(ScheduleConfig(schedule_steps=-1), "method")


# --- BYOL ------------------------------------------------------------------------------------------------------------


def test_byol_coefficient_rises_as_in_the_paper():
    method = make("byol", 2, "method.momentum=0.996", "method.schedule_steps=8")
    for k in range(9):
        assert method.tau == pytest.approx(1 - (1 - 0.996) * (math.cos(math.pi * k / 8) + 1) / 2, abs=1e-12)
        method.schedule.advance()
    assert method.tau == 1.0
    assert cosine_to(2.0, 4.0, 0.5) == pytest.approx(3.0)


def test_byol_loss_takes_both_directions_and_only_the_student_learns():
    method = make("byol", 2)
    views = method.views(batch_of(blobs(4, 2)), generator(0))
    method.eval()  # one batch of two views then equals two batches
    loss = method.terms(views)["loss"]
    expected = 0.0
    for mine, other in (("view1", "view2"), ("view2", "view1")):
        p = method.predictor(method.projector(method.backbone.pool(method.backbone(views[mine]))))
        z = method.teacher(views[other])[1]
        for a, b in zip(p.double().tolist(), z.double().tolist(), strict=True):
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            expected += (2 - 2 * cosine) / 4
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in method.predictor.parameters() if p.ndim > 1)


def test_byol_views_differ_in_law():
    """View 1 is always blurred, view 2 rarely; view 2 is solarised now and then."""
    wide = "method.view.blur_sigma=[0.1,2.0]"
    method = make("byol", 2, "method.view.jitter=0", "method.view2.jitter=0", "method.view2.blur=0", wide)
    white = torch.ones(400, 1, 32, 32)
    views = method.views(batch_of(white), generator(0))
    assert float(views["view1"].min()) > 0.99
    assert float((views["view2"].flatten(1).mean(1) < 0.01).float().mean()) == pytest.approx(0.2, abs=0.06)
    noise = torch.rand(64, 1, 32, 32, generator=generator(1))
    rough = [v.flatten(1).std(1).mean() for v in method.views(batch_of(noise), generator(0)).values()]
    assert rough[0] < 0.7 * rough[1]


# --- SimSiam ---------------------------------------------------------------------------------------------------------


def test_simsiam_loss_is_symmetric_and_its_targets_have_no_gradient():
    method = make("simsiam", 2)
    views = method.views(batch_of(blobs(4, 2)), generator(0))
    method.eval()  # one batch of two views then equals two batches
    loss = method.terms(views)["loss"]
    expected, embeddings = 0.0, {}
    for key in ("view1", "view2"):
        z = method.output_norm(method.projector(method.backbone.pool(method.backbone(views[key]))))
        embeddings[key] = method.predictor(z), z.detach()
    for mine, other in (("view1", "view2"), ("view2", "view1")):
        for a, b in zip(embeddings[mine][0].double().tolist(), embeddings[other][1].double().tolist(), strict=True):
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            expected += (2 - 2 * cosine) / 4 / 2
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    mine = [p.grad.clone() for p in method.backbone.parameters()]
    method.zero_grad()
    slow = torch.stack([
        (F.normalize(embeddings[a][0], dim=1) - F.normalize(embeddings[b][1], dim=1)).square().sum(1).mean() / 2
        for a, b in (("view1", "view2"), ("view2", "view1"))
    ]).sum()  # fmt: skip
    slow.backward()
    for found, other in zip(mine, method.backbone.parameters(), strict=True):
        torch.testing.assert_close(found, other.grad, atol=1e-6, rtol=1e-4)


def test_simsiam_normalises_its_embeddings_without_learned_scales():
    method = make("simsiam", 2)
    assert not list(method.output_norm.parameters())
    layers = [layer for layer in method.projector.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == 3
    assert [layer.out_features for layer in method.predictor.modules() if isinstance(layer, torch.nn.Linear)] == [
        16,
        64,
    ]


# --- multi-crop and SwAV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patch", "share", "expected"),
    [
        ("resnet18", (224, 224), 96 / 224, (96, 96)),
        ("resnet18", (64, 64), 96 / 224, (64, 32)),  # one voxel would be left at 32x32
        ("resnet18", (32, 32), 96 / 224, (32, 32)),
        ("unet", (64, 64, 32), 96 / 224, (24, 24, 16)),
        ("unet", (32, 32, 16), 96 / 224, (16, 16, 8)),
        ("unet", (16, 16, 16), 96 / 224, (16, 8, 8)),
        ("unet", (64, 64, 32), 1.0, (64, 64, 32)),
    ],
)
def test_small_crops_fit_the_network(name, patch, share, expected):
    backbone = build_backbone(backbone_config(name), spatial_dims=len(patch), in_channels=1)
    assert small_size(patch, backbone, share=share) == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_multi_crop_gives_large_crops_of_much_and_small_crops_of_little(dims):
    method = make(
        "swav", dims, *(f"method.{view}.{key}=0" for view in ("view", "small_view") for key in ("jitter", "blur"))
    )
    size = method.spec.patch_size
    ramp = torch.linspace(0, 1, size[0]).view(1, 1, -1, *[1] * (dims - 1)).expand(16, 1, *size).clone()
    views = method.views(batch_of(ramp), generator(0))
    large, small = crops(views, "large"), crops(views, "small")
    assert [x.shape for x in large] == [(16, 1, *size)] * 2
    assert [x.shape for x in small] == [(16, 1, *method.small)] * 2
    seen = [float((x.flatten(1).amax(1) - x.flatten(1).amin(1)).mean()) for x in (*large, *small)]
    # shares of 0.5 to 1 against 0.2 to 0.5 of the volume: sides are about (0.75 / 0.35)^(1/3) = 1.29 times as long
    assert min(seen[:2]) > 1.2 * max(seen[2:])


def slow_swav(scores, targets, tau):
    """Mean over the two assigned crops and all other crops of -q log p, sample by sample."""
    total, count = 0.0, 0
    for i, target in enumerate(targets):
        for j, rows in enumerate(scores):
            if i == j:
                continue
            for q, row in zip(target.tolist(), rows.tolist(), strict=True):
                norm = math.log(sum(math.exp(v / tau) for v in row))
                total -= sum(a * (v / tau - norm) for a, v in zip(q, row, strict=True))
                count += 1
    return total / count


@pytest.mark.parametrize("queue", [0, 8])
def test_swav_swaps_assignments_between_all_crops(queue):
    method = make("swav", 2, f"method.queue={queue}").double()
    images = blobs(8, 2)
    train(method, images.double(), 1)  # fills a queue of eight
    method.eval()
    with torch.no_grad():
        views = method.views(batch_of(images.double()), generator(7))
        scores = []
        for x in (*crops(views, "large"), *crops(views, "small")):
            z = method.projector(method.backbone.pool(method.backbone(x)))
            rows = method.prototypes.rows.weight
            scores.append((z / z.norm(dim=1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T)
        targets = []
        for i in range(2):
            together = scores[i]
            if queue:
                rows = method.prototypes.rows.weight
                old = method.queues[i].keys.T @ (rows / rows.norm(dim=1, keepdim=True)).T
                together = torch.cat([together, old])
            targets.append(sinkhorn(together, epsilon=0.05)[:8])
        assert float(method.terms(views)["loss"]) == pytest.approx(slow_swav(scores, targets, 0.1), abs=1e-9)


def directions(method):
    return torch.nn.functional.normalize(method.prototypes.rows.weight.detach(), dim=1).clone()


def test_swav_prototypes_stand_still_first_even_under_weight_decay():
    method = make("swav", 2, "method.freeze_steps=2")
    before = directions(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for s in range(2):
        step(method, optimizer, batch_of(blobs(8, 2)), s)
    assert torch.allclose(directions(method), before, atol=1e-6)
    step(method, optimizer, batch_of(blobs(8, 2)), 2)
    assert not torch.allclose(directions(method), before, atol=1e-4)


def test_swav_queue_sets_in_when_it_is_time_and_full():
    method = make("swav", 2, "method.schedule_steps=10", "method.queue_from=0.2")
    images = blobs(4, 2)
    used = []
    for _ in range(4):
        used.append(method.uses_queue)
        train(method, images, 1)
    assert used == [False, False, True, True]
    late = make("swav", 2)  # half a batch: the queue of eight is full after two steps
    assert not late.uses_queue
    train(late, images, 2)
    assert late.uses_queue


# --- DINO ------------------------------------------------------------------------------------------------------------


def slow_softmax(row, tau, center=None):
    shifted = [(v - (center[k] if center else 0.0)) / tau for k, v in enumerate(row)]
    highest = max(shifted)
    powers = [math.exp(v - highest) for v in shifted]
    return [p / sum(powers) for p in powers]


def test_dino_matches_the_centred_sharpened_teacher():
    method = make("dino", 2, "method.schedule_steps=1000").double()
    images = blobs(6, 2).double()
    train(method, images, 3)  # a centre that is not zero, a teacher that is not the student
    method.eval()
    tau_t = 0.04 + 3 / 1000 / (50 / 800) * 0.03
    assert method.teacher_temperature == pytest.approx(tau_t, abs=1e-12)
    assert float(method.center.abs().sum()) > 0

    def outputs(embedding, prototypes, x):
        z = embedding(x)[1]
        rows = prototypes.rows.weight
        return ((z / z.norm(dim=1, keepdim=True)) @ (rows / rows.norm(dim=1, keepdim=True)).T).tolist()

    with torch.no_grad():
        views = method.views(batch_of(images), generator(3))
        large, every = crops(views, "large"), [*crops(views, "large"), *crops(views, "small")]
        embedding = lambda x: (None, method.projector(method.backbone.pool(method.backbone(x))))  # noqa: E731
        taught = [outputs(method.teacher.module, method.teacher_prototypes.module, x) for x in large]
        said = [outputs(embedding, method.prototypes, x) for x in every]
        total, pairs, center = 0.0, 0, method.center.tolist()
        for i in range(2):
            for j in range(len(every)):
                if i == j:
                    continue
                for b in range(6):
                    q = slow_softmax(taught[i][b], tau_t, center)
                    p = slow_softmax(said[j][b], 0.1)
                    total -= sum(x * math.log(y) for x, y in zip(q, p, strict=True))
                    pairs += 1
        assert float(method.terms(views)["loss"]) == pytest.approx(total / pairs, abs=1e-9)


@pytest.mark.parametrize(("name", "batchwise"), [("byol", True), ("dino", True), ("moco", False), ("pcrl", False)])
def test_what_a_teacher_normalises_by(name, batchwise):
    """Of the batch where no negatives are to leak to, of former batches where they are; in evaluation never of the batch."""
    method = make(name, 2).train()
    images = blobs(6, 2)
    told = [method.teacher.train(mode)(x)[1][:2] for mode in (True, False) for x in (images, images[:3])]
    assert torch.allclose(told[0], told[1], atol=1e-5) == (not batchwise)
    assert torch.allclose(told[2], told[3], atol=1e-5)


def test_dino_center_is_a_running_mean_that_counts_the_batch_at_hand():
    method = make("dino", 2, laptop=False).train()
    means = []
    for k in range(3):
        views = method.views(batch_of(blobs(4, 2, seed=k)), generator(k))
        with torch.no_grad():
            taught = method.teacher(torch.cat(crops(views, "large")))[1]
            means.append(method.teacher_prototypes(taught).mean(0))
        assert torch.isfinite(method.terms(views)["loss"])
        assert torch.allclose(method.center, torch.stack(means).mean(0), atol=1e-6), "plain mean over the first steps"
        method.schedule.advance()
    for _ in range(100):
        method.schedule.advance()
    before = method.center.clone()
    method.terms(views)
    assert torch.allclose(method.center, 0.9 * before + 0.1 * means[-1], atol=1e-6)
    before = method.center.clone()
    method.eval()
    method.terms(views)
    assert torch.equal(method.center, before), "evaluation moves nothing"


def test_dino_output_layer_stands_still_first_and_the_teacher_learns_only_by_averaging():
    method = make("dino", 2, "method.freeze_steps=1", laptop=False)
    before = directions(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    step(method, optimizer, batch_of(blobs(4, 2)), 0)
    assert torch.allclose(directions(method), before, atol=1e-6)
    kept = [p.clone() for p in method.teacher_prototypes.parameters()]
    step(method, optimizer, batch_of(blobs(4, 2)), 1)
    assert not torch.allclose(directions(method), before, atol=1e-5)
    for mine, was, online in zip(
        method.teacher_prototypes.parameters(), kept, method.prototypes.parameters(), strict=True
    ):
        assert torch.allclose(mine, 0.996 * was + 0.004 * online, atol=1e-6)
    assert all(p.grad is None for p in method.teacher.parameters())


# --- C2L -------------------------------------------------------------------------------------------------------------


def unit_rows(x):
    return x / x.norm(dim=1, keepdim=True)


def slow_contrast(q, k, queue, tau):
    """InfoNCE, row by row."""
    total = 0.0
    for a, b in zip(unit_rows(q).tolist(), unit_rows(k).tolist(), strict=True):
        positive = math.exp(sum(x * y for x, y in zip(a, b, strict=True)) / tau)
        rest = sum(math.exp(sum(x * y for x, y in zip(a, c, strict=True)) / tau) for c in queue.T.tolist())
        total -= math.log(positive / (positive + rest))
    return total / len(q)


def test_c2l_compares_plain_mixed_and_feature_mixed():
    method = make("c2l", 2).double()
    images = blobs(6, 2).double()
    train(method, images, 2)
    method.eval()
    views = method.views(batch_of(images), generator(4))
    share, partner = float(views["share"]), views["partner"].tolist()
    assert 0.5 <= share <= 1
    assert sorted(partner) == list(range(6))
    for key in ("query", "key"):
        for b in range(6):
            expected = share * views[key][b] + (1 - share) * views[key][partner[b]]
            assert torch.allclose(views[f"{key}_mix"][b], expected, atol=1e-12)
    with torch.no_grad():
        q, q_mix = (
            method.projector(method.backbone.pool(method.backbone(views[key]))) for key in ("query", "query_mix")
        )
        k, k_mix = (unit_rows(method.teacher(views[key])[1]) for key in ("key", "key_mix"))
        mixed = torch.stack([share * k[b] + (1 - share) * k[partner[b]] for b in range(6)])
        queue = method.queue.keys
        expected = [slow_contrast(a, b, queue, 0.07) for a, b in ((q, k), (q_mix, k_mix), (q_mix, mixed))]
        terms = method.terms(views)
    assert [float(terms[key]) for key in ("contrast", "contrast_mix", "contrast_features")] == pytest.approx(expected)
    assert float(terms["loss"]) == pytest.approx(sum(expected) / 3)


@pytest.mark.parametrize(
    ("words", "present"),
    [
        ([], {"contrast", "contrast_mix", "contrast_features"}),
        (["method.mix_features=false"], {"contrast", "contrast_mix"}),
        (["method.mix_inputs=false"], {"contrast", "contrast_features"}),
        (["method.mix_inputs=false", "method.mix_features=false"], {"contrast"}),
    ],
)
def test_c2l_parts_are_configs(words, present):
    terms = make("c2l", 2, *words).losses(batch_of(blobs(4, 2)), generator(0))
    assert {key for key in terms if key.startswith("contrast")} == present


def test_c2l_takes_the_constant_of_nce_from_the_first_batch():
    method = make("c2l", 2, "method.loss=nce")
    images = blobs(6, 2)
    assert float(method.mean) == 0
    train(method, images, 1)
    first = float(method.mean)
    assert first > 0
    train(method, images, 2)
    assert float(method.mean) == first
    assert "mean" in method.state_dict()
    assert method.queue.filled == 18, "plain keys alone enter the queue"


# --- PIRL ------------------------------------------------------------------------------------------------------------


def numbered(images, index):
    return batch_of(images) | {"index": torch.tensor(index)}


def test_pirl_contrasts_image_and_patches_with_the_memory_of_the_image():
    method = make("pirl", 2, "method.negatives=7")
    method.before_training(10)
    method.double()
    images = blobs(4, 2).double()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    for s, index in enumerate(([0, 1, 2, 3], [4, 5, 6, 7])):
        step(method, optimizer, numbered(images, index), s)
    index = [8, 0, 5, 2]  # the first is new to the memory
    views = method.views(numbered(images, index), generator(9))
    memory = method.memory.entries.clone()
    method.train()
    for module in method.modules():  # the statistics of the batch are not the subject
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    with torch.no_grad():
        f = unit_rows(method.image_head(method.backbone.pool(method.backbone(views["view"]))))
        parts = [method.patch_head(method.backbone.pool(method.backbone(views["patches"][:, p]))) for p in range(9)]
        g = unit_rows(method.joint_head(torch.cat(parts, 1)))
        first = int(views["first"])
        shown = [(first + n) % 10 for n in range(7)]
        total = 0.0
        for b, i in enumerate(index):
            anchor = f[b] if b == 0 else memory[i]
            others = memory[[n for n in shown if n != i]].T
            total += slow_contrast(g[b][None], anchor[None], others, 0.07) / 8
            total += slow_contrast(f[b][None], anchor[None], others, 0.07) / 8
        assert float(method.terms(views)["loss"]) == pytest.approx(total, abs=1e-9)
    expected = unit_rows(0.5 * memory[[0, 5, 2]] + 0.5 * f[1:])
    assert torch.allclose(method.memory.entries[[0, 5, 2]], expected, atol=1e-12)
    assert torch.allclose(method.memory.entries[8], f[0], atol=1e-12)
    assert torch.equal(method.memory.entries[[1, 3, 4, 6, 7, 9]], memory[[1, 3, 4, 6, 7, 9]])


@pytest.mark.parametrize("loss", ["info_nce", "nce"])
def test_pirl_validation_neither_uses_nor_changes_what_is_known_of_training_samples(loss):
    method = make("pirl", 2, f"method.loss={loss}")
    method.before_training(4)
    images = blobs(4, 2)
    train(method, images, 1)
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    views = method.views(batch_of(images), generator(1))
    loss = method.terms(views)["loss"]
    assert torch.equal(method.terms(views | {"index": views["index"].flip(0)})["loss"], loss)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert method.need(method.config, method.spec).fixed


@pytest.mark.parametrize("dims", [2, 3])
def test_pirl_patches_come_in_random_order(dims):
    """Every patch of an image whose cells have their own grey level; each order about equally often."""
    words = ["crop_scale=[1.0,1.0]", "flip=0", "jitter=0", "blur=0"]
    method = make("pirl", dims, "method.jitter=0", *(f"method.patch_view.{word}" for word in words))
    counts, size = method.grid.counts, method.spec.patch_size
    cells = torch.arange(method.grid.cells).view(1, 1, *counts).float()
    image = torch.nn.functional.interpolate(cells, size=size, mode="nearest").expand(200, *[-1] * (dims + 1)) / 10
    patches = method.views(batch_of(image), generator(2))["patches"]
    grey = (patches.flatten(2).median(2).values * 10).round().long()
    assert torch.equal(grey.sort(1).values, torch.arange(method.grid.cells).expand(200, -1))
    first = grey[:, 0].bincount(minlength=method.grid.cells) / 200
    assert float((first - 1 / method.grid.cells).abs().max()) < 0.1


def test_pirl_needs_more_than_one_sample():
    with pytest.raises(SslMedError, match="crops_per_volume"):
        make("pirl", 2).before_training(1)


# --- DeepCluster -----------------------------------------------------------------------------------------------------


def slow_softmax_loss(row, label):
    return math.log(sum(math.exp(v) for v in row)) - row[label]


def test_deep_cluster_names_the_clusters_of_an_older_copys_features_with_equal_weights():
    method = make("deep_cluster", 2, "method.clusters=3", "method.heads=2")
    method.before_training(60)
    method.double()
    images = blobs(12, 2).double()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    step(method, optimizer, numbered(images, list(range(12))), 0)
    step(method, optimizer, numbered(images, list(range(12))), 1)
    index = [0, 5, 3, 40]  # the last one had no part
    views = method.views(numbered(images[[0, 5, 3, 7]], index), generator(3))
    assert torch.equal(views["image"], images[[0, 5, 3, 7]]), "clusters are those of whole images"
    method.train()
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    with torch.no_grad():
        features = method.backbone.pool(method.former(views["image"]))
        code = unit_rows((features - method.whitening.mean) @ method.whitening.projection)
        scores = method.head(method.standardize(method.backbone.pool(method.backbone(views["view"]))))
        total = 0.0
        for h in range(2):
            sizes = method.clusters.sizes[h].tolist()
            assert sum(sizes) == 12
            used = sum(size > 0 for size in sizes)
            for b in range(4):
                label = int(method.clusters.labels[h, index[b]])
                if b == 3:
                    assert label == -1
                    gaps = (code[b] - method.clusters.centroids[h]).square().sum(1)
                    label = min((k for k in range(3) if sizes[k]), key=lambda k: float(gaps[k]))
                weight = 12 / (used * sizes[label])
                total += weight * slow_softmax_loss(scores[b, 3 * h : 3 * h + 3].tolist(), label) / 8
        assert float(method.terms(views)["loss"]) == pytest.approx(total, abs=1e-9)


def test_deep_cluster_labels_are_those_of_kmeans_on_the_memory():
    """Clusters at 4, 8 and 16 of 40 images, and when all came by; then a new copy describes them, and so on."""
    method = make("deep_cluster", 2, "method.clusters=2", "method.every=2")
    method.before_training(40)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    images, rounds, renewed = blobs(40, 2), [], []
    for s in range(50):
        part = list(range(4 * (s % 10), 4 * (s % 10) + 4))
        before = next(method.describer.parameters()).clone()
        step(method, optimizer, numbered(images[part], part), s)
        rounds.append(method.clusters.rounds)
        if not torch.equal(before, next(method.describer.parameters())):
            renewed.append(s)
            assert method.memories[0].seen.sum() == 0
        if s == 9:
            head = method.head.weight.detach().clone()
            assert (method.clusters.labels >= 0).all()
            assert method.validation_is_comparable
            memory = method.memories[0].entries
            with torch.no_grad():
                features = method.backbone.pool(method.former(images))
            assert torch.allclose(memory, features, atol=1e-5), "one network described all of them"
            code = method.whitening(features)
            gaps = torch.cdist(code, method.clusters.centroids[0])
            assert torch.equal(gaps.argmin(1), method.clusters.labels[0])
        elif s == 28:
            assert torch.allclose(method.head.weight, head, atol=0.01), "the same classifier learns on"
        elif s == 29:
            assert not torch.allclose(method.head.weight, head, atol=0.01)
            assert float(method.head.weight.detach().std()) == pytest.approx(0.01, rel=0.5), "a fresh classifier"
    assert [s for s in range(50) if rounds[s] > ([0, *rounds])[s]] == [0, 1, 3, 7, 9, 29, 49]
    assert renewed == [19, 39]


def test_deep_cluster_v2_predicts_centroids_of_the_memories_from_all_crops():
    method = make("deep_cluster/v2", 2, "method.clusters=3")
    method.before_training(60)
    method.double()
    images = blobs(12, 2).double()
    train(method, images, 2)
    for h in range(3):
        memory = method.memories[h % 2].entries[:12]
        centroids = method.clusters.centroids[h]
        assert torch.allclose(memory.norm(dim=1), torch.ones(12).double(), atol=1e-6)
        assert set(method.clusters.labels[h, 12:].tolist()) == {-1}
        assert torch.allclose(centroids.norm(dim=1), torch.ones(3).double(), atol=1e-6)
    method.eval()  # labels of the nearest centroid
    with torch.no_grad():
        views = method.views(batch_of(images), generator(7))
        every = [*crops(views, "large"), *crops(views, "small")]
        z = [unit_rows(method.projector(method.backbone.pool(method.backbone(x)))) for x in every]
        total, right = 0.0, 0
        for h in range(3):
            scores = [rows @ method.clusters.centroids[h].T for rows in z]
            labels = scores[h % 2].argmax(1).tolist()
            right += sum(int(row.argmax()) == k for row, k in zip(scores[1 - h % 2], labels, strict=True))
            for rows in scores:
                total += sum(slow_softmax_loss((row / 0.1).tolist(), k) for row, k in zip(rows, labels, strict=True))
        terms = method.terms(views)
    assert float(terms["loss"]) == pytest.approx(total / (3 * 12 * len(every)), abs=1e-9)
    assert float(terms["metric"]) == pytest.approx(right / 36)


@pytest.mark.parametrize("name", ["deep_cluster", "deep_cluster/v2"])
def test_deep_cluster_validation_neither_uses_nor_changes_what_is_known_of_training_samples(name):
    method = make(name, 2, "method.clusters=3")
    method.before_training(60)
    train(method, blobs(8, 2), 2)
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    views = method.views(batch_of(blobs(4, 2, seed=3)), generator(1))
    loss = method.terms(views)["loss"]
    assert torch.equal(method.terms(views | {"index": views["index"] + 50})["loss"], loss)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert method.need(method.config, method.spec).fixed


def test_deep_cluster_trivial_solver_names_the_commonest_cluster():
    method = make("deep_cluster", 2, "method.clusters=4")
    label = torch.tensor([2, 2, 1, 2, 0])
    judged = method.judged([label == 2], [label])
    assert float(judged["metric"]) == float(judged["baseline"]) == pytest.approx(0.6)


def test_deep_cluster_makes_no_more_clusters_than_there_are_images_for():
    method = make("deep_cluster", 2, "method.clusters=16", "method.heads=2")
    method.before_training(100)
    assert method.clusters.centroids.shape[:2] == (2, 5)
    assert method.head.weight.shape[0] == 10
    with pytest.raises(SslMedError, match="crops_per_volume"):
        method.before_training(39)
    with pytest.raises(SslMedError, match=r"method\.every"):
        make("deep_cluster", 2, "method.every=0.5")
    with pytest.raises(SslMedError, match=r"method\.components"):
        make("deep_cluster", 2, "method.components=64")

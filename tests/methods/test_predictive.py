"""The predictive methods against their definitions."""

import numpy as np
import pytest
import test_methods
import torch
from test_methods import batch_of, blobs, generator, make

from experiments.config.sources import method_class_of
from ssl_med.losses.triplet import triplet
from ssl_med.methods.core.rubik import turn_loss
from ssl_med.spec import SslMedError


@pytest.fixture
def sized(monkeypatch):
    """`make` for crops of another size."""

    def make_sized(name, size, *words):
        monkeypatch.setitem(test_methods.SIZE, len(size), size)
        return make(name, len(size), *words)

    return make_sized


# --- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "every", "classes"), [(2, "true", 4), (2, "false", 4), (3, "true", 10), (3, "false", 10)]
)
def test_rotation_labels_name_the_numpy_turn(dims, every, classes):
    method = make("rotation", dims, "method.flip=0", f"method.every={every}")
    planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
    expected = [((0, 1), 0), *((plane, k) for plane in planes for k in (1, 2, 3))]
    images = blobs(12, dims)
    views = method.views(batch_of(images), generator(1))
    assert views["image"].shape == (12, classes if every == "true" else 1, 1, *method.spec.patch_size)
    for b in range(12):
        for copy, label in zip(views["image"][b], views["label"][b].tolist(), strict=True):
            plane, k = expected[label]
            assert np.array_equal(copy[0].numpy(), np.rot90(images[b, 0].numpy(), k, plane))
    assert len(set(views["label"].flatten().tolist())) > 2
    assert float(method.terms(views)["baseline"]) == pytest.approx(1 / classes)


@pytest.mark.parametrize(("size", "classes"), [((16, 16, 8), 6), ((16, 8, 4), 4), ((32, 16), 2), ((16, 16), 4)])
def test_rotation_takes_what_the_crop_admits(sized, size, classes):
    method = sized("rotation", size)
    assert method.head.layers[-1].out_features == classes
    assert torch.isfinite(method.losses(batch_of(torch.rand(4, 1, *size)), generator(0))["loss"])


def test_rotation_mirrors_left_and_right_only():
    method = make("rotation", 2, "method.flip=1", laptop=False)
    images = blobs(2, 2)
    assert torch.equal(method.views(batch_of(images), generator(0))["image"][:, 0], images.flip(3))
    method = make("rotation", 3, "method.flip=1", "method.every=true")
    volumes = blobs(2, 3)
    assert torch.equal(method.views(batch_of(volumes), generator(0))["image"][:, 0], volumes.flip(2))


# --- relative position -----------------------------------------------------------------------------------------------


def coordinates(dims, batch=1):
    """Images whose voxels hold their own flat position: a patch says where it was cut."""
    size = test_methods.SIZE[dims]
    return torch.arange(float(np.prod(size))).view(1, 1, *size).repeat(batch, *[1] * (dims + 1))


def place(patch, size):
    """First voxel of a patch of `coordinates`."""
    return np.array(np.unravel_index(int(patch.flatten()[0]), size))


@pytest.mark.parametrize(("dims", "directions"), [(2, 8), (3, 26)])
def test_relative_position_labels_are_directions_row_by_row(dims, directions):
    method = make("relative_position", dims, "method.standardize=false", "method.jitter=0")
    views = method.views(batch_of(coordinates(dims, 100)), generator(0))
    size = method.spec.patch_size
    cells = [np.array(c) - 1 for c in np.ndindex(*(3,) * dims) if any(k != 1 for k in c)]
    assert len(cells) == directions
    for pair, label in zip(views["pair"], views["label"].tolist(), strict=True):
        centre, other = (place(patch[0], size) for patch in pair)
        assert ((other - centre) // (np.array(size) // 3) == cells[label]).all()
    assert len(views["label"].unique()) > directions * 0.8
    assert float(method.terms(views)["baseline"]) == pytest.approx(1 / directions)


def test_pairs_jitter_independently():
    method = make("relative_position", 2, "method.standardize=false")
    views = method.views(batch_of(coordinates(2, 50)), generator(0))
    first = np.stack([[place(patch[0], (32, 32)) % 10 for patch in pair] for pair in views["pair"]])
    assert len({tuple(x) for x in first[:, 0]}) > 3
    assert any((a != b).any() for a, b in first)


# --- jigsaw ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "grid", "cells"), [(2, 0, 9), (3, 0, 8), (3, 3, 27), (2, 2, 4)])
def test_jigsaw_slot_i_shows_patch_order_i(dims, grid, cells):
    words = ["method.standardize=false", "method.jitter=0", f"method.grid={grid}", "method.permutations=10"]
    method = make("jigsaw", dims, *words)
    assert method.orders.shape == (10, cells)
    size, side = method.spec.patch_size, round(cells ** (1 / dims))
    views = method.views(batch_of(coordinates(dims, 20)), generator(0))
    for patches, label in zip(views["patches"], views["label"].tolist(), strict=True):
        for slot, patch in enumerate(patches):
            cell = place(patch[0], size) // (np.array(size) // side)
            assert np.ravel_multi_index(cell, (side,) * dims) == method.orders[label, slot]


def test_jigsaw_tells_slots_apart_by_one_encoder():
    """The features of a slot are those of its patch alone, and the classifier sees their order."""
    method = make("jigsaw", 2).eval()
    views = method.views(batch_of(blobs(3, 2)), generator(0))
    features = method.encode(views["patches"])
    alone = method.backbone.pool(method.backbone(views["patches"][1, 4:5]))
    assert torch.allclose(features[1, 4], alone[0], atol=1e-5)
    order = torch.randperm(9, generator=generator(1))
    assert torch.allclose(method.encode(views["patches"][:, order]), features[:, order], atol=1e-5)
    logits, moved = (method.head(method.patch_head(f).flatten(1)) for f in (features, features[:, order]))
    assert not torch.allclose(logits, moved, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.grid=4"], "'method.grid' is 4; it must be at most 3"),
        (["method.grid=2", "method.permutations=100"], "method.permutations is 100; 4 cells have 24 orders"),
        (["method.gap=0.5", "method.jitter=0.5"], "method.gap and method.jitter must leave"),
        (["method.jitter=2"], "'method.jitter' is 2; it must be at most 1"),
    ],
)
def test_impossible_puzzles_are_one_line(words, message):
    with pytest.raises(SslMedError, match=message):
        make("jigsaw", 2, *words, laptop=False)


def test_cells_too_small_for_the_network_name_the_remedies(sized):
    with pytest.raises(SslMedError, match=r"data.patch_size \[4, 32\].*needs 2 a side.*method.grid"):
        sized("jigsaw", (4, 32))
    with pytest.raises(SslMedError, match="instance needs two voxels"):
        test_methods.make("jigsaw", 3, "method.grid=3", "method.jitter=0.5", norm="instance")


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (16, 16, 16), (32, 32, 16), (64, 64, 32)])
@pytest.mark.parametrize("name", ["jigsaw", "relative_position"])
def test_usual_crops_fit(sized, name, size):
    method = sized(name, size)
    assert torch.isfinite(method.losses(batch_of(torch.rand(2, 1, *size)), generator(0))["loss"])


def test_patches_need_not_suit_a_decoder(monkeypatch):
    """A residual network takes patches of any size; 64x64 in 3x3 cells leaves 16."""
    monkeypatch.setitem(test_methods.SIZE, 2, (64, 64))
    config = test_methods.compose_pretrain(
        ["method=jigsaw", "data=chest14", "data.patch_size=[64,64]", "method.permutations=4", "method.hidden_dim=8"]
    )
    method_class = method_class_of("jigsaw")
    method = method_class(config.method, spec=config.spec, backbone=config.backbone, optim=config.optim, batch_size=4)
    assert method.grid.patch == (16, 16)
    assert torch.isfinite(method.losses(batch_of(torch.rand(2, 1, 64, 64)), generator(0))["loss"])


# --- Rubik's cubes ---------------------------------------------------------------------------------------------------

HALF = {2: [None, (0, 1)], 3: [None, (1, 2), (0, 1)]}


@pytest.mark.parametrize("labels", ["slot", "original"])
@pytest.mark.parametrize(("dims", "grid"), [(2, 3), (2, 2), (3, 2), (3, 3)])
def test_rubik_cubes_are_permuted_and_turned_as_their_labels_say(dims, grid, labels):
    words = ["method.jitter=0", f"method.grid={grid}", "method.permutations=10", f"method.labels={labels}"]
    method = make("rubik_cube", dims, *words)
    size = method.spec.patch_size
    image = coordinates(dims, 12)
    views = method.views(batch_of(image), generator(0))
    cell_side = np.array(size) // grid
    seen = set()
    for patches, label, turned in zip(views["patches"], views["label"].tolist(), views["turned"].tolist(), strict=True):
        for slot, patch in enumerate(patches):
            origin = int(method.orders[label, slot])
            kind = turned[slot if labels == "slot" else origin]
            seen.add(kind)
            corner = np.array(np.unravel_index(origin, (grid,) * dims)) * cell_side
            corner = corner + (np.array(size) - grid * cell_side) // 2
            box = tuple(slice(c, c + s) for c, s in zip(corner, cell_side, strict=True))
            expected = image[(0, 0, *box)].numpy()
            if HALF[dims][kind] is not None:
                expected = np.rot90(expected, 2, HALF[dims][kind])
            assert np.array_equal(patch[0].numpy(), expected)
    assert seen == set(range(dims))


@pytest.mark.parametrize(("size", "turns"), [((16, 16, 16), 10), ((16, 16, 8), 6), ((24, 16, 8), 4), ((16, 16), 4)])
def test_legal_turns_are_those_of_the_sub_cube(sized, size, turns):
    method = sized("rubik_cube", size, "method.turns=legal", "method.grid=2", "method.permutations=4")
    assert len(method.rotations) == turns
    views = method.views(batch_of(torch.rand(20, 1, *size)), generator(0))
    assert set(views["turned"].flatten().tolist()) == set(range(turns))
    assert views["patches"].shape[3:] == method.grid.patch
    assert torch.isfinite(method.terms(views)["loss"])


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def test_turn_losses_equal_their_formulas():
    logits = torch.randn(7, 2, generator=generator(0), dtype=torch.float64)
    turned = torch.tensor([0, 1, 2, 2, 0, 1, 1])
    binary = exclusive = 0.0
    for row, kind in zip(logits.numpy(), turned.tolist(), strict=True):
        for r in range(2):
            binary -= log_sigmoid(row[r]) if kind == r + 1 else log_sigmoid(-row[r])
        every = np.array([0.0, *row])
        exclusive -= every[kind] - np.log(np.exp(every).sum())
    assert float(turn_loss(logits, turned, exclusive=False)) == pytest.approx(binary / 14, abs=1e-12)
    assert float(turn_loss(logits, turned, exclusive=True)) == pytest.approx(exclusive / 7, abs=1e-12)


@pytest.mark.parametrize("name", ["rubik_cube", "rubik_cube_plus"])
def test_rubik_loss_is_the_weighted_sum_of_its_tasks(name):
    method = make(name, 3, "method.order_weight=0.7", "method.rotation_weight=0.2")
    terms = method.losses(batch_of(blobs(4, 3)), generator(0))
    expected = 0.7 * terms["order"] + 0.2 * terms["rotation"]
    if name == "rubik_cube_plus":
        expected = expected + terms["mask"] / 3
    assert torch.allclose(terms["loss"], expected)


def test_a_slots_turn_and_mask_are_read_from_its_own_sub_cube():
    method = make("rubik_cube_plus", 3).eval()
    views = method.views(batch_of(blobs(2, 3)), generator(0))
    with torch.no_grad():
        _, features = method.solve(views)
        changed = views["patches"].clone()
        changed[:, 3] = 0
        _, other = method.solve(views | {"patches": changed})
    same = [torch.equal(features[:, i], other[:, i]) for i in range(8)]
    assert same == [i != 3 for i in range(8)]
    assert method.rotation_head(features).shape == (2, 8, 2)
    assert method.mask_head(features).shape == (2, 8, 1)


def test_masks_hit_half_of_the_voxels_of_half_of_the_sub_cubes():
    images = torch.rand(40, 1, 16, 16, 16, generator=generator(0)) * 0.5 + 0.5
    method = make("rubik_cube_plus", 3, "method.jitter=0")
    views = method.views(batch_of(images), generator(1))
    lost = (views["patches"] == 0).flatten(2).double().mean(2)
    masked = views["masked"] == 1
    assert float(masked.double().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(lost[~masked].max()) == 0
    assert float(lost[masked].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(lost[masked].min()) > 0.4
    kept = torch.where(views["patches"] == 0, 1.0, views["patches"])
    assert float(kept.min()) >= 0.5, "what is not masked is unchanged"


# --- multi-modal puzzle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_puzzle_patches_are_of_one_modality_each_and_shown_as_the_order_says(dims):
    method = make("multimodal_puzzle", dims, "method.standardize=false", "method.jitter=0")
    size, side = method.spec.patch_size, 3 if dims == 2 else 2
    voxels = int(np.prod(size))
    image = torch.cat([coordinates(dims, 30), coordinates(dims, 30) + voxels], 1)
    views = method.views(batch_of(image), generator(0))
    cell_side, modalities = np.array(size) // side, []
    for b in range(30):
        for j, patch in enumerate(views["ordered"][b]):
            modality = int(patch.flatten()[0]) // voxels
            modalities.append(modality)
            corner = np.array(np.unravel_index(j, (side,) * dims)) * cell_side
            corner = corner + (np.array(size) - side * cell_side) // 2
            box = tuple(slice(c, c + s) for c, s in zip(corner, cell_side, strict=True))
            assert torch.equal(patch[0], image[(b, modality, *box)])
    assert 0.35 < np.mean(modalities) < 0.65
    assert torch.equal(views["order"].sort(1).values[0], torch.arange(side**dims))
    assert len({tuple(o) for o in views["order"].tolist()}) == 30


def test_puzzle_is_solved_by_patches_not_by_slots():
    """Another order of the same patches changes neither loss nor accuracy: the head knows nothing of slots."""
    method = make("multimodal_puzzle", 2).eval()
    views = method.views(batch_of(blobs(3, 2, channels=2)), generator(0))
    moved = method.terms(views | {"order": torch.stack([torch.randperm(9, generator=generator(i)) for i in range(3)])})
    terms = method.terms(views)
    assert torch.allclose(moved["loss"], terms["loss"], atol=1e-6)
    assert torch.equal(moved["metric"], terms["metric"])
    assert float(terms["baseline"]) == pytest.approx(1 / 9)


def test_puzzle_of_one_modality_is_refused(monkeypatch):
    monkeypatch.setattr(test_methods, "channels_of", lambda name: 1)
    with pytest.raises(SslMedError, match=r"has 1 modality; MultimodalPuzzle needs at least 2.*data.modalities"):
        make("multimodal_puzzle", 3)


# --- contrastive predictive coding -----------------------------------------------------------------------------------


def cpc_parts(method, views):
    """Codes (B, R, Q, d) patch by patch, and GRU states (B, R, Q, context) column by column."""
    rows, cells = method.grid.counts[0], method.grid.cells
    patches = views["patches"]
    pooled = torch.stack([method.backbone.pool(method.backbone(patches[:, p])) for p in range(cells)], 1)
    codes = method.code(pooled).view(len(patches), rows, cells // rows, -1)
    states = torch.stack([method.context(codes[:, :, q])[0] for q in range(cells // rows)], 2)
    return codes.numpy(), states.numpy()


def predicted(method, states):
    """Step -> prediction from each state, as numpy."""
    return {
        step: states @ p.weight.detach().numpy().T + p.bias.detach().numpy()
        for step, p in zip(method.steps, method.predictors, strict=True)
    }


@pytest.mark.parametrize(("dims", "steps"), [(2, [2, 3, 4, 5, 6]), (3, [1, 2, 3])])
def test_cpc_is_info_nce_over_all_patches_of_the_batch(dims, steps):
    method = make("cpc", dims, "method.code_dim=6", "method.context_dim=5", laptop=False).double().eval()
    assert list(method.steps) == steps
    views = {k: v.double() for k, v in method.views(batch_of(blobs(2, dims)), generator(0)).items()}
    with torch.no_grad():
        codes, states = cpc_parts(method, views)
        terms = method.terms(views)
    candidates = codes.reshape(-1, 6)
    batch, rows, columns = codes.shape[:3]
    losses, hits = [], []
    for step, guess in predicted(method, states).items():
        for b, t, q in np.ndindex(batch, rows - step, columns):
            scores = candidates @ guess[b, t, q] / np.sqrt(6)
            true = (b * rows + t + step) * columns + q
            losses.append(np.log(np.exp(scores).sum()) - scores[true])
            hits.append(scores.argmax() == true)
    assert float(terms["loss"]) == pytest.approx(np.mean(losses), abs=1e-10)
    assert float(terms["metric"]) == pytest.approx(np.mean(hits))
    assert float(terms["baseline"]) == pytest.approx(1 / len(candidates))


@pytest.mark.parametrize(("dims", "below"), [(2, [4, 5, 6]), (3, [2, 3])])
def test_cpc_bce_tells_true_columns_from_columns_of_the_next_image(dims, below):
    method = (
        make("cpc", dims, "method.code_dim=6", "method.context_dim=5", "method.loss=bce", laptop=False).double().eval()
    )
    assert [method.middle + step for step in method.steps] == below
    views = method.views(batch_of(blobs(3, dims)), generator(0))
    views["patches"] = views["patches"].double()
    with torch.no_grad():
        codes, states = cpc_parts(method, views)
        terms = method.terms(views)
    guesses = predicted(method, states)
    losses, right = [], []
    for b, q in np.ndindex(3, codes.shape[2]):
        other = int(views["negative"][b, q])
        scores = [
            np.mean([guesses[step][b, method.middle, q] * z[method.middle + step] for step in method.steps])
            for z in (codes[b, :, q], codes[(b + 1) % 3, :, other])
        ]
        losses += [-log_sigmoid(scores[0]), -log_sigmoid(-scores[1])]
        right += [scores[0] > 0, scores[1] <= 0]
    assert float(terms["loss"]) == pytest.approx(np.mean(losses), abs=1e-10)
    assert float(terms["metric"]) == pytest.approx(np.mean(right))


def test_cpc_context_sees_nothing_of_what_it_predicts():
    """With a norm that does not span patches, the state at row t depends on rows up to t alone."""
    method = make("cpc", 3, norm="group").eval()
    views = method.views(batch_of(blobs(2, 3)), generator(0))

    def states(patches):
        codes = method.code(method.encode(patches)).view(2, 4, 16, -1).transpose(1, 2).flatten(0, 1)
        return method.context(codes)[0]

    changed = views["patches"].clone()
    changed[:, 32:] = torch.rand_like(changed[:, 32:])  # rows 2 and 3
    with torch.no_grad():
        before, after = states(views["patches"]), states(changed)
    assert torch.allclose(before[:, :2], after[:, :2], atol=1e-6)
    assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


def test_cpc_skips_what_overlaps_the_context_and_asks_for_group_norm():
    method = make("cpc", 2)
    cell = method.grid.patch[0] + method.grid.jitter[0]
    assert method.grid.step[0] < cell, "neighbouring rows overlap"
    assert method.steps.start * method.grid.step[0] >= cell, "predicted rows do not"
    config = test_methods.compose_pretrain(["method=cpc", "data=chest14"])
    assert config.backbone.norm == "group"
    with pytest.raises(SslMedError, match=r"method\.grid is 2; prediction needs at least 3 rows"):
        make("cpc", 2, "method.grid=2")
    assert torch.isfinite(make("cpc", 3, "method.grid=2").losses(batch_of(blobs(2, 3)), generator(0))["loss"])


def test_cpc_patches_are_flipped_one_by_one():
    method = make("cpc", 3, "method.jitter=0")
    views = method.views(batch_of(coordinates(3, 4)), generator(0))["patches"]
    still = make("cpc", 3, "method.jitter=0", "method.flip=0").views(batch_of(coordinates(3, 4)), generator(0))[
        "patches"
    ]
    kept = [torch.equal(a, b) for a, b in zip(views.flatten(0, 1), still.flatten(0, 1), strict=True)]
    mirrored = [torch.equal(a.flip(1), b) for a, b in zip(views.flatten(0, 1), still.flatten(0, 1), strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 0.35 < np.mean(kept) < 0.65


# --- exemplar --------------------------------------------------------------------------------------------------------


def test_triplet_loss_equals_its_formula():
    a, p, n = (torch.rand(6, 4, generator=generator(s), dtype=torch.float64) for s in range(3))
    for margin in (0.05, 1.0):
        expected = np.mean(
            [
                max(0.0, ((x - y) ** 2).mean() - ((x - z) ** 2).mean() + margin)
                for x, y, z in zip(*(t.numpy() for t in (a, p, n)), strict=True)
            ]
        )
        assert float(triplet(a, p, n, margin=margin)) == pytest.approx(expected, abs=1e-12)
    assert float(triplet(a, a, 1 - a.round(), margin=0.01)) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_exemplar_negatives_are_other_images_and_positives_the_same(dims):
    off = ["method.flip=0", "method.rot90=0", "method.jitter=0", "method.zoom_p=0"]
    method = make("exemplar", dims, *off)
    images = blobs(6, dims)
    seen = set()
    for seed in range(20):
        views = method.views(batch_of(images), generator(seed))
        assert torch.equal(views["anchor"], images)
        assert torch.allclose(views["positive"], images, atol=1e-6)
        for b in range(6):
            match = [i for i in range(6) if torch.allclose(views["negative"][b], images[i], atol=1e-6)]
            assert len(match) == 1
            assert match[0] != b
            seen.add((b, match[0]))
    assert len(seen) == 30, "any other image may be the negative"
    assert torch.isfinite(method.losses(batch_of(images[:1]), generator(0))["loss"]), "the last batch may be short"


@pytest.mark.parametrize("dims", [2, 3])
def test_exemplar_distorts_as_often_as_asked_and_stays_in_range(dims):
    images = blobs(200, dims)
    off = {"flip": 0, "rot90": 0, "jitter": 0, "zoom_p": 0}
    for key, share in (("zoom_p", 0.15), ("jitter", 0.5)):
        words = [f"method.{k}={share if k == key else v}" for k, v in off.items()]
        view = make("exemplar", dims, *words).distort(images, generator(0))
        changed = ((view - images).abs() > 1e-4).flatten(1).any(1).float().mean()
        assert float(changed) == pytest.approx(share, abs=0.1)
        assert float(view.min()) >= 0
        assert float(view.max()) <= 1


def test_exemplar_needs_a_second_image():
    config = test_methods.compose_pretrain(["method=exemplar", "data=chest14"])
    method_class = method_class_of("exemplar")
    with pytest.raises(SslMedError, match=r"trainer\.batch_size is 1"):
        method_class(config.method, spec=config.spec, backbone=config.backbone, optim=config.optim, batch_size=1)


# --- learning --------------------------------------------------------------------------------------------------------


def bodies(n, dims, seed=0):
    """Trunks with two lungs, a heart, a spine and a liver, each moved and scaled a little: a place and a direction matter.

    Blobs, which lie anywhere, say nothing of either.
    """
    g = torch.Generator().manual_seed(seed)
    size = test_methods.SIZE[dims]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, s) for s in size], indexing="ij")
    x, y, z = axes if dims == 3 else (axes[1], torch.zeros(size), -axes[0])

    def draw(low, high):
        return (torch.rand(n, generator=g) * (high - low) + low).view(-1, *[1] * dims)

    zoom, shift = draw(0.85, 1.1), [draw(-0.15, 0.15) for _ in range(3)]
    x, y, z = ((axis - moved) * zoom for axis, moved in zip((x, y, z), shift, strict=True))

    def organ(centre, radii):
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True))
        return torch.sigmoid((1 - distance) * 4)

    image = 0.5 * organ((0, 0, 0), (0.95, 0.75, 1.6))
    for lung in (((-0.42, -0.05, 0.25), (0.3, 0.45, 0.6)), ((0.45, -0.05, 0.25), (0.26, 0.45, 0.55))):
        image = image * (1 - 0.8 * organ(*lung))
    image = image + draw(0.1, 0.25) * organ((0.15, -0.15, 0), (0.25, 0.3, 0.3))
    image = image + draw(0.1, 0.25) * organ((-0.35, -0.1, -0.6), (0.5, 0.4, 0.3))
    image = (image + 0.4 * organ((0, 0.55, 0), (0.12, 0.14, 2)))[:, None]
    return (image + 0.02 * torch.randn(image.shape, generator=g)).clamp(0, 1)


# What a short run of test_learning.py does not show is learned by an easier task:
# images, steps, learning rate, words, and how many times better than the baseline solver at least
LEARNS = {
    "rotation": (bodies, 100, 3e-3, ["method.every=false"], 2),
    "exemplar": (blobs, 100, 1e-3, ["method.code_dim=128", "method.zoom_p=0"], 6),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dims"),
    [("exemplar", 2), *(pytest.param(name, 3, marks=pytest.mark.long) for name in ("exemplar", "rotation"))],
)
def test_the_pretext_task_is_learned_on_unseen_images(name, dims):
    images, steps, lr, words, times = LEARNS[name]
    method = make(name, dims, *words)
    train, test = images(256, dims, seed=1), images(64, dims, seed=2)
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    for s in range(steps):
        pick = torch.randint(len(train), (16,), generator=generator(s))
        test_methods.step(method, optimizer, batch_of(train[pick]), s)
    method.eval()
    with torch.no_grad():
        terms = method.terms(method.views(batch_of(test), generator(99)))
    assert float(terms["metric"]) > times * float(terms["baseline"])


def test_heads_see_standardised_features_where_the_backbone_does_not_normalise_batches():
    """Per channel over all images and patches; a head that is given features on a large common offset sees none of it."""
    images = blobs(6, 3)
    method = make("rubik_cube", 3, norm="group")
    seen = []
    method.order_head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    method.losses(batch_of(images), generator(0))
    features = seen[0].view(6 * method.grid.cells, -1)
    assert torch.allclose(features.mean(0), torch.zeros(features.shape[1]), atol=1e-4)
    assert features.std(0, correction=0).median() == pytest.approx(1.0, abs=0.05)
    assert isinstance(make("rubik_cube", 3, norm="batch").rescale, torch.nn.Identity)


def test_rotation_of_one_image_a_step_names_the_remedy_where_features_are_standardised():
    method = make("rotation", 3, "method.every=false", norm="group")
    options = {"spec": method.spec, "backbone": method.backbone_config, "optim": method.optim, "batch_size": 1}
    with pytest.raises(SslMedError, match=r"trainer.batch_size is 1; .*at least 2, or backbone.norm=batch"):
        type(method)(method.config, **options)

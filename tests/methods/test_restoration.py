"""Restoration methods: what is corrupted, what is compared, and with what."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from test_methods import batch_of, blobs, generator, make, step
from test_two_processes import ADVERSARIAL

from experiments.config.run import compose_pretrain
from ssl_med.losses.restoration import mae, mse, ssim_loss
from ssl_med.methods.core.critic import Critic
from ssl_med.methods.core.restoration import grey_error
from ssl_med.methods.cube_pp import CubePP
from ssl_med.spec import SslMedError
from ssl_med.transforms import corruptions, intensity, spatial

ALONE = {
    "denoising": lambda x, g: intensity.gaussian_noise(x, g, sigma=(0.1, 0.1), p=1),
    "inpainting": corruptions.inpaint,
    "outpainting": corruptions.outpaint,
    "local_shuffling": lambda x, g: corruptions.local_shuffle(x, g, p=1, windows=1000),
    "nonlinear": lambda x, g: intensity.nonlinear(x, g, p=1),
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ALONE)
def test_one_transform_alone_and_the_original_as_target(name, dims):
    images = blobs(4, dims)
    views = make(name, dims).views(batch_of(images), generator(3))
    g = generator(3)
    mirrored = spatial.flip(images, g, p=0.4)
    assert torch.equal(views["target"], mirrored)
    assert torch.equal(views["input"], ALONE[name](mirrored, g))
    views = make(name, dims, "method.flip=0").views(batch_of(images), generator(3))
    assert torch.equal(views["target"], images)
    assert bool((views["input"] != images).flatten(1).any(1)[:3].any())


@pytest.mark.parametrize("dims", [2, 3])
def test_autoencoder_sees_the_original_through_a_bottleneck(dims):
    method, images = make("autoencoder", dims, "method.flip=0"), blobs(4, dims)
    views = method.views(batch_of(images), generator(0))
    assert torch.equal(views["input"], images)
    method.eval()
    pyramid = method.backbone(images)
    shown = method.head(method.decoder(pyramid))
    hidden = [torch.zeros_like(level) for level in pyramid[:-1]]
    assert torch.equal(method.head(method.decoder([*hidden, pyramid[-1]])), shown), "finer levels must not matter"
    terms = method.terms(views)
    expected = torch.stack([((x - x.mean()) ** 2).mean() for x in images]).mean()
    assert float(terms["baseline"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_context_restoration_has_both_decoders(dims, skips):
    method = make("context_restoration", dims, f"method.skips={str(skips).lower()}").eval()
    pyramid = method.backbone(blobs(2, dims))
    hidden = [torch.zeros_like(level) for level in pyramid[:-1]]
    same = torch.equal(method.decoder([*hidden, pyramid[-1]]), method.decoder(pyramid))
    assert same is not skips
    assert method.decoder(pyramid).shape[2:] == blobs(2, dims).shape[2:]


@pytest.mark.parametrize(("loss", "function"), [("mse", mse), ("mae", mae), ("ssim", ssim_loss)])
@pytest.mark.parametrize("name", ["models_genesis", "context_restoration", "denoising"])
def test_losses_are_a_choice_and_the_metric_is_not(name, loss, function):
    method = make(name, 2, f"method.loss={loss}").eval()
    views = method.views(batch_of(blobs(3, 2)), generator(1))
    terms = method.terms(views)
    shown = method.restore(views["input"])[0]
    assert torch.equal(terms["loss"], function(shown, views["target"]))
    assert torch.equal(terms["metric"], mse(shown, views["target"]).detach())
    both = mse(views["input"], views["target"]), grey_error(views["target"])
    assert float(terms["baseline"]) == min(map(float, both))


OFF = ["method.flip=0", "method.shuffle=0", "method.nonlinear=0", "method.paint=0"]


@pytest.mark.parametrize(
    ("words", "kept", "permuted"),
    [
        ([], True, True),
        (["method.paint=1", "method.inpaint_rate=1"], False, False),
        (["method.paint=1", "method.inpaint_rate=0"], False, False),
        (["method.nonlinear=1"], False, False),
        (["method.shuffle=1"], False, False),
        (["method.flip=1"], True, True),
    ],
)
def test_models_genesis_combines_any_of_its_transforms(words, kept, permuted):
    chosen = {word.partition("=")[0] for word in words}
    method = make("models_genesis", 3, *[w for w in OFF if w.partition("=")[0] not in chosen], *words)
    images = blobs(6, 3)
    views = method.views(batch_of(images), generator(2))
    assert torch.equal(views["input"], views["target"]) is kept
    flipped = views["target"].flip([2, 3, 4])
    assert torch.equal(flipped if "method.flip" in chosen else views["target"], images)
    changed = (views["input"] != views["target"]).float().mean()
    if "method.inpaint_rate=1" in words:
        assert 0 < float(changed) < 0.2
    if "method.inpaint_rate=0" in words:
        assert float(changed) > 0.5


@pytest.mark.parametrize("name", ["models_genesis", "local_shuffling"])
def test_pool_is_drawn_again_from_the_seed(name):
    first, again = (make(name, 2, "method.pooled=5") for _ in range(2))
    assert first.maps.shape == (5, 32 * 32)
    assert torch.equal(first.maps, again.maps)
    assert "maps" not in first.state_dict()
    assert len({tuple(row.tolist()) for row in first.maps}) == 5
    one, two = (m.views(batch_of(blobs(4, 2)), generator(4))["input"] for m in (first, again))
    assert torch.equal(one, two)
    assert make(name, 2).maps is None


@pytest.mark.parametrize("dims", [2, 3])
def test_shuffled_patches_are_whole_cells_of_a_grid(dims):
    method, size = make("patch_shuffling", dims), {2: 32, 3: 16}[dims]
    images = torch.rand(6, 1, *[size] * dims, generator=generator(0))
    shuffled = method.views(batch_of(images), generator(0))["input"]
    assert method.patch == (4,) * dims

    def cells(image):
        starts = itertools.product(range(0, size, 4), repeat=dims)
        return [tuple(image[0][tuple(slice(s, s + 4) for s in start)].flatten().tolist()) for start in starts]

    for before, after in zip(images, shuffled, strict=True):
        old, new = cells(before), cells(after)
        assert sorted(old) == sorted(new)
        moved = sum(a != b for a, b in zip(old, new, strict=True))
        assert len(old) / 2 - 5 <= moved <= len(old) / 2  # a random permutation of half leaves about one in place


def slow_masked(restored, target, mask, power):
    total, count = 0.0, 0
    for b in range(len(target)):
        for c in range(target.shape[1]):
            for r, t, m in zip(
                *(v.flatten().tolist() for v in (restored[b, c], target[b, c], mask[b, 0])), strict=True
            ):
                if m:
                    total, count = total + abs(r - t) ** power, count + 1
    return total / count


@pytest.mark.parametrize(("loss", "power"), [("mse", 2), ("mae", 1)])
@pytest.mark.parametrize("dims", [2, 3])
def test_masked_loss_equals_loops_and_sees_masked_voxels_alone(dims, loss, power):
    method = make("mae", dims, f"method.loss={loss}").double().eval()
    torch.nn.init.constant_(method.token, 0.3)
    images = blobs(3, dims).double()
    views = method.views(batch_of(images), generator(1))
    mask = views["mask"]
    assert mask.flatten(1).mean(1).tolist() == [0.75] * 3
    shown = method.restore(torch.where(mask.bool(), 0.3, images))[0]
    terms = method.terms(views)
    assert float(terms["loss"].detach()) == pytest.approx(slow_masked(shown, images, mask, power), rel=1e-9)
    assert float(terms["metric"]) == pytest.approx(slow_masked(shown, images, mask, 2), rel=1e-9)
    hidden = views | {"image": torch.where(mask.bool(), torch.rand_like(images), images)}
    assert torch.equal(method.terms(hidden)["loss"], terms["loss"]), "what is masked must not be seen"
    elsewhere = views | {"target": torch.where(mask.bool(), images, 7.0)}
    assert torch.equal(method.terms(elsewhere)["loss"], terms["loss"]), "visible voxels must not count"
    grey = [images[b][mask[b].bool()] for b in range(3)]
    assert float(terms["baseline"]) == pytest.approx(
        float(torch.stack([g.var(unbiased=False) for g in grey]).mean()), rel=1e-9
    )


def test_normalized_patches_have_mean_zero_and_variance_one():
    method = make("mae", 2, "method.normalize=true", "method.patch=[8,4]")
    image = torch.rand(2, 1, 32, 32, generator=generator(0))
    y = method.views(batch_of(image), generator(1))["target"]
    for row in range(0, 32, 8):
        for column in range(0, 32, 4):
            patch = image[:, :, row : row + 8, column : column + 4]
            for b in range(2):
                expected = (patch[b] - patch[b].mean()) / (patch[b].var() + 1e-6).sqrt()
                assert torch.allclose(y[b, :, row : row + 8, column : column + 4], expected, atol=1e-5)
    assert isinstance(method.head.activation, torch.nn.Identity)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_share_of_masked_patches_is_exact(ratio):
    method = make("mae", 2, f"method.ratio={ratio}")
    mask = method.views(batch_of(blobs(5, 2)), generator(0))["mask"]
    cells = math.prod(s // p for s, p in zip((32, 32), method.patch, strict=True))
    assert mask.flatten(1).sum(1).tolist() == [round(ratio * cells) * math.prod(method.patch)] * 5


@pytest.mark.parametrize(
    ("size", "cube"), [("[64,64,32]", (16, 16, 16)), ("[16,16,16]", (8, 8, 8)), ("[224,224]", (56, 56))]
)
def test_cubes_are_those_of_the_comparison(size, cube):
    dims = len(cube)
    config = compose_pretrain(
        [
            "method=cube_pp",
            f"data={'chest14' if dims == 2 else 'lits'}",
            f"data.patch_size={size}",
            "backbone.name=unet",
        ]
    )
    small = replace(config.backbone, channels=(8, 16, 32))
    method = CubePP(config.method, spec=config.spec, backbone=small, optim=config.optim, batch_size=2)
    assert method.cube == cube


@pytest.mark.parametrize(
    ("words", "still", "turned"), [(["method.rotate=false"], 0, False), (["method.permute=false"], 1, True)]
)
def test_cubes_change_places_or_turn_or_both(words, still, turned):
    method = make("cube_pp", 3, "method.share=1", *words)
    cells = torch.arange(8.0).view(2, 2, 2)  # every cube of its own value: turning one changes nothing
    marked = (
        cells.repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)[None, None].repeat(20, 1, 1, 1, 1)
    )
    out = method.corrupt(marked, generator(0))
    assert bool((out == marked).all()) is bool(still)
    assert bool((out[:, 0, ::8, ::8, ::8].flatten(1).sort(1).values == torch.arange(8.0)).all())
    noise = torch.rand(20, 1, 16, 16, 16, generator=generator(1))
    out = method.corrupt(noise, generator(0))
    inside = [c.flatten().tolist() for c in out[0, 0].unfold(0, 8, 8).unfold(1, 8, 8).unfold(2, 8, 8).reshape(8, -1)]
    whole = [c.flatten().tolist() for c in noise[0, 0].unfold(0, 8, 8).unfold(1, 8, 8).unfold(2, 8, 8).reshape(8, -1)]
    assert (sorted(inside) == sorted(whole)) is not turned
    assert sorted(map(sorted, inside)) == sorted(map(sorted, whole))


def slow_critic(weights, image):
    """Strided convolutions written out as sums over the kernel, in 2D."""
    x = image
    for level in (0, 2, 4):
        weight, bias = weights[f"{level}.weight"], weights[f"{level}.bias"]
        size, step = weight.shape[2], 2 if weight.shape[2] == 3 else 1
        padded = torch.nn.functional.pad(x, [size // 2] * 4)
        rows, columns = (-(-s // step) for s in x.shape[2:])
        y = bias.view(1, -1, 1, 1).expand(len(x), -1, rows, columns)
        for i in range(size):
            for j in range(size):
                part = padded[:, :, i : i + step * rows : step, j : j + step * columns : step]
                y = y + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], part)
        x = torch.where(y > 0, y, 0.2 * y) if level < 4 else y
    return torch.stack([sample.mean() for sample in x])


def test_critic_loss_equals_its_formula_sample_by_sample():
    torch.manual_seed(0)
    critic = Critic(2, (4, 6), spatial_dims=2).double()
    real, made, beside = torch.rand(3, 3, 1, 8, 12, generator=generator(0), dtype=torch.float64)
    mix = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    weights = dict(critic.net.named_parameters())

    def score(image, b):
        return slow_critic(weights, torch.cat([image[None], beside[b : b + 1]], 1))[0]

    total = 0.0
    for b in range(3):
        line = (mix[b] * real[b] + (1 - mix[b]) * made[b]).requires_grad_()
        slope = torch.autograd.grad(score(line, b), line)[0]
        total += score(made[b], b) - score(real[b], b) + 10 * (slope.square().sum().sqrt() - 1) ** 2
    got = critic.loss({}, real, made, beside, mix)
    assert float(got.detach()) == pytest.approx(float(total.detach()) / 3, rel=1e-9)
    assert torch.allclose(critic(real, beside), torch.stack([score(real[b], b) for b in range(3)]))


def test_critic_takes_the_steps_of_adam_and_learns_to_tell():
    torch.manual_seed(0)
    critic = Critic(2, (4, 6), spatial_dims=2, lr=1e-2).double()
    copy_of = {name: w.clone().requires_grad_() for name, w in critic.net.named_parameters()}
    adam = torch.optim.Adam(copy_of.values(), lr=1e-2, betas=(0.5, 0.999))
    g = generator(0)
    for _ in range(30):
        real, beside = torch.rand(2, 6, 1, 8, 8, generator=g, dtype=torch.float64)
        made, mix = real.flip(2) * 0.5, torch.rand(6, generator=g, dtype=torch.float64)
        adam.zero_grad()
        critic.loss(copy_of, real, made, beside, mix).backward()
        adam.step()
        critic.learn(real, made, beside, mix)
    for name, weight in critic.net.named_parameters():
        assert torch.allclose(weight, copy_of[name], atol=1e-9), name
    assert float(critic(real, beside).mean()) > float(critic(made, beside).mean()) + 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_adversarial_part_is_weighted_saved_and_left_out_of_validation(dims):
    images = batch_of(blobs(4, dims))
    method = make("cube_pp", dims, *ADVERSARIAL)
    terms = method.losses(images, generator(0))
    assert torch.allclose(terms["loss"], terms["restore"] - 0.01 * terms["score"])
    assert int(method.critic.steps) == 1
    terms["loss"].backward()
    assert all(p.grad is None for p in method.critic.parameters())
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    method.eval()
    checked = method.losses(images, generator(0))
    assert "score" not in checked
    assert int(method.critic.steps) == 1

    def run(method, seeds):
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
        return [step(method, optimizer, images, s) for s in seeds]

    whole = run(make("cube_pp", dims, *ADVERSARIAL), range(4))
    first, second = (make("cube_pp", dims, *ADVERSARIAL) for _ in range(2))
    assert run(first, range(2)) == whole[:2]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert run(second, range(2, 4)) == whole[2:]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("denoising", ["method.sigma=0"], "'method.sigma' is 0; it must be above 0"),
        ("mae", ["method.loss=ssim"], "masked patches take mse or mae"),
        ("mae", ["method.patch=[5,4]"], r"method.patch \[5, 4\] does not fit data.patch_size \[32, 32\]"),
        ("mae", ["method.patch=[32,32]"], "leaves fewer than 2"),
        ("patch_shuffling", ["method.patch=[4]"], r"does not fit data.patch_size"),
        ("cube_pp", ["method.permute=false", "method.rotate=false"], "nothing is left to restore"),
        ("cube_pp", ["method.adversarial=1", "method.critic_channels=[]"], "at least one width"),
        ("cube_pp", ["method.cube=[7,7]"], r"method.cube \[7, 7\] does not fit"),
    ],
)
def test_refusals_are_one_line_that_names_the_key(name, words, message):
    with pytest.raises(SslMedError, match=message) as error:
        make(name, 2, *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dims", [2, 3])
def test_context_restoration_before_a_classification_leaves_its_path_behind(dims):
    """A few deconvolutions restore from the last level alone; what travels is the encoder."""
    method = make("context_restoration/classification", dims).eval()
    assert method.decoder is None
    image = blobs(2, dims)
    restored, pyramid = method.restore(image)
    expected = method.head(method.deconvolutions([*[torch.zeros_like(x) for x in pyramid[:-1]], pyramid[-1]]))
    assert torch.equal(restored, expected)
    assert restored.shape == image.shape
    with pytest.raises(SslMedError, match=r"method.skips=false has no effect, since method.path is deconvolution"):
        make("context_restoration/classification", dims, "method.skips=false")

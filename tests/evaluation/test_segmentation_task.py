"""Segmentation as it is trained: deep supervision on every kind of decoder, and classes that exclude each other."""

from itertools import product

import pytest
import torch

from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.losses.segmentation import dice_ce
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec, SslMedError

SIDE = {2: 32, 3: 16}
UNET = {"channels": (4, 4, 8, 8, 8)}
NETS = [
    ("unet", 3, UNET),
    ("unet", 2, UNET),
    ("plainconv", 2, {"features": (4, 4, 8, 8), "strides": ((1, 1), (1, 2), (2, 2), (2, 2))}),
    ("segresnet", 2, {"filters": 8, "blocks": (1, 1, 1, 1)}),
    ("resnet10", 2, {"decoder_channels": (8, 8, 8, 8, 8)}),
    ("vit", 2, {"width": 24, "depth": 3, "heads": 2, "patch": 8, "grid": 2, "decoder_width": 8}),
    (
        "swin_unetr",
        2,
        {"feature_size": 12, "heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1), "window": 2, "norm": "batch"},
    ),
]


def built(name, dims, net, *, regions=2, exclusive=False, **config):
    names = ("a", "b", "c")[:regions]
    spec = DataSpec(
        name="x", spatial_dims=dims, in_channels=1, patch_size=(SIDE[dims],) * dims, target="mask", class_names=names,
        exclusive=exclusive,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = build_backbone(backbone_config(name, **net), spatial_dims=dims, in_channels=1)
    decoder = backbone.build_decoder()
    return task_class(spec)(TaskConfig(**config), spec, backbone, decoder), backbone, decoder


def batch_of(dims, regions=2):
    side = SIDE[dims]
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, regions + 1, (2, *(side,) * dims), generator=generator)
    mask = torch.stack([label == k + 1 for k in range(regions)], 1).float()
    return {"image": torch.rand(2, 1, *(side,) * dims, generator=generator), "mask": mask}


@pytest.mark.parametrize(("name", "dims", "net"), NETS)
def test_deep_supervision_is_the_weighted_sum_over_levels_of_every_decoder(name, dims, net):
    task, backbone, decoder = built(name, dims, net, loss="dice_ce", deep_supervision=True)
    batch = batch_of(dims)
    loss = task.training_loss(batch, backbone, decoder)
    loss.backward()
    scales = list(decoder.scales(backbone(batch["image"])))[::-1]
    assert len(scales) >= 3
    expected, total = 0.0, 2 - 0.5 ** (len(scales) - 2)
    for level, x in enumerate(scales[:-1]):
        head = task.head if level == 0 else task.deep[level - 1]
        # the middle voxel of each coarse one, by indices
        step = [a // b for a, b in zip(batch["mask"].shape[2:], x.shape[2:], strict=True)]
        mask = batch["mask"][(..., *(slice(n // 2, None, n) for n in step))]
        expected += 0.5**level / total * float(dice_ce(head(x), mask, exclusive=False).detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    unused = [key for key, p in task.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused
    # what is predicted is the finest level alone
    task.eval(), backbone.eval(), decoder.eval()
    with torch.no_grad():
        direct = task.head(decoder(backbone(batch["image"])))
        assert torch.allclose(task.predict(batch["image"], backbone, decoder), direct, atol=1e-3)


def test_deep_supervision_changes_neither_weights_nor_losses_where_it_is_off():
    plain, deep = (built("unet", 3, UNET, deep_supervision=on)[0] for on in (False, True))
    assert torch.equal(plain.head.conv.weight, deep.head.conv.weight)
    assert [key for key, _ in plain.named_parameters()] == ["head.conv.weight", "head.conv.bias"]


def test_what_has_no_effect_is_refused():
    for channels, levels in (((4, 8, 8, 8), "2 levels"), ((4, 8, 8), "1 level")):
        with pytest.raises(SslMedError, match=rf"a decoder of {levels} has none between the finest and the coarsest"):
            built("unet", 2, {"channels": channels}, deep_supervision=True)
    spec = DataSpec(
        name="x", spatial_dims=2, in_channels=1, patch_size=(32, 32), target="class", class_names=("a", "b")
    )
    backbone = build_backbone(backbone_config("unet", **UNET), spatial_dims=2, in_channels=1)
    with pytest.raises(SslMedError, match=r"mirrors as training does, and task.flips=false"):
        built("unet", 2, UNET, mirrored_test=True, flips=False)
    for key in ("deep_supervision", "batch_dice"):
        with pytest.raises(SslMedError, match=f"task.{key} is for masks, and 'x' has classes; leave it out"):
            task_class(spec)(TaskConfig(**{key: True}), spec, backbone, None)


@pytest.mark.parametrize("dims", [2, 3])
def test_exclusive_classes_have_a_softmax_and_no_voxel_has_two(dims):
    batch = {**batch_of(dims), "id": ["p", "q"]}
    task, *_ = built("unet", dims, UNET, exclusive=True, loss="dice_ce")
    overlapping, *_ = built("unet", dims, UNET, loss="dice_ce")
    logits = 2 * torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(2)) + 1
    assert float(task.loss(logits, batch)) == pytest.approx(float(dice_ce(logits, batch["mask"], exclusive=True)))
    assert float(overlapping.loss(logits, batch)) == pytest.approx(
        float(dice_ce(logits, batch["mask"], exclusive=False))
    )
    both = (logits > 0).all(1)
    assert both.any()
    prediction = task.picture(logits, batch)["prediction"]
    assert not prediction.all(0).any()
    whole = torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).argmax(1)
    assert (torch.from_numpy(prediction[1]) == (whole[0] == 2)).all()
    perfect = torch.where(batch["mask"] > 0, 9.0, -9.0)
    assert task.test_rows(perfect, batch)[0]["dice"] == task.test_rows(perfect, batch)[1]["iou"] == 1.0


def test_dice_over_the_batch_is_for_training_alone():
    batch, logits = batch_of(2), torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    batch["mask"][0] = 0
    task, *_ = built("unet", 2, UNET, batch_dice=True)
    trained = float(task.loss(logits, batch))
    assert trained != pytest.approx(float(task.eval().loss(logits, batch)), abs=1e-3)
    each = built("unet", 2, UNET)[0]
    assert float(task.loss(logits, batch)) == float(each.loss(logits, batch))


@pytest.mark.parametrize(
    ("dims", "words", "axes"), [(2, (), [1]), (2, ("row", "column"), [0, 1]), (3, ("x", "z"), [0, 2])]
)
def test_mirrored_answers_are_the_mean_over_all_mirrorings_and_mirror_with_the_image(dims, words, axes):
    task, backbone, decoder = built("unet", dims, UNET, mirrored_test=True, flip_axes=words)
    for module in (task, backbone, decoder):
        module.eval()
    image = batch_of(dims)["image"]

    def network(x):
        return task.head(decoder(backbone(x)))

    expected = torch.zeros(2, 2, *image.shape[2:], dtype=torch.float64)
    with torch.no_grad():
        for subset in [
            [a for a, on in zip(axes, bits, strict=True) if on] for bits in product((0, 1), repeat=len(axes))
        ]:
            turned = [a + 2 for a in subset]
            expected += network(image.flip(turned)).flip(turned).double() / 2 ** len(axes)
        answer = task.predict(image, backbone, decoder)
        assert torch.allclose(answer.double(), expected, atol=1e-4)
        turned = [axes[0] + 2]
        assert torch.allclose(task.predict(image.flip(turned), backbone, decoder).flip(turned), answer, atol=1e-4)

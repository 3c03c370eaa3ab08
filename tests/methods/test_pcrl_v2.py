"""PCRLv2 against its equations."""

import math

import pytest
import torch
from test_methods import batch_of, blobs, generator, make

from ssl_med.methods.core.multicrop import crops
from ssl_med.methods.pcrl_v2 import across, between
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError

CHANNELS = "backbone.channels=[8,16,32,64]"  # two scales in the decoder


def slow_distance(p, z):
    """1 - cos, sample by sample."""
    total = 0.0
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        total += 1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return total / len(p)


def normalised(module, x):
    """Batch normalisation of evaluation, written out."""
    return (x - module.running_mean) / (module.running_var + module.eps).sqrt()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("done", [0, 3])
def test_loss_is_restoration_at_every_scale_and_comparison_of_all_views(dims, done):
    method = make("pcrl_v2", dims, CHANNELS, "method.schedule_steps=10", "method.compare_weight=0.5").double()
    for _ in range(done):
        method.after_step()
    beta = 0.5 * (1 + math.cos(math.pi * done / 10))
    batch = batch_of(blobs(3, dims), blobs(3, dims, seed=1))
    views = {k: v.double() for k, v in method.views(batch, generator(5)).items()}
    method.train()
    with torch.no_grad():  # running statistics that are not those of the start
        method.terms(views)
    method.eval()

    def looked_at(x, norm):
        """Per scale: z, p, and what it shows at full resolution; without the other views in the batch."""
        features, found = method.backbone(x)[-1], []
        for i, (up, level) in enumerate(zip(method.decoder.up, method.decoder.levels, strict=True)):
            features = level(up(features))
            z = normalised(getattr(method.comparisons[i], norm), features.flatten(2).mean(2))
            head = method.head if i == len(method.outputs) else method.outputs[i]
            shown = torch.sigmoid(head.conv(features))
            size, mode = x.shape[2:], "bilinear" if dims == 2 else "trilinear"
            shown = torch.nn.functional.interpolate(shown, size=size, mode=mode)
            found.append((z, method.comparisons[i].predictor(z), shown))
        return found

    with torch.no_grad():
        large = [looked_at(x, "large") for x in crops(views, "large")]
        small = [looked_at(x, "small") for x in crops(views, "small")]
        assert (len(large), len(small), len(large[0])) == (2, 2, 2)
        errors = [float((shown - views["target"]).square().mean()) for _, _, shown in large[0]]

        def compared(a, b):
            halves = [slow_distance(a[i][1], b[i][0]) + slow_distance(b[i][1], a[i][0]) for i in range(2)]
            return sum(halves) / 4

        local = sum(compared(a, b) for a in large for b in small) / 4
        expected = errors[1] + beta * sum(errors) / 2 + 0.5 * compared(*large) + 0.5 * local
        terms = method.terms(views)
    assert float(terms["loss"]) == pytest.approx(expected, abs=1e-9)
    assert float(terms["metric"]) == pytest.approx(errors[1], abs=1e-12)


def test_comparison_is_symmetric_and_stops_the_gradient_of_z():
    z = [torch.randn(4, 5, generator=generator(i), requires_grad=True) for i in range(2)]
    p = [torch.randn(4, 5, generator=generator(i + 2), requires_grad=True) for i in range(2)]
    loss = between(z, p)
    assert torch.allclose(loss, between(z[::-1], p[::-1]))
    loss.backward()
    assert all(x.grad is None for x in z)
    assert all(float(x.grad.abs().sum()) > 0 for x in p)
    assert float(between(z, z[::-1]).detach()) == pytest.approx(0, abs=1e-6)
    # all views the same: every pair agrees
    rows = z[0].detach()
    both, many = torch.cat([rows] * 2), torch.cat([rows] * 3)
    assert float(across((both, both), (many, many), 3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_target_is_the_clean_first_view(dims):
    clean = ["rotation_deg=0", "flip=0", *(["large_scale=[1.0,1.0]"] if dims == 2 else [])]
    method = make("pcrl_v2", dims, *(f"method.{word}" for word in clean))
    batch = batch_of(blobs(4, dims), blobs(4, dims, seed=1))
    views = method.views(batch, generator(0))
    expected = batch["image"]
    if dims == 3:
        assert torch.equal(views["target"], expected)
    assert not torch.equal(views["large0"], views["target"])
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1 + 1e-6 for v in views.values())
    assert views["large1"].shape == expected.shape
    assert views["small0"].shape == (4, 1, *method.small)


def test_pairs_come_from_the_loader_in_volumes_and_from_the_image_in_images():
    image, volume = make("pcrl_v2", 2), make("pcrl_v2", 3)
    assert not image.need(image.config, image.spec).pair
    need = volume.need(volume.config, volume.spec)
    assert need.pair
    assert need.min_iou == 0.3
    # volumes: small views show the two crops by turns
    dark, light = torch.zeros(2, 1, 16, 16, 16), torch.ones(2, 1, 16, 16, 16)
    views = make("pcrl_v2", 3, "method.noise=0").views(batch_of(dark, light), generator(0))
    assert float(views["small0"].max()) == 0
    assert float(views["small1"].min()) > 0.99


@pytest.mark.parametrize("name", ["unet", "resnet18"])
def test_scales_end_with_what_the_decoder_returns_and_double_each_time(name):
    config = backbone_config(name, **({"channels": (8, 16, 32, 64)} if name == "unet" else {}))
    backbone = build_backbone(config, spatial_dims=2, in_channels=1)
    decoder = backbone.build_decoder(skips=False).eval()
    pyramid = backbone.eval()(torch.rand(1, 1, 64, 64, generator=generator()))
    scales = list(decoder.scales(pyramid))
    assert torch.equal(scales[-1], decoder(pyramid))
    assert [x.shape[1] for x in scales] == list(decoder.channels)
    assert [x.shape[2] for x in scales] == [64 // 2**i for i in range(len(scales))][::-1]
    # no skips: the finer levels do not matter
    blind = [torch.zeros_like(x) for x in pyramid[:-1]] + pyramid[-1:]
    assert torch.equal(decoder(blind), scales[-1])


@pytest.mark.parametrize(
    ("word", "key"), [("large_scale=[0.5,0.2]", "large_scale"), ("noise=-1", "noise"), ("min_iou=2", "min_iou")]
)
def test_what_cannot_be_is_refused(word, key):
    with pytest.raises(SslMedError, match=rf"method\.{key}"):
        make("pcrl_v2", 2, f"method.{word}")

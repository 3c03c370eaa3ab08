import copy

import pytest
import torch
from torch import nn

from ssl_med.networks.backbone import BackboneConfig, build_backbone, build_decoder, resolve
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import ClassificationHead, Projector, RestorationHead
from ssl_med.networks.init import init_weights
from ssl_med.networks.queue import Queue
from ssl_med.spec import DataSpec, SslMedError


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def spec(dims, size):
    return DataSpec(name="x", spatial_dims=dims, in_channels=1, patch_size=(size,) * dims)


def test_default_3d_unet_is_models_genesis():
    """Parameter counts measured on the official network: 19,073,665 in all, 7,027,776 in the encoder."""
    config = BackboneConfig(name="unet")
    backbone = build_backbone(config, spatial_dims=3, in_channels=1)
    decoder = build_decoder(config, backbone)
    head = RestorationHead(decoder.out_channels, 1, 3, activation="sigmoid")
    assert count(backbone) == 7_027_776
    assert count(decoder.up) == 2_753_408
    assert count(backbone, decoder, head) == 19_073_665
    convolutions = [tuple(m.weight.shape[:2]) for m in backbone.modules() if isinstance(m, nn.Conv3d)]
    expected = [(32, 1), (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256)]
    assert convolutions == expected


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)])
def test_2d_resnets_hold_torchvisions_parameters(name, parameters):
    backbone = build_backbone(BackboneConfig(name=name), spatial_dims=2, in_channels=3)
    assert count(backbone) == parameters
    keys = backbone.state_dict().keys()
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight"} <= set(keys)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
@pytest.mark.parametrize("name", ["unet", "resnet18"])
@pytest.mark.parametrize("skips", [True, False])
def test_pyramid_and_decoder_shapes(name, norm, dims, skips):
    config = BackboneConfig(name=name, norm=norm, channels=(8, 16, 32), decoder_channels=(32, 16, 16, 8, 8))
    backbone = build_backbone(config, spatial_dims=dims, in_channels=2)
    decoder = build_decoder(config, backbone, skips=skips)
    size = 64 if name == "resnet18" and dims == 2 else 32 if name == "resnet18" else 16
    x = torch.rand(2, 2, *(size,) * dims)
    if name == "resnet18":
        backbone.eval(), decoder.eval()  # one voxel at the last level has no batch statistics worth the name
    pyramid = backbone(x)
    for level, channels, stride in zip(pyramid, backbone.channels, backbone.strides, strict=True):
        assert level.shape == (2, channels, *(size // stride,) * dims)
    assert backbone.pool(pyramid).shape == (2, backbone.out_channels)
    assert torch.allclose(backbone.pool(pyramid), pyramid[-1].flatten(2).mean(2))
    assert decoder(pyramid).shape == (2, decoder.out_channels, *x.shape[2:])
    if not skips:
        changed = [torch.zeros_like(level) for level in pyramid[:-1]] + [pyramid[-1]]
        assert torch.equal(decoder(pyramid), decoder(changed))


def test_depth_comes_from_channels():
    for channels in ((4, 8), (4, 8, 16), (4, 8, 16, 32, 64, 128)):
        backbone = build_backbone(BackboneConfig(name="unet", channels=channels), spatial_dims=2, in_channels=1)
        assert len(backbone.strides) == len(channels) - 1


@pytest.mark.parametrize(
    ("config", "dims", "size", "message"),
    [
        ({"name": "vgg"}, 2, 32, r"backbone.name is 'vgg'"),
        ({"channels": (8,)}, 3, 32, r"backbone.channels is \[8\]"),
        ({}, 3, 20, r"data.patch_size \[20, 20, 20\].*divisible by 8; try data.patch_size=\[16,16,16\]"),
        ({}, 2, 100, r"divisible by 32; try data.patch_size=\[96,96\]"),
        ({"norm": "group", "channels": (4, 8)}, 3, 32, r"backbone.norm=group needs widths divisible by 8"),
        ({"norm": "instance"}, 3, 8, r"one voxel at the last level"),
    ],
)
def test_what_cannot_be_built_is_refused(config, dims, size, message):
    with pytest.raises(SslMedError, match=message):
        resolve(BackboneConfig(**config), spec(dims, size))


def test_auto_is_unet_in_3d_and_resnet18_in_2d():
    assert resolve(BackboneConfig(), spec(3, 32)).name == "unet"
    assert resolve(BackboneConfig(), spec(2, 64)).name == "resnet18"


def test_init_schemes():
    def fresh(scheme):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(8, 64, 3), nn.BatchNorm3d(64), nn.Linear(64, 32))
        nn.init.constant_(net[1].weight, 3.0)
        init_weights(net, scheme)
        return net

    assert float(fresh("torch")[1].weight[0]) == 3.0
    uniform = fresh("uniform")[0].weight
    assert 0.049 < float(uniform.abs().max()) <= 0.05
    fan_in, fan_out = 8 * 27, 64 * 27
    xavier = fresh("xavier")[0].weight
    assert float(xavier.abs().max()) == pytest.approx((6 / (fan_in + fan_out)) ** 0.5, rel=0.01)
    msra = fresh("msra")[0].weight
    assert float(msra.abs().max()) == pytest.approx((6 / fan_in) ** 0.5, rel=0.01)
    for scheme in ("uniform", "xavier", "msra"):
        net = fresh(scheme)
        assert float(net[0].bias.abs().max()) == float(net[2].bias.abs().max()) == 0
        assert float(net[1].weight[0]) == 1.0


def test_heads():
    assert [type(m).__name__ for m in Projector(4, 8, 2, layers=2, norm=False).layers] == ["Linear", "ReLU", "Linear"]
    assert [type(m).__name__ for m in Projector(4, 8, 2, layers=3).layers].count("BatchNorm1d") == 2
    assert len(Projector(4, 8, 2, layers=1).layers) == 1
    assert ClassificationHead(4, 3, hidden=8, dropout=0.1)(torch.rand(5, 4)).shape == (5, 3)
    restored = RestorationHead(4, 1, 2, activation="sigmoid")(torch.randn(2, 4, 3, 3) * 50)
    assert 0 <= float(restored.min())
    assert float(restored.max()) <= 1


def test_ema_follows_exactly_and_never_learns():
    torch.manual_seed(0)
    online = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    teacher = EMA(online)
    expected = {k: v.clone().double() for k, v in online.state_dict().items()}
    for t in range(5):
        online.train()(torch.randn(8, 1, 6, 6))  # moves the running statistics
        with torch.no_grad():
            for p in online.parameters():
                p.add_(torch.randn_like(p))
        teacher.update(online, 0.9)
        warm = min(0.9, (1 + t) / (10 + t))
        for key, value in online.state_dict().items():
            if "num_batches" in key:
                expected[key] = value.double()
            else:
                decay = warm if "running" in key else 0.9
                expected[key] = decay * expected[key] + (1 - decay) * value.double()
    for key, value in teacher.module.state_dict().items():
        assert torch.allclose(value.double(), expected[key], atol=1e-6), key
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    x = torch.randn(2, 1, 6, 6, requires_grad=True)
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    twin = EMA(copy.deepcopy(online))
    twin.load_state_dict(teacher.state_dict())
    assert int(twin.updates) == 5


def test_queue_is_a_ring_that_survives_saving():
    torch.manual_seed(0)
    queue = Queue(3, 5)
    assert torch.allclose(queue.keys.norm(dim=0), torch.ones(5))
    content = queue.keys.T.tolist()
    position = 0
    for size in (2, 4, 1, 12):  # wraps around, and once more than the whole ring
        keys = torch.randn(size, 3)
        queue.push(keys)
        for key in torch.nn.functional.normalize(keys, dim=1).tolist():
            content[position] = key
            position = (position + 1) % 5
        assert torch.allclose(queue.keys.T, torch.tensor(content), atol=1e-6)
    assert int(queue.pointer) == position
    twin = Queue(3, 5)
    twin.load_state_dict(queue.state_dict())
    assert torch.equal(twin.keys, queue.keys)

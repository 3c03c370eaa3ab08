import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssl_med.networks.backbone import (
    backbone_class,
    backbone_config,
    build_backbone,
    check_backbone,
    name_of,
    stored_config,
)
from ssl_med.networks.backbones.unet import joined_up, joining_pays
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import ClassificationHead, Projector, RestorationHead
from ssl_med.networks.init import init_weights
from ssl_med.networks.memory import Memory
from ssl_med.networks.queue import Queue
from ssl_med.networks.resnet_parts import PaddedShortcut
from ssl_med.spec import DataSpec, SslMedError


def count(*modules):
    return sum(p.numel() for m in modules for p in m.parameters())


def spec(dims, size):
    return DataSpec(name="x", spatial_dims=dims, in_channels=1, patch_size=(size,) * dims)


def test_default_3d_unet_is_models_genesis():
    """Parameter counts measured on the official network: 19,073,665 in all, 7,027,776 in the encoder."""
    config = backbone_config("unet")
    backbone = build_backbone(config, spatial_dims=3, in_channels=1)
    decoder = backbone.build_decoder()
    head = RestorationHead(decoder.out_channels, 1, 3, activation="sigmoid")
    assert count(backbone) == 7_027_776
    assert count(decoder.up) == 2_753_408
    assert count(backbone, decoder, head) == 19_073_665
    convolutions = [tuple(m.weight.shape[:2]) for m in backbone.modules() if isinstance(m, nn.Conv3d)]
    expected = [(32, 1), (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256)]
    assert convolutions == expected


def torchvision_keys(name):
    def norm(at):
        return {f"{at}.{k}" for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    blocks, convolutions = {"resnet18": ((2, 2, 2, 2), 2), "resnet50": ((3, 4, 6, 3), 3)}[name]
    keys = {"conv1.weight"} | norm("bn1")
    for stage, count_ in enumerate(blocks, start=1):
        for block in range(count_):
            at = f"layer{stage}.{block}"
            for i in range(1, convolutions + 1):
                keys |= {f"{at}.conv{i}.weight"} | norm(f"{at}.bn{i}")
            if block == 0 and (stage > 1 or name == "resnet50"):
                keys |= {f"{at}.downsample.0.weight"} | norm(f"{at}.downsample.1")
    return keys


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)])
def test_2d_resnets_hold_torchvisions_parameters(name, parameters):
    backbone = build_backbone(backbone_config(name), spatial_dims=2, in_channels=3)
    assert count(backbone) == parameters
    keys = backbone.state_dict().keys()
    assert set(keys) == torchvision_keys(name)
    assert not any(key.endswith("conv1.bias") or key.endswith("downsample.0.bias") for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
@pytest.mark.parametrize("name", ["unet", "resnet18"])
@pytest.mark.parametrize("skips", [True, False])
def test_pyramid_and_decoder_shapes(name, norm, dims, skips):
    widths = {"channels": (8, 16, 32)} if name == "unet" else {"decoder_channels": (32, 16, 16, 8, 8)}
    config = backbone_config(name, norm=norm, **widths)
    backbone = build_backbone(config, spatial_dims=dims, in_channels=2)
    decoder = backbone.build_decoder(skips=skips)
    shape = (16,) * dims if name == "unet" else (64, 32, 32)[:dims]
    x = torch.rand(2, 2, *shape)
    if name == "resnet18":
        backbone.eval(), decoder.eval()  # one voxel at the last level has no batch statistics worth the name
    pyramid = backbone(x)
    for level, channels, stride in zip(pyramid, backbone.channels, backbone.strides, strict=True):
        assert level.shape == (2, channels, *(side // by for side, by in zip(shape, stride, strict=True)))
    assert backbone.pool(pyramid).shape == (2, backbone.out_channels)
    assert torch.allclose(backbone.pool(pyramid), pyramid[-1].flatten(2).mean(2))
    kind = {"batch": nn.modules.batchnorm._BatchNorm, "group": nn.GroupNorm}.get(
        norm, nn.modules.instancenorm._InstanceNorm
    )
    norms = [m for net in (backbone, decoder) for m in net.modules() if "Norm" in type(m).__name__]
    assert len(norms) >= 6
    assert all(isinstance(m, kind) for m in norms)
    assert backbone.divisor == backbone.strides[-1]
    assert decoder(pyramid).shape == (2, decoder.out_channels, *x.shape[2:])
    if not skips:
        changed = [torch.zeros_like(level) for level in pyramid[:-1]] + [pyramid[-1]]
        assert torch.equal(decoder(pyramid), decoder(changed))


def test_depth_comes_from_channels():
    for channels in ((4, 8), (4, 8, 16), (4, 8, 16, 32, 64, 128)):
        backbone = build_backbone(backbone_config("unet", channels=channels), spatial_dims=2, in_channels=1)
        assert len(backbone.strides) == len(channels) - 1


@pytest.mark.parametrize(
    ("config", "dims", "size", "message"),
    [
        ({"name": "resnet81"}, 2, 32, r"backbone.name 'resnet81' is unknown; did you mean 'resnet18'"),
        ({"channels": (8,)}, 3, 32, r"backbone.channels is \[8\]"),
        ({}, 3, 20, r"data.patch_size \[20, 20, 20\].*divisible by 8; try data.patch_size=\[16,16,16\]"),
        ({}, 2, 100, r"divisible by 32; try data.patch_size=\[96,96\]"),
        ({"norm": "group", "channels": (4, 8)}, 3, 32, r"backbone.norm=group needs widths divisible by 8"),
        ({"norm": "instance"}, 3, 8, r"one voxel at the last level"),
    ],
)
def test_what_cannot_be_built_is_refused(config, dims, size, message):
    with pytest.raises(SslMedError, match=message):
        check_backbone(backbone_config(**{"name": "unet" if dims == 3 else "resnet18"} | config), spec(dims, size))


def test_an_encoder_of_one_level_stands_alone_and_has_no_decoder():
    network = build_backbone(backbone_config("unet", channels=(8, 8), norm="group"), spatial_dims=2, in_channels=1)
    assert [tuple(level.shape) for level in network(torch.zeros(1, 1, 16, 16))] == [(1, 8, 16, 16)]
    with pytest.raises(SslMedError, match="has one level with these settings"):
        _ = network.build_decoder().out_channels


@pytest.mark.parametrize("name", ["unet", "resnet18"])
def test_settings_of_version_0_1_are_read(name):
    """It wrote the settings of all its backbones; a setting that nobody knows is refused."""
    stored = {"name": name, "channels": [8, 8, 16], "norm": "group", "init": "msra", "fast_up": False}
    stored |= {"decoder_channels": [32, 16, 16, 8, 8]}
    own = {"channels": (8, 8, 16), "fast_up": False} if name == "unet" else {"decoder_channels": (32, 16, 16, 8, 8)}
    assert stored_config(stored) == backbone_config(name, norm="group", init="msra", **own)
    with pytest.raises(SslMedError, match=f"backbone.depths is no setting of {name}"):
        stored_config({**stored, "depths": [1]})


def test_auto_is_unet_in_3d_and_resnet18_in_2d():
    assert [name_of(backbone_class("auto", spatial_dims=dims)) for dims in (2, 3)] == ["resnet18", "unet"]


def test_init_schemes():
    def fresh(scheme):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv3d(8, 64, 3), nn.BatchNorm3d(64), nn.Linear(64, 32))
        nn.init.constant_(net[1].weight, 3.0)
        init_weights(net, scheme)
        return net

    assert float(fresh("torch")[1].weight[0].detach()) == 3.0
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
        assert float(net[1].weight[0].detach()) == 1.0


def test_heads():
    assert [type(m).__name__ for m in Projector(4, 8, 2, layers=2, norm=False).layers] == ["Linear", "ReLU", "Linear"]
    assert [type(m).__name__ for m in Projector(4, 8, 2, layers=3).layers].count("BatchNorm1d") == 2
    assert len(Projector(4, 8, 2, layers=1).layers) == 1
    assert ClassificationHead(4, 3, hidden=8, dropout=0.1)(torch.rand(5, 4)).shape == (5, 3)
    restored = RestorationHead(4, 1, 2, activation="sigmoid")(torch.randn(2, 4, 3, 3) * 50)
    assert float(restored.min()) >= 0
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


def test_a_teacher_can_take_the_statistics_of_its_batch():
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    online.register_buffer("clock", torch.zeros(()))
    teacher, other = EMA(online, batch_statistics=True), torch.randn(8, 3) * 5 + 2
    x = torch.randn(16, 3)
    teacher.train()
    y = teacher(x)
    z = x @ teacher.module[0].weight.T + teacher.module[0].bias
    assert torch.allclose(y, (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt(), atol=1e-5)
    assert torch.equal(teacher(x), y), "dropout must stay off"
    mean = teacher.module[1].running_mean.clone()
    assert torch.allclose(mean, 0.19 * z.mean(0), atol=1e-6)  # of two batches, each with momentum 0.1
    online.train()(other)
    online.clock.fill_(1.0)
    teacher.update(online, 0.5)
    assert torch.equal(teacher.module[1].running_mean, mean), "its own averages, not its student's"
    assert float(teacher.module.clock) == pytest.approx(0.9)  # other buffers follow, at first with 1 / 10
    teacher.eval()
    evaluated = [teacher(x[:1]), teacher(x)[:1]]
    assert torch.allclose(*evaluated), "in evaluation nothing of the batch is used"


def test_queue_is_a_ring_that_survives_saving():
    torch.manual_seed(0)
    queue = Queue(3, 5)
    assert torch.allclose(queue.keys.norm(dim=0), torch.ones(5))
    content = queue.keys.T.tolist()
    position = 0
    for size in (2, 4, 1, 12):  # wraps around, and once more than the whole ring
        keys = torch.randn(size, 3)
        queue.push(keys)
        if size == 2:  # the first push: its keys stand in all places until others come
            content = (torch.nn.functional.normalize(keys, dim=1).tolist() * 3)[:5]
        for key in torch.nn.functional.normalize(keys, dim=1).tolist():
            content[position] = key
            position = (position + 1) % 5
        assert torch.allclose(queue.keys.T, torch.tensor(content), atol=1e-6)
    assert int(queue.pointer) == position
    twin = Queue(3, 5)
    twin.load_state_dict(queue.state_dict())
    assert torch.equal(twin.keys, queue.keys)
    assert int(twin.pointer) == position
    keys = torch.randn(2, 3)
    twin.push(keys), queue.push(keys)
    assert torch.equal(twin.keys, queue.keys), "a first push after loading is not the first one"


def test_queue_knows_how_much_of_it_is_real():
    first, second = (Queue(3, 5, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.keys, second.keys)
    assert int(first.filled) == 0
    for pushed, filled in ((2, 2), (2, 4), (2, 5), (9, 5)):
        first.push(torch.randn(pushed, 3))
        assert int(first.filled) == filled
    with pytest.raises(SslMedError, match=r"method\.queue is 0"):
        Queue(3, 0)


def test_teacher_statistics_are_sane_from_the_first_steps():
    """With decay 0.999 alone 30 updates would leave 97 % of the initial mean 0 and variance 1."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.BatchNorm1d(3))
    teacher = EMA(online)
    for _ in range(30):
        online.train()(torch.randn(256, 3) * 4 + 7)
        teacher.update(online, 0.999)
    statistics = teacher.module[0]
    assert torch.allclose(statistics.running_mean, torch.full((3,), 7.0), atol=0.8)
    assert torch.allclose(statistics.running_var, torch.full((3,), 16.0), atol=2.5)
    assert int(statistics.num_batches_tracked) == 30


def test_teacher_is_kept_in_the_precision_of_its_network():
    online = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    teacher = EMA(online).double()
    with torch.no_grad():
        online[1].running_mean.fill_(1.0)
    teacher.update(online, 0.5)
    assert teacher.module[1].running_mean.tolist() == pytest.approx([0.9, 0.9], abs=1e-14)  # warm-up decay 1 / 10


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (4, 2, 6), (1, 2, 1)])
def test_joined_up_is_the_same_function_of_the_same_parameters(shape, skips):
    torch.manual_seed(0)
    dims, deep, beside, out = len(shape), 5, 3, 4
    transposed, convolution = (nn.ConvTranspose2d, nn.Conv2d) if dims == 2 else (nn.ConvTranspose3d, nn.Conv3d)
    up = transposed(deep, deep, 2, 2).double()
    conv = convolution(deep + beside * skips, out, 3, padding=1).double()
    x = torch.randn(2, deep, *shape, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, beside, *(2 * n for n in shape), dtype=torch.float64, requires_grad=True) if skips else None
    learned = [x, *([skip] if skips else []), *up.parameters(), *conv.parameters()]
    plain = conv(torch.cat([up(x), skip], 1) if skips else up(x))
    joined = joined_up(x, skip, up, conv)
    assert torch.allclose(joined, plain, atol=1e-10, rtol=0)
    ahead = torch.randn_like(plain)
    expected, found = torch.autograd.grad(plain, learned, ahead), torch.autograd.grad(joined, learned, ahead)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dims", "size"), [(2, 64), (3, 16)])
def test_fast_up_changes_nothing_but_the_time(dims, size):
    torch.manual_seed(0)
    config = backbone_config("unet", channels=(2, 4, 8))
    backbone = build_backbone(config, spatial_dims=dims, in_channels=1).double()
    fast = backbone.build_decoder().double()
    plain_too = build_backbone(replace(config, fast_up=False), spatial_dims=dims, in_channels=1)
    plain = plain_too.build_decoder().double()
    plain.load_state_dict(fast.state_dict())  # the same keys
    pyramid = backbone(torch.rand(2, 1, *(size,) * dims, dtype=torch.float64))
    assert joining_pays(pyramid[-1], out_channels=4)
    results = {}
    for name, decoder in (("fast", fast), ("plain", plain)):
        y = decoder([level.detach() for level in pyramid])
        y.square().mean().backward()
        results[name] = [y, *(p.grad for p in decoder.parameters()), *decoder.buffers()]
    for a, b in zip(results["fast"], results["plain"], strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=0)


def test_pooling_stays_in_half_precision():
    torch.manual_seed(0)
    encoder = build_backbone(backbone_config("unet", channels=(2, 4, 8)), spatial_dims=3, in_channels=1)
    seen = []
    encoder.halve.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with torch.autocast("cpu", torch.bfloat16):
        encoder(torch.rand(1, 1, 8, 8, 8))
    before, after = seen[0]
    assert before.dtype == after.dtype == torch.bfloat16
    assert torch.equal(after.float(), torch.nn.functional.max_pool3d(before.float(), 2))


def test_joining_is_left_where_the_kernels_are_the_larger_part():
    """The deepest level of the Models Genesis network at 64 x 64 x 32 is slower joined, the two above are faster."""
    levels = {(512, 8, 8, 4): False, (256, 16, 16, 8): True, (128, 32, 32, 16): True}
    for shape, pays in levels.items():
        assert joining_pays(torch.empty(2, *shape, device="meta"), out_channels=shape[0] // 2) is pays


def test_instance_norm_accepts_two_voxels_and_group_norm_one():
    check_backbone(backbone_config("unet", norm="group"), spec(3, 8))
    two = DataSpec(name="x", spatial_dims=3, in_channels=1, patch_size=(16, 8, 8))
    check_backbone(backbone_config("unet", norm="instance"), two)


@pytest.mark.parametrize("normalize", [True, False])
def test_memory_averages_what_it_has_seen_and_the_last_value_of_a_repeated_sample_counts(normalize):
    def unit(x):
        return x / x.norm(dim=-1, keepdim=True) if normalize else x

    memory = Memory(3, normalize=normalize)
    memory.resize(6)
    untouched = memory.entries.clone()
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    memory.write(torch.tensor([4, 1, 4, 0]), values, momentum=0.5)
    assert memory.seen.tolist() == [True, True, False, False, True, False]
    for entry, value in ((4, 2), (1, 1), (0, 3)):
        assert torch.allclose(memory.entries[entry], unit(values[value]), atol=1e-6)
    before = memory.entries.clone()
    memory.write(torch.tensor([1, 2]), values[:2], momentum=0.75)
    assert torch.allclose(memory.entries[1], unit(0.75 * before[1] + 0.25 * unit(values[0])), atol=1e-6)
    assert torch.allclose(memory.entries[2], unit(values[1]), atol=1e-6), "an unseen entry takes the value itself"
    assert torch.equal(memory.entries[[3, 5]], untouched[[3, 5]])
    resumed = Memory(3, normalize=normalize)
    resumed.resize(6)
    assert torch.equal(resumed.entries, untouched), "the same start in all processes"
    resumed.load_state_dict(memory.state_dict())
    assert torch.equal(resumed.entries, memory.entries)
    assert resumed.written == 6


def test_the_shortcut_without_parameters_lets_the_gradient_through():
    x = torch.randn(1, 2, 5, 4, 3, requires_grad=True)
    y = PaddedShortcut(6, 2)(x)
    assert y.shape == (1, 6, 3, 2, 2)
    torch.testing.assert_close(y[:, :2], F.avg_pool3d(x, 1, 2))
    assert not y[:, 2:].any()
    y.sum().backward()
    assert int(x.grad.sum()) == 2 * 3 * 2 * 2


def test_i3d_trains_and_is_halved_less_along_slices():
    backbone = build_backbone(backbone_config("i3d"), spatial_dims=3, in_channels=1)
    pyramid = backbone(torch.rand(2, 1, 32, 32, 8))
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (width, *(side // by for side, by in zip((32, 32, 8), stride, strict=True)))
        for width, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    sum(level.square().mean() for level in pyramid).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    owned = [part for level in backbone.levels_of_modules() for module in level for part in module.parameters()]
    assert len(owned) == len(list(backbone.parameters()))

"""Plans of segmentation networks, each number worked out by hand from nnU-Net's rules, and the bytes of a training step."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_med.networks.footprint import step_bytes
from ssl_med.networks.planning import (
    Topology,
    first_patch,
    fit,
    median_shape,
    padded,
    reduced,
    target_spacing,
    topology,
)
from ssl_med.spec import SslMedError


@pytest.mark.parametrize(
    ("thickness", "slices", "expected"),
    [
        ([1.0, 1.2, 0.8, 1.0, 1.1], 200, 1.0),  # as thick as wide: the median
        ([5.0, 6.0, 7.0, 8.0, 10.0], 20, 5.4),  # thick and few: the 10th percentile, 5 + 0.4 * (6 - 5)
        ([5.0, 6.0, 7.0, 8.0, 10.0], 90, 7.0),  # thick, but not fewer than a third of 200
        ([0.5, 4.0, 4.0, 4.0, 4.0], 20, 1.9),  # 0.5 + 0.4 * 3.5
        ([0.2, 0.3, 4.0, 4.0, 4.0], 20, 1.0),  # 0.24, but no thinner than the others
        ([2.9] * 5, 20, 2.9),  # not three times as thick
    ],
)
def test_target_spacing(thickness, slices, expected):
    spacings = [(1.0, 1.0, t) for t in thickness]
    assert target_spacing(spacings, [(200, 200, slices)] * 5) == pytest.approx((1.0, 1.0, expected))


def test_median_shape_after_resampling():
    # 100 * 0.5 = 50, 60 * 1 = 60, 80 * 2 = 160: median 60; 10 * 4 / 2 = 20, 20, 40: median 20
    shape = median_shape([(0.5, 4), (1, 4), (2, 4)], [(100, 10), (60, 10), (80, 20)], (1, 2))
    assert shape == (60, 20)


def test_isotropic_network():
    found = topology((1, 1, 1), (128, 128, 128))  # 128 64 32 16 8 4
    assert found == Topology(((1, 1, 1), *((2, 2, 2),) * 5), ((3, 3, 3),) * 6)
    assert found.divisor == (32, 32, 32)
    assert found.features == (32, 64, 128, 256, 320, 320)


def test_anisotropic_network():
    """Voxels 1 x 1 x 5 mm: z joins when x and y are 4 mm, and ends at 4 slices before they do."""
    found = topology((1, 1, 5), (256, 256, 16))
    flat, whole = (2, 2, 1), (2, 2, 2)
    assert found.strides == ((1, 1, 1), flat, flat, whole, whole, flat, flat)
    assert found.kernels == ((3, 3, 1), (3, 3, 1), *((3, 3, 3),) * 5)
    assert found.divisor == (64, 64, 4)


def test_an_axis_alone_is_halved_from_twelve_voxels_on():
    assert topology((1, 1, 1), (12, 4, 4)).strides[1:] == ((2, 1, 1),)
    assert topology((1, 1, 1), (11, 4, 4)).strides[1:] == ()


def test_two_dimensions():
    found = topology((1, 1), (512, 512))
    assert found.strides == ((1, 1), *((2, 2),) * 7)
    assert found.features == (32, 64, 128, 256, 512, 512, 512, 512)


def test_patches():
    assert padded((35, 51, 36), (1, 1, 1))[0] == (40, 56, 40)  # each side halved three times
    assert first_patch((1, 1, 1), (512, 512, 100)) == (256, 256, 100)
    # 256 / 0.25^(1/3) = 406.4 along x and y, a quarter of it along z
    assert first_patch((1, 1, 4), (999, 999, 999)) == (406, 406, 102)
    assert first_patch((1, 1), (3000, 1500)) == (2048, 1500)
    # 256 is halved six times, 192 five times: a step is 32, and 224 comes between them
    assert reduced((256, 256), (1, 1), (256, 256))[0] == (224, 256)
    assert reduced((224, 256), (1, 1), (256, 256))[0] == (224, 224)
    assert reduced((8, 8), (1, 1), (8, 8)) is None  # 4 x 8 voxels: neither side can be halved


def test_a_given_patch_stays_and_odd_sides_are_not_halved():
    found = topology((1, 1, 1), (40, 52, 48), exact=True)
    assert all(side % by == 0 for side, by in zip((40, 52, 48), found.divisor, strict=True))
    assert found.divisor == (8, 4, 8)  # 40 20 10 5; 52 26 13; 48 24 12 6


def voxels(patch, network, batch):
    """A byte for each voxel, and 1000 for the weights."""
    return 1000 + batch * math.prod(patch)


def test_the_largest_patch_and_batch_that_fit():
    spacing, median = (1, 1, 1), (64, 64, 64)
    plan = fit(spacing, median, 1000, count=voxels, budget=1000 + 2 * 64**3)
    assert (plan.patch, plan.batch, plan.bytes) == ((64, 64, 64), 2, 1000 + 2 * 64**3)
    plan = fit(spacing, median, 1000, count=voxels, budget=2 * 64**3)  # 1000 bytes too few: one side 8 shorter
    assert (plan.patch, plan.batch) == ((56, 64, 64), 2)
    plan = fit(spacing, median, 1000, count=voxels, budget=1000 + 7 * 64**3 + 5)
    assert (plan.patch, plan.batch) == ((64, 64, 64), 7)
    plan = fit(spacing, median, 80, count=voxels, budget=10**9)  # 5 % of the voxels of 80 scans are four patches
    assert plan.batch == 4
    assert fit(spacing, median, 3, count=voxels, budget=10**9).batch == 2  # but at least two samples
    assert fit(spacing, median, 3, count=voxels, budget=10**9, batch=6).batch == 6
    given = fit(spacing, median, 1000, count=voxels, budget=1000 + 10 * 32**3, patch=(32, 32, 32))
    assert (given.patch, given.batch) == ((32, 32, 32), 10)


def test_too_little_memory_is_one_line():
    with pytest.raises(SslMedError, match="a batch of 2 patches of 64x64x64 voxels needs"):
        fit((1, 1, 1), (64, 64, 64), 9, count=voxels, budget=5000, patch=(64, 64, 64))
    with pytest.raises(SslMedError, match="give more memory, or a smaller data"):
        fit((1, 1, 1), (64, 64, 64), 9, count=voxels, budget=900)
    with pytest.raises(SslMedError, match="of 6x6x6 voxels is too small for a network of two levels"):
        fit((1, 1, 1), (6, 6, 6), 9, count=voxels, budget=10**9)


def test_bytes_of_a_step_by_hand():
    """y = relu(x w), x (2, 1000), w (1000, 1000): float32, w and its gradient, x, two results, and their gradients."""

    def loss(network):
        return network(torch.empty(2, 1000)).sum()

    w, row = 4_000_000, 8_000
    found = step_bytes(lambda: nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU()), loss, moments=0)
    assert 2 * w + 2 * row <= found <= 2 * w + 5 * row
    with_moments = step_bytes(lambda: nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU()), loss, moments=2)
    assert with_moments == found + 2 * w


MEASURE = """
import sys, torch
from experiments.commands.plan import Trained, _topology_settings
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.networks.backbone import backbone_config
from ssl_med.networks.footprint import step_bytes
from ssl_med.networks.planning import topology
from ssl_med.spec import DataSpec
side = int(sys.argv[1])
shape = (side,) * 3
settings = _topology_settings(topology((1, 1, 1), (32, 32, 32))) | {"features": (24, 32, 48, 64)}
def loss(network):
    return network(torch.rand(2, 1, *shape), torch.ones(2, 2, *shape))
def build():
    spec = DataSpec("x", 3, 1, shape, target="mask", class_names=("a", "b"))
    return Trained(backbone_config("plainconv", **settings), TaskConfig(name="x", deep_supervision=side == 32), spec)
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
torch.set_num_threads(1)
network = build()
optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
network(torch.rand(1, 1, 16, 16, 16), torch.ones(1, 2, 16, 16, 16)).backward()
optimizer.step()
weights = sum(parameter.nbytes for parameter in network.parameters())
before = status("VmRSS") - 3 * weights  # weights, gradients and moments belong to a step
open("/proc/self/clear_refs", "w").write("5")  # the highest mark begins anew
for _ in range(2):
    optimizer.zero_grad()
    loss(network).backward()
    optimizer.step()
print(step_bytes(build, loss, moments=1) / (status("VmHWM") - before))
"""


@pytest.mark.long
@pytest.mark.parametrize("side", [32, 48])
def test_bytes_of_a_step_are_what_the_process_takes(side):
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("only Linux says how much memory a process took at most")
    # the allocator gives every freed block back, so that the mark shows what was alive
    free = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", MEASURE, str(side)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "HOME": "/nonexistent", **free}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root)
    assert 0.8 < float(done.stdout) < 1.2

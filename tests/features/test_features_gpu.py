"""Analyses on a CUDA device say what they say on the processor."""

import math

import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.catalogue import get_class
from ssl_med.features.core.analysis import Analysis

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = {
    "spectrum": {"min_images": 4},
    "similarity": {"min_images": 4},
    "saliency": {"box": (4,), "stride": (2,)},
    "stability": {"repeats": 2},
    "invariance": {"steps": 3, "transforms": ("hflip", "noise", "scale")},
    "inversion": {"iterations": 2},
    "maps": {},
    "embedding": {"methods": ("pca",), "min_images": 4},
    "vectors": {},
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_do_not_depend_on_the_device(name, dims):
    found = get_class("ssl_med.features", name, kind="kind", base=Analysis)
    x = torch.rand(8, 1, *(16,) * dims, generator=torch.Generator().manual_seed(0))
    numbers = []
    for device in (torch.device("cpu"), torch.device(DEVICE)):
        network = small_encoder(dims).requires_grad_(False).to(device)
        analysis = found(found.Config(**SETTINGS[name]))
        numbers.append(analysis.measure(images_of(network, x, device=device)).numbers)
    assert numbers[0].keys() == numbers[1].keys()
    for key, value in numbers[0].items():
        if math.isfinite(value):
            assert numbers[1][key] == pytest.approx(value, rel=2e-2, abs=2e-3), key

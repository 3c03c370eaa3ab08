"""Parts that are kept, and the arithmetic of one pass."""

import numpy as np
import torch
from looking import images_of, small_encoder


def test_what_is_finished_is_not_computed_again(tmp_path):
    images = images_of(small_encoder(), torch.rand(2, 1, 8, 8), kept_in=tmp_path)
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(6.0).reshape(2, 3).T}  # not contiguous

    for _ in range(2):
        assert images.kept("case-0", make)["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert len(calls) == 1
    (tmp_path / "case-0.safetensors").write_bytes(b"half of it")
    assert images.kept("case-0", make)["a"].shape == (3, 2)
    assert len(calls) == 2


def test_pooled_features_are_means_of_the_levels():
    network = small_encoder(3)
    x = torch.rand(5, 1, 8, 8, 8)
    images = images_of(network, x, size=2)
    with torch.no_grad():
        pyramid = network(x)
    for mine, level in zip(images.pooled_levels(), pyramid, strict=True):
        torch.testing.assert_close(mine, level.flatten(2).mean(2))
    torch.testing.assert_close(images.pooled(x), pyramid[-1].flatten(2).mean(2))

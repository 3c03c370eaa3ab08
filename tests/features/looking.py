"""Images for tests of analyses: tensors in the place of a data set, and small encoders."""

import torch

from ssl_med.features.core.images import Images
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec


def small_encoder(dims=2, channels=(4, 4, 8), seed=0, in_channels=1):
    """A U-Net's encoder in evaluation mode."""
    torch.manual_seed(seed)
    return build_backbone(
        backbone_config("unet", channels=channels), spatial_dims=dims, in_channels=in_channels
    ).eval()  # fmt: skip


def images_of(backbone, x, *, labels=None, classes=(), subjects=None, size=8, **settings):
    """The samples (N, C, *S) as `Images`, in batches of `size`; `labels` (N,) are classes."""
    dims = x.ndim - 2
    target = "none" if labels is None else "class"
    spec = DataSpec("x", dims, x.shape[1], tuple(x.shape[2:]), target=target, class_names=tuple(classes))

    def load():
        for start in range(0, len(x), size):
            part = x[start : start + size]
            batch = {"image": part, "id": [f"case{start + k}" for k in range(len(part))]}
            batch["index"] = torch.arange(start, start + len(part))
            if labels is not None:
                batch["label"] = labels[start : start + size]
            yield batch

    return Images(backbone, spec, load, len(x), list(range(len(x))) if subjects is None else subjects, **settings)

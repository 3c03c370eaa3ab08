"""anatomix' U-Nets as numbered sequences: batch normalisation, and instance normalisation without parameters."""

import torch
from foreign_case import Case
from torch.nn import functional as F


def _sequence(filters, halvings, features):
    """Parts in order: (kind, in, out); kind is conv, norm, act, pool, up."""
    parts = []

    def unit(into, out):
        parts.extend([("conv", into, out), ("norm", out, out), ("act", out, out)])

    unit(1, filters)
    width = filters
    for level in range(halvings):
        wide = width if level == 0 else 2 * width
        unit(width, wide)
        unit(wide, wide)
        parts.append(("pool", wide, wide))
        width = wide
    unit(width, 2 * width)
    unit(2 * width, 2 * width)
    width *= 2
    for _ in range(halvings):
        parts.append(("up", width, width))
        unit(width + width // 2, width // 2)
        unit(width // 2, width // 2)
        width //= 2
    return [*parts, ("conv", width, features)]


def _build(generator, *, filters, halvings, features, batch, prefix=""):
    state = {}
    for place, (kind, into, out) in enumerate(_sequence(filters, halvings, features)):
        key = f"{prefix}model.{place}"
        if kind == "conv":
            state[f"{key}.weight"] = torch.randn(out, into, 3, 3, 3, generator=generator) * (2 / (27 * into)) ** 0.5
            if not batch:
                state[f"{key}.bias"] = torch.randn(out, generator=generator) * 0.1
        elif kind == "norm" and batch:
            for part in ("weight", "running_var"):
                state[f"{key}.{part}"] = 0.5 + torch.rand(out, generator=generator)
            for part in ("bias", "running_mean"):
                state[f"{key}.{part}"] = torch.randn(out, generator=generator) * 0.1
            state[f"{key}.num_batches_tracked"] = torch.tensor(5)
    return state


def run(made, x, *, filters, halvings, features, batch):
    """The levels on the way down, and the features for each voxel."""
    state = {key.removeprefix("_orig_mod."): value for key, value in made.items()}
    parts, pyramid, skips = _sequence(filters, halvings, features), [], []
    for place, (kind, _, _) in enumerate(parts):
        key = f"model.{place}"
        if kind == "conv":
            x = F.conv3d(F.pad(x, [1] * 6, mode="reflect"), state[f"{key}.weight"], state.get(f"{key}.bias"))
        elif kind == "norm" and batch:
            x = F.batch_norm(x, *(state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))
        elif kind == "norm":
            mean, var = x.mean([2, 3, 4], keepdim=True), x.var([2, 3, 4], correction=0, keepdim=True)
            x = (x - mean) / (var + 1e-2).sqrt()
        elif kind == "act":
            x = F.relu(x)
        elif kind == "pool":
            pyramid.append(x)
            skips.append(x)
            x = F.max_pool3d(x, 2) if batch else F.avg_pool3d(x, 2)
        else:
            if len(pyramid) == halvings:
                pyramid.append(x)
            x = F.interpolate(x, scale_factor=2, mode="nearest" if batch else "trilinear")
            x = torch.cat([skips.pop(), x], 1)
    return pyramid, x


SIZES = {
    "anatomix": {"filters": 4, "halvings": 2, "features": 4, "batch": True},
    "dev": {"filters": 4, "halvings": 3, "features": 6, "batch": False},
}
CASES = [
    Case(
        name,
        build=lambda generator, size=size, prefix=prefix: _build(generator, **size, prefix=prefix),
        forward=lambda made, x, size=size: run(made, x, **size)[0],
        shape=(1, 16, 16, 16),
    )
    for (name, size), prefix in zip(SIZES.items(), ("", "_orig_mod."), strict=True)
]

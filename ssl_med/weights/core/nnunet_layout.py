"""Names of nnU-Net's two networks, there and here, and the order of their axes.

nnU-Net's readers give arrays as (z, y, x) and its plans may turn them further (`transpose_forward`); ours are (x, y,
z). So the kernels of volumes are turned on their way, and every list that has an entry for each axis. Each convolution
of nnU-Net's networks has its tensors twice (`conv` and `all_modules.0`, `norm` and `all_modules.1`), and their decoder
holds the encoder once more (`decoder.encoder.`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ssl_med.networks.backbone import backbone_config
from ssl_med.networks.nnunet_parts import PlannedConfig
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import SslMedError
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.rules import Alias, Drop, Rename, Rule

Axes = tuple[int, ...]
ZYX: Axes = (2, 1, 0)


def axes_of(transpose_forward: Sequence[int], spatial_dims: int) -> Axes:
    """For each of our axes (x, y, z), the axis of the network that it is there.

    Args:
        transpose_forward: of the plans: the network's axis k is axis transpose_forward[k] of (z, y, x).
        spatial_dims: 2 or 3; slices are (row, column) on both sides.
    """
    if spatial_dims == 2:
        return (0, 1)
    return tuple(list(transpose_forward).index(axis) for axis in ZYX)


def turned(values: Sequence[Any], axes: Axes) -> tuple[Any, ...]:
    """Entries for each axis in another order of axes."""
    return tuple(values[axis] for axis in axes)


def turn(axes: Axes) -> Callable[[Tensor], Tensor]:
    """Turns the kernels of a convolution (O, I, *K); other tensors stay."""

    def change(tensor: Tensor) -> Tensor:
        if tensor.ndim != len(axes) + 2:
            return tensor
        return tensor.permute(0, 1, *(2 + axis for axis in axes)).contiguous()

    return change


def residual(state: Mapping[str, Tensor], stages: str = "encoder.stages") -> bool:
    """Whether the stages hold residual blocks."""
    return f"{stages}.0.blocks.0.conv1.conv.weight" in state


def architecture(
    state: Mapping[str, Tensor],
    *,
    strides: Sequence[Sequence[int]],
    axes: Axes,
    norm: str,
    stages: str = "encoder.stages",
    stem: str = "encoder.stem",
    with_decoder: bool,
) -> Architecture:
    """The network that tensors with nnU-Net's names fill.

    Args:
        state: tensors by nnU-Net's names.
        strides: of each stage in the network's order of axes; empty: those of the transposed convolutions, the first 1.
        axes: as of `axes_of`.
        norm: instance or batch.
        stages: name of the encoder's stages.
        stem: name of what comes before them.
        with_decoder: whether the decoder is wanted where ours is the same.

    Raises:
        SslMedError: strides that nothing tells, convolutions without a bias, or second names that are not all there.
    """
    _check_whole(state)
    deep = residual(state, stages)
    count = _count(state, rf"{re.escape(stages)}\.(\d+)\..+")
    features, kernels, blocks = [], [], []
    for stage in range(count):
        inside = f"{stages}.{stage}." + ("blocks" if deep else "0.convs")
        weight = state[f"{inside}.0.conv1.conv.weight" if deep else f"{inside}.0.conv.weight"]
        features.append(int(weight.shape[0]))
        kernels.append(turned([int(side) for side in weight.shape[2:]], axes))
        blocks.append(_count(state, rf"{re.escape(inside)}\.(\d+)\..+"))
    dims = len(kernels[0])
    ups = [state[key] for number in range(count - 1) if (key := f"decoder.transpconvs.{number}.weight") in state]
    if not strides:
        if len(ups) != count - 1:
            raise SslMedError("says nothing of its strides: bring the plans, or a file with the decoder")
        strides = [(1,) * dims, *(tuple(up.shape[2:]) for up in reversed(ups))]
    if len(strides) != count:
        raise SslMedError(f"has {count} stages, its plans {len(strides)} strides")
    first = state[f"{stem}.convs.0.conv.weight" if deep else f"{stages}.0.0.convs.0.conv.weight"]
    if (f"{stem}.convs.0.conv.bias" if deep else f"{stages}.0.0.convs.0.conv.bias") not in state:
        raise SslMedError("has convolutions without a bias (conv_bias=False); those of our nnU-Net have one")
    convs = {_count(state, rf"decoder\.stages\.{number}\.convs\.(\d+)\..+") for number in range(count - 1)}
    decoder = with_decoder and len(ups) == count - 1 and len(convs) == 1 and max(strides[0]) == 1
    config = backbone_config(
        "resenc" if deep else "plainconv",
        norm=norm,
        features=tuple(features),
        kernels=tuple(kernels),
        strides=tuple(turned([int(step) for step in stride], axes) for stride in strides),
        blocks=tuple(blocks),
        **({"blocks_up": convs.pop()} if decoder else {}),
    )
    return Architecture(config, dims, int(first.shape[1]), decoder)


def import_rules(
    state: Mapping[str, Tensor],
    axes: Axes,
    *,
    stages: str = "encoder.stages",
    stem: str = "encoder.stem",
    decoder: bool,
    why_not: str = "decoder",
) -> list[Rule]:
    """From nnU-Net's names to ours; second names are compared with the first and left out.

    Args:
        state: tensors by nnU-Net's names.
        axes: as of `axes_of`.
        stages: name of the encoder's stages.
        stem: name of what comes before them.
        decoder: whether the decoder is carried.
        why_not: the reason with which it is left out.
    """
    inside, before, change = re.escape(stages), re.escape(stem), turn(axes)
    rules: list[Rule] = [
        Alias(r"decoder\.(encoder\..+)", r"\1"),
        Alias(r"(.+)\.all_modules\.0\.(.+)", r"\1.conv.\2"),
        Alias(r"(.+)\.all_modules\.[12]\.(.+)", r"\1.norm.\2"),
        Drop(r"decoder\.seg_layers\..+", "segmentation heads"),
    ]
    for theirs, ours in (("conv", 0), ("norm", 1)):
        turning = change if theirs == "conv" else None
        if residual(state, stages):
            rules += [
                Rename(rf"{before}\.convs\.0\.{theirs}\.(.+)", rf"first.0.{ours}.\1", turning),
                Rename(
                    rf"{inside}\.(\d+)\.blocks\.(\d+)\.(conv[12])\.{theirs}\.(.+)",
                    rf"stages.\1.\2.\3.{ours}.\4",
                    turning,
                ),
                Rename(
                    rf"{inside}\.(\d+)\.blocks\.(\d+)\.skip\.(\d)\.{theirs}\.(.+)",
                    rf"stages.\1.\2.shortcut.\3.{ours}.\4",
                ),
            ]
        for number in range(_count(state, r".+\.convs\.(\d+)\..+")):
            place = 2 * number  # ours has the activation between two convolutions
            if not residual(state, stages):
                rules.append(
                    Rename(
                        rf"{inside}\.(\d+)\.0\.convs\.{number}\.{theirs}\.(.+)",
                        rf"stages.\1.{place}.{ours}.\2",
                        turning,
                    )
                )
            if decoder:
                rules.append(
                    Rename(
                        rf"decoder\.stages\.(\d+)\.convs\.{number}\.{theirs}\.(.+)",
                        rf"decoder.blocks.\1.{place}.{ours}.\2",
                        turning,
                    )
                )
    if decoder:
        rules.append(Rename(r"decoder\.transpconvs\.(\d+)\.(.+)", r"decoder.up.\1.\2", change))
    else:
        rules.append(Drop(r"decoder\.(?:stages|transpconvs)\..+", why_not))
    return rules


def foreign_state(backbone: Backbone, decoder: Decoder | None) -> dict[str, Tensor]:
    """Our network under nnU-Net's names, with every second name, its volumes' kernels in the order (z, y, x)."""
    deep = backbone.config.name == "resenc"
    change = turn(ZYX if backbone.spatial_dims == 3 else (0, 1))
    rules = [
        (r"first\.0\.([01])\.(.+)", r"encoder.stem.convs.0.{}.\2"),
        (r"stages\.(\d+)\.(\d+)\.(conv[12])\.([01])\.(.+)", r"encoder.stages.\1.blocks.\2.\3.{}.\5"),
        (r"stages\.(\d+)\.(\d+)\.shortcut\.(\d)\.([01])\.(.+)", r"encoder.stages.\1.blocks.\2.skip.\3.{}.\5"),
    ]
    if not deep:
        rules = [(r"stages\.(\d+)\.(\d+)\.([01])\.(.+)", r"encoder.stages.\1.0.convs.#.{}.\4")]
    found: dict[str, Tensor] = {}
    for key, tensor in backbone.state_dict().items():
        _put(found, key, change(tensor.detach().cpu()), rules, place=None if deep else 2)
    if decoder is not None:
        up = [(r"blocks\.(\d+)\.(\d+)\.([01])\.(.+)", r"decoder.stages.\1.convs.#.{}.\4")]
        for key, tensor in decoder.state_dict().items():
            tensor = change(tensor.detach().cpu())
            if key.startswith("up."):
                found[f"decoder.transpconvs.{key.removeprefix('up.')}"] = tensor
            else:
                _put(found, key, tensor, up, place=2)
        found |= {f"decoder.{key}": value for key, value in found.items() if key.startswith("encoder.")}
    return found


def arch_kwargs(config: Any, spatial_dims: int) -> dict[str, Any]:
    """What nnU-Net's plans say of our network."""
    axes = ZYX if spatial_dims == 3 else (0, 1)
    stages = config.stages(spatial_dims)
    blocks = "n_blocks_per_stage" if config.name == "resenc" else "n_conv_per_stage"
    kind = "InstanceNorm" if config.norm == "instance" else "BatchNorm"
    folder = "instancenorm" if config.norm == "instance" else "batchnorm"
    return {
        "n_stages": len(stages),
        "features_per_stage": [width for width, *_ in stages],
        "conv_op": f"torch.nn.modules.conv.Conv{spatial_dims}d",
        "kernel_sizes": [list(turned(kernel, axes)) for _, kernel, _, _ in stages],
        "strides": [list(turned(stride, axes)) for _, _, stride, _ in stages],
        blocks: [count for *_, count in stages],
        "n_conv_per_stage_decoder": [config.blocks_up] * (len(stages) - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{folder}.{kind}{spatial_dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


NEEDING_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")


def check_ours(form: str, path: Any, backbone: Backbone) -> None:
    """Refuses a network that nnU-Net does not have.

    Raises:
        SslMedError: another network, group normalisation, or a normalisation of channels inside it.
    """
    config = backbone.config
    if not isinstance(config, PlannedConfig) or config.name not in ("resenc", "plainconv"):
        raise SslMedError(f"to={form}: {path} is a {config.name}; nnU-Net has our resenc and plainconv")
    if config.norm not in ("instance", "batch"):
        raise SslMedError(
            f"to={form}: {path} has backbone.norm={config.norm}; nnU-Net's networks have instance or batch"
        )
    if config.input_mean:
        raise SslMedError(
            f"to={form}: {path} subtracts {list(config.input_mean)} and divides by {list(config.input_std)} in its first "
            "step, which nnU-Net's networks do not"
        )


def holds_decoder(state: Mapping[str, Tensor]) -> bool:
    """Whether all of nnU-Net's decoder is there; its segmentation layers may not be."""
    steps = _count(state, r"encoder\.stages\.(\d+)\..+") - 1
    parts = (r"decoder\.transpconvs\.(\d+)\.weight", r"decoder\.stages\.(\d+)\..+\.norm\.bias")
    return all(_count(state, part) == steps for part in parts)


def _check_whole(state: Mapping[str, Tensor]) -> None:
    """Refuses a file that lost some of its tensors: second names are all there, or none is."""
    first = [key for key in state if re.search(r"\.(?:conv|norm)\.\w+$", key)]
    second = [key for key in state if ".all_modules." in key]
    again = [key for key in state if key.startswith("decoder.encoder.")]
    encoder = [key for key in state if key.startswith("encoder.")]
    for found, wanted in ((second, first), (again, encoder)):
        if found and len(found) != len(wanted):
            raise SslMedError(
                f"holds {len(wanted)} tensors such as {wanted[0]}, of which {len(found)} have a second name"
            )


def _put(
    found: dict[str, Tensor], key: str, tensor: Tensor, rules: Sequence[tuple[str, str]], *, place: int | None
) -> None:
    """A tensor of a convolution or of its normalisation under both of its names."""
    for pattern, to in rules:
        match = re.fullmatch(pattern, key)
        if match is None:
            continue
        part = int(match.groups()[-2])
        for word in (("conv", "norm")[part], f"all_modules.{part}"):
            name = match.expand(to.replace("{}", word))
            found[name.replace("#", str(int(match[2]) // 2)) if place else name] = tensor
        return
    raise ValueError(f"{key} has no name in nnU-Net")


def _count(state: Mapping[str, Any], pattern: str) -> int:
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})

"""Any MONAI network by its class name: the modules whose outputs are the levels make it an encoder.

`backbone.name=monai backbone.target=BasicUNet backbone.args={features: [16,16,32,64,128,16]}
backbone.levels=[conv_0,down_1,down_2]`; the decoder is the one that any encoder gets.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ssl_med.catalogue import nearest
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Level
from ssl_med.spec import SslMedError, first_line

_PROBE = 32  # side of the image by which levels are measured, voxels; each stride divides it


@dataclass
class MonaiConfig(BackboneConfig):
    """Settings of a network of MONAI."""

    target: str = ""
    """class in monai.networks.nets, such as BasicUNet or AttentionUnet"""
    args: dict[str, Any] = field(default_factory=dict)
    """its arguments; spatial_dims and in_channels are filled in, and out_channels or num_classes where it wants one"""
    levels: tuple[str, ...] = ()
    """modules whose outputs are the levels, finest first, by their names in the network, such as down_1 or encoder.layers.0"""

    def __post_init__(self) -> None:
        if not self.target or not self.levels:
            missing = "target=CLASS" if not self.target else "levels=[MODULE,...]"
            raise SslMedError(
                f"backbone.{missing} is missing: backbone.name=monai takes a class of monai.networks.nets and the modules "
                "whose outputs are the levels, finest first"
            )
        target_class(self.target)

    def key(self) -> str:
        """The settings as text, to remember what was measured."""
        return json.dumps([self.target, self.args, self.levels], sort_keys=True)


class Monai(Backbone):
    """The network up to the last module that is a level; what comes later is neither computed nor kept in the weights."""

    Config = MonaiConfig
    config: MonaiConfig

    def __init__(self, config: Any, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__(config, spatial_dims=spatial_dims, in_channels=in_channels)
        self.network, used = _encoder(config, spatial_dims, in_channels)
        self._used = used

    @classmethod
    def pyramid_of(cls, config: Any, spatial_dims: int) -> list[Level]:
        """Channels and strides as measured on an empty image."""
        return list(_measured(config.key(), spatial_dims))

    def levels_of_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The modules with parameters that run before each level is complete, and after the level before."""
        modules = dict(self.network.named_modules())
        return tuple(tuple(_OwnParameters(modules[name]) for name in level) for level in self._used)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *S) -> the outputs of the named modules, in their order."""
        return _run(self.network, self.config.levels, x)


class _OwnParameters(nn.Module):
    """The parameters of a module without those of its children, which may belong to another level."""

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for key, parameter in module.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        object.__setattr__(self, "module", module)

    def train(self, mode: bool = True) -> _OwnParameters:
        """Also sets the mode of the module itself, on which its statistics depend."""
        super().train(mode)
        self.module.training = mode
        return self


class _LevelsFoundError(Exception):
    """Raised when the last level is computed: the rest of the network is not wanted."""


def target_class(name: str) -> Any:
    """A class of monai.networks.nets.

    Raises:
        SslMedError: there is none of that name; the text offers the nearest.
    """
    from monai.networks import nets

    known = sorted(key for key, value in vars(nets).items() if isinstance(value, type) and issubclass(value, nn.Module))
    short = name.removeprefix("monai.networks.nets.")
    if short not in known:
        raise SslMedError(f"backbone.target '{name}' is no network of monai.networks.nets{nearest(short, known)}")
    return getattr(nets, short)


def _build(config: MonaiConfig, spatial_dims: int, in_channels: int) -> nn.Module:
    import inspect

    kind = target_class(config.target)
    wanted = inspect.signature(kind.__init__).parameters
    filled = {"spatial_dims": spatial_dims, "in_channels": in_channels, "n_input_channels": in_channels}
    filled |= {"out_channels": 2, "num_classes": 2}
    arguments = {key: value for key, value in filled.items() if key in wanted} | dict(config.args)
    for key in ("spatial_dims", "in_channels", "n_input_channels"):
        if key in config.args and config.args[key] != filled[key]:
            raise SslMedError(f"backbone.args.{key} is {config.args[key]}; the data need {filled[key]}, leave it out")
    unknown = sorted(set(config.args) - set(wanted))
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in wanted.values()):
        raise SslMedError(
            f"backbone.args.{unknown[0]} is unknown to {config.target}{nearest(unknown[0], sorted(wanted))}"
        )
    try:
        network: nn.Module = kind(**arguments)
    except Exception as error:  # the library's own checks raise anything
        raise SslMedError(
            f"backbone.target={config.target}: cannot be built with backbone.args ({first_line(error)})"
        ) from None
    return network


def _encoder(config: MonaiConfig, spatial_dims: int, in_channels: int) -> tuple[nn.Module, list[list[str]]]:
    """The network without what no level needs, and the leaves with parameters that each level is the first to need."""
    network = _build(config, spatial_dims, in_channels)
    names = [name for name, _ in network.named_modules()]
    for name in config.levels:
        if name not in names:
            raise SslMedError(f"backbone.levels: {config.target} has no module '{name}'{nearest(name, names)}")
    order: list[str] = []
    owners = {name: part for name, part in network.named_modules() if any(True for _ in part.parameters(recurse=False))}
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: None if name in order else order.append(name))
        for name, part in owners.items()
    ]
    marks: dict[str, int] = {}
    modules = dict(network.named_modules())
    hooks += [
        modules[name].register_forward_hook(lambda *_, name=name: marks.setdefault(name, len(order)) and None)
        for name in config.levels
    ]
    probe = torch.zeros(2, in_channels, *[_PROBE] * spatial_dims)
    training = network.training
    try:
        with torch.no_grad():
            _run(network.eval(), config.levels, probe)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    stops = [marks[name] for name in config.levels]
    if stops != sorted(stops):
        raise SslMedError(
            f"backbone.levels is {list(config.levels)}; name them in the order in which they are computed"
        )
    used = [order[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    needed = {name for level in used for name in level}
    for name, part in owners.items():
        if name not in needed:  # no gradient reaches it: it must be neither trained nor saved
            for key in [key for key, _ in part.named_parameters(recurse=False)]:
                part.register_parameter(key, None)
            for key in [key for key, _ in part.named_buffers(recurse=False)]:
                part.register_buffer(key, None)
    return network, used


def _run(network: nn.Module, levels: tuple[str, ...], x: Tensor) -> list[Tensor]:
    """The outputs of the named modules; the network stops once it has them all."""
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        found[name] = output
        if len(found) == len(levels):
            raise _LevelsFoundError

    # hooks are of one call: a copy of the network, such as a teacher, would bring along those of the original
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in levels
    ]
    try:
        with contextlib.suppress(_LevelsFoundError):
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in levels]


@cache
def _measured(key: str, spatial_dims: int) -> tuple[Level, ...]:
    target, args, levels = json.loads(key)
    config = MonaiConfig(name="monai", target=target, args=args, levels=tuple(levels))
    with torch.random.fork_rng(devices=[]):  # what is built to be measured must not change later random numbers
        network = _build(config, spatial_dims, 1).eval()
        try:
            with torch.no_grad():
                found = _run(network, config.levels, torch.zeros(1, 1, *[_PROBE] * spatial_dims))
        except SslMedError:
            raise
        except Exception as error:
            raise SslMedError(
                f"backbone.target={target}: cannot be run on an image of {_PROBE} voxels a side ({first_line(error)})"
            ) from None
    pyramid = []
    for name, output in zip(levels, found, strict=True):
        if not isinstance(output, Tensor) or output.ndim != spatial_dims + 2:
            raise SslMedError(f"backbone.levels: the output of '{name}' is no map of features, so it cannot be a level")
        sides = output.shape[2:]
        if any(_PROBE % side for side in sides):
            raise SslMedError(
                f"backbone.levels: '{name}' has sides {list(sides)} for an image of {_PROBE}; no whole stride"
            )
        pyramid.append(Level(output.shape[1], tuple(_PROBE // side for side in sides)))
    return tuple(pyramid)

"""Fills one of our networks with a foreign file, completely or not at all, and writes its card."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ssl_med.checkpoint import Card
from ssl_med.contract import InputContract
from ssl_med.finite import check_tensors
from ssl_med.networks.backbone import backbone_class, backbone_config, build_backbone
from ssl_med.networks.channels import spread_input
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder, divisor_of
from ssl_med.reading import mismatch
from ssl_med.spec import SslMedError, first_line
from ssl_med.weights.core.account import Account, account
from ssl_med.weights.core.adapt import Inflate, fit
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.find import Match, choose, opened
from ssl_med.weights.core.origin import about
from ssl_med.weights.core.rules import Rule, apply

DECODER = "decoder."


@dataclass(frozen=True)
class Wishes:
    """What a user asks of an import.

    * allow: keys, or patterns with * and ?, that may be unexplained, missing or mismatched; they stand in the card.
    * inflate: how 2D weights become 3D. * channels: of the images; 0: as trained.
    * backbone: settings of the network that are to be other than the family says, such as {"dilated": False}.
    """

    allow: tuple[str, ...] = ()
    inflate: Inflate = ""
    channels: int = 0
    backbone: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.inflate not in get_args(Inflate):
            raise SslMedError(f"inflate={self.inflate}: must be i3d or centre")
        if self.channels < 0:
            raise SslMedError(f"channels={self.channels}: give a positive number")


NONE = Wishes()


@dataclass(frozen=True)
class Converted:
    """A foreign file as one of our networks, with card, contract, the account of its tensors, and what was changed."""

    match: Match
    backbone: Backbone
    decoder: Decoder | None
    card: Card
    contract: InputContract
    account: Account
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What an import would do: the network, and the account of the tensors; nothing is refused yet."""

    architecture: Architecture
    contract: InputContract
    backbone: Backbone
    decoder: Decoder | None
    filling: dict[str, Tensor]
    account: Account
    notes: tuple[str, ...]


def convert(path: Path, family: str = "", *, wishes: Wishes = NONE, versions: Mapping[str, str], git: str) -> Converted:
    """Reads a foreign file and fills one of our networks with it, completely or not at all.

    Args:
        path: file or folder of the weights.
        family: name of a file in ssl_med/weights; "": the one that recognises the file.
        wishes: of the user.
        versions: of the libraries, for the card.
        git: commit of the code, for the card.

    Raises:
        SslMedError: the file cannot be read, is of no or several families, or leaves a tensor missing, mismatched or
            unexplained that `wishes.allow` does not name.
    """
    match = choose(opened(path), family)
    return fill(match, plan(match, wishes), wishes, versions=versions, git=git)


def plan(match: Match, wishes: Wishes = NONE) -> Plan:
    """What an import of a file would do.

    Raises:
        SslMedError: a size that we do not have, or a wish that does not fit.
    """
    name, family, file = match
    architecture, contract, rules = described(match, wishes)
    config, dims = architecture.config, architecture.spatial_dims
    if wishes.inflate:
        if dims == 3:
            raise SslMedError(f"inflate={wishes.inflate}: {file.path} holds a 3D network already; leave it out")
        dims, contract = 3, _inflated(contract)
        if 3 not in backbone_class(config.name).dims:
            raise SslMedError(f"inflate={wishes.inflate}: backbone {config.name} does not exist in 3D")
        config = config.for_volumes()
    _check_axes(config, contract, dims, architecture.in_channels, file.path)
    with torch.random.fork_rng(devices=[]):  # what the user allows to be missing is the same every time
        torch.manual_seed(0)
        backbone = build_backbone(config, spatial_dims=dims, in_channels=architecture.in_channels)
        decoder = backbone.build_decoder(skips=architecture.skips) if architecture.decoder else None
    wanted = _wanted(backbone, decoder)
    renamed = apply(rules, file.state)
    try:
        notes = family.adjust(renamed.tensors, file)
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise SslMedError(f"{file.path}: is no whole file of family={name} ({first_line(error)[:120]})") from None
    notes += fit(
        renamed.tensors, wanted, backbone, rule=wishes.inflate, resample=bool(wishes.backbone or wishes.inflate)
    )
    kept = {key: why for key in wanted for pattern, why in family.keeps.items() if re.fullmatch(pattern, key)}
    found, filling = account(renamed, wanted, kept=kept, allow=wishes.allow)
    return Plan(
        architecture._replace(config=config, spatial_dims=dims),
        contract,
        backbone,
        decoder,
        filling,
        found,
        tuple(notes),
    )


def described(match: Match, wishes: Wishes = NONE) -> tuple[Architecture, InputContract, Sequence[Rule]]:
    """The network of a file as it is wished for, what its images must be, and what becomes of its keys.

    Raises:
        SslMedError: a size that we do not have, or a wish that does not fit.
    """
    name, family, file = match
    try:
        architecture, contract, rules = family.architecture(file), family.contract(file), family.rules(file)
    except SslMedError as error:
        raise SslMedError(f"{file.path}: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise SslMedError(f"{file.path}: is no whole file of family={name} ({first_line(error)[:120]})") from None
    return architecture._replace(config=_wished(architecture.config, wishes, contract)), contract, rules


@torch.no_grad()
def fill(match: Match, planned: Plan, wishes: Wishes, *, versions: Mapping[str, str], git: str) -> Converted:
    """Carries a plan out.

    Raises:
        SslMedError: a tensor is missing, mismatched, unexplained or not finite.
    """
    name, _, file = match
    if not planned.account.complete:
        network = planned.architecture.config.name
        raise SslMedError(
            f"{file.path}: does not fill {network} as family={name}: {planned.account}; allow=[KEY, ...] excepts keys"
        )
    check_tensors(planned.filling, str(file.path))
    # tensors of `state_dict` are the network's own, so copying into them fills it whatever their type
    for key, value in _wanted(planned.backbone, planned.decoder).items():
        if key in planned.filling:
            value.copy_(planned.filling[key])
    backbone, decoder, notes, channels = (
        planned.backbone,
        planned.decoder,
        list(planned.notes),
        planned.architecture.in_channels,
    )
    contract = planned.contract
    if wishes.channels and wishes.channels != channels:
        backbone, decoder, note = _with_channels(planned, wishes.channels)
        notes.append(note)
        channels = wishes.channels
        mean, std = backbone.config.input_mean, backbone.config.input_std
        contract = replace(contract, mean=mean, std=std, channels=())
    card = Card(
        method=name,
        method_config=about(match)
        | {
            "tensors": planned.account.summary(),
            "allowed": list(planned.account.allowed),
            "inflate": wishes.inflate,
            "changed": dict(wishes.backbone or {}),
            "notes": notes,
        },
        backbone=_plain(backbone.config),
        spec=contract.spec(name, in_channels=channels).to_dict(),
        skips=planned.architecture.skips if decoder is not None else None,
        steps=0,
        seed=0,
        versions=dict(versions),
        git=git,
        subjects=(),
        contract=contract.to_dict(),
    )
    return Converted(match, backbone, decoder, card, contract, planned.account, tuple(notes))


def _wished(config: BackboneConfig, wishes: Wishes, contract: InputContract) -> BackboneConfig:
    """The family's settings with the contract's normalisation and what the user asks for."""
    settings = _plain(config) | {"input_mean": list(contract.mean), "input_std": list(contract.std)}
    known = set(settings) - {"name", "init", "input_mean", "input_std"}
    for key in wishes.backbone or {}:
        if key not in known:
            raise SslMedError(
                f"backbone.{key} is no setting of {config.name} that an import changes; there are: {', '.join(sorted(known))}"
            )
    settings |= dict(wishes.backbone or {})
    if wrong := mismatch(type(config), settings, "backbone"):
        raise SslMedError(wrong)
    return backbone_config(settings.pop("name"), **settings)


def _check_axes(config: BackboneConfig, contract: InputContract, dims: int, channels: int, path: Path) -> None:
    """Refuses settings for another number of axes, such as a plan of 2D kernels that is inflated.

    Which patches the data have is not known yet: the size that is checked divides by every stride.

    Raises:
        SslMedError: says which setting.
    """
    kind = backbone_class(config.name)
    side = 4 * math.lcm(*divisor_of(kind.pyramid_of(config, dims)))
    try:
        kind.check(config, replace(contract.spec(path.name, in_channels=channels), patch_size=(side,) * dims))
    except SslMedError as error:
        raise SslMedError(f"{path}: does not become a {dims}D {config.name}: {error}") from None


def _inflated(contract: InputContract) -> InputContract:
    """Of a 2D network that takes volumes: their thickness is not said by anybody."""
    note = "2D weights inflated to 3D: voxel size and orientation are not said, and depth is as wide as the last axis"
    return replace(contract, patch_size=(*contract.patch_size, contract.patch_size[-1]), notes=(*contract.notes, note))


def _with_channels(planned: Plan, channels: int) -> tuple[Backbone, Decoder | None, str]:
    """The filled network for images of another number of channels."""
    tensors = {key: value.clone() for key, value in planned.backbone.state_dict().items()}
    dims, was = planned.architecture.spatial_dims, planned.architecture.in_channels
    config, note = spread_input(
        planned.architecture.config, tensors, spatial_dims=dims, was=was, now=channels, prefix=""
    )
    backbone = build_backbone(config, spatial_dims=dims, in_channels=channels)
    skips = planned.architecture.skips
    decoder = backbone.build_decoder(skips=skips) if planned.decoder is not None else None
    backbone.load_state_dict(tensors)
    if decoder is not None and planned.decoder is not None:
        try:
            decoder.load_state_dict(planned.decoder.state_dict())
        except RuntimeError:
            raise SslMedError(
                f"channels={channels}: the decoder of this network reads the image, so its channels cannot change"
            ) from None
    return backbone, decoder, note


def _wanted(backbone: nn.Module, decoder: nn.Module | None) -> dict[str, Tensor]:
    tensors = dict(backbone.state_dict())
    return tensors | ({f"{DECODER}{key}": value for key, value in decoder.state_dict().items()} if decoder else {})


def _plain(config: BackboneConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain

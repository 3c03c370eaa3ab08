"""The backbone file: what travels from pretraining to a task. Tensors and a JSON card in safetensors; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_med.contract import InputContract
from ssl_med.files import new_file
from ssl_med.finite import check_tensors
from ssl_med.ledger import Ledger, Members
from ssl_med.networks.backbone import build_backbone, stored_config
from ssl_med.networks.channels import spread_input
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder
from ssl_med.reading import UnreadableError, mismatch, parse_json, safetensors_header, shown
from ssl_med.spec import DataSpec, SslMedError, first_line

FORMAT = 1
_METADATA_KEY = "ssl_med"
_FILES = ("backbone.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Card:
    """The card inside a backbone file: its architecture, its data contract and who was seen.

    * backbone, spec: enough to rebuild the network and to prepare data as it was pretrained (axis order, orientation,
      spacing in mm, intensity window).
    * skips: whether the decoder uses the encoder's skip connections; None when the file holds no decoder.
    * subjects, volumes: keys of the subjects and files that took part, see `ssl_med.ledger`; validated: those of them that
      were validated on and not trained on; salt: mark of the salt of these keys.
    * contract: what images must be, of weights from elsewhere; None: as `spec` says.
    * starts: what the pretraining started from, and what that did, the latest first (`ssl_med.weights.core.origin.starts_of`);
      empty: random weights.
    """

    method: str
    method_config: dict[str, Any]
    backbone: dict[str, Any]
    spec: dict[str, Any]
    skips: bool | None
    steps: int
    seed: int
    versions: dict[str, str]
    git: str
    subjects: tuple[str, ...]
    volumes: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    salt: str = ""
    format: int = FORMAT
    contract: dict[str, Any] | None = None
    starts: tuple[dict[str, Any], ...] = ()

    def data_spec(self) -> DataSpec:
        """The data the backbone was pretrained on."""
        return DataSpec.from_dict(self.spec)

    def input_contract(self) -> InputContract:
        """What images must be for these weights."""
        return InputContract.of(self.data_spec()) if self.contract is None else InputContract.from_dict(self.contract)

    def plain(self) -> dict[str, Any]:
        """Plain types, as the file holds them; without contract and starts as cards had it before."""
        optional = ("contract", "starts")
        return {key: value for key, value in asdict(self).items() if key not in optional or value}

    def ledger(self) -> Ledger | None:
        """Who took part in the pretraining; None when the card names nobody."""
        if not self.subjects:
            return None
        held = frozenset(self.validated)
        subjects, volumes = frozenset(self.subjects), frozenset(self.volumes)
        parts = {"train": Members(subjects - held, volumes - held), "val": Members(subjects & held, volumes & held)}
        return Ledger(parts, self.salt)

    def summary(self) -> dict[str, Any]:
        """The card as summary.json quotes it: files as numbers, of which there may be many."""
        return {**self.plain(), "volumes": len(self.volumes), "validated": len(self.validated)}

    def backbone_config(self) -> BackboneConfig:
        """The architecture, resolved."""
        return stored_config(self.backbone)


@dataclass(frozen=True)
class LoadReport:
    """What happened when a file met a network: every tensor is in exactly one list."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every tensor of the network came from the file and none was left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"matched {len(self.matched)}/{total} tensors"]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{name} {len(keys)}: {', '.join(keys[:4])}{', …' if len(keys) > 4 else ''}")
        return "; ".join([*parts, *self.notes])


def save_backbone(path: Path, *, backbone: nn.Module, decoder: nn.Module | None, card: Card) -> None:
    """Writes encoder and decoder tensors with their card; atomic, so a killed run leaves no half file.

    Raises:
        NotFiniteError: weights have diverged; nothing is written.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in _tensors(backbone, decoder).items()}
    check_tensors(tensors, str(path))
    with new_file(path) as file:
        save_file(tensors, file, metadata={_METADATA_KEY: json.dumps(card.plain(), sort_keys=True)})


def read_card(path: Path) -> Card:
    """The card alone, without reading tensors.

    Raises:
        SslMedError: no such file, not a safetensors file, or not one of ours.
    """
    if not path.is_file():
        raise SslMedError(f"{path}: no such file; give init=RUN_DIR, init=FILE.safetensors or init=scratch")
    try:
        safetensors_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except UnreadableError as error:
        raise SslMedError(f"{path}: is not a readable backbone file ({error}); give another") from None
    except Exception as error:  # SafetensorError, and what the library raises on metadata that are no text
        raise SslMedError(f"{path}: is not a readable backbone file ({first_line(error)}); give another") from None
    if _METADATA_KEY not in metadata:
        raise SslMedError(f"{path}: holds no ssl_med card; convert foreign weights with `ssl-med weights import`")
    remedy = "pretrain again, or give another file"
    try:
        values = parse_json(metadata[_METADATA_KEY])
    except UnreadableError as error:
        raise SslMedError(f"{path}: its card {error}; {remedy}") from None
    stored = values.get("format") if isinstance(values, dict) else None
    if isinstance(values, dict) and stored != FORMAT:
        raise SslMedError(f"{path}: card format {shown(stored)} is unknown to this version ({FORMAT}); {remedy}")
    if wrong := mismatch(Card, values, "card"):
        raise SslMedError(f"{path}: its card is damaged ({wrong}); {remedy}")
    for key in ("subjects", "volumes", "validated", "starts"):
        values[key] = tuple(values.get(key, ()))
    card = Card(**values)
    try:
        card.data_spec()
        card.backbone_config()
        card.input_contract()
    except SslMedError as error:
        raise SslMedError(f"{path}: its card is damaged ({error}); {remedy}") from None
    return card


def load_backbone(
    path: Path,
    *,
    in_channels: int,
    adapt_channels: bool = False,
    with_decoder: bool,
    fill_decoder: bool | None = None,
    group_norm: bool = False,
) -> tuple[Backbone, Decoder | None, Card, LoadReport]:
    """Rebuilds the network from the card and fills it from the file.

    Args:
        path: a backbone file.
        in_channels: channels of the new data.
        adapt_channels: allow the first convolution to be spread over another number of input channels: its mean over
            input channels is repeated and divided so that equal channels give the activations of the pretraining
            (PCRL's code repeats without dividing, which multiplies them by the number of channels).
        with_decoder: also build a decoder. It is filled when the file has one; otherwise it stays at its
            initialisation, and the report says so.
        fill_decoder: True: the file must have a decoder; False: the decoder stays at its initialisation; None: see above.
        group_norm: build with 8-group normalisation; scale and shift of the file are kept, running statistics have no place.

    Raises:
        SslMedError: the file does not fill the network completely, the channels differ and `adapt_channels` is off, or a
            decoder is demanded that the file does not hold.
    """
    card = read_card(path)
    _check_size(path, card)
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:
        raise SslMedError(f"{path}: its tensors cannot be read ({first_line(error)}); give another file") from None
    check_tensors(stored, str(path))
    backbone, decoder, report = build_filled(
        path,
        card,
        stored,
        in_channels=in_channels,
        adapt_channels=adapt_channels,
        with_decoder=with_decoder,
        fill_decoder=fill_decoder,
        group_norm=group_norm,
    )
    return backbone, decoder, card, report


def build_filled(
    path: Path,
    card: Card,
    stored: dict[str, Tensor],
    *,
    in_channels: int,
    adapt_channels: bool,
    with_decoder: bool,
    fill_decoder: bool | None,
    group_norm: bool,
) -> tuple[Backbone, Decoder | None, LoadReport]:
    """The network of a card, filled with `stored`: tensors by a backbone file's names, "encoder.KEY" and "decoder.KEY".

    What else is given, and the errors, are as in `load_backbone`; `path` is for complaints.
    """
    config = card.backbone_config()
    swapped = group_norm and config.norm != "group"
    before = config.norm
    if swapped:
        config = replace(config, norm="group")
    spec = card.data_spec()
    notes: list[str] = []
    stored = dict(stored)
    if in_channels != spec.in_channels:
        if not adapt_channels:
            raise SslMedError(
                f"{path}: pretrained on {spec.in_channels} channel(s), this data has {in_channels}; "
                "set transfer.adapt_channels=true to spread the first convolution over them"
            )
        config, note = spread_input(
            config, stored, spatial_dims=spec.spatial_dims, was=spec.in_channels, now=in_channels
        )
        notes.append(note)
    backbone = build_backbone(config, spatial_dims=spec.spatial_dims, in_channels=in_channels)
    if fill_decoder and not with_decoder:
        raise SslMedError("transfer.decoder=true: this task needs no decoder; leave transfer.decoder=auto")
    if fill_decoder and card.skips is None:
        raise SslMedError(
            f"{path}: holds no decoder, {card.method} trains the encoder alone; transfer.decoder=auto starts a new one"
        )
    file_decoder = card.skips is not None and fill_decoder is not False
    skips = card.skips is not False or not file_decoder
    decoder = backbone.build_decoder(skips=skips) if with_decoder else None
    if swapped:
        running = [
            key for key in stored if key.rsplit(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")
        ]
        stored = {key: value for key, value in stored.items() if key not in running}
        notes.append(f"{before} normalisation became group: scale and shift kept, {len(running)} statistics left out")
    if with_decoder and card.skips is None:
        notes.append("the file has no decoder: it starts from its initialisation")
    elif with_decoder and not file_decoder:
        notes.append("transfer.decoder=false: the decoder starts from its initialisation")
    if not with_decoder and card.skips is not None:
        notes.append("the task needs no decoder: the file's was left out")
    if not with_decoder or not file_decoder:
        stored = {key: value for key, value in stored.items() if not key.startswith("decoder.")}
    report = _fill(backbone, decoder if file_decoder else None, stored, notes)
    if not report.complete:
        raise SslMedError(f"{path}: does not fit the network its card describes: {report}")
    return backbone, decoder, report


def _check_size(path: Path, card: Card) -> None:
    """Compares the encoder that a card describes with the shapes in the file, before memory is taken for either.

    Raises:
        SslMedError: the file does not hold that encoder.
    """
    held, config, spec = safetensors_header(path), card.backbone_config(), card.data_spec()
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            described = build_backbone(
                config, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels
            ).state_dict()
    except SslMedError as error:
        raise SslMedError(f"{path}: {error}") from None
    except Exception as error:
        raise SslMedError(f"{path}: the network of its card cannot be built ({first_line(error)})") from None
    wrong = [key for key, value in described.items() if held.get(f"encoder.{key}") != tuple(value.shape)]
    if wrong:
        raise SslMedError(f"{path}: does not fit the network its card describes: {wrong[0]} is another or missing")


def find_backbone(init: str) -> Path:
    """`init=RUN_DIR|FILE` -> the backbone file, or a clear error."""
    path = Path(init)
    if path.is_dir():
        # a run, or a folder that was exported for Hugging Face
        file = next((path / name for name in _FILES if (path / name).is_file()), None)
        if file is None:
            raise SslMedError(f"{path}: holds no backbone.safetensors; the pretraining may not have finished")
        return file
    if not path.exists():
        raise SslMedError(f"init={init}: no such run folder or file; give a path, or init=scratch")
    return path


def _tensors(backbone: nn.Module, decoder: nn.Module | None) -> dict[str, Tensor]:
    parts: Iterable[tuple[str, nn.Module | None]] = (("encoder", backbone), ("decoder", decoder))
    return {
        f"{prefix}.{key}": value
        for prefix, module in parts
        if module is not None
        for key, value in module.state_dict().items()
    }


def _fill(backbone: nn.Module, decoder: nn.Module | None, stored: dict[str, Tensor], notes: list[str]) -> LoadReport:
    wanted = _tensors(backbone, decoder)
    matched = [key for key in wanted if key in stored and stored[key].shape == wanted[key].shape]
    report = LoadReport(
        matched=tuple(matched),
        missing=tuple(key for key in wanted if key not in stored),
        unexpected=tuple(key for key in stored if key not in wanted),
        mismatched=tuple(key for key in wanted if key in stored and stored[key].shape != wanted[key].shape),
        notes=tuple(notes),
    )
    for key in matched:
        wanted[key].copy_(stored[key])
    return report

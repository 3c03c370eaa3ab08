"""Weights from anywhere, ours or foreign, as one object: what commands and the Python interface load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ssl_med.checkpoint import Card, find_backbone, load_backbone, read_card
from ssl_med.contract import InputContract
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.reading import UnreadableError, safetensors_header
from ssl_med.spec import SslMedError
from ssl_med.weights.core.account import Account
from ssl_med.weights.core.convert import NONE, Wishes, convert
from ssl_med.weights.core.exporter import Source
from ssl_med.weights.core.files import FOLDER_BESIDE, FOLDER_WEIGHTS
from ssl_med.weights.core.find import absent


@dataclass(frozen=True)
class Weights:
    """A pretrained network and what belongs to it.

    * network: encoder in evaluation mode, (B, C, *S) -> pyramid, finest level first. * decoder: where the file holds one.
    * contract: what images must be. * transform: raw values -> what the network takes. * card: origin, licence, settings.
    * account: where every tensor went; of a backbone file, whose names are ours, all are used.
    * notes: what was changed on the way.
    """

    network: Backbone
    decoder: Decoder | None
    contract: InputContract
    card: Card
    account: Account
    notes: tuple[str, ...] = ()

    @property
    def transform(self) -> Callable[[Tensor], Tensor]:
        """(B, C, *S) in the contract's unit -> (B, C, *S) float32 as `network` takes it."""
        return self.contract.transform()


def is_ours(path: Path, family: str = "") -> bool:
    """Whether a path is a run folder or a backbone file of ours: whatever is broken in it, it is no foreign file.

    Raises:
        SslMedError: there is nothing, or something of ours that is said to be of a family.
    """
    if not path.exists():
        raise SslMedError(absent(path, family))
    ours = _is_ours(path)
    if ours and family:
        raise SslMedError(f"{path}: is weights of ours, with a card; family={family} is for weights from elsewhere")
    return ours


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        if (path / "model.safetensors").is_file() and _is_ours(path / "model.safetensors"):
            return True  # a folder of `to=huggingface`
        return (
            not any((path / name).is_file() for name in (*FOLDER_WEIGHTS, *FOLDER_BESIDE))
            or (path / "backbone.safetensors").is_file()
        )
    if path.suffix != ".safetensors":
        return False
    try:
        safetensors_header(path)
        with safe_open(path, framework="pt") as file:
            return "ssl_med" in (file.metadata() or {})
    except UnreadableError as error:
        raise SslMedError(f"{path}: is not a readable file of weights ({error})") from None
    except Exception:  # damaged beyond its header; the reader of foreign files says how
        return False


def read_ours(path: Path) -> Source:
    """A backbone file or run folder as it was pretrained, in evaluation mode.

    Raises:
        SslMedError: not one of ours, or damaged.
    """
    file = find_backbone(str(path))
    card = read_card(file)
    channels, decoder = card.data_spec().in_channels, card.skips is not None
    backbone, found, card, _ = load_backbone(file, in_channels=channels, with_decoder=decoder)
    return Source(path, backbone.eval(), found.eval() if found is not None else None, card)


def load(path: Path, family: str = "", *, wishes: Wishes = NONE, versions: Mapping[str, str], git: str) -> Weights:
    """Weights from a backbone file, a run folder, or a foreign file; arguments and errors as in `convert`."""
    if not is_ours(path, family):
        found = convert(path, family, wishes=wishes, versions=versions, git=git)
        decoder = found.decoder.eval() if found.decoder is not None else None
        return Weights(found.backbone.eval(), decoder, found.contract, found.card, found.account, found.notes)
    if wishes != Wishes(channels=wishes.channels):
        raise SslMedError(
            f"{path}: is weights of ours, with a card; allow, inflate and backbone are for weights from elsewhere"
        )
    source = read_ours(path)
    card, backbone = source.card, source.backbone
    notes: tuple[str, ...] = ()
    if wishes.channels and wishes.channels != backbone.in_channels:
        file = find_backbone(str(path))
        backbone, _, card, report = load_backbone(
            file, in_channels=wishes.channels, adapt_channels=True, with_decoder=False
        )
        notes, source = report.notes, Source(path, backbone.eval(), None, card)
    used = tuple((key, key) for key in backbone.state_dict())
    return Weights(backbone.eval(), source.decoder, card.input_contract(), card, Account(used=used), notes)

"""Where a run on labels starts: what fine-tuning and probes share of loading, checking and telling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.core.base import MedicalData
from experiments.config.from_card import taken_from_card
from experiments.config.kinds import FeaturesRun, FinetuneRun, PretrainRun, ProbeRun, RunConfig
from experiments.config.sections import SCRATCH
from experiments.config.started import check_words
from experiments.run.environment import git_revision, versions
from experiments.run.session import ledger_of
from ssl_med.checkpoint import Card, LoadReport, build_filled, find_backbone, load_backbone, read_card
from ssl_med.config import to_plain
from ssl_med.evaluation.protocols.finetune import TransferConfig
from ssl_med.ledger import Leakage, Ledger, compare
from ssl_med.networks.backbone import build_backbone, check_backbone
from ssl_med.networks.init import init_weights
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.weights.core.convert import Converted, convert
from ssl_med.weights.core.load import is_ours
from ssl_med.weights.core.origin import elsewhere, origin_of

JOINED = "joined"  # of the card of a pretraining: who was seen before it is among its subjects


@dataclass(frozen=True)
class LoadedNetwork:
    """Encoder and, when asked for, decoder, with their architecture; card and report of the file they came from."""

    backbone: Backbone
    decoder: Decoder | None
    config: BackboneConfig
    card: Card | None = None
    report: LoadReport | None = None

    @property
    def method(self) -> str:
        """Pretraining method, or scratch."""
        return self.card.method if self.card is not None else SCRATCH

    def summary(self, init: str) -> dict[str, Any]:
        """For summary.json."""
        kind = SCRATCH if self.card is None else ("run" if Path(init).is_dir() else "file")
        return {
            "kind": kind,
            "path": init,
            "method": self.card.method if self.card is not None else None,
            "card": self.card.summary() if self.card is not None else None,
            "report": str(self.report) if self.report is not None else None,
            **({"origin": origin_of(self.card)} if self.card is not None and origin_of(self.card) else {}),
        }


def build_network(
    config: FeaturesRun | FinetuneRun | PretrainRun | ProbeRun, *, with_decoder: bool | None
) -> LoadedNetwork:
    """From the init file, or at the configured initialisation.

    Args:
        config: of the run.
        with_decoder: whether to build a decoder, too; None: where the file has one.

    Raises:
        SslMedError: no such file, a network of other dimensions, a file that does not fill it, or no decoder where one is
            demanded.
    """
    spec, transfer = config.spec, config.transfer
    tuned = transfer if isinstance(transfer, TransferConfig) else TransferConfig()
    swap = tuned.norm == "group"
    if config.general.init == SCRATCH:
        if tuned.decoder == "true":
            raise SslMedError(
                "transfer.decoder=true: init=scratch has no decoder to load; give a run or a backbone file"
            )
        architecture = replace(config.backbone, norm="group") if swap else config.backbone
        check_backbone(architecture, spec)
        backbone = build_backbone(architecture, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
        init_weights(backbone, architecture.init)
        decoder = backbone.build_decoder() if with_decoder else None
        if decoder is not None:
            init_weights(decoder, architecture.init)
        return LoadedNetwork(backbone, decoder, architecture)
    path, family = Path(config.general.init), config.general.family
    ours = is_ours(path, family)
    foreign = None if ours else convert(path, family, versions=versions(), git=git_revision())
    path = find_backbone(config.general.init) if foreign is None else path
    card = read_card(path) if foreign is None else foreign.card
    dims = card.data_spec().spatial_dims
    if dims != spec.spatial_dims:
        raise SslMedError(f"{path}: is a {dims}D network, '{config.name}' is {spec.spatial_dims}D")
    if with_decoder is None:
        with_decoder = card.skips is not None
    if card.contract is None:  # of weights from elsewhere a note says how the data differ
        check_range(card.data_spec(), spec, str(path))
    architecture = card.backbone_config()
    if not isinstance(config, PretrainRun):  # whose network was taken from here when it was composed
        words = "transfer.norm=group exchanges its normalisation"
        check_words(config.general.init, config.backbone, architecture, config.sources(), norm=words)
    if swap:
        architecture = replace(architecture, norm="group")
    check_backbone(architecture, spec)  # refuses a patch size that the loaded network cannot take
    wanted: dict[str, Any] = {
        "in_channels": spec.in_channels,
        "adapt_channels": transfer.adapt_channels,
        "with_decoder": with_decoder,
        "fill_decoder": {"auto": None, "true": True, "false": False}[tuned.decoder],
        "group_norm": swap,
    }
    if foreign is None:
        backbone, decoder, card, report = load_backbone(path, **wanted)
    else:
        backbone, decoder, report = build_filled(path, card, _tensors(foreign), **wanted)
        report = replace(report, notes=(*report.notes, f"imported in memory: {foreign.account}", *foreign.notes))
    return LoadedNetwork(backbone, decoder, backbone.config, card, report)


def _tensors(foreign: Converted) -> dict[str, Tensor]:
    """Of an imported file, by the names that a backbone file has."""
    parts = {"encoder": foreign.backbone, "decoder": foreign.decoder}
    return {
        f"{prefix}.{key}": value
        for prefix, module in parts.items()
        if module is not None
        for key, value in module.state_dict().items()
    }


def check_range(was: DataSpec, now: DataSpec, file: str, key: str = "data.normalisation") -> None:
    """Refuses images in [0, 1] for weights that know standardised ones, and the reverse; two ways to standardise are alike.

    Raises:
        SslMedError: names the file and the setting.
    """
    before, after = was.intensity, now.intensity
    if before.standardised != after.standardised:
        raise SslMedError(
            f"{key}={after.normalisation}: the weights of {file} were trained on images of data.normalisation="
            f"{before.normalisation}; set {key}={before.normalisation}"
        )


def check_leak(
    loaded: LoadedNetwork, data: MedicalData, *, allow: bool, files_of: Sequence[str] = ("val", "test")
) -> tuple[Ledger, Leakage | None]:
    """Who takes part here, and whether the pretraining saw whom this run validates or tests on.

    The files of the parts `files_of` are read for the ledger.

    Raises:
        SslMedError: it did, and `allow` is off.
    """
    ledger = ledger_of(data, files_of=files_of)
    if loaded.card is None:
        return ledger, None
    return ledger, compare(loaded.card.ledger(), ledger, allow=allow)


def notes_of(
    config: RunConfig, loaded: LoadedNetwork, data: MedicalData, ledger: Ledger, leakage: Leakage | None
) -> list[str]:
    """What the reader of the result should know before it starts."""
    notes: list[str] = list(data.describe().get("notes", []))
    notes += taken_from_card(config)
    if loaded.card is not None:
        if origin := origin_of(loaded.card):
            began = "" if "family" in loaded.card.method_config else "the pretraining began with "
            notes.append(f"{began}weights from elsewhere, {origin}")
        notes += _unknown_before(loaded.card)
        notes += loaded.card.input_contract().differences(config.spec)
        notes += seen_in_public(loaded.card, data)
        notes += _share(loaded.card, config, ledger)
    if leakage is not None and leakage.status != "none":
        notes.append(str(leakage))
    return notes


def seen_in_public(card: Card, data: MedicalData) -> list[str]:
    """That weights from elsewhere saw the public data set that this run tests on, as the paper of the weights says.

    Their files name no subjects, so that nothing can be compared one by one.
    """
    own = [
        re.compile(rf"{re.escape(name)}(?![a-z])", re.IGNORECASE) for name in data.public_sets
    ]  # BraTS: also BraTS2021
    held = elsewhere(card.method_config, card.starts) or card.method_config
    both = [str(name) for name in held.get("saw", ()) if any(one.match(str(name)) for one in own)]
    if not both:
        return []
    whose = held.get("family") or card.method
    return [f"leak: by its card, the pretraining of {whose} saw {', '.join(both)}, of which the test cases here are"]


def _unknown_before(card: Card) -> list[str]:
    """That it is not known who was seen before a pretraining that started from weights."""
    return [
        f"the pretraining started from weights of {start.get('method')}, and who those saw is {start.get('subjects')}: that "
        "was not compared with validation and test"
        for start in card.starts
        if start.get("subjects") != JOINED
    ]


def _share(card: Card, config: RunConfig, ledger: Ledger) -> list[str]:
    """Whether a semi-supervised split was kept by the pretraining."""
    pretrained = card.ledger()
    if not config.data.pretrain_share or pretrained is None or pretrained.salt != ledger.salt:
        return []
    mine = ledger.parts["train"].subjects
    both = len(mine & pretrained.parts["train"].subjects)
    hint = "" if not both or config.data.share_by == "image" else "; pretrain with the same data.pretrain_share"
    return [f"{both} of the {len(mine)} labelled training subjects took part in the pretraining{hint}"]


def labels_summary(config: RunConfig, described: dict[str, Any]) -> dict[str, Any]:
    """The label budget for summary.json; shots stand beside the fraction that they are."""
    labels, counted = config.labels, described["labels"]
    if not labels.shots:
        return {"fraction": labels.fraction, **counted}
    return {"fraction": round(counted["subjects"] / counted["of"], 4), "shots": labels.shots, **counted}


def backbone_summary(loaded: LoadedNetwork) -> dict[str, Any]:
    """The architecture in use."""
    plain: dict[str, Any] = to_plain(loaded.config)
    return plain


def tell(loaded: LoadedNetwork, notes: Sequence[str], say: Any) -> None:
    """Prints what was loaded, and the notes."""
    if loaded.report is not None:
        say(f"init: {loaded.report}")
    for note in notes:
        say(f"note: {note}")

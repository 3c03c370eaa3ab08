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
from experiments.config.kinds import FeaturesRun, FinetuneRun, ProbeRun, RunConfig
from experiments.config.sections import SCRATCH
from experiments.run.environment import git_revision, versions
from experiments.run.session import ledger_of
from ssl_med.checkpoint import Card, LoadReport, build_filled, find_backbone, load_backbone, read_card
from ssl_med.config import COMMAND_LINE, to_plain
from ssl_med.evaluation.protocols.finetune import TransferConfig
from ssl_med.ledger import Leakage, Ledger, compare
from ssl_med.networks.backbone import build_backbone, check_backbone
from ssl_med.networks.init import init_weights
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.weights.core.convert import Converted, convert
from ssl_med.weights.core.load import is_ours
from ssl_med.weights.core.origin import origin_of


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


def build_network(config: FeaturesRun | FinetuneRun | ProbeRun, *, with_decoder: bool) -> LoadedNetwork:
    """From the init file, or at the configured initialisation.

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
    if card.contract is None:  # of weights from elsewhere a note says how the data differ
        check_range(card.data_spec(), spec, str(path))
    architecture = card.backbone_config()
    _check_overrides(config, architecture)
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


def _check_overrides(config: FeaturesRun | FinetuneRun | ProbeRun, loaded: BackboneConfig) -> None:
    """Refuses overrides, or a named size chosen by backbone=NAME, that ask for another network than the file holds.

    Raises:
        SslMedError: names the setting and what the file has.
    """
    held = to_plain(loaded)
    for key, source in config.sources().items():
        section, _, name = key.partition(".")
        asked_for = source == COMMAND_LINE or source.startswith("conf/backbone/")
        if section != "backbone" or not asked_for or name == "init":  # of the head's initial weights
            continue
        asked = to_plain(config.backbone).get(name)
        if name not in held or held[name] != asked:
            remedy = "transfer.norm=group exchanges its normalisation" if name == "norm" else "leave it out"
            has = f"has {name}={held[name]}" if name in held else f"is a {held['name']}, which has no {name}"
            raise SslMedError(
                f"{source}: backbone.{name}={asked}: the network of init={config.general.init} {has}; {remedy}"
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
            notes.append(f"weights from elsewhere, {origin}")
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
    both = [str(name) for name in card.method_config.get("saw", ()) if any(one.match(str(name)) for one in own)]
    if not both:
        return []
    return [
        f"leak: by its card, the pretraining of {card.method} saw {', '.join(both)}, of which the test cases here are"
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

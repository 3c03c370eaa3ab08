"""Where a pretraining starts: weights as a method takes them, and what its card keeps of their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.config.finetuned import chosen_weights
from experiments.config.kinds import PretrainRun
from experiments.config.sections import SCRATCH
from experiments.run.pretrained import JOINED, LoadedNetwork, build_network
from ssl_med.checkpoint import Card
from ssl_med.ledger import Ledger
from ssl_med.methods.core.start import Start
from ssl_med.reading import UnreadableError
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import SslMedError
from ssl_med.weights.core.origin import origin_of, starts_of
from ssl_med.weights.core.torch_files import read_torch

OTHER_SALT = "recorded under another SSL_MED_SALT"
NOT_NAMED = "not named by the weights"


@dataclass(frozen=True)
class Started:
    """Weights that a pretraining starts from, and who took part in what they learned; `why`: how far that is not known."""

    start: Start
    loaded: LoadedNetwork
    card: Card
    before: Ledger | None
    notes: tuple[str, ...]
    why: str

    @classmethod
    def of(cls, config: PretrainRun) -> Started | None:
        """What `init` names; None: random weights.

        Raises:
            SslMedError: no such weights, weights that do not fill their network, or a run whose checkpoint is damaged.
        """
        init = config.general.init
        if init == SCRATCH:
            return None
        loaded = build_network(config, with_decoder=None)
        assert loaded.card is not None
        state, note = _state(config, loaded)
        before = loaded.card.ledger()
        salt = Ledger().salt
        why = NOT_NAMED if before is None else OTHER_SALT if before.salt != salt else ""
        notes = [note]
        if origin := origin_of(loaded.card):
            notes.append(f"weights from elsewhere, {origin}")
        if why:
            notes.append(
                f"who was seen before this pretraining is {why}, so that no later run can compare it with its test"
            )
        notes += loaded.card.input_contract().differences(config.spec)
        start = Start(loaded.backbone, loaded.decoder, state, f"init={init}")
        return cls(start, loaded, loaded.card, before if not why else None, tuple(notes), why)

    def joined(self, own: Ledger) -> tuple[Ledger, list[str]]:
        """Who took part in this pretraining or before it, and what a reader of its validation should know."""
        if self.before is None:
            return own, []
        both = own.parts["val"] & self.before.parts["train"]
        words = (
            f"{len(both.subjects)} subjects and {len(both.volumes)} files of the validation part were trained on before"
        )
        return own.joined(self.before), [f"{words}, so its values are somewhat too good"] if both else []

    def fields(self) -> dict[str, Any]:
        """For the card of the pretraining."""
        return {"starts": starts_of(self.card, subjects=self.why or JOINED)}


def _state(config: PretrainRun, loaded: LoadedNetwork) -> tuple[dict[str, Tensor] | None, str]:
    """All that a run of the same method held when its backbone file was written, and what is said of it."""
    path, card = Path(config.general.init), loaded.card
    assert card is not None
    anew = "the method's other parts start at random"
    if card.method.partition("/")[0] != config.name.partition("/")[0]:
        return None, f"starts from the network of {card.method}; {anew}"
    run = read_run(path) if path.is_dir() else None
    if run is None or run.kind != "pretrain":
        return None, f"starts from the network that {path.name} holds; {anew}: the run's folder would give them"
    file = chosen_weights(run)
    if not file.is_file():
        return None, f"starts from the network of {path}, whose {file.name} is gone; {anew}"
    try:
        state: dict[str, Tensor] = read_torch(file)["state_dict"]
    except UnreadableError as error:
        raise SslMedError(
            f"{file}: {error}; init={path / 'backbone.safetensors'} starts from the network alone"
        ) from None
    except (KeyError, TypeError):
        raise SslMedError(
            f"{file}: holds no weights of a method; init={path / 'backbone.safetensors'} starts from the network alone"
        ) from None
    if config.spec.in_channels == card.data_spec().in_channels and not _same(state, loaded):
        raise SslMedError(
            f"{file}: does not belong to the backbone file beside it; init={path / 'backbone.safetensors'} starts from the "
            "network alone"
        )
    return state, f"goes on from {path} with its teacher and heads ({file.name}, step {card.steps})"


def _same(state: Mapping[str, Tensor], loaded: LoadedNetwork) -> bool:
    """Whether a checkpoint holds the encoder of the backbone file."""
    own = loaded.backbone.state_dict()
    held = {name: state.get(f"backbone.{name}") for name in own}
    return all(value is not None and torch.equal(value, own[name]) for name, value in held.items())

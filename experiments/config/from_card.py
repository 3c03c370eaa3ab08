"""`data.from_card=true`: prepare images as the card of the weights says, in place of what the yamls say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.sections import SCRATCH
from experiments.config.sources import Gathered, keys_of
from ssl_med.config import COMMAND_LINE, Layer
from ssl_med.contract import InputContract
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.values import unquoted

if TYPE_CHECKING:
    from experiments.config.kinds import RunConfig

SOURCE = "card of "


def with_card(said: Gathered, *, labelled: bool) -> Gathered:
    """All settings, those of the images from the card of `init` where `data.from_card` asks for it.

    The command line rules over the card, and the card over yamls. What the family of the data has no setting for stays as it
    is; how such data then differ from the card is told when the run starts.

    Raises:
        SslMedError: there are no weights with a card, or theirs are of other dimensions.
    """
    if not said.data.from_card:
        return said
    init = unquoted(str(getattr(said.settings.tree.get("init"), "value", SCRATCH)))
    if init == SCRATCH:
        raise SslMedError("data.from_card=true: init=scratch has no card; give init=RUN or init=FILE, or leave it out")
    contract = contract_of(Path(init), unquoted(str(getattr(said.settings.tree.get("family"), "value", ""))))
    spec = said.data_class.make_spec(said.data, labelled=labelled)
    if contract.spatial_dims != spec.spatial_dims:
        raise SslMedError(
            f"data.from_card=true: the weights of {init} are for {contract.spatial_dims}D images, '{spec.name}' is "
            f"{spec.spatial_dims}D; leave it out"
        )
    given = said.settings.sources()
    known = keys_of(said.data_class.Config)
    taken = {
        key: value
        for key, value in _settings(contract, spec, known).items()
        if key in known and given.get(f"data.{key}") != COMMAND_LINE
    }
    return replace(said, settings=said.settings.over(Layer(f"{SOURCE}{init}", {"data": taken})))


def contract_of(path: Path, family: str = "") -> InputContract:
    """What images must be for a run folder, a backbone file, or a foreign file of `family`, or that one family recognises."""
    from ssl_med.checkpoint import find_backbone, read_card
    from ssl_med.weights.core.find import choose, opened
    from ssl_med.weights.core.load import is_ours

    if is_ours(path, family):
        return read_card(find_backbone(str(path))).input_contract()
    match = choose(opened(path), family)
    return match.family.contract(match.file)


def _settings(contract: InputContract, spec: DataSpec, known: tuple[str, ...]) -> dict[str, Any]:
    """Settings of data that keep a contract; intensities only where both are in one unit, or the family has either kind."""
    wanted, found = contract.intensity(), dict[str, Any](patch_size=list(contract.patch_size))
    if contract.spacing_mm is not None:
        found["spacing_mm"] = list(contract.spacing_mm)
    if contract.orientation:
        found["orientation"] = contract.orientation
    if (wanted.kind == spec.intensity.kind and wanted.unit == spec.intensity.unit) or "intensity" in known:
        found |= {"intensity": wanted.kind, "intensity_low": wanted.low, "intensity_high": wanted.high}
        found["normalisation"] = wanted.normalisation
        if wanted.normalisation == "dataset":
            found |= {"intensity_mean": wanted.mean, "intensity_sd": wanted.sd}
    return found


def taken_from_card(config: RunConfig) -> list[str]:
    """A note of the settings that came from a card; nothing without data.from_card."""
    if not config.data.from_card:
        return []
    sources, data = config.sources(), config.tree()["data"]
    keys = [key for key, source in sources.items() if source.startswith(SOURCE)]
    source = next((sources[key] for key in keys), f"{SOURCE}the weights")
    words = ", ".join(f"{key}={str(data[key.partition('.')[2]]).replace(' ', '')}" for key in keys)
    return [f"from the {source}: {words or 'nothing, the command line sets it all'}"]

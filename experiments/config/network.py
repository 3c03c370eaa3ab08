"""The section `backbone` of a run: settings of the one network that `backbone.name` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssl_med.catalogue import nearest
from ssl_med.config import Layer
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

if TYPE_CHECKING:  # names are listed and refused without the seconds that torch takes
    from ssl_med.networks.pyramid import Backbone

SECTION = "backbone"


def choose_network(layers: Sequence[Layer], dims: int) -> tuple[type[Backbone], list[Layer], dict[str, Any]]:
    """The network that the strongest layer names, all layers with their settings of it, and their settings of other networks.

    A yaml that names one network, as trainer=cpu does, holds no settings of another one: when the command line names another,
    only the settings that all networks have are taken from it.

    Args:
        layers: of all settings, weakest first.
        dims: 2 or 3, for `backbone.name=auto`.

    Raises:
        SslMedError: an unknown name, or a setting that the network does not have.
    """
    from ssl_med.networks.backbone import backbone_class, name_of
    from ssl_med.networks.pyramid import BackboneConfig

    named = [(layer.source, name) for layer in layers if (name := _named(layer))]
    source, asked = named[-1] if named else ("", "auto")
    network = backbone_class(asked, spatial_dims=dims)
    name = name_of(network)
    own, shared = (schema.__dataclass_fields__ for schema in (network.Config, BackboneConfig))
    kept: list[Layer] = []
    others: dict[str, Any] = {}
    for layer in layers:
        tree = dict(layer.section(SECTION).tree)
        if _named(layer) not in ("", "auto", name):
            others |= {key: value for key, value in tree.items() if key not in shared}
            tree = {key: value for key, value in tree.items() if key in shared}
        for key in tree.keys() - own.keys():
            raise SslMedError(
                f"{layer.source}: key '{SECTION}.{key}' is unknown to {SECTION}.name={name}{nearest(key, sorted(own))}"
            )
        kept.append(Layer(layer.source, {**layer.tree, SECTION: tree}))
    return network, [*kept, Layer(source, {SECTION: {"name": name}})], others


def _named(layer: Layer) -> str:
    return unquoted(str(layer.section(SECTION).tree.get("name", "")))

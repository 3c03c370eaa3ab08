"""The section `backbone` of a run: settings of the one network that `backbone.name` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from experiments.config.sources import sections_of
from ssl_med.catalogue import nearest
from ssl_med.config import Layer, build
from ssl_med.networks.backbone import backbone_class, check_backbone, name_of
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.values import unquoted


def build_network(layers: Sequence[Layer], spec: DataSpec) -> tuple[BackboneConfig, dict[str, Any]]:
    """Settings of the network from all layers, and what yamls said of other networks.

    A yaml that names one network, as trainer=cpu does, says nothing of another one: of its section only the settings that
    all networks have hold when the command line names another.

    Raises:
        SslMedError: an unknown name, a setting that the network does not have, or data that it cannot take.
    """
    sections = sections_of(layers, "backbone")
    named = [unquoted(str(layer.tree["name"])) for layer in sections if "name" in layer.tree]
    kind = backbone_class(named[-1] if named else "auto", spatial_dims=spec.spatial_dims)
    name = name_of(kind)
    own, shared = ({field.name for field in fields(schema)} for schema in (kind.Config, BackboneConfig))
    others: dict[str, Any] = {}
    kept = []
    for layer in sections:
        about = unquoted(str(layer.tree.get("name", "auto")))
        if about not in ("auto", name):
            others |= {key: value for key, value in layer.tree.items() if key not in shared}
            layer = Layer(layer.source, {key: value for key, value in layer.tree.items() if key in shared})
        for key in layer.tree:
            if key not in own:
                raise SslMedError(
                    f"{layer.source}: key 'backbone.{key}' is unknown to backbone.name={name}{nearest(key, sorted(own))}"
                )
        kept.append(layer)
    config: BackboneConfig = build(kind.Config, [*kept, Layer("", {"name": name})], prefix="backbone")
    check_backbone(config, spec)
    return config, others

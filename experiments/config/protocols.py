"""Protocols by name: what `protocol=NAME` and the columns of a table may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.config.analyses import asked_analysis
from experiments.config.schema import class_variable
from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.spec import DataSpec, SslMedError

if TYPE_CHECKING:  # names are listed without torch
    from ssl_med.evaluation.protocols.core.contract import Probe, Protocol

PACKAGE = "ssl_med.evaluation.protocols"
FEATURES = "features/"
"""Begins the protocol of a table's column that analyses features: features/KIND."""


def protocol_class(name: str) -> type[Protocol]:
    """The class in protocols/NAME.py.

    Raises:
        SslMedError: no such file; the text offers the nearest name.
    """
    from ssl_med.evaluation.protocols.core.contract import Protocol

    found: type[Protocol] = get_class(PACKAGE, name, kind="protocol", base=Protocol)
    return found


def needs_task(protocol: str) -> bool:
    """Whether a column of this protocol names a task; else it names a data set."""
    if protocol.startswith(FEATURES):
        return asked_analysis(protocol.removeprefix(FEATURES)).labels != "none"
    return protocol_class(protocol).labels


def probes() -> list[str]:
    """Names of the protocols of frozen features, which `ssl-med probe` runs."""
    return [name for name in list_names(PACKAGE) if class_variable(f"{PACKAGE}.{name}", "command") == "probe"]


def settings_of(name: str) -> list[str]:
    """References to the settings of a probe, those for masks too; read from files, nothing is imported."""
    if name not in probes():
        return []
    masks = class_variable(f"{PACKAGE}.{name}", "on_masks")
    return [f"{PACKAGE}.{found}:Config" for found in (name, masks) if found]


def asked_protocol(name: str) -> type[Probe]:
    """What `ssl-med probe protocol=NAME` names.

    Raises:
        SslMedError: nothing, something unknown, or a protocol that trains the encoder.
    """
    from ssl_med.evaluation.protocols.core.contract import Probe

    if not name:
        raise SslMedError(f"protocol=NAME is missing; there are: {', '.join(probes())}")
    if name not in list_names(PACKAGE):
        raise SslMedError(f"protocol '{name}' is unknown{nearest(name, probes())}")
    found = protocol_class(name)
    if not issubclass(found, Probe):
        raise SslMedError(f"protocol={name} is that of `ssl-med {found.command}`; a probe has: {', '.join(probes())}")
    return found


def probe_class(name: str, spec: DataSpec, task: str) -> type[Probe]:
    """The protocol for labels of this kind: of masks, `linear` is a probe of voxels.

    Raises:
        SslMedError: labels that the protocol cannot use.
    """
    found = asked_protocol(name)
    if not found.labels or spec.target in found.targets:
        return found
    if found.on_masks and spec.target == "mask":
        return asked_protocol(found.on_masks)
    has, needs = ("masks", "class labels") if spec.target == "mask" else ("class labels", "masks")
    raise SslMedError(f"protocol={name} needs {needs}, task '{task}' has {has}; use protocol=linear")

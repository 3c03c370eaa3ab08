"""Where settings come from: overrides of the command line laid over the yamls of conf/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.config import Layer, build, parse_overrides, read_yaml
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

if TYPE_CHECKING:  # names are listed and refused without the seconds that torch takes
    from datamodules.core.base import MedicalData
    from ssl_med.methods.core.base import Method

CONF = Path(__file__).parents[1] / "conf"


def names(group: str) -> list[str]:
    """What `method=`, `data=`, `task=`, `trainer=`, `map=` or `table=` can be."""
    if group == "method":
        return list_names("ssl_med.methods")
    if group == "data":
        return list_names("datamodules")
    if group == "table":
        return sorted(path.stem for path in (CONF.parent / "tables").glob("*.yaml"))
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def presets() -> dict[str, str]:
    """`method/preset` of every named variant, conf/method/METHOD/PRESET.yaml, and its first comment line: what it is."""
    found = {}
    for path in sorted((CONF / "method").glob("*/*.yaml")):
        first = path.read_text().partition("\n")[0]
        found[f"{path.parent.name}/{path.stem}"] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def choose(
    overrides: Sequence[str], *, required: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[dict[str, str], Layer]:
    """Overrides `group=NAME` as a dictionary, all other overrides as the layer of the command line."""
    groups = (*required, *optional)
    chosen: dict[str, str] = {}
    rest = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in groups:
            if key in chosen and chosen[key] != unquoted(value):
                raise SslMedError(f"command line: '{key}' is given twice")
            chosen[key] = unquoted(value)
        else:
            rest.append(override)
    for group in required:
        if not chosen.get(group):
            raise SslMedError(f"{group}=NAME is missing; there are: {', '.join(names(group))}")
    return chosen, parse_overrides(rest)


def check_name(group: str, name: str) -> None:
    """Refuses a name that a group does not have, and offers the nearest; a method may be `method/preset`."""
    base, slash, preset = name.partition("/") if group == "method" else (name, "", "")
    if base not in names(group):
        raise SslMedError(f"{group} '{base}' is unknown{nearest(base, names(group))}")
    own = [known.partition("/")[2] for known in presets() if known.startswith(f"{base}/")] if slash else []
    if slash and preset not in own:
        hint = nearest(preset, own) if own else "; it has none"
        raise SslMedError(f"method '{name}' is unknown: {base} has no preset '{preset}'{hint}")


def data_class_of(name: str) -> type[MedicalData]:
    """The class of a family."""
    from datamodules.core.base import MedicalData

    found: type[MedicalData] = get_class("datamodules", name, kind="data", base=MedicalData)
    return found


def method_class_of(name: str) -> type[Method]:
    """The class of `method` or `method/preset`; refuses a preset that no yaml describes."""
    from ssl_med.methods.core.base import Method

    check_name("method", name)
    found: type[Method] = get_class("ssl_med.methods", name.partition("/")[0], kind="method", base=Method)
    return found


def read_conf(group: str, name: str) -> Layer:
    """conf/GROUP/NAME.yaml."""
    path = CONF / group / f"{name}.yaml"
    source = f"conf/{group}/{name}.yaml"
    if not path.is_file():
        raise SslMedError(f"{group} '{name}' is unknown{nearest(name, names(group))}")
    return read_yaml(path, source)


def config_sources(
    chosen: dict[str, str], line: Layer, order: tuple[str, ...], data_class: type[MedicalData], data_name: str
) -> list[Layer]:
    """Yamls of the chosen names in `order`, each with what it says of these dimensions and this trainer, and the line."""
    found = []
    for group in order:
        if group in chosen:
            name, slash, _ = chosen[group].partition("/")
            found.append(read_conf(group, name))
            if slash:  # a preset is laid over its method
                found.append(read_conf(group, chosen[group]))
    dims = data_class.spatial_dims(build_data(data_class, data_name, [*found, line]))
    if "trainer" in chosen:  # what a method or a task says of this trainer is more special than the trainer's own
        found += [layer.section(f"when_{chosen['trainer']}") for layer in found]
    layers = []
    for layer in found:
        layers.append(Layer(layer.source, {k: v for k, v in layer.tree.items() if not k.startswith("when_")}))
        layers.append(layer.section(f"when_{dims}d"))
    return [*layers, line]


def check_keys(layers: list[Layer], keys: tuple[str, ...], *, prefix: str = "") -> None:
    """Refuses a key that is not among `keys`, with the nearest one and where it stands."""
    for layer in layers:
        for key in layer.tree:
            if key not in keys:
                raise SslMedError(f"{layer.source}: key '{prefix}{key}' is unknown{nearest(key, list(keys))}")


def sections_of(layers: Sequence[Layer], name: str) -> list[Layer]:
    """One section of every layer."""
    return [layer.section(name) for layer in layers]


def build_section(schema: Any, layers: Sequence[Layer], name: str) -> Any:
    """A section's settings from all layers, the last one ruling."""
    return build(schema, sections_of(layers, name), prefix=name)


def build_data(data_class: type[MedicalData], name: str, layers: Sequence[Layer]) -> Any:
    """Settings of a family, which knows its own name."""
    return build(data_class.Config, [Layer("", {"name": name}), *sections_of(layers, "data")], prefix="data")


def build_top(schema: Any, layers: Sequence[Layer], keys: tuple[str, ...]) -> Any:
    """Settings from keys that stand in no section."""
    return build(schema, [Layer(x.source, {k: v for k, v in x.tree.items() if k in keys}) for x in layers], prefix="")

"""Where settings come from: overrides of the command line laid over the yamls of conf/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.network import choose_network
from experiments.config.sections import SCRATCH
from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.config import Layer, Settings, parse_overrides, read_yaml
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

if TYPE_CHECKING:  # names are listed and refused without the seconds that torch takes
    from datamodules.core.base import MedicalData
    from ssl_med.methods.core.base import Method
    from ssl_med.networks.pyramid import Backbone

CONF = Path(__file__).parents[1] / "conf"
BACKBONES = "ssl_med.networks.backbones"
WORDS = {"mask": "masks", "class": "classes", "multilabel": "findings", "none": "data without labels"}
KINDS_OF_LABELS = tuple(f"when_{target}" for target in WORDS)
NAMED = ("data", "task")  # their settings hold the name, too


def names(group: str) -> list[str]:
    """What `method=`, `data=`, `task=`, `recipe=`, `trainer=`, `backbone=`, `map=`, `table=` can be; `augment`: lists."""
    if group == "method":
        return list_names("ssl_med.methods")
    if group == "data":
        return list_names("datamodules")
    if group == "table":
        return sorted(path.stem for path in (CONF.parent / "tables").glob("*.yaml"))
    sized = [path.stem for path in (CONF / group).glob("*.yaml")]
    return sorted({*sized, *list_names(BACKBONES)}) if group == "backbone" else sorted(sized)


def presets() -> dict[str, str]:
    """`method/preset` of every named variant, conf/method/METHOD/PRESET.yaml, and its first comment line: what it is."""
    found = {}
    for path in sorted((CONF / "method").glob("*/*.yaml")):
        first = path.read_text().partition("\n")[0]
        found[f"{path.parent.name}/{path.stem}"] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def check_name(group: str, name: str) -> None:
    """Refuses a name that a group does not have, and offers the nearest; a method may be `method/preset/preset`."""
    base, *chosen = name.split("/") if group == "method" else [name]
    if base not in names(group):
        raise SslMedError(f"{group} '{base}' is unknown{nearest(base, names(group))}")
    own = [known.partition("/")[2] for known in presets() if known.startswith(f"{base}/")] if chosen else []
    for preset in chosen:
        if preset not in own:
            hint = nearest(preset, own) if own else "; it has none"
            raise SslMedError(f"method '{name}' is unknown: {base} has no preset '{preset}'{hint}")
    if len(set(chosen)) < len(chosen):
        raise SslMedError(f"method '{name}' names a preset twice; name each once, the one that rules last")


def data_class_of(name: str) -> type[MedicalData]:
    """The class of a family."""
    from datamodules.core.base import MedicalData

    found: type[MedicalData] = get_class("datamodules", name, kind="data", base=MedicalData)
    return found


def method_class_of(name: str) -> type[Method]:
    """The class of `method` or `method/preset/...`; refuses a preset that no yaml describes."""
    from ssl_med.methods.core.base import Method

    check_name("method", name)
    found: type[Method] = get_class("ssl_med.methods", name.partition("/")[0], kind="method", base=Method)
    return found


def yamls_of(name: str) -> list[str]:
    """Names of the yamls behind a name, each laid over the one before: `pcrl/paper/transatt` is PCRL, one preset, another."""
    base, *presets = name.split("/")
    return [base, *(f"{base}/{preset}" for preset in presets)] if name else []


def read_conf(group: str, name: str) -> Layer:
    """conf/GROUP/NAME.yaml."""
    path = CONF / group / f"{name}.yaml"
    source = f"conf/{group}/{name}.yaml"
    if not path.is_file():
        raise SslMedError(f"{group} '{name}' is unknown{nearest(name, names(group))}")
    return read_yaml(path, source)


@dataclass(frozen=True)
class Gathered:
    """All that a command line and the yamls of the names on it say.

    * data_class: family of the data. * network: class that `backbone.name` means for these data.
    * settings: every key with its value and who set it.
    * other_networks: settings that yamls give for networks that were not chosen.
    """

    data_class: type[MedicalData]
    network: type[Backbone]
    settings: Settings
    other_networks: dict[str, Any]

    @cached_property
    def data(self) -> Any:
        """Settings of the family, its lists of transforms read."""
        return _with_lists(self.settings.section("data").build(self.data_class.Config, prefix="data"))


def choose(
    overrides: Sequence[str], *, required: tuple[str, ...], optional: tuple[str, ...] = (), keys: tuple[str, ...]
) -> tuple[dict[str, str], Layer]:
    """Overrides `group=NAME` as a dictionary, all other overrides as the layer of the command line.

    Raises:
        SslMedError: a required name is missing, a name is unknown or given twice, or a key is not among `keys`.
    """
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
    for group, name in chosen.items():
        check_name(group, name)
    line = parse_overrides(rest)
    check_keys(line, keys)
    return chosen, line


def gather(
    chosen: Mapping[str, str],
    line: Layer,
    *,
    order: tuple[str, ...],
    keys: tuple[str, ...] = (),
    kept: Mapping[str, tuple[str, ...]] | None = None,
    base: Layer | None = None,
    implied: Layer | None = None,
) -> Gathered:
    """One tree of settings from the yamls of the chosen names, in `order`, and the command line, which rules.

    A yaml may hold sections for one kind of run alone: `when_cpu` holds where trainer=cpu, `when_3d` where the data are 3D,
    `when_coloured` where images are red, green and blue, `when_strong` where recipe=strong, `when_pretrained` where an encoder
    is trained that `init` filled; one of a recipe also `when_mask`, `when_class` or `when_multilabel`, by what is learned.

    Args:
        chosen: group -> name; the family of the data is `data`, else the one that the yaml of `task` names.
        line: all other overrides.
        order: groups whose yamls are read, weakest first.
        keys: top-level keys that a yaml may hold; empty: any.
        kept: section -> its keys that mean something to this command; the rest of that section is left out of yamls.
        base: settings weaker than every yaml.
        implied: settings that follow from the line, stronger than every yaml and weaker than the line itself.

    Raises:
        SslMedError: a name, a key or a backbone is unknown.
    """
    data_name = chosen.get("data") or _data_of_task(chosen["task"])
    data_class = data_class_of(data_name)
    yamls = [layer for group in order for layer in _yamls(group, {"data": data_name, **chosen}.get(group, ""))]
    for group in NAMED:
        if "name" in line.section(group).tree:
            raise SslMedError(f"{line.source}: {group}.name cannot be set; {group}=NAME chooses it")
    own = Layer("", {"data": {"name": data_name}, "task": {"name": chosen.get("task", data_name)}})
    # the yaml of a task names its own family, too, which data=NAME overrules
    asked = Layer(line.source, {"data": {"name": data_name}} if "data" in chosen else {})
    plain: Any = Settings.merged([own, *yamls, asked, line]).section("data").build(data_class.Config, prefix="data")
    dims = data_class.spatial_dims(plain)
    if "recipe" in chosen:
        yamls = _with_recipe(chosen, yamls, data_class, plain)
    if "task" in chosen and _trains_pretrained(line):
        yamls += [layer.section("when_pretrained") for layer in yamls]
    if "trainer" in chosen:  # settings of a method or a task for this trainer are more special than the trainer's own
        yamls += [layer.section(f"when_{chosen['trainer']}") for layer in yamls]
    yamls += _backbone(chosen.get("backbone", ""), line.source)
    layers = [own, *([base] if base else [])]
    kinds = [f"when_{dims}d"]
    if (
        any("when_coloured" in layer.tree for layer in yamls)
        and data_class.make_spec(_with_lists(plain), labelled=False).coloured
    ):
        kinds.append("when_coloured")
    for layer in yamls:
        always = Layer(layer.source, {key: value for key, value in layer.tree.items() if not key.startswith("when_")})
        for part in (always, *map(layer.section, kinds)):
            check_keys(part, keys)
            layers.append(_only(part, kept or {}))
    layers += [asked, *([implied] if implied else []), line]
    network, layers, others = choose_network(layers, dims)
    return Gathered(data_class, network, Settings.merged(layers), others)


def _with_lists(data: Any) -> Any:
    """Settings of a family, its lists of transforms read from the files that are named."""
    from experiments.config.transform_lists import read_list

    lists = [key for key in ("transforms", "preprocess") if hasattr(data, key)]
    return replace(data, **{key: read_list(getattr(data, key), f"data.{key}") for key in lists})


def _trains_pretrained(line: Layer) -> bool:
    """Whether a fine-tuning starts from weights that it changes."""
    init = unquoted(line.tree.get("init", SCRATCH))
    return init != SCRATCH and unquoted(line.section("transfer").tree.get("protocol", "")) != "frozen"


def _with_recipe(
    chosen: Mapping[str, str], yamls: Sequence[Layer], data_class: type[MedicalData], data: Any
) -> list[Layer]:
    """The yamls with what the recipe says for these labels, and what the others say for this recipe.

    A recipe is for every family: its settings of `data` that a family does not have are left out.

    Raises:
        SslMedError: the recipe says nothing for labels of this kind.
    """
    name = chosen["recipe"]
    (own,) = _yamls("recipe", name)
    place = next(k for k, layer in enumerate(yamls) if layer.source == own.source)
    kinds = {key: value for key, value in own.tree.items() if key in KINDS_OF_LABELS}
    found = [yamls[place]]
    if kinds:
        target = data_class.make_spec(data, labelled=True).target
        if f"when_{target}" not in kinds:
            raise SslMedError(f"recipe={name} is not for {WORDS[target]}, which '{chosen['task']}' has; leave it out")
        found.append(own.section(f"when_{target}"))
    only = {"data": keys_of(data_class.Config)}
    found = [_only_deep(layer, only) for layer in found]
    special = [layer.section(f"when_{name}") for layer in yamls[:place]]
    return [*yamls[:place], *found, *special, *yamls[place + 1 :]]


def _only_deep(layer: Layer, kept: Mapping[str, tuple[str, ...]]) -> Layer:
    """`_only`, in the sections for one kind of run too."""
    tree = _only(layer, kept).tree
    deep = {key: _only_deep(layer.section(key), kept).tree for key in tree if key.startswith("when_")}
    return Layer(layer.source, {**tree, **deep})


def check_keys(layer: Layer, keys: tuple[str, ...], *, prefix: str = "") -> None:
    """Refuses a key that is not among `keys`, with the nearest one and its source; empty `keys` allow any."""
    for key in layer.tree if keys else ():
        if key not in keys:
            raise SslMedError(f"{layer.source}: key '{prefix}{key}' is unknown{nearest(key, list(keys))}")


def keys_of(schema: Any) -> tuple[str, ...]:
    """Names of the settings of a section."""
    return tuple(item.name for item in fields(schema))


def _yamls(group: str, name: str) -> list[Layer]:
    return [read_conf(group, one) for one in yamls_of(name)]


def _backbone(name: str, source: str) -> list[Layer]:
    """What backbone=NAME says: the yaml of a named size, else the name of a network with its own defaults."""
    if name and not (CONF / "backbone" / f"{name}.yaml").is_file():
        return [Layer(source, {"backbone": {"name": name}})]
    return [read_conf("backbone", name)] if name else []


def _data_of_task(task: str) -> str:
    layer = read_conf("task", task)
    name = layer.section("data").tree.get("name")
    if not name:
        raise SslMedError(f"{layer.source}: key 'data.name' is missing")
    return str(name)


def _only(layer: Layer, kept: Mapping[str, tuple[str, ...]]) -> Layer:
    """A yaml's layer with nothing but the kept keys of the sections that `kept` names."""
    tree = dict(layer.tree)
    for section in tree.keys() & kept.keys():
        tree[section] = {key: value for key, value in layer.section(section).tree.items() if key in kept[section]}
    return Layer(layer.source, tree)

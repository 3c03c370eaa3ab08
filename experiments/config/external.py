"""From the overrides of `ssl-med external` to a run config, the trained run and the map of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from experiments.config.finetuned import FinetunedRun
from experiments.config.kinds import Plain, StartedRun
from experiments.config.run import build_parts, checked
from experiments.config.sections import LoadingConfig, StartConfig
from experiments.config.sources import check_keys, choose, gather, keys_of, names, read_conf
from ssl_med.catalogue import nearest
from ssl_med.config import Layer, Tree, to_plain
from ssl_med.evaluation.external import ClassMap, Mapped, fit
from ssl_med.evaluation.tasks import TaskConfig
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.values import WrongValueError, convert, elements, type_words, unquoted

SAME = "same"
# how an answer is found, scored and shown; the rest of a task is that of the training
_SCORING = ("overlap", "window_batch", "tolerance_mm", "pictures")
# of the yamls of a task and a trainer, a test takes the loading alone, and its arithmetic is that of the run
_KEPT: Mapping[str, tuple[str, ...]] = {
    "trainer": tuple(key for key in keys_of(LoadingConfig) if key != "precision"),
    **dict.fromkeys(("task", "backbone", "transfer", "optim"), ()),
}
_MAP_KEYS = ("classes", "uncertain", "data")
_OVERRIDE = re.compile(r"map\.[^=]+=|[A-Za-z_][\w.]*=")  # everything else is the folder of the run


@dataclass(frozen=True)
class ExternalConfig:
    """What is tested, and on which cases."""

    trained: str
    """hash of the fine-tuning's settings"""
    part: Literal["all", "test"]
    """all labelled cases, or the test part of data.split"""
    map: str
    """file in conf/map, or same: classes of equal names correspond"""
    classes: dict[str, list[str]]
    """class of the run -> classes of the other data set, as the map says"""
    uncertain: str
    """what an uncertain label counts as: ignore, zeros or ones; default: what the map says"""


@dataclass(frozen=True, kw_only=True)
class ExternalRun(StartedRun):
    """The test of a fine-tuning on another data set."""

    kind = "external"
    external: ExternalConfig
    trained: FinetunedRun
    mapped: Mapped
    notes: tuple[str, ...]

    def sections(self, plain: Plain) -> dict[str, Any]:
        """The parts of the tree."""
        return {"external": plain(self.external), "task": plain(self.task), **super().sections(plain)}


def compose_external(overrides: Sequence[str], trained: FinetunedRun | None = None) -> ExternalRun:
    """`RUN task=montgomery data.root=DIR map=tuberculosis ...` -> ExternalRun.

    Data are prepared as those of RUN were, whatever the task's own settings say.

    Args:
        overrides: of the command line.
        trained: what RUN will hold; None: it is there and is read.
    """
    folders = [override for override in overrides if not _OVERRIDE.match(override)]
    if len(folders) != 1:
        raise SslMedError(
            "external: give the folder of one finished fine-tuning, ssl-med external RUN task=NAME data.root=DIR map=NAME"
        )
    trained = trained or FinetunedRun.read(Path(folders[0]))
    own = [override for override in overrides if override.startswith(("map=", "map.", "part=", "uncertain="))]
    rest = [override for override in overrides if override not in (*folders, *own)]
    single = _single(own)
    part = single.get("part", "all")
    if part not in ("all", "test"):
        raise SslMedError(f"part is '{part}'; it must be all or test")
    chosen, line = choose(
        rest, required=("task",), optional=("data", "trainer"), keys=("task", "data", "trainer", "out", "resume")
    )
    check_keys(line.section("task"), _SCORING, prefix="task.")
    asked = line.section("data").tree
    if part == "all" and any(key.startswith("split") for key in asked):
        raise SslMedError("data.split is of part=test; all labelled cases are tested unless part=test")
    preset = _preset(single.get("map", ""))
    said = gather(
        chosen,
        line,
        order=("data", "task", "trainer"),
        kept=_KEPT,
        base=_of_run(trained),
        implied=Layer(preset.source, {"data": preset.section("data").tree}),
    )
    forced = _prepared(trained, to_plain(said.data), asked=asked)
    _check_kind(trained, said.data_class.make_spec(said.data, labelled=True), said.data_class.Config, chosen["task"])
    said = replace(said, settings=said.settings.over(forced))
    parts = build_parts(said, labelled=True, general=StartConfig, task=TaskConfig, trainer=LoadingConfig)
    spec = said.data_class.make_spec(said.data, labelled=True)
    _check_prepared(trained, spec, chosen["task"])
    classes = _class_map(own, single, preset, trained.spec, spec)
    mapped = fit(classes, trained.spec, spec)
    external = ExternalConfig(
        trained=str(trained.run.summary.get("hash")),
        part="all" if part == "all" else "test",
        map=single.get("map", ""),
        classes={
            name: [spec.class_names[k] for k in sources]
            for name, sources in zip(mapped.spec.class_names, mapped.sources, strict=True)
        },
        uncertain=classes.uncertain,
    )
    notes = [*mapped.notes(), f"prepared as trained: {_told(forced)}"]
    size = getattr(said.data, "image_size", 0)
    if size and "image_size" not in forced.section("data").tree:
        notes.append(
            f"data.image_size={size} is this data set's own: the run took its images in the size of their files"
        )
    if spec.channel_names != trained.spec.channel_names:
        notes.append(
            f"channels, in this order: trained on {', '.join(trained.spec.channel_names)}; "
            f"here {', '.join(spec.channel_names)}"
        )
    config = ExternalRun(
        name=chosen["task"],
        protocol="finetune",
        external=external,
        trained=trained,
        mapped=mapped,
        notes=tuple(notes),
        **parts,
    )
    return checked(config)


def _single(own: Sequence[str]) -> dict[str, str]:
    """map=, part= and uncertain=, each once."""
    found: dict[str, str] = {}
    for override in own:
        key, _, value = override.partition("=")
        if key in found:
            raise SslMedError(f"command line: '{key}' is given twice")
        found[key] = value if key.startswith("map.") else unquoted(value)
    return found


def _preset(name: str) -> Layer:
    if name in ("", SAME):
        return Layer(f"map={name}", {})
    if name not in names("map"):
        raise SslMedError(f"map '{name}' is unknown{nearest(name, [SAME, *names('map')])}")
    layer = read_conf("map", name)
    check_keys(layer, _MAP_KEYS)
    return layer


def _class_map(
    own: Sequence[str], single: Mapping[str, str], preset: Layer, trained: DataSpec, other: DataSpec
) -> ClassMap:
    """The preset, or equal names where map=same says so, with the overrides of the line laid over it."""
    said = {key.removeprefix("map."): _listed(key, value) for key, value in single.items() if key.startswith("map.")}
    if not said and "map" not in single:
        raise SslMedError(
            f"map is missing: say which class of the run ({', '.join(trained.class_names)}) corresponds to which of "
            f"'{other.name}' ({', '.join(other.class_names)}) by map.CLASS=CLASS, or map=same for equal names; "
            f"maps: {', '.join(names('map'))}"
        )
    classes: dict[str, tuple[str, ...]] = {
        name: (name,) for name in trained.class_names if single.get("map") == SAME and name in other.class_names
    }
    for name, value in preset.section("classes").tree.items():
        classes[name] = _written(preset.source, name, value)
    uncertain: Any = single.get("uncertain", preset.tree.get("uncertain", "ignore"))
    return ClassMap(classes | said, uncertain)


def _written(source: str, name: str, value: Any) -> tuple[str, ...]:
    """What a yaml says of one class."""
    try:
        found: tuple[str, ...] = convert(tuple[str, ...], value if isinstance(value, list) else [value])
    except WrongValueError:
        raise SslMedError(f"{source}: 'classes.{name}' is {value!r}; put the names of classes in quotes") from None
    return found


def _listed(key: str, value: str) -> tuple[str, ...]:
    """`Edema` or `[Edema,'Pleural, other']` -> names; class names are taken as they are written."""
    if value.startswith("[") and value.endswith("]"):
        try:
            return tuple(map(unquoted, elements(value)))
        except WrongValueError:
            raise SslMedError(f"command line: '{key}' is {value!r}; it must be {type_words(list[str])}") from None
    return (unquoted(value),) if value else ()


def _of_run(trained: FinetunedRun) -> Layer:
    """What the trained run hands down besides its weights: network, arithmetic, scoring, seed."""
    settings = trained.settings
    task = {key: value for key, value in settings["task"].items() if key != "name"}
    return Layer(
        str(trained.folder),
        {
            "seed": trained.run.seed,
            "init": str(trained.folder),
            "backbone": to_plain(trained.network()),
            "trainer": {"precision": settings["trainer"]["precision"]},
            "task": task,
        },
    )


def _prepared(trained: FinetunedRun, own: Tree, asked: Iterable[str]) -> Layer:
    """Settings of data that make an image what the network knows.

    Args:
        trained: the run that is tested.
        own: settings of the other data set.
        asked: keys of them that the command line sets.

    Raises:
        SslMedError: the line asks for another image.
    """
    spec = trained.spec
    wanted: dict[str, Any] = {
        "patch_size": list(spec.patch_size),
        "intensity": spec.intensity.kind,
        "intensity_low": spec.intensity.low,
        "intensity_high": spec.intensity.high,
        "normalisation": spec.intensity.normalisation,
        "intensity_mean": spec.intensity.mean,
        "intensity_sd": spec.intensity.sd,
        "spacing_mm": list(spec.spacing_mm) if spec.spacing_mm is not None else None,
        "orientation": spec.orientation,
    }
    transforms = trained.settings["data"].get("transforms") or []
    if transforms or own["transforms"]:  # what they may name is for the user of this machine to say: data.allow
        wanted["transforms"] = transforms
    if trained.settings["data"].get("image_size"):
        wanted["image_size"] = trained.settings["data"]["image_size"]
    wanted = {key: value for key, value in wanted.items() if key in own}
    for key in asked:
        if key in wanted and own[key] != wanted[key]:
            raise SslMedError(
                f"command line: data.{key}={_short(own[key])}, but {trained.folder} was trained with {_short(wanted[key])}; "
                "a test prepares data as the training did, leave it out"
            )
    return Layer(str(trained.folder), {"data": wanted})


def _check_kind(trained: FinetunedRun, spec: DataSpec, schema: type, task: str) -> None:
    """Refuses data whose dimensions, channels or kind of intensity no setting makes those of the run."""
    was = trained.spec
    if spec.spatial_dims != was.spatial_dims:
        raise SslMedError(f"task={task}: is {spec.spatial_dims}D, {trained.folder} was trained in {was.spatial_dims}D")
    if spec.in_channels != was.in_channels:
        raise SslMedError(
            f"task={task}: {trained.folder} was trained with {was.in_channels} channels ({', '.join(was.channel_names)}), "
            f"'{spec.name}' has {spec.in_channels} ({', '.join(spec.channel_names)})"
        )
    chosen = any(field.name == "intensity" for field in fields(schema))
    if not chosen and spec.intensity.kind != was.intensity.kind:
        raise SslMedError(
            f"task={task}: {trained.folder} was trained with intensities by {_range(was)}, '{spec.name}' has {_range(spec)}"
        )


def _check_prepared(trained: FinetunedRun, spec: DataSpec, task: str) -> None:
    """Refuses data that cannot be prepared as those of the run."""
    was = trained.spec
    pairs = {
        "a patch of": (was.patch_size, spec.patch_size),
        "intensities by": (_range(was), _range(spec)),
        "voxels of": (was.spacing_mm, spec.spacing_mm),
        "axes": (was.orientation, spec.orientation),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            raise SslMedError(
                f"task={task}: {trained.folder} was trained with {what} {_short(before)}, '{spec.name}' has {_short(now)}"
            )


def _range(spec: DataSpec) -> str:
    found = spec.intensity
    after = {"unit": "", "dataset": f" less {found.mean:g} over {found.sd:g}"}.get(
        found.normalisation, f" and {found.normalisation}"
    )
    return f"{found.kind} {found.low:g}..{found.high:g}{after}"


def _told(forced: Layer) -> str:
    return ", ".join(f"data.{key}={_short(value)}" for key, value in forced.section("data").tree.items())


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_short, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else "as acquired" if value is None else str(value)

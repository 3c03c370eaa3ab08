"""`ssl-med show`: print what a method, preset, data set, task, table, backbone or protocol is, its defaults and file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.config.helptext import rows_of, spell
from experiments.config.offers import KINDS
from experiments.config.protocols import PACKAGE
from experiments.config.schema import ROOT, class_variable, docstring, path_of, settings
from experiments.config.sources import BACKBONES, CONF, read_conf
from ssl_med.catalogue import list_names, nearest
from ssl_med.spec import SslMedError

USAGE = "ssl-med show NAME"
EXAMPLES = ("ssl-med show pcrl", "ssl-med show lits")
_ONE = {"data": "data set", "families": "family of foreign weights", "features": "feature analysis"}
_GROUPS = {
    "tasks": "task",
    "maps": "map",
    "tables": "../tables",
    "presets": "method",
    "data": "data",
    "methods": "method",
}


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    if len(arguments) != 1:
        raise SslMedError("show: give one NAME; `ssl-med list KIND` prints the names")
    name = arguments[0]
    kinds = {kind: found() for kind, found in KINDS.items() if kind != "augment"}
    having = [kind for kind, found in kinds.items() if name in found]
    if not having:
        raise SslMedError(
            f"show: '{name}' is unknown{nearest(name, sorted({n for found in kinds.values() for n in found}))}"
        )
    print("\n".join(_about(kind, name, kinds[kind][name]) for kind in having), end="")


def _about(kind: str, name: str, sentence: str) -> str:
    lines = [f"{name} ({_ONE.get(kind, kind.removesuffix('s'))}): {sentence}", *_facts(kind, name)]
    if kind in _GROUPS:
        path = (CONF / _GROUPS[kind] / f"{name}.yaml").resolve()
        lines += [f"settings in {path.relative_to(ROOT)}:", _indented(path.read_text(encoding="utf-8"))]
    return "\n".join(lines) + "\n"


def _facts(kind: str, name: str) -> Iterator[str]:
    if kind == "methods":
        module = f"ssl_med.methods.{name}"
        yield f"family: {', '.join(class_variable(module, 'family'))}"
        yield f"works in: {', '.join(f'{n}D' for n in class_variable(module, 'dims'))}"
        yield f"default data: {read_conf('method', name).tree['default_data']}"
        yield from _file(module, docstring(module))
        yield from _defaults("method", f"{module}:Config")
    elif kind == "data":
        module = f"datamodules.{name}"
        yield f"layout below data.root: {spell(class_variable(module, 'layout'))}"
        yield from _file(module, docstring(module))
        yield from _defaults("data", f"{module}:Config")
    elif kind == "protocols":
        module = f"{PACKAGE}.{name}"
        yield from _file(module, docstring(module))
        yield from _defaults(
            "transfer" if class_variable(module, "command") == "finetune" else "probe", f"{module}:Config"
        )
    elif kind == "backbones" and name not in list_names(BACKBONES):  # a named size
        path = CONF / "backbone" / f"{name}.yaml"
        yield f"settings in {path.relative_to(ROOT)}:"
        yield _indented(path.read_text(encoding="utf-8"))
    elif kind == "backbones":
        module = f"{BACKBONES}.{name}"
        yield from _file(module, docstring(module))
        yield from _defaults("backbone", f"{module}:Config")
    elif kind in ("families", "features"):
        module = f"ssl_med.{'weights' if kind == 'families' else 'features'}.{name}"
        yield from _file(module, docstring(module))
        if kind == "features":
            yield from _defaults("features", f"{module}:Config")
    elif kind == "phantoms":
        yield from _file(f"datamodules.phantoms.{name}", "")


def _file(module: str, text: str) -> Iterator[str]:
    yield f"file: {path_of(module).relative_to(ROOT)}"
    if text:
        yield _indented(text)


def _defaults(section: str, reference: str) -> Iterator[str]:
    rows = list(rows_of(section, settings(reference)))
    yield "defaults:"
    yield _indented("\n".join(f"{key}={default}  # {text}" for key, _, default, text in rows))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.strip().splitlines())

"""`make docs`: docs/reference/settings.md, every setting with type, default and meaning, from the source of the dataclasses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.config.analyses import PACKAGE as ANALYSES
from experiments.config.helptext import rows_of
from experiments.config.offers import KINDS
from experiments.config.protocols import PACKAGE, probes
from experiments.config.schema import settings
from experiments.config.usage import FAMILY, command, commands
from ssl_med.catalogue import list_names

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
HEAD = """\
# Settings

Every key that a command line takes, written by `make docs` from the dataclasses in the source: `key=value`, lists as `[1,2]`.
A default is that of the source; the recipe of a method or task (`experiments/conf`) lays its own over it, and
`ssl-med COMMAND -h method=NAME task=NAME` shows those. `ssl-med COMMAND ... --show` prints all settings of a run.
"""


def page() -> str:
    """The text of docs/reference/settings.md."""
    return "\n".join(
        [HEAD, *_commands(), *_kind("method"), *_kind("data"), *_kind("backbone"), *_probes(), *_analyses()]
    )


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    said: set[str] = set()
    for name in commands():
        about = command(name)
        yield (
            f"### ssl-med {name}\n\n{_sentence(about.sentence)}\n\nUsage: `{about.usage}`\n\n```bash\n"
            + "\n".join(about.examples)
            + "\n```\n"
        )
        for section, references in about.sections.items():
            if references in said or "{" in references or not references:
                continue
            said.add(references)
            for reference in references.split(" + "):
                path, _, only = reference.partition(" ")
                kept = [item for item in settings(path) if not only or item.name in only.split()]
                yield _table(list(rows_of(section, kept)))


def _kind(kind: str) -> Iterator[str]:
    package = {"method": "ssl_med.methods", "data": "datamodules", "backbone": "ssl_med.networks.backbones"}[kind]
    common = {item.name for item in settings(FAMILY)} if kind == "data" else set()
    yield f"## {kind}.* by {kind}\n"
    if common:
        yield "Every data set has\n\n" + _table(list(rows_of(kind, settings(FAMILY))))
    lines = KINDS["data" if kind == "data" else f"{kind}s"]()
    sizes = {name: text for name, text in lines.items() if kind == "backbone" and name not in list_names(package)}
    for name in [name for name in lines if name not in sizes]:
        own = [item for item in settings(f"{package}.{name}:Config") if item.name not in common]
        yield f"### {kind}={name}\n\n{_sentence(lines[name])}\n"
        if own:
            yield _table(list(rows_of(kind, own)))
    if sizes:
        yield f"Named sizes, of which `{kind}=NAME` chooses one (`experiments/conf/{kind}`):\n"
        yield "".join(f"- `{name}`: {_sentence(text)}\n" for name, text in sizes.items())


def _probes() -> Iterator[str]:
    yield "## probe.* by protocol\n"
    for name in probes():
        yield f"### protocol={name}\n\n" + _table(list(rows_of("probe", settings(f"{PACKAGE}.{name}:Config"))))


def _analyses() -> Iterator[str]:
    yield "## features.* by kind\n"
    for name in list_names(ANALYSES):
        yield f"### kind={name}\n\n" + _table(list(rows_of("features", settings(f"{ANALYSES}.{name}:Config"))))


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        key, kind, default, text = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| `{key}` | {kind} | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

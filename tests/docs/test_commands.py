"""What README, docs, messages and comments name is there: commands, make targets, modules, files; shown lines are accepted."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.commands.compare import open_plan
from experiments.config import files
from experiments.config.data import compose_check
from experiments.config.run import checked, compose_finetune, compose_pretrain, compose_probe
from experiments.config.usage import check, command, commands
from ssl_med.spec import SslMedError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("ssl_med", "datamodules", "experiments")
SOURCES = [path for name in (*PACKAGES, "tests") for path in sorted((ROOT / name).rglob("*.py"))]
YAMLS = sorted((ROOT / "experiments").rglob("*.yaml"))
COMPOSE = {"pretrain": compose_pretrain, "finetune": compose_finetune, "probe": compose_probe, "check": compose_check}
# text that names what is not there on purpose: tests of refusals, files that a how-to page makes
MADE_UP = ("test_imports.py", "docs/test_commands.py", "networks/test_own_backbone.py", "experiments/test_python.py")
EXCEPT = {*(ROOT / "tests" / name for name in MADE_UP), *(ROOT / "docs" / "how-to").glob("add-*.md")}


def shown():
    """(page, command line) of every line of a code block that calls ssl-med or make."""
    for page in PAGES:
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if kind not in ("", "bash", "sh"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"\s*(?:srun )?(?:\.venv/bin/)?((?:ssl-med|make) .*)", line)
                if found and "backbone.widths" not in found[1]:  # a backbone that its page makes
                    yield page.relative_to(ROOT).as_posix(), found[1]


def words_of(line):
    """A shown line as the shell hands it to ssl-med; what stands in [brackets] may be left out, and is given here."""
    plain = re.sub(r"(?<= )\[([\w.]+=[^\]]*?)(?: \.\.\.)?\]", r"\1", line)
    words = shlex.split(plain, comments=True)
    if words[0] == "make":
        made = subprocess.run(
            ["make", "-n", "-o", ".venv/.ready", "--no-print-directory", *words[1:]],
            cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        found = re.search(r"ssl-med (.*)", made.stdout)
        return shlex.split(found[1]) if found else []
    return words[1:]


LINES = sorted(set(shown()))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("page", "line"), LINES, ids=[line[:60] for _, line in LINES])
def test_a_shown_command_line_is_accepted_as_typed(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    for place in (tmp_path, tmp_path / "DIR"):  # paths of data.labels begin at data.root
        (place / "FILE.json").write_text(
            '{"labels": {"0": "none", "1": "a"}, "training": [{"image": "a.png", "label": 1}]}'
        )
    for file, body in re.findall(
        r"^```yaml\n# (\S+\.yaml)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    ):
        (tmp_path / file).write_text(body)
    words = words_of(line)
    if not words or words[0] in ("-h", "--help") or words[-1] in ("-h", "--help"):
        return
    name, *arguments = words
    if any(word.startswith("config=") for word in arguments):  # a file that the command before it writes
        assert name in files.COMMANDS
        arguments = [word for word in arguments if not word.startswith("config=")]
    picked = check(command(name), arguments)
    if "data" in picked and not any(word.startswith("data=") for word in arguments):
        arguments.append(f"data={picked['data']}")
    arguments = [word for word in arguments if not word.startswith(("--", "with="))]
    if name in COMPOSE:
        shared = {} if name == "check" else {"shared": True}  # so that weights may be absent
        config = COMPOSE[name](arguments, **shared)
        if shared:
            checked(config)
    elif name == "compare":
        open_plan(arguments)


def texts():
    for path in [*PAGES, *SOURCES, *YAMLS, ROOT / "Makefile"]:
        if path not in EXCEPT:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_commands_and_targets_that_texts_name_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    absent = []
    for page, text in texts():
        absent += [f"{page}: ssl-med {x}" for x in re.findall(r"ssl-med ([a-z_]+)\b(?!-)", text) if x not in commands()]
        absent += [f"{page}: make {x}" for x in re.findall(r"`make ([a-z-]+)", text) if x not in targets]
    assert not absent, "\n".join(absent)


def test_modules_and_files_that_texts_name_exist():
    absent = []
    for page, text in texts():
        for name in re.findall(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)})(?:\.[a-z_]\w*)+", text):
            if not _is_there(name):
                absent.append(f"{page}: {name}")
        for name in re.findall(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)}|tests|docs|examples)/[\w/.-]*\w", text):
            if not re.search(r"[A-Z]{2}", name) and not (ROOT / name).exists():
                absent.append(f"{page}: {name}")
    assert not absent, "\n".join(absent)


def _is_there(name):
    """Whether a dotted name is a module, or a name in the source of one."""
    path = ROOT
    for part in name.split("."):
        if (path / part).is_dir():
            path = path / part
        elif (path / f"{part}.py").is_file():
            path = path / f"{part}.py"
        else:
            source = path if path.is_file() else path / "__init__.py"
            return source.is_file() and re.search(rf"\b{part}\b", source.read_text()) is not None
    return True


def test_a_wrong_line_would_be_seen():
    with pytest.raises(SslMedError, match="unknown"):
        check(command("finetune"), words_of("ssl-med finetune task=lits [data.rot=DIR]  # a comment")[1:])
    assert words_of("ssl-med check data=lits [with=msd:/x ...]")[1:] == ["data=lits", "with=msd:/x"]
    assert not _is_there("ssl_med.methods.nothing")

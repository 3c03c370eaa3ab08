"""The front door: make's own messages, the versions that CI pins, and the guard before a commit."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def make(*words):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # a make that runs these tests hands its own flags down; they are not part of what is tested
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_make_lists_its_targets():
    done = make()
    assert done.returncode == 0
    listed = re.findall(r"^  make ([\w-]+) ", done.stdout, re.MULTILINE)
    assert listed == [
        "help",
        "setup",
        "demo",
        "test",
        "check",
        "test-long",
        "test-chaos",
        "test-gpu",
        "docs",
        "pretrain",
        "finetune",
        "probe",
        "compare",
        "report",
        "dashboard",
        "phantom",
        "bench",
        "clean",
        "clean-all",
    ]


def test_the_citation_names_the_version_and_licence_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in project["authors"]]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["pretrain"], "pretrain: METHOD is missing"),
        (["finetune"], "finetune: TASK is missing"),
        (["phantom"], "phantom: KIND is missing"),
    ],
)
def test_a_missing_word_is_one_line_and_exit_code_2(words, missing):
    done = make(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert missing in line


def test_words_reach_the_command():
    done = make("-n", "-o", ".venv/.ready", "pretrain", "METHOD=moco", "DATA=luna", "ARGS=data.root=x seed=1")
    assert done.stdout.strip().endswith("ssl-med pretrain method=moco data=luna data.root=x seed=1")
    done = make("-n", "-o", ".venv/.ready", "pretrain", "METHOD=pcrl")
    assert done.stdout.strip().endswith("ssl-med pretrain method=pcrl")
    done = make("-n", "-o", ".venv/.ready", "pretrain", "METHOD=pcrl/contraloss", "DATA=luna")
    assert done.stdout.strip().endswith("ssl-med pretrain method=pcrl/contraloss data=luna")
    done = make("-n", "-o", ".venv/.ready", "finetune", "TASK=lits")
    assert done.stdout.strip().endswith("ssl-med finetune task=lits init=scratch")


def test_ci_pins_every_dependency_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints" / "ci.txt").read_text().splitlines()
        if line[:1] not in ("#", "")
    )
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        assert requirement.name in pins, f"{requirement.name} is not pinned in constraints/ci.txt"
        assert requirement.specifier.contains(pins[requirement.name]), text


def test_nothing_private_large_or_medical_gets_in(tmp_path):
    good, scan, large, key, broken = (tmp_path / n for n in ("a.py", "a.nii.gz", "b.py", "c.txt", "d.yaml"))
    good.write_text("x = 1\n")
    scan.write_bytes(b"x")
    large.write_bytes(b"x" * 250_001)
    key.write_bytes(b"-----BEGIN " + b"RSA PRIVATE KEY-----")
    broken.write_text("a: [1")
    command = [sys.executable, str(ROOT / ".ci" / "check_files.py")]
    assert subprocess.run([*command, good, tmp_path / "deleted.py"]).returncode == 0
    done = subprocess.run([*command, good, scan, large, key, broken], capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in (scan, large, key, broken)]
    for line, reason in zip(lines, ("data or weights", "250001 bytes", "private key", "cannot be parsed"), strict=True):
        assert reason in line


def test_what_is_declared_is_imported():
    """A runtime dependency that nothing of ours imports is dropped, or stands here with the reason."""
    modules = {"pytorch-lightning": "pytorch_lightning", "pillow": "PIL"}
    source = "\n".join(
        p.read_text() for part in ("ssl_med", "datamodules", "experiments") for p in (ROOT / part).rglob("*.py")
    )
    imported = set(re.findall(r"^ *(?:from|import) +(\w+)", source, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {modules.get(name, name) for name in (Requirement(text).name for text in project["dependencies"])}
    assert declared <= imported
    assert {"torchmetrics", "monai"} <= declared

"""The command line: help, lists and refusals without slow imports, what is filled in, and that no message names what is not."""

import dataclasses
import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from datamodules.core.base import MedicalData
from datamodules.phantoms import chest14
from experiments.cli import main
from experiments.config import defaults, schema
from experiments.config.helptext import of_command
from experiments.config.offers import KINDS
from experiments.config.protocols import PACKAGE, probes, protocol_class
from experiments.config.run import compose_pretrain
from experiments.config.sources import names
from experiments.config.usage import check, command, commands, default_data
from experiments.reference import settings as reference
from ssl_med.catalogue import get_class
from ssl_med.methods.core.base import Method
from ssl_med.spec import SslMedError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "monai", "pytorch_lightning", "numpy", "scipy", "matplotlib", "wandb", "sklearn")


def references():
    """Every dataclass of settings that a command names, with the imported class."""
    found = {}
    for text in {text for name in commands() for text in command(name).sections.values()}:
        for one in text.split(" + "):
            if one and "{" not in one:
                module, _, name = one.partition(" ")[0].partition(":")
                found[f"{module}:{name}"] = getattr(importlib.import_module(module), name)
    for name in probes():
        found[f"{PACKAGE}.{name}:Config"] = protocol_class(name).Config
    for package, base in (("ssl_med.methods", Method), ("datamodules", MedicalData)):
        for name in names("method" if base is Method else "data"):
            found[f"{package}.{name}:Config"] = get_class(package, name, kind="", base=base).Config
    return found


def defaults_of(cls):
    """Field -> its default; a nested dataclass as a dictionary of the same kind."""
    found = {}
    for item in dataclasses.fields(cls):
        made = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        found[item.name] = made
    return found


def test_reading_the_source_finds_what_dataclasses_hold():
    for path, cls in references().items():
        read = {item.name: item for item in schema.settings(path)}
        held = defaults_of(cls)
        assert list(read) == list(held), path
        for name, value in held.items():
            item = read[name]
            for inner in item.inside:
                assert inner.inside or inner.default == getattr(value, inner.name), (path, name, inner)
            if not item.inside and not isinstance(item.default, schema.Computed):
                assert item.default == value, (path, name)
        unsaid = [name for name, item in read.items() if not item.help and not item.inside]
        assert not unsaid, f"{path}: a line under each field says what it means, not so {unsaid}"


def test_help_lists_and_refusals_import_nothing_slow(tmp_path):
    lines = [
        ["-h"],
        ["pretrain", "method=pcrl", "data=luna", "-h"],
        ["finetune", "task=lits", "-h"],
        *(["list", kind] for kind in KINDS),
        ["show", "pcrl"],
        ["pretrian"],
        ["pretrain", "method=pcrll"],
        ["finetune", "task=litss"],
        ["finetune", "task=lits", "trainer.max_step=5"],
        ["compare", "table=hippocampuss"],
    ]
    code = (
        "import json, sys; from experiments.cli import main; "
        "codes = [main(line) for line in json.loads(sys.argv[1])]; "
        f"print(); print(json.dumps([codes, [m for m in {HEAVY} if m in sys.modules]]))"
    )
    call = [sys.executable, "-c", code, json.dumps(lines)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert codes == [0] * (len(lines) - 5) + [2] * 5
    assert len(done.stderr.splitlines()) == 5


def test_a_run_says_its_first_line_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from experiments.config import defaults, usage; "
        "defaults._has_accelerator = lambda: False; "
        "defaults.complete(usage.command('finetune'), ['task=lits'], {'task': 'lits'}); "
        "assert 'torch' not in sys.modules"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("finetune task=lits; no data.root for lits: synthetic phantoms in ")
    assert second.startswith("no GPU: trainer=cpu")


@pytest.mark.parametrize("name", commands())
def test_every_command_says_what_it_takes(name):
    about = command(name)
    text = of_command(about, [])
    assert len(about.examples) >= 2
    assert all(example in text for example in about.examples) or name == "demo"
    assert len(about.sentence) > 10
    for section, path in about.sections.items():
        if path and "{" not in path:
            for one in path.split(" + "):
                module, _, only = one.partition(" ")
                for item in schema.settings(module):
                    key = f"{section}.{item.name}" if section else item.name
                    assert (only and item.name not in only.split()) or f"  {key}" in text
    for example in about.examples:
        if example.startswith("ssl-med"):
            check(about, [word.strip("'") for word in _split(example)[2:]])


def _split(line):
    import shlex

    return shlex.split(line, comments=True)


def test_what_the_full_validation_takes_is_not_refused():
    for line in json.loads((ROOT / "tests" / "golden" / "run_hashes.json").read_text()):
        name, *arguments = line.split()
        check(command(name), arguments)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pretrain method=moco method.view.blurr=1", "key 'method.view.blurr' is unknown; did you mean 'blur'?"),
        (
            "finetune task=lits data.target_region=liver",
            "key 'data.target_region' is unknown; did you mean 'target_reg",
        ),
        ("finetune task=lits --shw", "finetune: option '--shw' is unknown; did you mean '--show'?"),
        ("probe task=luna protocol=liner", "protocol 'liner' is unknown; did you mean 'linear'?"),
        ("probe task=luna protocol=knn trainer.max_steps=1", "key 'trainer.max_steps' is unknown"),
        ("probe task=luna", "protocol=NAME is missing; there are: dense, fewshot, knn, linear"),
        ("sweep out=x", "method=NAME is missing; there are: autoencoder"),
        ("sweep out=x", "; data=NAME is missing; there are: bach"),
        ("compare table=pcrl_table1 colums=1", "key 'colums' is unknown; did you mean 'columns'?"),
        ("pretrain method=moco online.task=litss", "task 'litss' is unknown; did you mean 'lits'?"),
        (
            "pretrain method=moco online.task=lits online.data.rot=x",
            "key 'online.data.rot' is unknown; did you mean 'root'",
        ),
        ("list methodss", "list: kind 'methodss' is unknown; did you mean 'methods'?"),
        ("show pcrll", "show: 'pcrll' is unknown; did you mean 'pcrl'?"),
        ("external x task=lits map=sam", "map 'sam' is unknown; did you mean 'same'?"),
    ],
)
def test_typos_are_refused_with_the_nearest_name(line, message, capsys):
    assert main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


@pytest.mark.parametrize("method", names("method"))
def test_every_method_has_default_data_that_it_can_be_pretrained_on(method):
    config = compose_pretrain([f"method={method}", f"data={default_data(method)}", "trainer=cpu"])
    assert config.data.name == default_data(method)


@pytest.fixture
def laptop(monkeypatch):
    monkeypatch.setattr(defaults, "_has_accelerator", lambda: False)


def completed(line):
    name, *arguments = line.split()
    return defaults.complete(command(name), arguments, check(command(name), arguments))[len(arguments) :]


@pytest.mark.usefixtures("laptop")
def test_what_is_left_out_is_filled_in_and_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SSL_MED_CACHE", "cache")
    assert completed("pretrain method=pcrl") == ["data=luna", "data.root=cache/phantoms/luna", "trainer=cpu"]
    assert capsys.readouterr().out.splitlines() == [
        "pretrain method=pcrl data=luna; no data.root for luna: synthetic phantoms in cache/phantoms/luna; set data.root=DIR "
        "or SSL_MED_DATA",
        "no GPU: trainer=cpu (small crops, a narrow network, few steps); trainer=default keeps the recipe",
    ]
    assert completed("finetune task=nodule2d data.root=x trainer=default") == []
    assert capsys.readouterr().out == "finetune task=nodule2d trainer=default\n"
    with pytest.raises(
        SslMedError, match=r"data.root is missing: point it at the folder of lits \(volume-N.*SSL_MED_DATA"
    ):
        completed("check data=lits")  # what does not exist is not examined
    # one place for all roots: a folder, the task's own name first, or a yaml file
    (tmp_path / "msd").mkdir()
    monkeypatch.setenv("SSL_MED_DATA", str(tmp_path))
    assert completed("finetune task=hippocampus trainer=cpu") == [f"data.root={tmp_path / 'msd'}"]
    (tmp_path / "hippocampus").mkdir()
    assert completed("finetune task=hippocampus trainer=cpu") == [f"data.root={tmp_path / 'hippocampus'}"]
    (tmp_path / "roots.yaml").write_text("lits: /data/LiTS\nluna: LUNA16\n")
    monkeypatch.setenv("SSL_MED_DATA", str(tmp_path / "roots.yaml"))
    assert completed("prepare data=lits store=x") == ["data.root=/data/LiTS"]
    assert completed("probe task=luna protocol=knn trainer=cpu") == [f"data.root={tmp_path / 'LUNA16'}"]
    assert "(SSL_MED_DATA)" in capsys.readouterr().out
    monkeypatch.setenv("SSL_MED_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SslMedError, match=r"SSL_MED_DATA=.*nowhere: no such folder or yaml file"):
        completed("finetune task=lits")


@pytest.mark.usefixtures("laptop")
def test_a_run_without_data_works_on_phantoms_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SSL_MED_CACHE", str(tmp_path))
    monkeypatch.setattr(chest14, "generate", partial(chest14.generate, subjects=8, size=(64, 64)))
    tiny = ["data.patch_size=[32,32]", "data.image_size=36", "trainer.max_steps=1", "trainer.batch_size=4"]
    line = ["pretrain", "method=simclr", *tiny, "backbone.channels=[8,8,8]", "trainer.progress=false"]
    assert main([*line, "--show"]) == 0
    assert not list(tmp_path.iterdir()), "nothing is made where settings are only printed"
    assert main([*line, "trainer.batch_size=x"]) == 2
    assert not list(tmp_path.iterdir()), "nothing is made for a request that is refused"
    capsys.readouterr()
    assert main([*line, f"out={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out.startswith(
        "pretrain method=simclr data=chest14; no data.root for chest14: synthetic"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["synthetic"] is True
    assert [path.name for path in (tmp_path / "phantoms").iterdir()] == ["chest14"]


def test_the_page_of_settings_is_up_to_date():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run `make docs`"


def test_show_sources_says_who_set_each_key(capsys):
    words = ["finetune", "task=lits", "data.root=/x/lits", "trainer=cpu", "seed=3"]
    assert main([*words, "--show=sources"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")}
    assert lines["data.root"].split() == ["data.root", "/x/lits", "#", "command", "line"]
    assert lines["seed"].endswith("# command line")
    assert lines["data.patch_size"].endswith("# conf/trainer/cpu.yaml")
    assert lines["data.split"].endswith("# default")
    assert main([*words, "--show=all"]) == 2
    assert "say --show or --show=sources" in capsys.readouterr().err

"""Files of strangers, made up and in bulk: each parser ends with a value or one line; no traceback, no code, bounded memory."""

import copy
import json
import os
import pickle
import resource
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from commands import run, script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.core.decathlon import Task
from datamodules.core.quarantine import Quarantine
from datamodules.core.splits import file_split
from datamodules.core.store import Store
from experiments.api.result import Result
from experiments.cli import main
from experiments.comparison.records import Prediction, Progress, read_record
from experiments.comparison.table import load_table
from experiments.config.finetuned import FinetunedRun
from experiments.config.run import compose_finetune
from experiments.run import begun
from ssl_med.checkpoint import load_backbone, read_card
from ssl_med.config import parse_overrides, read_yaml, to_yaml
from ssl_med.evaluation.features import Features, cached
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import LONGEST_LINE, SslMedError
from ssl_med.values import Text, WrongValueError, convert
from ssl_med.weights.core.files import read_document
from ssl_med.yaml_text import YamlError, parse

GOLDEN = Path(__file__).parent / "golden" / "runs.zip"
FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=150)
BIG = st.sampled_from([10**18, -(10**18), 1e308, 10**400, "9" * 50])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | BIG
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
NESTED = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A fine-tuning, the pretraining that it started from, and a probe."""
    root = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(root)
    return root


def places(tree, path=()):
    """Every place in a tree, as a path of keys and numbers."""
    if path:
        yield path
    for key in tree if isinstance(tree, dict) else range(min(len(tree), 3)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


@st.composite
def changed(draw, tree):
    """The tree with one to three places taken out or filled with something else; or something else altogether."""
    tree = copy.deepcopy(tree)
    if draw(st.integers(0, 9)) == 0:
        return draw(TREES)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(tree))
        if not found:
            break
        *parents, last = draw(st.sampled_from(found))
        node = tree
        for key in parents:
            node = node[key]
        if draw(st.integers(0, 4)) == 0 and isinstance(node, dict):
            del node[last]
        else:
            node[last] = draw(TREES)
    return tree


@st.composite
def damaged(draw, content):
    """The bytes of a file cut off, with some of them changed, twice, or none of them."""
    kind = draw(st.sampled_from(["cut", "bytes", "twice", "random", "nested"]))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "twice":
        return content + content
    if kind == "random":
        return draw(st.binary(max_size=64))
    if kind == "nested":
        return NESTED.encode()
    spoiled = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        spoiled[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(spoiled)


def one_line(call):
    """Calls; what is wrong must be one line."""
    try:
        return call()
    except (SslMedError, YamlError, WrongValueError) as error:
        text = str(error)
    assert len(text.splitlines()) <= 1
    assert len(text) <= LONGEST_LINE
    return None


def safetensors(tensors, metadata):
    """A safetensors file by hand: header and nothing that checks it."""
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return len(header).to_bytes(8, "little") + header


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_summaries_and_tables_of_runs(golden, data):
    run = golden / data.draw(st.sampled_from(["finetune", "pretrain", "probe"]))
    names = [name for name in ("summary.json", "metrics.jsonl", "test_cases.csv") if (run / name).exists()]
    name = data.draw(st.sampled_from(names))
    content = (run / name).read_bytes()
    try:
        if name == "summary.json" and data.draw(st.booleans()):
            (run / name).write_text(json.dumps(data.draw(changed(json.loads(content)))))
        else:
            (run / name).write_bytes(data.draw(damaged(content)))
        found = read_run(run, tables=True)
        assert "\n" not in found.problem
        if not found.problem:
            _ = found.seed, found.fraction, found.value, found.interval, found.leaks, found.card, found.notes
    finally:
        (run / name).write_bytes(content)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_what_an_external_test_reads_of_a_run(golden, data):
    run = golden / "finetune"
    name = data.draw(st.sampled_from(["summary.json", "config.yaml", "subjects.json"]))
    content = (run / name).read_bytes()
    try:
        if name == "config.yaml":
            (run / name).write_text(json.dumps(data.draw(changed(parse(content.decode())))))
        elif name == "subjects.json" or data.draw(st.booleans()):
            (run / name).write_text(json.dumps(data.draw(changed(json.loads(content)))))
        else:
            (run / name).write_bytes(data.draw(damaged(content)))
        trained = one_line(lambda: FinetunedRun.read(run))
        if trained is not None:
            one_line(trained.ledgers)
            one_line(trained.network)
    finally:
        (run / name).write_bytes(content)


@pytest.mark.parametrize("text", ["", '{"status": "done"', "[]", NESTED, '{"status": "done", "kind": 3}'])
def test_a_folder_whose_summary_is_damaged_is_not_done(golden, tmp_path, text):
    """The same command goes on there, as after a kill, and writes the summary anew."""
    run = shutil.copytree(golden / "scratch", tmp_path / "run")
    assert begun.is_done(run)
    (run / "summary.json").write_text(text)
    assert not begun.is_done(run)


@pytest.mark.parametrize("section", ["trainer: 3", "trainer: [a]", "trainer: text"])
def test_a_folder_whose_settings_are_damaged_holds_another_run(tmp_path, section):
    config = compose_finetune(["task=lits", "data.root=/x", "init=scratch"])
    (tmp_path / "config.yaml").write_text(f"hash: x\n{section}\n")
    with pytest.raises(SslMedError, match=r"holds a run with other settings \(trainer\..*; choose another out=DIR"):
        begun.check_same(tmp_path / "config.yaml", config)


# --- weights -----------------------------------------------------------------------------------------------------


def opened(path):
    """All that `init=` does with a file."""
    card = read_card(path)
    load_backbone(path, in_channels=card.data_spec().in_channels, with_decoder=False)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_backbone_files(golden, tmp_path_factory, data):
    content = (golden / "pretrain" / "backbone.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    path = tmp_path_factory.getbasetemp() / "strange.safetensors"
    kind = data.draw(st.sampled_from(["card", "header", "bytes", "size"]))
    if kind == "card":
        card = json.loads(header["__metadata__"]["ssl_med"])
        header["__metadata__"]["ssl_med"] = json.dumps(data.draw(changed(card)))
    elif kind == "header":
        header = data.draw(changed(header))
    text = json.dumps(header).encode()
    claimed = data.draw(st.integers(0, 2**64 - 1)) if kind == "size" else len(text)
    whole = claimed.to_bytes(8, "little") + text + content[8 + size :]
    path.write_bytes(data.draw(damaged(content)) if kind == "bytes" else whole)
    one_line(lambda: opened(path))
    one_line(lambda: read_tensors(path))


@FEW
@given(data=st.data())
def test_checkpoints_of_torch(golden, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "strange.ckpt"
    path.write_bytes(data.draw(damaged((golden / "finetune" / "best.ckpt").read_bytes())))
    one_line(lambda: read_tensors(path))


def read_tensors(path):
    document = read_document(path)
    return document.open(document.containers)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth"])
def test_code_in_a_pickle_never_runs(golden, tmp_path, ending):
    mark, path = tmp_path / "ran", tmp_path / f"strange{ending}"
    for write in (
        lambda: torch.save({"state_dict": Code(mark)}, path),
        lambda: path.write_bytes(pickle.dumps(Code(mark))),
    ):
        write()
        with pytest.raises(SslMedError, match="would run code when it is read"):
            read_tensors(path)
    run = shutil.copytree(golden / "finetune", tmp_path / "run")
    torch.save({"state_dict": Code(mark)}, run / "best.ckpt")
    with pytest.raises(SslMedError, match="would run code when it is read"):
        Result(run).network()
    assert not mark.exists()


def test_a_damaged_file_of_features_is_made_again(tmp_path):
    made = Features(("a", "b"), torch.zeros(2, 3), torch.zeros(2))
    path = tmp_path / "f.safetensors"
    assert cached(path, lambda: made)[1] is False
    good = path.read_bytes()
    for bad in (
        good[:40],
        good.replace(b'[\\"a\\", \\"b\\"]', b'[\\"a\\", \\"b\\",1]'),
        good.replace(b"ids", b"odd"),
        b"",
    ):
        path.write_bytes(bad)
        found, there = cached(path, lambda: made)
        assert there is False
        assert found.ids == ("a", "b")
    assert cached(path, lambda: made)[1] is True


# --- settings ----------------------------------------------------------------------------------------------------

YAML = "title: t\nseeds: [0]\nrows: {scratch: {}, a: {method: moco}}\ncolumns: {ft: {task: lits, fractions: [0.1]}}\n"
HOSTILE = [
    "a: &x [1, *x]", "a: !!python/object/apply:os.system [touch x]", "a: !!binary aGk=", "a: !!set {b}", "{a: 1, a: 2}",
    "a: " + "[" * 500, "a: " + NESTED, "\x00", "a: 1\n\tb: 2", "- 1", "~", "? [a]\n: b", "a: ${b}", "a: ${",
    "a: ${oc.env:HOME}",
    "a: " + "9" * 5000, "1: 2", "a: .nan", "!!float x", "a: !!int x", "%YAML 9.9\n---\na: 1", "a: 1\n---\nb: 2", "a: |", ">",
    "\n".join([f"l0: &l0 {['x'] * 9}", *(f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]" for k in range(1, 12))]),
]  # fmt: skip


@FEW
@given(data=st.data())
def test_tables_and_settings_in_yaml(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "strange.yaml"
    kind = data.draw(st.sampled_from(["tree", "bytes", "text"]))
    if kind == "tree":
        path.write_text(json.dumps(data.draw(changed(parse(YAML)))))
    else:
        path.write_bytes(
            data.draw(damaged(YAML.encode())) if kind == "bytes" else data.draw(st.text(max_size=80)).encode()
        )
    one_line(lambda: load_table(str(path), [], scale="full"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_yaml(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.yaml"
    path.write_text(text)
    one_line(lambda: read_yaml(path, "t.yaml"))
    one_line(lambda: load_table(str(path), [], scale="full"))
    assert [file.name for file in tmp_path.iterdir()] == ["t.yaml"]


def test_a_value_that_looks_like_a_reference_is_text():
    """omegaconf reads `${x` as the beginning of a reference; a folder may be called so."""
    for value in ("/x/${y", "${a}", "${oc.env:HOME}", "$", "a: ${"):
        assert parse(to_yaml({"root": value, "list": [value]})) == {"root": value, "list": [value]}


@FEW
@given(key=st.text(max_size=12), value=st.text(max_size=30) | st.sampled_from(["9" * 5000, "[" * 5000, "{a: " * 300]))
def test_overrides(key, value):
    one_line(lambda: parse_overrides([f"{key}={value}"]))
    for hint in (int, float, bool, str, tuple[int, ...], list[str], dict[str, float], int | None, object):
        if hint is not object:
            one_line(lambda hint=hint: convert(hint, Text(value)))


def test_an_override_of_endless_depth_is_one_line():
    with pytest.raises(SslMedError, match="no setting lies so deep"):
        parse_overrides(["a." * 50_000 + "a=1"])


# --- data --------------------------------------------------------------------------------------------------------

ARRAY = {"name": "a" * 32, "nbytes": 1, "dtype": "<i2", "meta": 1, "low": 0.0, "high": 1.0, "mean": 0.5}
RECORD = {
    "signature": [[1, 2]],
    "sha256": ["x"],
    "source_shape": [2, 2, 2],
    "source_to_world": [[1.0]],
    "shape": [2, 2, 2],
}
RECORD |= {"spacing": [1.0], "to_world": [[1.0]], "arrays": [ARRAY]}
MANIFEST = {"format": 1, "data": "lits", "settings": {"orientation": "LPS"}, "derived_for": [], "items": {"k": RECORD}}
SPLIT = {"train": ["a"], "val": ["b"], "test": ["c"]}
DATASET = {
    "modality": {"0": "CT"},
    "labels": {"0": "x", "1": "y"},
    "training": [{"image": "a", "label": "b"}],
    "test": ["c"],
}
RECORDS = {"failed": {"a": "b"}, "kinds": [{"kind": ["a"], "memory_mb": 1.0, "seconds": 1.0}]}


@FEW
@given(data=st.data())
def test_lists_and_manifests(tmp_path_factory, data):
    root = tmp_path_factory.getbasetemp() / "lists"
    root.mkdir(exist_ok=True)
    tree = data.draw(st.sampled_from([MANIFEST, SPLIT, DATASET, RECORDS]))
    text = json.dumps(data.draw(changed(tree))).encode()
    content = data.draw(damaged(json.dumps(tree).encode())) if data.draw(st.booleans()) else text
    for name in ("manifest.json", "split.json", "dataset.json", "progress.json", "journal.jsonl", "quarantine.txt"):
        (root / name).write_bytes(content)
    one_line(lambda: Store.open(root, root="/x", data="lits", settings={"orientation": "LPS"}))
    one_line(Store(root, root="/x", data="lits", settings={"orientation": "LPS"}).read_journal)
    one_line(lambda: file_split(str(root / "split.json"), known=["a", "b", "c"], test_is_val=False))
    one_line(lambda: Task.read(root, layout="x"))
    one_line(lambda: Quarantine.read(str(root / "quarantine.txt"), root=root))
    one_line(lambda: read_record(root / "progress.json", Progress))
    one_line(lambda: read_record(root / "progress.json", Prediction))


# --- memory ------------------------------------------------------------------------------------------------------

BOUNDED = """
import json, resource, sys, zipfile
from pathlib import Path
import torch
from ssl_med.checkpoint import load_backbone, read_card
from ssl_med.config import read_yaml
from ssl_med.reading import read_json, UnreadableError
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import LONGEST_LINE, SslMedError
from ssl_med.weights.core.files import read_document
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 700 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
calls = {
    "yaml": lambda path: read_yaml(path, "x"),
    "json": read_json,
    "state": lambda path: read_document(path).open([""]),
    "card": lambda path: load_backbone(path, in_channels=1, with_decoder=False),
}
for word in sys.argv[1:]:
    kind, _, path = word.partition("=")
    try:
        calls[kind](Path(path))
        print(path, "was read")
    except (SslMedError, UnreadableError) as error:
        print(path, "refused:", str(error)[-100:])
"""


@pytest.mark.slow
def test_memory_is_not_taken_for_what_a_file_only_claims(golden, tmp_path):
    """In a process that may take 700 MB more: claimed sizes, brackets, aliases, records that unpack to much."""
    content = (golden / "pretrain" / "backbone.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    card = json.loads(header["__metadata__"]["ssl_med"])
    card["backbone"]["channels"] = [50_000, 50_000, 50_000]
    header["__metadata__"]["ssl_med"] = json.dumps(card)
    text = json.dumps(header).encode()
    (tmp_path / "card.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    (tmp_path / "claim.safetensors").write_bytes((2**62).to_bytes(8, "little") + text)
    (tmp_path / "shape.safetensors").write_bytes(
        safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, {})
    )
    (tmp_path / "nested.json").write_text("[" * 5_000_000)
    (tmp_path / "digits.json").write_text("9" * 30_000_000)
    (tmp_path / "large.json").write_text(" " * 70_000_000)
    (tmp_path / "large.yaml").write_text("a: [" + "1, " * 500_000 + "1]")
    (tmp_path / "aliases.yaml").write_text(HOSTILE[-1])
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
    kinds = {".safetensors": "card", ".json": "json", ".yaml": "yaml", ".ckpt": "state"}
    files = [f"{kinds[path.suffix]}={path}" for path in sorted(tmp_path.iterdir())]
    files += [f"state={path}" for path in sorted(tmp_path.glob("*.safetensors")) if path.stem != "card"]
    done = run(BOUNDED, *files, function=script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    assert [line for line in lines if "refused:" not in line] == []


def test_what_is_not_read_costs_no_memory_here(tmp_path):
    """A safetensors header that claims 4 EiB is refused by its size alone."""
    (tmp_path / "x.safetensors").write_bytes((2**62).to_bytes(8, "little"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SslMedError, match="its header claims 4611686018427387904 bytes, more than the file holds"):
        read_card(tmp_path / "x.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


# --- the commands ------------------------------------------------------------------------------------------------


def commands(golden, tmp_path):
    """Command lines on hostile files, and what each says."""
    run = golden / "finetune"
    weights = (golden / "pretrain" / "backbone.safetensors").read_bytes()
    files = {
        "empty.safetensors": b"", "text.safetensors": b"hello", "cut.safetensors": weights[:200],
        "claim.safetensors": (2**40).to_bytes(8, "little") + b"{}", "plain.safetensors": safetensors({}, {}),
        "list.safetensors": safetensors({}, {"ssl_med": "[1]"}), "deep.safetensors": safetensors({}, {"ssl_med": NESTED}),
        "nan.safetensors": safetensors({}, {"ssl_med": '{"format": NaN}'}),
        "newer.safetensors": safetensors({}, {"ssl_med": '{"format": 2}'}),
        "half.safetensors": safetensors({}, {"ssl_med": '{"format": 1}'}),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.safetensors").mkdir()
    for name in files:
        yield ["weights", "inspect", str(tmp_path / name)], name
    yield ["weights", "inspect", str(tmp_path / "folder.safetensors")], "holds no backbone.safetensors"
    yield (
        ["weights", "import", str(tmp_path / "text.safetensors"), f"out={tmp_path / 'o.safetensors'}"],
        "text.safetensors",
    )
    for name, text in {"t1": "[1]", "t2": "a: [", "t3": "\x00", "t4": HOSTILE[-1], "t5": NESTED}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        yield ["compare", f"table={tmp_path / name}.yaml"], f"{name}.yaml"
    (tmp_path / "t6.yaml").write_bytes("title: é".encode("latin-1"))
    yield ["compare", f"table={tmp_path / 't6.yaml'}"], "is not UTF-8"
    yield ["report", str(tmp_path / "none")], "no such folder of runs"
    yield ["report", str(tmp_path / "folder.safetensors")], "no run found"
    words = ["task=chest14", "data.root=/x", "map=same"]
    for name, spoil in {
        "no-summary": lambda folder: (folder / "summary.json").unlink(),
        "cut-summary": lambda folder: (folder / "summary.json").write_text('{"kind": '),
        "deep-summary": lambda folder: (folder / "summary.json").write_text(NESTED),
        "no-config": lambda folder: (folder / "config.yaml").unlink(),
        "cut-config": lambda folder: (folder / "config.yaml").write_text("task: ["),
        "odd-config": lambda folder: (folder / "config.yaml").write_text("task: 1"),
        "text-config": lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe"),
    }.items():
        folder = shutil.copytree(run, tmp_path / name)
        spoil(folder)
        yield ["external", str(folder), *words], name
    yield ["external", str(golden / "pretrain"), *words], "is a run of `pretrain`"
    for name in ("empty", "text", "cut", "claim", "list", "newer"):
        path = tmp_path / f"{name}.safetensors"
        yield (
            ["finetune", "task=chest14", f"data.root={tmp_path / 'radiographs'}", f"init={path}", "trainer=cpu"],
            path.name,
        )


@pytest.mark.slow
def test_commands_on_hostile_files_end_in_one_line(golden, tmp_path, shared_phantom, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "radiographs").symlink_to(shared_phantom("chest14", subjects=10, seed=0))
    asked = list(commands(golden, tmp_path))
    assert len(asked) > 30
    for words, said in asked:
        assert main(words) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, words
        assert lines[0].startswith("ssl-med: ")
        assert said in lines[0], words

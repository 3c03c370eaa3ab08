"""Run folders of strangers: a broken one is told and the rest is reported; a name is a name in every file of the report."""

import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest
from report_samples import write_finetune, write_runs

from experiments.cli import main
from ssl_med.reports import escape, writing
from ssl_med.reports import run_folder as records
from ssl_med.reports.checkup import write_checkup
from ssl_med.reports.page import report_runs

SIGNS = "a|b <i>x</i> $\\frac$ 50% #1 {y} [t](u) **w** `c` \\n & 'q' \"r\" ~z~ ^"
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "'=1"]


def edited(**changes):
    def edit(folder):
        path = folder / records.SUMMARY
        tree = json.loads(path.read_text())
        for key, value in changes.items():
            *parents, leaf = key.split("__")
            node = tree
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        path.write_text(json.dumps(tree))

    return edit


def content(name, text):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return edit


def directory(name):
    def edit(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return edit


# what is done to a run -> what the report says of it
BROKEN = {
    "seed null": (edited(seed=None), "'seed' is null; it must be a whole number"),
    "seed text": (edited(seed="0"), "'seed' is \"0\""),
    "fraction null": (edited(labels__fraction=None), "'labels.fraction' is null; it must be a number"),
    "fraction 0": (edited(labels__fraction=0), "it must be above 0 and at most 1"),
    "fraction 30": (edited(labels__fraction=30), "it must be above 0 and at most 1"),
    "labels list": (edited(labels=[1]), "'labels' is [1]"),
    "metric text": (edited(metrics={"test/dice": "n/a"}), "'metrics.test/dice' is \"n/a\""),
    "metrics absent": (edited(metrics={}), "test dice is undefined"),
    "metric unknown": (edited(metric="x", metrics={"test/x": 1.0}), "x"),
    "n_test text": (edited(n_test="many"), "'n_test' is \"many\""),
    "n_test half": (edited(n_test=1.5), "'n_test' is 1.5"),
    "seconds text": (edited(seconds="long"), "'seconds' is \"long\""),
    "interval text": (edited(interval={"low": "a"}), "'interval.low' is \"a\""),
    "notes text": (edited(notes="none"), "'notes' is \"none\"; it must be a list"),
    "notes numbers": (edited(notes=[1]), "'notes[0]' is 1"),
    "versions list": (edited(versions=["1"]), "'versions' is [\"1\"]"),
    "card number": (edited(init__card=7), "'init.card' is 7"),
    "card spec": (edited(init__card__spec=[]), "'init.card.spec' is []"),
    "leak text": (edited(leakage="none"), "'leakage' is \"none\""),
    "pictures": (edited(pictures=[{"file": "x.png"}]), "'pictures[0].case' is missing"),
    "config text": (edited(config="x"), "'config' is \"x\""),
    "conventions": (edited(conventions={"dice": None}), "'conventions.dice' is null"),
    "older": (edited(format=None), "has format null; this version reads format 1"),
    "newer": (edited(format=2), "has format 2; this version reads format 1"),
    "kind": (edited(kind=["finetune"]), "names no kind of run"),
    "no object": (content("summary.json", "[1, 2]"), "names no kind of run"),
    "empty": (content("summary.json", ""), "summary.json is not valid JSON"),
    "cut off": (content("summary.json", '{"format": 1, "kind": "fine'), "summary.json is not valid JSON"),
    "NaN": (content("summary.json", '{"format": 1, "kind": "probe", "seed": NaN}'), "NaN is no number; write null"),
    "infinite": (content("summary.json", '{"format": 1, "seed": 1e999}'), "beyond the range of numbers"),
    "huge": (content("summary.json", '{"seed": ' + "9" * 5000 + "}"), "beyond 64 bits"),
    "twice": (content("summary.json", '{"kind": "probe", "kind": "x"}'), 'key "kind" stands twice'),
    "nested": (content("summary.json", "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "nested a little": (content("summary.json", '{"a":' * 200 + "1" + "}" * 200), "nested too deeply"),
    "Latin-1": (content("summary.json", '{"kind": "é"}'.encode("latin-1")), "summary.json is not UTF-8"),
    "folder": (directory("summary.json"), "summary.json is a folder, not a file"),
    "journal folder": (directory("metrics.jsonl"), "metrics.jsonl: is a folder"),
    "cases folder": (directory("test_cases.csv"), "test_cases.csv: is a folder"),
    "cases without case": (content("test_cases.csv", "a,b\n1,2\n"), "must name a column 'case'"),
    "cases empty": (content("test_cases.csv", ""), "must name a column 'case'"),
    "cases twice": (content("test_cases.csv", "case,dice,dice\n1,2,3\n"), "no column twice"),
    "cases ragged": (content("test_cases.csv", "case,dice\n1\n"), "row 2 has 1 cells and the head 2"),
    "cases Latin-1": (content("test_cases.csv", b"case,dice\n\xe9,1\n"), "is not UTF-8"),
    "cases endless": (
        content("test_cases.csv", "case,dice\n" + "x" * 200_000 + ",1\n"),
        "field larger than field limit",
    ),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two sound fine-tunings: one to keep, one to break."""
    root = tmp_path_factory.mktemp("pair")
    card = {"subjects": ["a"]}
    for seed in (0, 1):
        write_finetune(root, "pcrl", fraction=1.0, seed=seed, values=[0.5, 0.6, 0.7], card=card)
    return root / "finetune"


def broken_runs(pair, runs):
    for k, (edit, _) in enumerate(BROKEN.values()):
        shutil.copytree(pair / "pcrl-1-seed1", runs / f"bad{k:02d}")
        edit(runs / f"bad{k:02d}")
    return runs


def test_what_is_wrong_with_a_run_is_one_line(pair, tmp_path):
    runs = broken_runs(pair, tmp_path)
    problems = [run.problem for run in records.find_runs([runs])]
    wrong = {name: got for (name, (_, want)), got in zip(BROKEN.items(), problems, strict=True) if want not in got}
    assert not wrong
    assert not any("\n" in problem for problem in problems)


@pytest.mark.slow
def test_the_rest_of_broken_runs_is_reported(pair, tmp_path, capsys):
    runs = broken_runs(pair, tmp_path / "runs")
    shutil.copytree(pair / "pcrl-1-seed0", runs / "good")
    assert main(["report", str(runs), f"out={tmp_path / 'out'}"]) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert all(f"bad{k:02d}: " in page for k in range(len(BROKEN)))
    assert "1 run behind the cells" in page
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["value"] for row in rows if row["folder"].endswith("good")] == ["0.6"]
    assert "Traceback" not in capsys.readouterr().err


def test_damaged_lines_of_a_journal_are_left_out_and_counted(pair, tmp_path):
    run = shutil.copytree(pair / "pcrl-1-seed0", tmp_path / "run")
    sound = len(records.read_run(run).curve)
    bad = ['{"step": 70', '{"step": 1e999}', '{"step": "a"}', '{"a": 1}', "[" * 10**5, '{"step": NaN}', '"x"', "\x00"]
    with (run / records.METRICS).open("a") as file:
        file.write("\n".join([*bad, '{"step": ' + "9" * 5000 + "}", '{"step": 80, "train/loss": 0.1}\n']))
    found = records.read_run(run, tables=True)
    assert not found.problem
    assert len(found.curve) == sound + 1
    assert found.curve[-1] == {"step": 80, "train/loss": 0.1}
    assert found.lost_lines == len(bad) + 1
    report_runs([run], tmp_path / "out")
    assert "metrics.jsonl: 9 damaged lines are left out" in (tmp_path / "out" / "report.md").read_text()


def test_pictures_that_are_none_stay_out_of_the_page(pair, tmp_path):
    run = shutil.copytree(pair / "pcrl-1-seed0", tmp_path / "run")
    figures = run / "figures"
    (figures / "folder.png").mkdir(parents=True)
    (figures / "text.png").write_text("secret")
    (tmp_path / "elsewhere.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (figures / "11.png").symlink_to(tmp_path / "elsewhere.png")
    assert records.read_run(run).figures == []


class Tags(HTMLParser):
    """Every tag of a page."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)


@pytest.mark.slow
def test_a_name_is_a_name_in_every_file_of_the_report(tmp_path):
    """Of methods, tasks, classes, cases, folders, settings: no tag, no link, no row, no formula comes out of one."""
    plain, strange = tmp_path / "plain", tmp_path / "strange"
    long = "é" * 127 + "z"  # 255 bytes, the longest name of most file systems
    for root, name, cases in ((plain, "name", ["a", "b", "c"]), (strange, SIGNS, ["=1+1", SIGNS, long])):
        write_runs(root)
        for path in root.rglob(records.SUMMARY):
            tree = json.loads(path.read_text())
            tree |= {"data": name, "hardware": name, "notes": [name]}
            tree |= {"task": name} if "task" in tree else {}
            tree |= {"method": name} if tree["method"] == "pcrl" else {}
            path.write_text(json.dumps(tree))
            if "task" in tree:
                rows = [{"case": case, "dice": 0.1 * k} for k, case in enumerate(cases)]
                writing.write_cases(path.parent, rows)
        report_runs([root], root / "out")
    texts = [
        {path.name: path.read_text() for path in (root / "out").iterdir() if path.is_file()}
        for root in (plain, strange)
    ]
    tags = [Tags() for _ in texts]
    for parser, text in zip(tags, texts, strict=True):
        parser.feed(text["report.html"])
    assert tags[0].found == tags[1].found
    assert escape.html(SIGNS) in texts[1]["report.html"]
    # a table has in each row as many cells as its head
    for text in texts:
        for block in re.findall(r"(?:^\|.*\n)+", text["report.md"], re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert escape.markdown(SIGNS) in texts[1]["report.md"]
    assert not re.search(r"(?<!\\)<i>|(?<!\\)\]\(u\)", texts[1]["report.md"])
    assert escape.latex(SIGNS) in texts[1]["table.tex"]
    assert all(len(re.findall(r"(?<!\\)&", row)) in (0, 1, 2) for row in texts[1]["table.tex"].splitlines())
    for row in csv.reader(texts[1]["results.csv"].splitlines()):
        assert not any(cell.startswith(("=", "@", "\t")) for cell in row)


@pytest.mark.parametrize("name", [*FORMULAS, "-5", "+1e3", "'", "plain", SIGNS, "a\nb", "", "\udcff"])
def test_a_cell_is_no_formula_and_is_read_back(name, tmp_path):
    cell = escape.cell(name)
    assert not re.match(r"[=@\t\r]|[+-](?![\d.e+]+$)", cell)
    if name != "\udcff":  # a byte of a file name that is no text is spelled out
        assert escape.from_cell(cell) == name
    writing.write_cases(tmp_path, [{"case": name, "dice": -0.5}])
    assert records.read_cases(tmp_path) == [{"case": escape.from_cell(cell), "dice": -0.5}]


def test_escapes():
    assert escape.html("<b>&\x00\u202e") == "&lt;b&gt;&amp;\\x00\\u202e"
    assert escape.markdown("a_b _c_ [x](y) <i> 1 < 2 | $x$") == r"a_b \_c\_ [x\](y) \<i> 1 < 2 \| \$x\$"
    assert [escape.markdown(text) for text in ("# a", "1. a", "- a", "> a", "---", "-0.5", "a\nb")] == [
        r"\# a", r"1\. a", r"\- a", r"\> a", r"\---", "-0.5", "a b"
    ]  # fmt: skip
    assert escape.latex("[a] 5% \\x_{1} & \udcff") == r"{[}a] 5\% \textbackslash{}x\_\{1\} \& \textbackslash{}xff"
    assert escape.latex_label("tab:a#1 {b}_c") == "tab:a-1--b--c"
    assert escape.link("figures/a b)(é.png") == "figures/a%20b%29%28é.png"
    assert escape.file_stem("a/b:c") == "a_b_c"
    stems = [escape.file_stem("é" * 127 + end) for end in "xy"]
    assert stems[0] != stems[1]
    assert all(len(stem.encode()) <= escape.LONGEST_STEM for stem in stems)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read as root")
def test_a_folder_that_cannot_be_looked_into_is_told(pair, tmp_path):
    shutil.copytree(pair / "pcrl-1-seed0", tmp_path / "good")
    (tmp_path / "closed").mkdir(mode=0)
    assert [run.problem for run in records.find_runs([tmp_path])] == ["", "cannot be read (Permission denied)"]


def test_names_of_a_data_check_are_names(tmp_path):
    kinds = {"unread_table": {"title": SIGNS, "severity": "error", "count": 1, "remedy": SIGNS}}
    finding = {"kind": "unread_table", "id": SIGNS, "detail": "# a\nb", "other": "", "also_in": ""}
    report = {
        "data": SIGNS,
        "files": {"images": 1, "masks": 0},
        "cases": 1,
        "subjects": 1,
        "seconds": 1.0,
        "with": [SIGNS],
    }
    report |= {"usable": 1, "of": 1, "use": "pretrain", "kinds": kinds, "findings": [finding]}
    write_checkup(tmp_path, report, {})
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<i>x</i>" not in page
    assert escape.html(SIGNS) in page
    assert f"- {escape.markdown(SIGNS)}: \\# a b" in text
    assert not re.search(r"(?<!\\)<i>|(?<!\\)\]\(u\)", text)

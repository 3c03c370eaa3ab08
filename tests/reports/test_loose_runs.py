import re
from html.parser import HTMLParser

import pytest
from report_samples import write_finetune, write_pretrain, write_runs

from ssl_med.reports import writing
from ssl_med.reports.numbers.wording import duration
from ssl_med.reports.page import report_runs
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it


class Page(HTMLParser):
    """Texts, tags and attributes of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "br", "wbr", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.texts = [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def build(root, tmp_path):
    path = report_runs([root], tmp_path / "report")
    return Page(path.read_text()), path


def test_the_page_tells_all(tmp_path):
    root = write_runs(tmp_path / "runs", pictures=True)
    page, path = build(root, tmp_path)
    assert path == tmp_path / "report" / "report.html"
    assert "pcrl 0.750 ± 0.014 · n 2 0.900 ± 0.014 · n 2" in page.text
    assert "20 % 2 of 10 100 % 10 of 10" in page.text
    assert "killed: no summary.json: still running or killed (last logged step 7)" in page.text
    assert "x86_64 CPU, 2 threads" in page.text
    assert "torch 2.13.0" in page.text
    assert "intensity differs (8 runs)" in page.text
    assert "dice: both empty -> 1" in page.text
    assert "trainer.max_steps" in page.text
    assert "The rows are not equal" not in page.text
    assert "11 0.560 0.660 0.710 0.810 0.840 0.860" in page.text  # hardest case, mean over two seeds
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    # one label curve, two validation and two loss curves; two cases x three methods x two fractions
    assert len(images) == 5 + 12
    assert all(image["alt"] for image in images)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of the runs, with their report in `report`, and its page."""
    folder = tmp_path_factory.mktemp("loose")
    return folder, *build(write_runs(folder / "runs"), folder)


def test_the_page_needs_no_network_and_no_script(built):
    _, page, path = built
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import", path.read_text())
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = {"#" + attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert links
    assert set(links) <= ids


def test_markdown_and_csv_stand_beside_it(built):
    folder, _, _ = built
    text = (folder / "report" / "report.md").read_text()
    assert "| pcrl | 0.750 (± 0.014 · n 2) | 0.900 (± 0.014 · n 2) |" in text
    for picture in re.findall(r"\]\((figures/.*?)\)", text):
        assert (folder / "report" / picture).read_bytes().startswith(b"\x89PNG")
    assert text.count("](figures/") == 1 + 2 + 2  # label budgets, validation at two of them, two losses
    assert len((folder / "report" / "results.csv").read_text().splitlines()) == 16


def test_names_from_run_folders_cannot_inject(tmp_path):
    evil = "<script>alert(1)</script>"
    write_finetune(tmp_path / "runs", "scratch", fraction=1.0, seed=0, values=[0.5], notes=[evil], hardware=evil)
    folder = write_finetune(tmp_path / "runs", "pcrl", fraction=1.0, seed=0, values=[0.5], task=evil, data=evil)
    writing.write_cases(folder, [{"case": evil, "dice": 0.5}])
    page, _ = build(tmp_path / "runs", tmp_path)
    assert "script" not in [tag for tag, _ in page.tags]
    assert evil in page.text


def test_unequal_rows_are_warned_of_on_the_page(tmp_path):
    write_finetune(tmp_path / "runs", "scratch", fraction=1.0, seed=0, values=[0.5])
    write_finetune(tmp_path / "runs", "pcrl", fraction=1.0, seed=0, values=[0.5], config={"optim": {"lr": 1.0}})
    page, _ = build(tmp_path / "runs", tmp_path)
    assert "The rows are not equal in everything: optim.lr differs: 1 (pcrl); 0.003 (scratch)" in page.text


def test_regions_and_many_fractions(tmp_path):
    for k, fraction in enumerate((0.05, 0.1, 0.25, 0.5, 1.0)):
        metrics = {"test/dice": 0.5, "test/dice/WT": 0.6 + k / 100, "test/dice/TC": 0.4}
        write_finetune(tmp_path / "runs", "scratch", fraction=fraction, seed=0, values=[0.5], metrics=metrics)
    page, _ = build(tmp_path / "runs", tmp_path)
    assert "Further test metrics dice/WT, dice/TC" in page.text
    assert "0.640 n 1" in page.text


def test_classification_points_to_the_csv(tmp_path):
    folder = write_finetune(
        tmp_path / "runs", "scratch", fraction=1.0, seed=0, values=[0.5], metric="auc", metrics={"test/auc": 0.8}
    )
    writing.write_cases(folder, [{"case": "a", "label": 1, "score/nodule": 0.7}, {"case": "b", "label": 0}])
    page, _ = build(tmp_path / "runs", tmp_path)
    assert "auc is a property of all 2 test samples together" in page.text
    assert "0.800 n 1" in page.text


def test_pretraining_alone_is_a_report_too(tmp_path):
    write_pretrain(tmp_path / "runs", "moco")
    page, _ = build(tmp_path / "runs", tmp_path)
    assert "Pretraining" in page.text
    assert "Results of every test case" not in page.text
    assert (tmp_path / "report" / "table.tex").read_text() == "% needs \\usepackage{booktabs}\n"


def test_nothing_to_report(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SslMedError, match="empty: no run found; a run folder holds a summary"):
        report_runs([tmp_path / "empty"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_equal_runs_make_equal_reports(built):
    folder, _, path = built
    first = path.read_bytes()
    build(folder / "runs", folder)
    assert path.read_bytes() == first


def test_duration():
    assert [duration(s) for s in (5, 75.4, 3700, None)] == ["5 s", "1 min 15 s", "1 h 1 min", "—"]

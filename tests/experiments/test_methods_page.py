"""docs/methods.md says what the methods' files say."""

from experiments.config.sources import names
from experiments.reference.methods import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "docs/methods.md is older than the methods: make docs"


def test_every_method_is_in_the_table_and_explained():
    text = PAGE.read_text()
    for name in names("method"):
        assert f"| [{name}](#{name}) |" in text
        part = text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert "Paper" in part, name
        assert "here we differ" in part, name

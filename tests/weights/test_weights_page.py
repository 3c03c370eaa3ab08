"""docs/weights.md says what the families' files say."""

from experiments.reference.weights import PAGE, page
from ssl_med.catalogue import list_names
from ssl_med.weights.core.find import PACKAGE


def test_the_page_is_up_to_date_and_names_every_family_and_exporter():
    text = PAGE.read_text()
    assert text == page(), "docs/weights.md is older than the families: make docs"
    for name in list_names(PACKAGE):
        assert f"| [{name}](#{name}) |" in text
        assert f"\n## {name}\n" in text
    for name in list_names(f"{PACKAGE}.export"):
        assert f"| `{name}` |" in text

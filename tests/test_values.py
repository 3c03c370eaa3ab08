"""What a text of the command line or a value of a yaml means is decided by the type of the field that it sets."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ssl_med.config import Layer, build, parse_overrides, read_yaml
from ssl_med.spec import SslMedError
from ssl_med.values import Text, convert, spell


@dataclass
class Inner:
    flip: float = 0.25
    word: str = ""


@dataclass
class Schema:
    text: str = ""
    texts: tuple[str, ...] = ()
    whole: int = 0
    number: float = 0.0
    truth: bool = False
    choice: Literal["off", "on", "32"] = "32"
    maybe: float | None = 1.0
    sizes: tuple[int, ...] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    names: dict[str, str] = field(default_factory=dict)
    open: dict[str, Any] = field(default_factory=dict)
    view: Inner = field(default_factory=lambda: Inner(flip=0.75))


def given(*overrides):
    return build(Schema, [parse_overrides(overrides)], prefix="")


TEXTS = [
    "/x/scans #2", "1.10", "007", "on", "no", "null", "~", "???", "1e3", "1:30", "2020_01", "a: b", "{x}", "${HOME}/x", "${",
    "&a", "!b", "@c", "*mask*", "-x", "- x", "a=b=c", r"(person\d+)", "Größe 研究", "", " ", "a,b", "[", "it's", 'say "a"',
    "'", "''", "'a'b", "\\n", "#", "%", "x\ny",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_was_typed(text):
    assert given(f"text={text}", f"view.word={text}", f"names.a={text}") == Schema(
        text=text if text != "''" else "",
        view=Inner(0.75, text if text != "''" else ""),
        names={"a": text if text != "''" else ""},
    )


@pytest.mark.parametrize(
    ("typed", "text"),
    [("'a b'", "a b"), ('"a #1"', "a #1"), ("'it''s'", "it's"), ('"""a"""', '"a"'), ("'a' 'b'", "'a' 'b'"), ("\"a'", "\"a'")],
)  # fmt: skip
def test_one_pair_of_quotes_around_a_text_is_taken_off(typed, text):
    found = given(f"text={typed}").text
    assert found == text
    assert type(found) is str


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("[no,yes]", ("no", "yes")),
        ("[*mask*]", ("*mask*",)),
        ("[ 1.10 , 007,]", ("1.10", "007")),
        ("[]", ()),
        ("['a, b',\"c\"]", ("a, b", "c")),
        ("[a: {b, it's]", ("a: {b", "it's")),
        ("['',x]", ("", "x")),
    ],
)
def test_a_list_of_texts_is_cut_at_commas(typed, found):
    texts = given(f"texts={typed}").texts
    assert texts == found
    assert {type(text) for text in texts} <= {str}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("whole=010", "whole", 10),
        ("whole=-3", "whole", -3),
        ("number=1e-3", "number", 0.001),
        ("number=.5", "number", 0.5),
        ("truth=Yes", "truth", True),
        ("choice=off", "choice", "off"),
        ("choice=false", "choice", "off"),
        ("choice=32", "choice", "32"),
        ("maybe=null", "maybe", None),
        ("maybe=2", "maybe", 2.0),
        ("sizes=[3, 4]", "sizes", (3, 4)),
        ("sizes=~", "sizes", None),
        ("pair=[1,2.5]", "pair", (1.0, 2.5)),
        ("open.a.b=null", "open", {"a": {"b": None}}),
        ("open={a: [1, off]}", "open", {"a": [1, False]}),
        ("view={flip: 0}", "view", Inner(0.0)),
    ],
)
def test_other_types_are_read_strictly(override, key, value):
    found = getattr(given(override), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "must"),
    [
        ("whole=1e3", "is 1e3; it must be a whole number"),
        ("whole=0x10", "is '0x10'; it must be a whole number"),
        ("number=0_1", "is '0_1'; it must be a number"),
        ("number=", "is ''; it must be a number"),
        ("truth=maybe", "is 'maybe'; it must be true or false"),
        ("maybe=x", "is 'x'; it must be a number or null"),
        ("sizes=3", "is 3; it must be a list of whole numbers or null"),
        ("sizes=[1,,2]", r"is '\[1,,2\]'; it must be a list of whole numbers or null"),
        ("pair=[1]", r"is '\[1\]'; it must be a list of 2 numbers"),
        ("texts=a", "is 'a'; it must be a list of texts"),
    ],
)
def test_a_text_of_another_type_is_refused(override, must):
    with pytest.raises(SslMedError, match=f"^command line: '{override.partition('=')[0]}' {must}$"):
        given(override)


@pytest.mark.parametrize("value", ["1.10", "on", "007", "~", "[x]"])
def test_a_text_of_a_file_is_never_a_changed_number(value, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"text: '{value}'\ntexts: ['{value}']\n")
    assert build(Schema, [read_yaml(path, "x.yaml")], prefix="") == Schema(text=value, texts=(value,))
    path.write_text(f"text: {value}\n")
    quotes = "" if value in ("~", "[x]") else ": put it in quotes, text: '.*'"
    with pytest.raises(SslMedError, match=rf"^x.yaml: 'text' is .*; it must be text{quotes}$"):
        build(Schema, [read_yaml(path, "x.yaml")], prefix="")


def test_a_stronger_text_extends_the_mapping_below_it():
    file = Layer("x.yaml", {"view": {"word": "kept"}})
    assert build(Schema, [file, parse_overrides(["view={flip: 1}"])], prefix="").view == Inner(1.0, "kept")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        *((str, text) for text in TEXTS),
        (tuple[str, ...], tuple(TEXTS)),
        (list[str], []),
        (Any, [1, "off", {"a: b": None, "c": [1.5, True]}]),
        (Any, "x: y, [z]"),
        (float, 1e-5),
        (bool, True),
        (tuple[int, ...], (1, 2)),
        (str | None, "null"),
        (str | None, None),
        (Literal["32"], "32"),
    ],
)
def test_what_is_spelled_is_read_back(hint, value):
    assert convert(hint, Text(spell(value))) == value

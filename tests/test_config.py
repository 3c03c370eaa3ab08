from dataclasses import dataclass, field
from typing import Literal

import pytest

from ssl_med.config import Layer, build, config_hash, parse_overrides, read_yaml, to_plain
from ssl_med.spec import SslMedError


@dataclass
class Inner:
    low: float = 0.0


@dataclass
class Schema:
    temperature: float = 0.2
    steps: int = 3
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    watch: Literal["off", "offline"] = "offline"
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.steps < 0:
            raise SslMedError(f"method.steps is {self.steps}; it must not be negative")


def test_layers_overlay_in_order():
    first = Layer("one.yaml", {"temperature": 0.5, "steps": 7})
    config = build(Schema, [first, parse_overrides(["steps=9", "sizes=[3,4]", "inner.low=-2"])], prefix="method")
    assert (config.temperature, config.steps, config.sizes, config.inner.low) == (0.5, 9, (3, 4), -2.0)


def test_off_is_a_word_where_words_are_asked_for():
    """Yaml reads it as false."""
    assert build(Schema, [parse_overrides(["watch=off"])], prefix="method").watch == "off"
    with pytest.raises(SslMedError, match=r"'method.watch' is 'on'; it must be one of 'off', 'offline'"):
        build(Schema, [parse_overrides(["watch=on"])], prefix="method")
    with pytest.raises(SslMedError, match=r"'method.kind' is 'off'; it must be one of"):
        build(Schema, [parse_overrides(["kind=off"])], prefix="method")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["temprature=1"], r"^command line: key 'method.temprature' is unknown; did you mean 'temperature'\?$"),
        (["temperature=hot"], r"^command line: 'method.temperature' is 'hot'; it must be a number$"),
        (["steps=1.5"], r"'method.steps' is 1.5; it must be a whole number"),
        (["kind=c"], r"'method.kind' is 'c'; it must be one of 'a', 'b'"),
        (["steps=-1"], r"^command line: method.steps is -1; it must not be negative$"),
        (["inner.hihg=1"], r"^command line: key 'method.inner.hihg' is unknown; there are: low$"),
        (["inner=5"], r"^command line: 'method.inner' is 5; it must be a mapping of keys$"),
        (["steps.a=5"], r"^command line: 'method.steps' is {'a': 5}; it must be a whole number$"),
        (["sizes=[1"], r"^command line: 'method.sizes' is '\[1'; it must be a list of whole numbers$"),
        (["inner={low: [}"], r"^command line: the value of 'method.inner' cannot be parsed \("),
    ],
)
def test_a_mistake_is_one_line_that_names_source_and_key(words, message):
    with pytest.raises(SslMedError, match=message) as caught:
        build(Schema, [parse_overrides(words)], prefix="method")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed"], "not of the form key=value"),
        (["=3"], "not of the form key=value"),
        (["seed=1", "seed=2"], "'seed' is given twice"),
        (["a=1", "a.b=2"], "contradict"),
        (["a.b=2", "a=1"], "contradict"),
    ],
)
def test_malformed_words(words, message):
    with pytest.raises(SslMedError, match=message):
        parse_overrides(words)


def test_yaml_errors_name_the_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(SslMedError, match=r"^x.yaml: is not valid yaml"):
        read_yaml(path, "x.yaml")
    with pytest.raises(SslMedError, match=r"^y.yaml: cannot be read"):
        read_yaml(tmp_path / "y.yaml", "y.yaml")


def test_hash_ignores_key_order_and_sees_every_value():
    tree = to_plain(Schema())
    assert config_hash(tree) == config_hash(dict(reversed(tree.items())))
    assert config_hash(tree) != config_hash({**tree, "steps": 4})

"""The numbers of methods, data families, families of weights and formats in README are those of the code."""

import re
from pathlib import Path

from experiments.config.offers import KINDS
from ssl_med.catalogue import list_names

ROOT = Path(__file__).resolve().parents[2]
# row of the table "What is in it" -> (what its number is followed by, kind of `ssl-med list`)
COUNTED = {
    "Methods": [(r", of restoration", "methods")],
    "Data": [(r" families, read", "data")],
    "Weights": [(r" families come in", "families"), (r" formats go out", "exporters")],
}


def test_readme_counts_what_there_is():
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    told = {kind: re.findall(rf"(\d+){after}", rows[row]) for row, parts in COUNTED.items() for after, kind in parts}
    assert told == {kind: [str(len(KINDS[kind]()))] for kind in told}


def test_every_backbone_has_its_row():
    page = (ROOT / "docs" / "how-to" / "choose-a-backbone.md").read_text()
    rows = " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    resnets = {name for name in list_names("ssl_med.networks.backbones") if re.fullmatch(r"resnet\d+", name)}
    named = set(re.findall(r"`(\w+)`", rows)) | (resnets if "`resnet10` ... `resnet152`" in rows else set())
    assert named == set(list_names("ssl_med.networks.backbones"))

"""Which container of a file is taken: the one that the family prefers, or another only where that one is not there."""

import pytest
import torch
from foreign_case import cases_of

from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import convert
from ssl_med.weights.core.files import read_document
from ssl_med.weights.core.find import choose

ABOUT = {"versions": {}, "git": ""}
# family, number of its case with teacher and student, first convolution and another key of the teacher
TEACHERS = [
    ("dino", 1, "backbone.patch_embed.proj.weight", "backbone.norm.weight"),
    ("dino_resnet", 0, "module.backbone.conv1.weight", "module.backbone.layer2.0.conv1.weight"),
]


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize(("name", "number", "first", "other"), TEACHERS)
def test_a_student_is_not_taken_for_a_damaged_teacher(name, number, first, other, renamed, tmp_path):
    made = cases_of(name)[number].made()
    if renamed:
        made["teacher"][f"{other}_g"] = made["teacher"].pop(other)
    else:
        del made["teacher"][first]
    torch.save(made, tmp_path / "x.pth")
    for family in (name, ""):
        with pytest.raises(SslMedError, match=r"holds 'teacher', which family=dino|: used .*missing 1") as caught:
            convert(tmp_path / "x.pth", family, **ABOUT)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "number", "first", "other"), TEACHERS)
def test_a_file_without_a_teacher_gives_the_student(name, number, first, other, tmp_path):
    made = cases_of(name)[number].made()
    torch.save({"student": made["student"]}, tmp_path / "x.pth")
    match = choose(read_document(tmp_path / "x.pth"))
    assert (match.name, match.file.container) == (name, "student")
    key = first if first in made["student"] else f"module.{first}"
    found = convert(tmp_path / "x.pth", **ABOUT)
    taken = next(iter(found.backbone.state_dict()[ours] for theirs, ours in found.account.used if theirs == key))
    assert torch.equal(taken, made["student"][key])

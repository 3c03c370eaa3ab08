"""The three forms of PCRL are what docs/explanation/pcrl.md says they are."""

import dataclasses
import re
from pathlib import Path

from experiments.config.effects import sections_of
from experiments.config.run import compose_pretrain

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "pcrl.md"
FORMS = ("pcrl", "pcrl/paper", "pcrl/code")


def test_the_table_of_forms_holds_every_setting_in_which_they_differ():
    rows = re.findall(r"^\|.*\| `(\w+)\.(\w+)` \| (\S+) \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {f"{section}.{key}": tuple(values) for section, key, *values in rows}
    runs = [sections_of(compose_pretrain([f"method={form}", "data=luna"])) for form in FORMS]
    found = {}
    for section in ("method", "trainer", "optim"):
        for field in dataclasses.fields(runs[0][section]):
            values = [getattr(run[section], field.name) for run in runs]
            found[f"{section}.{field.name}"] = tuple(
                f"{v:g}" if type(v) in (int, float) else str(v).lower() for v in values
            )
    assert {key: found[key] for key in told} == told
    assert {key for key, values in found.items() if len(set(values)) > 1} <= set(told)

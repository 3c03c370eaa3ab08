"""What a run says of its process and machine."""

import sys

import commands
import numpy as np
import pytest

from experiments.run import environment as facts
from ssl_med.processor import processor_name, vector_units


def peak_of_a_new_process(number):
    facts.reset_peak()
    before = facts.host_peak_mb()
    held = np.ones(200 * 2**17)  # 200 MiB
    assert facts.host_peak_mb() > before + 190
    del held
    facts.reset_peak()
    assert facts.host_peak_mb() < before + 100


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")
def test_peak_memory_counts_from_the_reset():
    """In a process of its own: the system may take idle memory from one that has run many tests."""
    commands.together(peak_of_a_new_process, count=1)


def test_a_revision_is_a_commit_or_nothing(monkeypatch):
    found = facts.git_revision()
    assert found == "" or len(found.rstrip("+")) == 12
    monkeypatch.setenv("PATH", "")
    assert facts.git_revision() == "", "without git there is none"


def test_only_the_first_process_speaks(capsys, monkeypatch):
    facts.say("one")
    monkeypatch.setenv("LOCAL_RANK", "1")
    facts.say("two")
    assert capsys.readouterr().out == "one\n"
    assert not facts.is_first_process()


def test_the_hardware_names_the_processor(monkeypatch):
    monkeypatch.setattr(facts.torch.cuda, "is_available", lambda: False)
    said = facts.hardware()
    assert said.startswith(f"{processor_name()} ({vector_units()}), ")
    assert said.endswith(" threads")
    assert "(R)" not in said

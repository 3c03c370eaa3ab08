"""Runs that are killed at random come to what they come to undisturbed; see chaos.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).with_name("chaos.py")


def campaign(*words, limit):
    done = subprocess.run([sys.executable, CHAOS, *words], capture_output=True, text=True, timeout=limit)
    print(done.stdout[-6000:], done.stderr[-6000:])
    assert done.returncode == 0
    assert "0 runs differ from the straight run" in done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_few_kills_change_nothing():
    told = campaign("6", "5", "moco-epochs", "finetune-epochs-accumulate", limit=280)
    assert "2 kinds of run" in told


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_hundreds_of_kills_of_every_method_change_nothing():
    campaign(os.environ.get("SSL_MED_KILLS", "200"), limit=3 * 3600)

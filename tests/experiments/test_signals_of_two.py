"""Signals and kills of either process of a training on two by the command line: codes, nobody left, exact resumption."""

import os
import signal
import time
from pathlib import Path

import commands
import pytest
from chaos import differences, facts

TINY = [
    "trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=4", "tracking.wandb=off",
    "data.patch_size=[32,32]", "data.image_size=40", "backbone.name=unet", "backbone.channels=[8,8]",
    "trainer.max_steps=80", "trainer.val_every_steps=30", "trainer.checkpoint_every_steps=7",
    "trainer.devices=2", "trainer.strategy=ddp",
]  # fmt: skip
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}
SAMPLE = [(signal.SIGINT, "both"), (signal.SIGTERM, "second"), (signal.SIGKILL, "second")]  # CI's; others are long
CELLS = [
    pytest.param(number, whom, marks=[] if (number, whom) in SAMPLE else pytest.mark.long, id=f"{number.name}-{whom}")
    for number in (*CODES, signal.SIGKILL)
    for whom in ("first", "second", "both")
]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")]


@pytest.fixture(scope="module")
def words(shared_phantom):
    return ["pretrain", "method=rotation", "data=chest14", f"data.root={shared_phantom('chest14', subjects=12)}", *TINY]


@pytest.fixture(scope="module")
def straight(words, tmp_path_factory):
    """What a run comes to that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = commands.run(*words, f"out={folder}")
    assert done.returncode == 0, done.stderr
    return facts(folder)


def children(number):
    """Processes that a process has started and that are alive, theirs included."""
    try:
        found = [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*found, *(below for child in found for below in children(child))]


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds, seconds, what):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "whom"), CELLS)
def test_two_processes_stop_together_and_go_on_exactly(words, straight, tmp_path, number, whom):
    log, out = tmp_path / "run" / "metrics.jsonl", tmp_path / "out"
    words = [*words, f"out={tmp_path / 'run'}"]
    first = commands.Forked(*words, out=out)
    until(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 20, 120, "no step is logged")
    (second,) = children(first.pid)
    for process in {"first": [first.pid], "second": [second], "both": [first.pid, second]}[whom]:
        os.kill(process, number)
    # a first process that is killed has no code of its own; one whose second is killed ends with an error
    assert first.wait() == CODES.get(number, 1 if whom == "second" else -signal.SIGKILL), out.read_text()
    until(lambda: not alive(second), 10, "the second process is left over")
    told = out.read_text().splitlines()
    if number in CODES:
        assert told[-1] == f"ssl-med: interrupted by {number.name}"
    elif whom == "second":
        assert told[-1] == (
            "ssl-med: another process of the training was killed by SIGKILL (memory?); the same command goes on from the "
            "last checkpoint"
        )
    done = commands.run(*words)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    assert differences(straight, facts(tmp_path / "run")) == []

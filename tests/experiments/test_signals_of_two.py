"""Either process of a training on two is stopped or killed: exit codes, nobody left over, exact resumption.

By the command line; within a comparison, whose worker goes on with its next run; and within a script.
"""

import os
import signal
import time
from pathlib import Path

import commands
import pytest
from chaos import differences, facts

from experiments.comparison.local import Job, Workers

TINY = [
    "trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=4", "tracking.wandb=off",
    "data.patch_size=[32,32]", "data.image_size=40", "backbone.name=unet", "backbone.channels=[8,8]",
    "trainer.max_steps=80", "trainer.val_every_steps=30", "trainer.checkpoint_every_steps=7",
    "trainer.devices=2", "trainer.strategy=ddp",
]  # fmt: skip
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}
SAMPLE = [(signal.SIGINT, "both"), (signal.SIGTERM, "second")]  # CI's; others are long
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


def under_way(folder):
    log = folder / "metrics.jsonl"
    until(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 20, 120, "no step is logged")


@pytest.mark.parametrize(("number", "whom"), CELLS)
def test_two_processes_stop_together_and_go_on_exactly(words, straight, tmp_path, number, whom):
    out = tmp_path / "out"
    words = [*words, f"out={tmp_path / 'run'}"]
    first = commands.Forked(*words, out=out)
    under_way(tmp_path / "run")
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


def test_a_worker_of_a_comparison_goes_on_when_a_further_process_is_lost(words, straight, tmp_path):
    """Its runs are started by their own command, not by that of the comparison, and leave nothing to each other."""
    kind, *overrides = words
    jobs = [Job(name, kind, (*overrides, f"out={tmp_path / name}"), tmp_path / "log") for name in ("one", "two")]
    with Workers(1, threads=1) as workers:
        workers.start(jobs[0])
        under_way(tmp_path / "one")
        ((_, (worker, _, _)),) = workers._busy.items()
        (second,) = children(worker.pid)
        os.kill(second, signal.SIGKILL)
        (lost,) = workers.finished()
        assert lost.error.startswith("another process of the training was killed by SIGKILL")
        for job in (jobs[1], jobs[0]):
            workers.start(job)
            assert [done.error for done in workers.finished()] == [""], (tmp_path / "log").read_text()
            assert children(worker.pid) == []
    for name in ("one", "two"):
        assert differences(straight, facts(tmp_path / name)) == []


SCRIPT = """
import sys
import ssl_med
settings = dict(word.split("=", 1) for word in sys.argv[1:])
ssl_med.pretrain(settings.pop("method"), **settings)
"""


def test_a_further_process_ends_with_the_script_that_needs_it(words, tmp_path):
    script = commands.Forked(SCRIPT, *words[1:], f"out={tmp_path / 'run'}", function=commands.script)
    under_way(tmp_path / "run")
    (second,) = children(script.pid)
    script.kill()
    until(lambda: not alive(second), 10, "the second process is left over")

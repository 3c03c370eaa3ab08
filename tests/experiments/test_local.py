"""Worker processes: what a job's end looks like, and that a dead worker takes its own job and nothing else."""

import os
import signal
import time

import pytest

from experiments.comparison.local import Job, Workers, _death, carry_out

WRONG = ("task=lits", "nonsense=1", "data.root=/nowhere")  # is refused once the command has been imported


def test_a_wrong_request_is_its_line_and_stands_in_the_log(tmp_path):
    log = tmp_path / "logs" / "a.log"
    error = carry_out("finetune", WRONG, log)
    assert "nonsense" in error
    assert log.read_text() == f"ssl-med: {error}\n"


def test_whatever_a_job_dies_of_is_told_and_traced(tmp_path, monkeypatch):
    def broken(words):
        print("half a step")
        raise ZeroDivisionError(f"no {words[0]}\nsecond line")

    monkeypatch.setattr("experiments.commands.finetune.finetune", broken)
    log = tmp_path / "a.log"
    assert carry_out("finetune", ["batches"], log) == "ZeroDivisionError: no batches"
    text = log.read_text()
    assert text.startswith("half a step\nTraceback")
    assert "second line" in text
    assert carry_out("finetune", ["batches"], log) == "ZeroDivisionError: no batches"
    assert log.read_text() == 2 * text  # a second try is added to the first


@pytest.mark.parametrize("kind", ["probe", "external"])
def test_what_runs_on_one_device_is_done_once_in_a_job_of_several_processes(tmp_path, monkeypatch, kind):
    done = []
    monkeypatch.setattr(f"experiments.commands.{kind}.{kind}", done.append)
    for process in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", process)
        assert carry_out(kind, ["once"], tmp_path / "a.log") == ""
    assert done == [["once"]]


def test_death_is_named():
    assert _death(-signal.SIGKILL) == "killed by SIGKILL (out of memory?)"
    assert _death(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert _death(3) == "its process ended with code 3"


def pid_of(workers, key):
    return next(process.pid for process, job, _ in workers._busy.values() if job.key == key)


def collect(workers, count):
    found = {}
    while len(found) < count:
        found |= {finished.job.key: finished for finished in workers.finished()}
    return found


def gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_killed_worker_loses_its_job_alone_and_is_replaced(tmp_path):
    with Workers(2, threads=1) as workers:
        for key in ("victim", "other"):
            os.mkfifo(tmp_path / f"{key}.log")  # a job waits until somebody reads
            workers.start(Job(key, "finetune", WRONG, tmp_path / f"{key}.log"))
        assert workers.free == 0
        assert {job.key for job in workers.running} == {"victim", "other"}
        other = pid_of(workers, "other")
        os.kill(pid_of(workers, "victim"), signal.SIGKILL)
        (first,) = workers.finished()
        assert first.job.key == "victim"
        assert first.error == "killed by SIGKILL (out of memory?)"
        assert workers.free == 1
        workers.start(
            Job("next", "probe", ("nonsense",), tmp_path / "next.log")
        )  # needs a new worker: the other is busy
        assert pid_of(workers, "next") != other
        assert "nonsense" in (tmp_path / "other.log").read_text()
        found = collect(workers, 2)
        assert "nonsense" in found["other"].error
        assert "protocol" in found["next"].error
        assert found["other"].seconds > 0
        assert found["other"].peak_mb > 50
        workers.start(Job("again", "strange", (), tmp_path / "again.log"))  # an idle worker takes it
        assert collect(workers, 1)["again"].error.startswith("ModuleNotFoundError: No module named")
        idle = [process for _, process in workers._idle]
    assert gone(other)
    assert [process.exitcode for process in idle] == [0, 0]  # killed ones would leave semaphores, and Python a warning
    assert os.read(os.open(tmp_path / "victim.log", os.O_RDONLY | os.O_NONBLOCK), 9) == b""

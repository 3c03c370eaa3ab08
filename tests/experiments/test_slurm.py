"""Job arrays through submitit: with its own executor for one machine, and with a SLURM that is three scripts."""

import os
import stat
import sys
import textwrap

import pytest

from experiments.comparison.local import Job
from experiments.comparison.slurm import RunOnce, Slurm, SlurmConfig
from ssl_med.ranges import check_ranges
from ssl_med.spec import SslMedError

SBATCH = """
    import os, re, subprocess, sys
    text = open(sys.argv[1]).read()
    here = os.environ["FAKE_SLURM"]
    with open(os.path.join(here, "submitted"), "a") as file:
        file.write(text)
    found = re.search(r"--array=(\\d+)-(\\d+)", text)
    tasks = range(int(found[1]), int(found[2]) + 1) if found else [None]
    log = open(os.path.join(here, "log"), "a")
    for task in tasks:
        env = {**os.environ, "SLURM_JOB_ID": "4242", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
               "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost"}
        if task is not None:
            env |= {"SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": f"{4243 + task}"}
        subprocess.Popen(["bash", sys.argv[1]], env=env, stdout=log, stderr=log)
    print("Submitted batch job 4242")
"""
SRUN = """
    import os, sys
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        if words[0] in ("--output", "--error", "-o", "-e"):
            words.pop(0)
        words.pop(0)
    os.execvp(words[0], words)
"""
SACCT = 'print("JobID|State|NodeList")'


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """sbatch, srun and sacct on the PATH; what was submitted is kept."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        script = folder / name
        script.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    for key in [key for key in os.environ if key.startswith("SLURM_")]:
        monkeypatch.delenv(key)
    return folder


def jobs_of(tmp_path):
    """Two commands that end soon: each is refused, with a line of its own."""
    return [
        Job("one", "pretrain", ("method=nothing", "data=lits"), tmp_path / "one.log"),
        Job("two", "finetune", ("task=nothing",), tmp_path / "two.log"),
    ]


def carried_out(launcher, jobs):
    for job in jobs:
        launcher.start(job)
    assert [job.key for job in launcher.running] == ["one", "two"]
    found = {}
    while launcher.running:
        found |= {ended.job.key: ended for ended in launcher.finished()}
    return found


def expect_refusals(found, tmp_path):
    assert "method 'nothing' is unknown" in found["one"].error
    assert "task 'nothing' is unknown" in found["two"].error
    assert "task 'nothing' is unknown" in (tmp_path / "two.log").read_text()
    assert all(ended.seconds > 0 and ended.peak_mb > 10 for ended in found.values())


@pytest.mark.slow
def test_jobs_of_one_start_are_one_array(fake_slurm, tmp_path):
    config = SlurmConfig(partition="gpus", account="lab", gpus=1, hours=2, limit=2, poll_seconds=0.2)
    with Slurm(config, tmp_path / "slurm") as launcher:
        assert launcher.free == 2
        expect_refusals(carried_out(launcher, jobs_of(tmp_path)), tmp_path)
    submitted = (fake_slurm / "submitted").read_text()
    assert submitted.count("--array=0-1%2") == 1
    for line in ("--partition=gpus", "--account=lab", "--gpus-per-node=1", "--time=120", "--mem=32GB"):
        assert line in submitted


@pytest.mark.slow
def test_the_same_path_with_processes_of_this_machine(tmp_path):
    config = SlurmConfig(executor="local", poll_seconds=0.2)
    with Slurm(config, tmp_path / "slurm") as launcher:
        expect_refusals(carried_out(launcher, jobs_of(tmp_path)), tmp_path)


def test_no_cluster_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SslMedError, match="is this a machine of the cluster"):
        Slurm(SlurmConfig(), tmp_path / "slurm")


def test_a_job_that_is_taken_away_comes_back_the_same():
    run = RunOnce("pretrain", ("method=moco",), "run.log")
    again = run.checkpoint()
    assert again.function.__dict__ == run.__dict__


@pytest.mark.parametrize("key", ["nodes", "cpus", "memory_gb", "limit"])
def test_impossible_requests_are_refused(key):
    with pytest.raises(SslMedError, match=f"slurm.{key} is 0"):
        check_ranges(SlurmConfig(**{key: 0}), "slurm")

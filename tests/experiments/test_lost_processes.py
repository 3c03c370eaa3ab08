"""What the first process of a training on several devices makes of the end of another one."""

import subprocess
from types import SimpleNamespace

import pytest

from experiments.run.callbacks import RunError
from experiments.run.interruption import Interruption
from experiments.run.processes import _Launcher

GONE = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")


def launch(error, *ends):
    """Ends the others by commands of a shell, and raises an error where all compute together."""
    launcher = _Launcher(
        (), SimpleNamespace(validate_settings=lambda **_: None, creates_processes_externally=True), 1, 1
    )
    launcher.procs = [subprocess.Popen(["sh", "-c", how]) for how in ends]
    for process in launcher.procs:
        process.wait()

    def collective():
        raise error

    launcher.launch(collective)


@pytest.mark.parametrize(
    ("how", "says"), [("kill -KILL $$", r"was killed by SIGKILL \(memory\?\)"), ("exit 1", "ended with code 1")]
)
def test_one_that_is_gone_is_one_line(how, says):
    with pytest.raises(RunError, match=f"^another process of the training {says}; the same command goes on"):
        launch(GONE, "exit 0", how)


@pytest.mark.parametrize(("how", "code"), [("exit 130", 130), ("kill -TERM $$", 143)])
def test_one_that_was_asked_to_stop_stops_all(how, code):
    with pytest.raises(Interruption) as told:
        launch(GONE, how)
    assert told.value.code == code


def test_an_error_of_its_own_stays_what_it_is():
    for error in (RuntimeError("shapes differ"), RunError("the features have collapsed"), ValueError("gloo")):
        with pytest.raises(type(error), match=str(error)):
            launch(error, "exit 1")

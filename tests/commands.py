"""Commands and scripts in processes of their own, forked from one that has imported what they need, which takes longest."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from experiments.comparison.local import warm_context
from experiments.run.parent import end_with_parent

CLI = Path(__file__).resolve().parents[1] / "experiments" / "cli.py"


def command(*words):
    """The command `ssl-med`, as its entry point calls it."""
    from experiments.cli import main

    sys.argv = [str(CLI), *words]
    sys.exit(main())


def script(source, *words):
    """What `python -c source words` does."""
    sys.argv = ["-c", *words]
    exec(source, {"__name__": "__main__"})


def _child(function, words, environment, folder, out, err):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    end_with_parent()
    torch.set_num_threads(1)  # as in the tests' own process; the server may have been started with more
    for number, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115 - the child's own
    sys.exit(function(*words))


class Forked:
    """A function, or a command, at work in a process of its own; what it takes of `subprocess.Popen` is called as there.

    Args:
        *words: arguments.
        function: of a module that can be imported; without it the command `ssl-med`.
        env: its environment; without it that of this process.
        cwd: its folder.
        out: file of its standard output and errors; without it they are what `communicate` returns.
    """

    def __init__(self, *words, function=command, env=None, cwd=None, out=None):
        with ExitStack() as stack:
            self._told = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._kept = stack.pop_all()
        names = [str(out or self._told / name) for name in ("out", "err")]
        words = [str(word) for word in words] if function in (command, script) else words
        given = (function, words, {**(env or os.environ)}, str(cwd or Path.cwd()), *names)
        self._process = warm_context(1).Process(target=_child, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=240):
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"still at work after {timeout} s: {self._text('err')[-3000:]}")
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()
        self._process.join()

    def _text(self, name):
        path = self._told / name
        return path.read_text() if path.is_file() else ""

    def communicate(self, timeout=240):
        try:
            self.wait(timeout)
            return self._text("out"), self._text("err")
        finally:
            self._kept.close()


def run(*words, timeout=240, **options):
    """A command from start to end, as `subprocess.run` returns it."""
    started = Forked(*words, **options)
    out, err = started.communicate(timeout)
    return subprocess.CompletedProcess(words, started.poll(), out, err)


def together(function, *words, count, timeout=900):
    """Calls a function with the numbers from 0 on in so many processes at a time, and waits for all."""
    started = [Forked(number, *words, function=function) for number in range(count)]
    told = [process.communicate(timeout)[1] for process in started]
    assert not any(process.poll() for process in started), "".join(told)[-3000:]

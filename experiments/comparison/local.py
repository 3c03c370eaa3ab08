"""Processes that carry out runs one after another: a run that dies takes its worker with it and nothing else."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from experiments.run.interruption import SIGNALS
from experiments.run.parent import end_with_parent

STOP_SECONDS = 20  # that runs have to finish their step; what is killed then goes on from its checkpoint
RETIRE_AFTER_MB = 1500  # growth of a worker beyond what it had after its first run


@dataclass(frozen=True)
class Job:
    """A command with its overrides, and the file that its output goes to."""

    key: Any
    kind: str
    overrides: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Finished:
    """How a job ended: `error` is empty when it was done; its wall-clock seconds and the worker's peak memory."""

    job: Job
    error: str
    seconds: float
    peak_mb: float


class Workers:
    """`count` processes with `threads` threads each, forked from one that has imported what runs need.

    Workers start anew after a crash and when they have grown, and die with the process that holds them.
    """

    def __init__(self, count: int, *, threads: int) -> None:
        self.count, self.threads = count, threads
        self._busy: dict[Connection, tuple[Any, Job, float]] = {}
        self._idle: list[tuple[Connection, Any]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        idle, busy = [process for _, process in self._idle], [process for process, _, _ in self._busy.values()]
        for pipe in [*self._busy, *(pipe for pipe, _ in self._idle)]:
            pipe.close()  # an idle worker then returns, and gives back what it holds of the system
        for process in busy:
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in [*idle, *busy]:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.terminate()

    @property
    def free(self) -> int:
        """Jobs that can start now."""
        return self.count - len(self._busy)

    @property
    def running(self) -> list[Job]:
        """Jobs on the way."""
        return [job for (_, job, _) in self._busy.values()]

    def start(self, job: Job) -> None:
        """Hands a job to a free worker."""
        pipe, process = self._idle.pop() if self._idle else self._new()
        pipe.send((job.kind, job.overrides, str(job.log)))
        self._busy[pipe] = (process, job, time.monotonic())

    def finished(self) -> Iterator[Finished]:
        """Waits until a job ends, then yields all that have."""
        ended = wait(list(self._busy))
        for pipe in [pipe for pipe in self._busy if pipe in ended]:
            process, job, start = self._busy.pop(pipe)
            try:
                error, peak, grown = pipe.recv()
            except (EOFError, ConnectionResetError):
                process.join()
                pipe.close()
                yield Finished(job, _death(process.exitcode), time.monotonic() - start, 0.0)
                continue
            if grown:
                pipe.close()
                process.join()
            else:
                self._idle.append((pipe, process))
            yield Finished(job, error, time.monotonic() - start, peak)

    def _new(self) -> tuple[Connection, Any]:
        mine, theirs = multiprocessing.Pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        context = warm_context(self.threads)
        process = context.Process(target=_serve, args=(theirs, self.threads, environment), daemon=False)
        process.start()
        theirs.close()
        return mine, process


def warm_context(threads: int) -> Any:
    """Context of `multiprocessing` whose processes are forked from one that has imported what runs need, once.

    That one is started by the first call, with `threads` threads, ends with the last process that may ask it, and
    leaves signals to commands and their workers: they are blocked in the processes that it forks until these let them in.
    Elsewhere than on Linux, libraries of the system may have threads that a forked process lacks; there, processes start anew.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.comparison.warm"])
    before = os.environ.get("OMP_NUM_THREADS")
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # libraries read it when they are loaded
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    return context


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with code {code}"


def _serve(pipe: Connection, threads: int, environment: dict[str, str]) -> None:
    """Runs jobs until the pipe closes."""
    os.environ.clear()  # a server has the environment of the first command that it served
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()
    import torch

    from experiments.run.environment import host_peak_mb

    first = 0.0
    while True:
        try:
            kind, overrides, log = pipe.recv()
        except (EOFError, OSError):
            return
        torch.set_num_threads(threads)  # the run before may have had trainer.threads of its own
        error = carry_out(kind, overrides, Path(log))
        now = _resident_mb()
        first = first or now
        grown = now > first + RETIRE_AFTER_MB
        with contextlib.suppress(BrokenPipeError):
            pipe.send((error, host_peak_mb(), grown))
        if grown:
            return


def carry_out(kind: str, overrides: Sequence[str], log: Path) -> str:
    """One command; its error in a line, or ''. A run that a signal stopped is no error: its summary says so."""
    from experiments.run.environment import is_first_process
    from experiments.run.interruption import Interruption, listening
    from experiments.run.refusals import in_a_line

    if kind in ("probe", "external", "features") and not is_first_process():
        return ""  # on one device, however many a table asks for: the first process of a job does it alone
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with listening():
                # by name, as cli.py does it: a command may use a comparison, so a comparison imports no command
                getattr(importlib.import_module(f"experiments.commands.{kind}"), kind)(overrides)
        except Interruption as stop:
            print(f"ssl-med: {stop}")
        except Exception as error:  # any error of a run is reported, and the others go on
            if (told := in_a_line(error)) is not None:
                print(f"ssl-med: {told[0]}")
                return told[0]
            traceback.print_exc()
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return ""


def _resident_mb() -> float:
    from experiments.run.environment import host_peak_mb

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return host_peak_mb()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

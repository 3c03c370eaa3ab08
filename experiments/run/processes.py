"""The processes of a training on several devices: one that ends early ends the others, and the first one says so in a line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch.distributed as dist
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from experiments.run.callbacks import RunError
from experiments.run.interruption import Interruption, received

# what gloo and NCCL say when the other end of a connection is gone
_GONE = re.compile(r"gloo|NCCL|Connection (?:closed|reset) by peer|Broken pipe|remote worker", re.IGNORECASE)
_CLI = Path(__file__).parents[1] / "cli.py"
_END = 60.0  # seconds that the others have to end when the first one has
_GRACE = 5.0  # seconds in which the library of a collective may notice by itself what a look at the processes has found


class SharedTraining(DDPStrategy):
    """Lightning's DDP, whose first process ends with a line when another one has ended.

    Args:
        command: of the run, with all its words: what the further processes are started with. Lightning would repeat the command
            line of this process, which may be that of a comparison, or a script.
        **options: as `DDPStrategy`.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.command = command

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = _Launcher(self.command, self.cluster_environment, self.num_processes, self.num_nodes)


class _Group:
    """The further processes that this one has started, and what its environment said before."""

    processes: ClassVar[list[subprocess.Popen[Any]]] = []
    before: ClassVar[dict[str, str | None]] = {}


def alone_again(*, at_once: bool) -> None:
    """Ends what a training has started, so that a further run of this process starts as the first one did.

    Args:
        at_once: the others will not end by themselves, since they wait for this one.
    """
    for process in _Group.processes:
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END)
        process.kill()
        process.wait()
    if _Group.processes and dist.is_initialized():
        dist.destroy_process_group()
    for key, value in _Group.before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    _Group.processes, _Group.before = [], {}


class _Launcher(_SubprocessScriptLauncher):
    """Starts the further processes and watches them while they compute together; Lightning's own kills the first in silence."""

    def __init__(self, command: Sequence[str], *place: Any) -> None:
        super().__init__(*place)
        self.command = command

    def _call_children_scripts(self) -> None:
        """Starts the run's own command once for each further device of this machine."""
        self._check_can_spawn_children()
        place = self.cluster_environment
        names = {
            "MASTER_ADDR": place.main_address,
            "MASTER_PORT": str(place.main_port),
            "NODE_RANK": str(place.node_rank()),
            "LOCAL_RANK": str(place.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        _Group.before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        paths = os.pathsep.join(filter(None, [str(_CLI.parents[1]), os.environ.get("PYTHONPATH")]))
        for rank in range(1, self.num_processes):
            process = subprocess.Popen(
                [sys.executable, str(_CLI), *self.command],
                env={**os.environ, "LOCAL_RANK": str(rank), "PYTHONPATH": paths},
                stdout=_file_of(sys.stdout),
                stderr=_file_of(sys.stderr),
            )
            self.procs.append(process)
            _Group.processes.append(process)

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Calls `function` in the first process; the others call it where the same command line leads them to it.

        Raises:
            RunError: another process is gone.
            Interruption: it was asked to stop at a moment at which it could not wait for the others.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        over = threading.Event()
        if self.procs:
            threading.Thread(target=_watch, args=(self.procs, over), daemon=True).start()
        try:
            return function(*args, **kwargs)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RunError) or not (isinstance(error, dist.DistError) or _GONE.search(str(error))):
                raise
            over.set()
            self._explain(error)
            raise
        finally:
            over.set()

    def _explain(self, error: Exception) -> None:
        """Raises what the end of the other process means; returns when it goes on."""
        code = _first_code(self.procs, patience=_GRACE)
        number = received() or _asked(code)
        if number is not None:
            raise Interruption(number) from error
        _end(self.procs)
        raise RunError(_sentence(code)) from error


def _file_of(stream: Any) -> int | None:
    """Number of the file behind an output that may be redirected; None: the one that the system knows."""
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _watch(processes: Sequence[subprocess.Popen[Any]], over: threading.Event) -> None:
    """Ends this process when another one has ended and the call that needs it does not notice."""
    while not over.wait(0.5):
        code = _first_code(processes)
        if code is None or over.wait(_GRACE):
            continue
        number = _asked(code)
        line = str(Interruption(number)) if number is not None else _sentence(code)
        print(f"ssl-med: {line}", file=sys.stderr, flush=True)
        _end(processes)
        os._exit(1 if number is None else 128 + number)


def _end(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """Ends those that would wait in a collective for ever for the one that is gone."""
    for process in processes:
        if process.poll() is None:
            process.kill()


def _first_code(processes: Sequence[subprocess.Popen[Any]], *, patience: float = 0.0) -> int | None:
    """Exit code of the first process that ended badly; None: none has, after so many seconds."""
    end = time.monotonic() + patience
    while True:
        code = next((code for process in processes if (code := process.poll())), None)
        if code is not None or time.monotonic() >= end:
            return code
        time.sleep(0.05)


def _asked(code: int | None) -> int | None:
    """The signal that a process was asked to stop by and ended with."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    return number if number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) else None


def _sentence(code: int | None) -> str:
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}" + (" (memory?)" if code == -signal.SIGKILL else "")
    else:
        how = "ended" if code is None else f"ended with code {code}"
    return f"another process of the training {how}; the same command goes on from the last checkpoint"

"""Runs of a table as SLURM job arrays, through submitit; a preempted run is put into the queue again and goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.comparison.local import Finished, Job, carry_out
from ssl_med.ranges import Range
from ssl_med.spec import SslMedError


@dataclass
class SlurmConfig:
    """What a job asks the cluster for."""

    partition: str = ""
    """partition; empty: the cluster's default"""
    account: str = ""
    """account to charge; empty: yours"""
    nodes: Annotated[int, Range(1, 10**5)] = 1
    """machines of a run; the table's trainer.num_nodes must say the same"""
    gpus: Annotated[int, Range(0, 1024)] = 1
    """GPUs, and processes, of a run on each machine; the table's trainer.devices must say the same"""
    cpus: Annotated[int, Range(1, 10**5)] = 8
    """cores of each process"""
    memory_gb: Annotated[int, Range(1, 10**6)] = 32
    """memory of each machine in GB"""
    hours: Annotated[float, Range(above=0, high=10**5)] = 24.0
    """longest time of a job; a run that needs longer goes on in the next one"""
    limit: Annotated[int, Range(1, 10**6)] = 64
    """jobs of one array that run at a time"""
    requeue: Annotated[int, Range(0, 10**6)] = 20
    """how often a run that was preempted or ran out of time is put into the queue again"""
    poll_seconds: Annotated[float, Range(above=0, high=86400)] = 10.0
    """how often the queue is asked"""
    executor: Literal["slurm", "local"] = "slurm"
    """local: processes here in place of a cluster, to try the path"""


class RunOnce:
    """What a job does; submitit pickles it, and asks it what to do when the job is taken from its machine."""

    def __init__(self, kind: str, overrides: tuple[str, ...], log: str) -> None:
        self.kind, self.overrides, self.log = kind, overrides, log

    def __call__(self) -> tuple[str, float, float]:
        """Error, seconds, peak memory in MB."""
        from experiments.run.environment import host_peak_mb

        start = time.monotonic()
        error = carry_out(self.kind, self.overrides, Path(self.log))
        return error, time.monotonic() - start, host_peak_mb()

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """The same again: the run itself goes on from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(RunOnce(self.kind, self.overrides, self.log))


class Slurm:
    """A launcher: jobs that start together are one array."""

    def __init__(self, config: SlurmConfig, folder: Path) -> None:
        try:
            import submitit
        except ImportError:
            raise SslMedError("launcher=slurm needs submitit; pip install 'ssl-med[slurm]'") from None
        self.config = config
        self._waiting: list[Job] = []
        self._jobs: list[tuple[Any, Job]] = []
        try:
            self.executor = submitit.AutoExecutor(
                folder=folder, cluster=config.executor, slurm_max_num_timeout=config.requeue
            )
        except RuntimeError as error:
            raise SslMedError(f"launcher=slurm: {error}; is this a machine of the cluster?") from None
        shared: dict[str, Any] = {
            "name": "ssl-med",
            "nodes": config.nodes,
            "tasks_per_node": max(1, config.gpus),
            "gpus_per_node": config.gpus,
            "cpus_per_task": config.cpus,
            "mem_gb": config.memory_gb,
            "timeout_min": round(60 * config.hours),
        }
        slurm = {"partition": config.partition, "account": config.account}
        slurm = {f"slurm_{key}": value for key, value in slurm.items() if value}
        if config.executor == "local":  # what only a cluster has does not matter to a process here
            shared |= {"gpus_per_node": 0, "tasks_per_node": 1, "nodes": 1}
        self.executor.update_parameters(**shared, slurm_array_parallelism=config.limit, **slurm)

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # what is queued goes on without us otherwise, and the next start would queue it twice
            for job, _job in self._jobs:
                job.cancel()

    @property
    def free(self) -> int:
        """The cluster queues what it cannot start."""
        return self.config.limit - len(self._jobs) - len(self._waiting)

    @property
    def running(self) -> list[Job]:
        """Jobs handed over and not ended."""
        return [*self._waiting, *(job for _, job in self._jobs)]

    def start(self, job: Job) -> None:
        """Keeps a job for the next array."""
        self._waiting.append(job)

    def finished(self) -> Iterator[Finished]:
        """Submits what was kept, waits until a job ends, then yields all that have."""
        if self._waiting:
            with self.executor.batch():
                submitted = [
                    self.executor.submit(RunOnce(job.kind, job.overrides, str(job.log))) for job in self._waiting
                ]
            self._jobs += list(zip(submitted, self._waiting, strict=True))
            self._waiting = []
        while not any(handle.done() for handle, _ in self._jobs):
            time.sleep(self.config.poll_seconds)
        ended = [(handle, job) for handle, job in self._jobs if handle.done()]
        self._jobs = [(handle, job) for handle, job in self._jobs if not any(handle is other for other, _ in ended)]
        for handle, job in ended:
            error = handle.exception()
            if error is None:
                text, seconds, peak = handle.results()[0]
                yield Finished(job, text, seconds, peak)
            else:
                lines = [line for line in str(error).splitlines() if line.strip()]
                yield Finished(job, f"job {handle.job_id}: {lines[-1] if lines else type(error).__name__}", 0.0, 0.0)

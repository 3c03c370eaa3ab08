"""Work spread over processes: bounded, in order of completion, and going on when a process is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

import torch

from datamodules.core.pools import first_done, open_pool
from datamodules.core.sending import handing_over


def spread(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, workers: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(arguments, result) of each call; the result is None when the call killed its process twice.

    At most two tasks a worker wait, so that memory does not grow with their number.

    Args:
        function: of a module, so that a process can import it; raises nothing.
        tasks: its arguments.
        workers: processes; 0 works in this one.
    """
    if workers < 1:
        for task in tasks:
            yield task, function(*task)
        return
    suspects: list[tuple[Any, ...]] = []
    iterator = iter(tasks)
    while True:
        with _pool(workers) as pool:
            waiting: dict[Future[Any], tuple[Any, ...]] = {}
            broken = False
            while not broken:
                with handing_over():
                    for task in islice(iterator, 2 * workers - len(waiting)):
                        try:
                            waiting[pool.submit(function, *task)] = task
                        except BrokenProcessPool:  # a process was killed while tasks were handed over
                            suspects.append(task)
                            broken = True
                            break
                if broken or not waiting:
                    break
                try:
                    ended = first_done(waiting, pool)
                except BrokenProcessPool:
                    break
                for future in ended:
                    task = waiting.pop(future)
                    try:
                        yield task, future.result()
                    except BrokenProcessPool:
                        suspects.append(task)
                        broken = True
            suspects += waiting.values()
        if not broken and not waiting:
            break
    for task in suspects:  # one at a time, so that only the guilty one is lost
        with _pool(1) as pool:
            try:
                with handing_over():
                    call = pool.submit(function, *task)
                first_done([call], pool)
                yield task, call.result()
            except BrokenProcessPool:
                yield task, None


def _pool(workers: int) -> ProcessPoolExecutor:
    # one thread each: the processes are the parallelism
    return open_pool(workers, initializer=torch.set_num_threads, initargs=(1,))

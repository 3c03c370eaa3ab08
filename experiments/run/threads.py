"""Cores of this process, and what its threads do while they wait for each other. Imports no torch: it is called before."""

from __future__ import annotations

import os

FEW = 4  # cores; on more of them a neighbour rarely takes the one that a barrier waits for


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_without_spinning() -> None:
    """On few cores, threads that wait for others sleep, unless the environment says otherwise; no result changes.

    OpenMP's threads spin by default. On a busy machine of two cores a thread then spins for one that the system has put aside
    for another program: steps took two to four times as long as with sleeping threads (docs/benchmarks.md). Workers inherit it.
    OpenMP reads the setting when torch is loaded.
    """
    if cores() <= FEW:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")

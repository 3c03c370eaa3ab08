"""Rank-0 printing, hardware, versions, peak memory and the commit of the code."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

from ssl_med.processor import processor_name, vector_units


def is_first_process() -> bool:
    """True in the process that creates folders, before torch.distributed is up."""
    return all(int(os.environ.get(key, "0")) == 0 for key in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK"))


def say(text: str) -> None:
    """One line to the user, from one process."""
    if is_first_process():
        print(text.encode(errors="backslashreplace").decode(), flush=True)  # names of files may be no UTF-8


def hardware() -> str:
    """GPUs and their name; without one the processor, its vector units and the threads of torch."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{processor_name()} ({vector_units()}), {torch.get_num_threads()} threads"


def reset_peak() -> None:
    """Lets the peaks count from here, where the system can: a worker carries out many runs."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux: 5 resets the high-water mark of the resident set
        Path("/proc/self/clear_refs").write_text("5")


def host_peak_mb() -> float:
    """Most memory that this process has had, in MB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peak_mb() -> float:
    """Most memory of the run in MB: on its GPU where it used one, else of the host."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return host_peak_mb()


def versions() -> dict[str, str]:
    """Versions that can change a result."""
    return {name: version(name) for name in ("ssl-med", "torch", "pytorch-lightning", "monai", "numpy")}


def git_revision() -> str:
    """Commit of the code, with '+' when the checkout was changed; '' outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def quiet() -> None:
    """Leaves out what Lightning, torch and MONAI say of themselves."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*in eval mode at the start of training.*",  # teachers are meant to be
        ".*could not find the monitored key.*",  # the last.ckpt of a run that has not validated yet
        ".*treespec.*",
        ".*`broadcast_buffers` is deprecated.*",  # what follows it broadcasts at the start all the same
        ".*sync_dist=True.*",  # what we log is the same in all processes
        ".*always_return_as_numpy.*",  # MONAI calls its own deprecated argument
        ".*smaller than the logging interval.*",
        ".*callbacks used to create the checkpoint.*",  # of version 0.1
    ):
        warnings.filterwarnings("ignore", message=message)

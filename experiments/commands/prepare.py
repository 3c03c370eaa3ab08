"""`ssl-med prepare`: convert a data set as it is distributed into a store that training reads crop by crop."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from datamodules.core.base import MedicalData
from datamodules.core.convert import convert, derive, items_of
from datamodules.core.loader import leave_signals_to_parent
from datamodules.core.pools import first_done, open_pool
from datamodules.core.sending import handing_over
from datamodules.core.store import JOURNAL, LOCK, MANIFEST, Record, Store, digest
from experiments.config.data import compose_prepare
from experiments.run.environment import say
from experiments.run.lock import FolderLock
from experiments.run.parent import end_with_parent
from ssl_med.config import keyed, to_plain
from ssl_med.files import CannotWriteError, explained, explaining, write_text
from ssl_med.spec import SslMedError

USAGE = "ssl-med prepare data=NAME data.root=RAW store=DIR [method=NAME] [config=FILE] [workers=N] [verify=true]"
EXAMPLES = (
    "ssl-med prepare data=lits data.root=/data/LiTS store=/fast/lits",
    "ssl-med prepare data=luna data.root=/data/LUNA16 store=/fast/luna method=pcrl workers=8",
)
NAMES = ("data", "method")
REQUIRED = ("data",)
SETTINGS = {
    "": "experiments.config.data:PrepareConfig",
    "data": "datamodules.{data}:Config",
    "method": "ssl_med.methods.{method}:Config",
}
DEFAULTS = ("root",)


@dataclass
class Outcome:
    """What became of one case."""

    records: dict[str, Record] = field(default_factory=dict)
    error: str = ""
    note: str = ""


def prepare(overrides: Sequence[str]) -> Path:
    """Converts what the store lacks; the same command again goes on after an interruption, or finds nothing to do.

    Raises:
        SslMedError: a wrong request, or cases that could not be converted (all others are finished first).
    """
    settings, data = compose_prepare(overrides)
    cases = data.keep(data.cases())
    data.items(cases[0], labels=True)  # a family without a store says so
    folder = Path(settings.store)
    _check_folder(folder, Path(data.config.root))
    with FolderLock(folder, "another `ssl-med prepare` is writing to it"):
        store = _resume(folder, data)
        wanted = digest(to_plain(data.need), keyed(data.config, "store"))
        todo = list(cases)
        if wanted in store.derived_for and not settings.verify:
            todo = [case for case in cases if not _complete(store, data, case)]
        if not todo:
            _finish(store, changed=(folder / JOURNAL).is_file())
            say(f"{folder}: is complete, {len(cases)} cases; nothing to do")
            return folder
        data.config.store, data.store = str(folder), store
        start = time.monotonic()
        failed, notes = _run(store, data, todo, total=len(cases), workers=settings.workers, verify=settings.verify)
        if not failed:
            store.derived_for = sorted({*store.derived_for, wanted})
        _finish(store, changed=True)
    _tell(store, len(cases), failed, notes, seconds=time.monotonic() - start)
    return folder


def _check_folder(folder: Path, root: Path) -> None:
    if folder.resolve().is_relative_to(root.resolve()):
        raise SslMedError(
            f"store={folder}: lies in data.root={root}, into which nothing is written; choose a folder outside"
        )
    if folder.exists() and not folder.is_dir():
        raise SslMedError(f"store={folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / n).is_file() for n in (MANIFEST, JOURNAL, LOCK)):
        raise SslMedError(f"store={folder}: is not empty and no store; choose a new or empty folder")


def _resume(folder: Path, data: MedicalData) -> Store:
    store = data.open_store(folder, new=True)
    if (folder / MANIFEST).is_file():
        store.read_manifest()
    store.read_journal()
    for part in folder.glob("*/*/.*"):
        part.unlink()  # what a killed process was writing
    return store


def _complete(store: Store, data: MedicalData, case: Any) -> bool:
    return all(store.current(item) for item in items_of(data, case))


def _run(
    store: Store, data: MedicalData, todo: list[Any], *, total: int, workers: int, verify: bool
) -> tuple[list[str], list[str]]:
    """Converts cases in processes; errors and notes, in the order of the cases."""
    count = min(len(todo), workers or len(os.sched_getaffinity(0)))
    found: dict[int, Outcome] = {}
    bar = tqdm(
        total=total,
        initial=total - len(todo),
        unit="case",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60,
        disable=os.environ.get("SSL_MED_QUIET") == "1",
    )
    journal = store.folder / JOURNAL
    _begin_journal(journal, store)
    with bar:
        for number, outcome in _outcomes(store, data, todo, workers=count, verify=verify):
            found[number] = outcome
            store.records.update(outcome.records)
            if outcome.records:
                _append(journal, {key: asdict(record) for key, record in outcome.records.items()})
            bar.update()
    outcomes = [found[number] for number in sorted(found)]
    return [o.error for o in outcomes if o.error], [o.note for o in outcomes if o.note]


def _begin_journal(path: Path, store: Store) -> None:
    """Keeps whole lines of a journal that a killed process left; each holds what a case or more cost."""
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    write_text(path, f"{whole or json.dumps(store.header())}\n")


def _append(path: Path, tree: dict[str, Any]) -> None:
    """Adds a line, so that a kill costs the cases in work and no others."""
    with explaining(path), path.open("a") as file:
        file.write(f"{json.dumps(tree)}\n")


def _outcomes(
    store: Store, data: MedicalData, todo: list[Any], *, workers: int, verify: bool
) -> Iterator[tuple[int, Outcome]]:
    if workers == 1:
        yield from ((number, _work(store, data, case, verify=verify)) for number, case in enumerate(todo))
        return
    begin: Callable[..., None] = _begin
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = open_pool(workers, mp_context=context, initializer=begin, initargs=(store, data, todo, verify))
    try:
        with handing_over():
            futures = {pool.submit(_work_on, number): number for number in range(len(todo))}
        while futures:
            for future in first_done(futures, pool):
                yield futures.pop(future), future.result()
        pool.shutdown()  # without waiting, the interpreter's exit may find the pool's pipe closed under it
    except BrokenProcessPool:
        raise SslMedError(
            "prepare: a worker process was killed, most likely for want of memory; what is finished is kept, "
            f"run the same command with fewer than workers={workers}"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_TASK: dict[str, Any] = {}  # of a worker process


def _begin(store: Store, data: MedicalData, todo: list[Any], verify: bool) -> None:
    _TASK.update(store=store, data=data, todo=todo, verify=verify)
    torch.set_num_threads(1)
    try:
        leave_signals_to_parent()  # a terminal sends its own to all, and the parent ends the workers
        end_with_parent()
    except RuntimeError:  # no memory for a thread: the parent says so
        os._exit(1)


def _work_on(number: int) -> Outcome:
    return _work(_TASK["store"], _TASK["data"], _TASK["todo"][number], verify=_TASK["verify"])


def _work(store: Store, data: MedicalData, case: Any, *, verify: bool) -> Outcome:
    outcome = Outcome()
    try:
        if verify:
            for item in items_of(data, case):
                store.drop_damaged(item)
        for key, record in convert(store, data, case):
            outcome.records[key] = record
        outcome.note = derive(data, case)
    except CannotWriteError:
        raise
    except SslMedError as error:
        outcome.error = str(error)
    except MemoryError:
        outcome.error = f"{case.name}: does not fit into memory; run with fewer workers=N"
    except OSError as error:
        outcome.error = explained(error, error.filename or store.folder)
    return outcome


def _finish(store: Store, *, changed: bool) -> None:
    """Writes the manifest and removes arrays that no record names."""
    if not changed:
        return
    store.write_manifest()
    (store.folder / JOURNAL).unlink(missing_ok=True)
    named = {array.name for record in store.records.values() for array in record.arrays}
    for path in (store.folder / "arrays").glob("*/*.b2nd"):
        if path.stem not in named:
            path.unlink()


def _tell(store: Store, total: int, failed: list[str], notes: list[str], *, seconds: float) -> None:
    size = sum({array.name: array.nbytes for r in store.records.values() for array in r.arrays}.values())
    say(f"{store.folder}: {total - len(failed)} of {total} cases, {size / 2**30:.2f} GiB, {seconds:.0f} s")
    for note in notes[:5]:
        say(f"note: {note}")
    if len(notes) > 5:
        say(f"note: and {len(notes) - 5} more")
    if failed:
        for line in failed[:20]:
            print(f"ssl-med: {line}", file=sys.stderr)
        raise SslMedError(
            f"prepare: {len(failed)} of {total} cases could not be converted, first: {failed[0]}; repair or remove them "
            "and run the same command again"
        )


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    prepare(arguments)

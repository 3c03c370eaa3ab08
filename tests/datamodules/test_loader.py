"""Loaders: the same samples whatever the number of workers, processes and interruptions."""

import errno
import gc
import os
import resource
import signal
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.core.loader import EpochBatches, EvaluationLoader, ResumableLoader
from datamodules.core.pools import open_pool
from datamodules.core.sending import handing_over
from datamodules.core.volumes import Cache, Crops, Loaded
from ssl_med.spec import Need, SslMedError


def epochs(count=1, **settings):
    """Batches of the first epochs."""
    batches = EpochBatches(**{"seed": 0, "shuffle": True, **settings})
    found = []
    for epoch in range(count):
        batches.epoch = epoch
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    return found


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (13, 4), (7, 7), (100, 1), (15, 8)])
def test_every_sample_once_an_epoch_and_a_new_order_each(length, batch_size):
    found = epochs(3, length=length, batch_size=batch_size)
    orders = []
    for epoch, batches in enumerate(found):
        assert all(len(batch) == batch_size for batch in batches)
        keys = [key for batch in batches for key in batch]
        assert {e for e, _ in keys} == {epoch}
        order = [index for _, index in keys]
        assert len(set(order)) == len(order) == length // batch_size * batch_size
        assert set(order) <= set(range(length))
        orders.append(tuple(order))
    assert len(set(orders)) == 3
    assert epochs(3, length=length, batch_size=batch_size) == found
    assert epochs(1, length=length, batch_size=batch_size, seed=1) != found[:1]


def test_what_is_left_out_of_an_epoch_changes():
    left = Counter()
    for batches in epochs(60, length=7, batch_size=4):
        left.update(set(range(7)) - {index for batch in batches for _, index in batch})
    assert set(left) == set(range(7))


def test_fixed_samples_are_the_same_in_every_epoch_in_a_new_order():
    found = epochs(3, length=12, batch_size=4, fixed=True)
    orders = [[key for batch in batches for key in batch] for batches in found]
    assert all(sorted(order) == [(0, index) for index in range(12)] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    ((batch,),) = epochs(1, length=3, batch_size=8, fixed=True)
    assert set(batch) == {(0, 0), (0, 1), (0, 2)}, "a repeated sample is the same crop"


def test_an_epoch_shorter_than_a_batch_repeats_samples_with_other_keys():
    ((batch,),) = epochs(1, length=3, batch_size=8)
    assert Counter(index for _, index in batch).keys() == {0, 1, 2}
    assert len(set(batch)) == 8, "a repeated sample must be another crop"
    assert max(Counter(index for _, index in batch).values()) == 3


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (12, 4), (3, 4), (1, 6), (9, 2)])
@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_takes_all_in_order_and_processes_keep_step(length, batch_size, world):
    parts = [
        epochs(1, length=length, batch_size=batch_size, shuffle=False, rank=rank, world=world)[0]
        for rank in range(world)
    ]
    steps = {len(part) for part in parts}
    assert steps == {-(-length // batch_size)}
    merged = [index for batch in zip(*parts, strict=True) for part in batch for _, index in part]
    assert merged[:length] == list(range(length))
    if world == 1:
        assert len(merged) == length, "one process repeats nothing"
    else:  # filled up from the start, so that all take part in the last step
        assert merged[length:] == [i % length for i in range(length, steps.pop() * batch_size)]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batches_of_one(world):
    def owners(epoch):
        return np.arange(37) // 5

    for grouping in ({}, {"owners": owners, "mixed": 2}):
        whole = epochs(3, length=37, batch_size=8, **grouping)
        parts = [epochs(3, length=37, batch_size=8, rank=rank, world=world, **grouping) for rank in range(world)]
        for epoch in range(3):
            for step, batch in enumerate(whole[epoch]):
                assert [key for part in parts for key in part[epoch][step]] == batch
    with pytest.raises(
        SslMedError, match=r"trainer.batch_size=9 must be positive and divisible by the number of devices, 2"
    ):
        EpochBatches(10, batch_size=9, seed=0, shuffle=True, world=2)
    with pytest.raises(SslMedError, match=r"trainer.batch_size=0"):
        EpochBatches(10, batch_size=0, seed=0, shuffle=True)


@pytest.mark.parametrize("mixed", [1, 3])
def test_scattered_samples_are_grouped_by_scan(mixed):
    per_scan = np.random.default_rng(0).integers(1, 9, 11)
    owner = np.repeat(np.arange(11), per_scan)
    orders = []
    for epoch in range(4):
        batches = EpochBatches(len(owner), batch_size=1, seed=5, shuffle=True, owners=lambda _: owner, mixed=mixed)
        order = batches.order(epoch)
        assert sorted(order) == list(range(len(owner)))
        spans = [np.flatnonzero(owner[order] == scan) for scan in range(11)]
        # at any time the samples come from `mixed` scans, and a scan left behind does not come back
        for step in range(len(order)):
            open_scans = [s for s in spans if s[0] <= step <= s[-1]]
            assert len(open_scans) <= mixed
        firsts = np.array([s[0] for s in spans])
        if mixed == 1:
            assert all(np.diff(s).max(initial=1) == 1 for s in spans)
        else:
            assert any(np.diff(s).max(initial=1) > 1 for s in spans), "scans of a group must be mixed"
        orders.append(tuple(np.argsort(firsts)))
    assert len(set(orders)) == 4, "the scans come in another order each epoch"


# -------------------------------------------------------------------------------------------- the loader


class Counting(Dataset):
    """Samples that say which key they were asked for, and numbers that depend on it."""

    def __init__(self, length=13, broken=-1):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        epoch, index = key
        if index == self.broken:
            raise SslMedError(f"scan {index}.mhd: is truncated; copy it again")
        return {"key": torch.tensor(key), "x": torch.from_numpy(np.random.default_rng([epoch, index]).random(4))}


def train(workers=0, length=13, **settings):
    batches = EpochBatches(length, **{"batch_size": 3, "seed": 0, "shuffle": True, **settings})
    return ResumableLoader(Counting(length), batches, num_workers=workers)


def keys(batches):
    return [batch["key"].tolist() for batch in batches]


def test_three_epochs_go_on_by_themselves():
    loader = train()
    found = [keys(loader) for _ in range(3)]
    assert [[list(map(list, batch)) for batch in epoch] for epoch in epochs(3, length=13, batch_size=3)] == found
    assert loader.state_dict() == {"epoch": 3, "position": 0}
    assert len(loader) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_at_every_position_gives_the_same_remainder(workers):
    reference = train()
    whole = keys(reference) + keys(reference)
    for stop in range(8 if workers == 0 else 3):
        first = train(workers)
        iterator = iter(first)
        seen = []
        for step in range(stop):
            if step == 4:
                assert next(iterator, None) is None
                iterator = iter(first)
            seen.append(next(iterator))
        state = first.state_dict()  # with workers further batches are prefetched by now; they do not count
        assert state == {"epoch": stop // 4, "position": stop % 4}
        second = train(workers)
        second.load_state_dict(state)
        rest = keys(second)
        if stop < 4:
            rest += keys(second)
        assert keys(seen) + rest == whole
        assert second.state_dict() == {"epoch": 2, "position": 0}


def test_position_is_right_before_the_last_batch_is_used():
    """The trainer takes the last batch, saves, and may never ask for a further one."""
    loader = train()
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    assert loader.state_dict() == {"epoch": 1, "position": 0}


def test_workers_change_nothing():
    reference = None
    for workers in (0, 1, 2):
        loader = train(workers)
        found = [batch for _ in range(2) for batch in loader]
        reference = reference or found
        assert len(found) == len(reference)
        for one, other in zip(found, reference, strict=True):
            assert torch.equal(one["key"], other["key"])
            assert torch.equal(one["x"], other["x"])


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_yields_the_last_batch_each_time(workers):
    loader = EvaluationLoader(Counting(7), EpochBatches(7, batch_size=3, seed=0, shuffle=False), num_workers=workers)
    for _ in range(2):
        found = keys(loader)
        assert [len(batch) for batch in found] == [3, 3, 1]
        assert [index for batch in found for _, index in batch] == list(range(7))


@pytest.mark.parametrize(("kind", "workers"), [(EvaluationLoader, 0), (ResumableLoader, 0), (ResumableLoader, 1)])
def test_a_broken_file_is_one_line_also_from_a_worker(kind, workers):
    batches = EpochBatches(6, batch_size=2, seed=0, shuffle=False)
    loader = kind(Counting(6, broken=3), batches, num_workers=workers)
    with pytest.raises(SslMedError) as caught:
        list(loader)
    ended(loader)
    assert str(caught.value) == "scan 3.mhd: is truncated; copy it again"


class Refused(Dataset):
    """Samples of a worker that the system refuses something."""

    def __init__(self, refuse):
        self.refuse = refuse

    def __getitem__(self, key):
        self.refuse()
        return {"x": torch.zeros(100)}


def ended(loader):
    """Ends the workers at once, for whose end torch waits five seconds after an error."""
    for worker in getattr(loader._iterator, "_workers", ()):
        worker.terminate()


def no_handles():
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), 4096))


def no_file_of_this_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def no_disk():
    raise OSError(errno.EIO, os.strerror(errno.EIO), "/data/scan 3.mhd")


def no_shared_memory():
    raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        (no_handles, "worker processes: Too many open files; raise the limit of open files (ulimit -n), or lower"),
        (no_file_of_this_size, "worker processes: File too large; raise the limit of file sizes (ulimit -f), and"),
        (no_disk, "/data/scan 3.mhd: Input/output error; the disk reports an error"),
        (no_shared_memory, "/dev/shm: No space left on device; give the container or machine more shared memory"),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "/dev/shm: is full; give the container"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a process that loads data was killed, perhaps because the"),
    ],
)
def test_what_the_system_refuses_a_worker_is_one_line_and_no_wait(capfd, refuse, said):
    loader = EvaluationLoader(Refused(refuse), EpochBatches(2, batch_size=2, seed=0, shuffle=False), num_workers=1)
    with pytest.raises(SslMedError) as caught:
        list(loader)
    ended(loader)
    assert str(caught.value).startswith(said)
    assert "Traceback" not in capfd.readouterr().err


def test_without_shared_memory_the_line_names_it(monkeypatch, capfd):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(torch.multiprocessing, "Event", refused)  # made after the first queue
    loader = EvaluationLoader(Counting(4), EpochBatches(4, batch_size=2, seed=0, shuffle=False), num_workers=1)
    with pytest.raises(SslMedError, match=r"^/dev/shm: Read-only file system; give the container"):
        list(loader)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback():
    def refuse():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    loader = EvaluationLoader(Refused(refuse), EpochBatches(4, batch_size=2, seed=0, shuffle=False), num_workers=1)
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        list(loader)
    ended(loader)


# ------------------------------------------------------------------------------- with scans and a cache


@pytest.mark.slow
def test_scattered_scans_are_decoded_once_an_epoch():
    loads = Counter()

    def load(case):
        loads[case.name] += 1
        return Loaded(np.full((1, 8, 8, 8), int(case.name), np.uint16))

    cases = [SimpleNamespace(name=str(i), images=(str(i),)) for i in range(9)]
    for mixed in (1, 3):
        loads.clear()
        cache = Cache(load, gigabytes=mixed * 1024 / 2**30)  # as many scans as are mixed
        dataset = Crops(cases, cache, patch=(4, 4, 4), per_case=5, seed=0, need=Need())
        batches = EpochBatches(45, batch_size=3, seed=0, shuffle=True, owners=dataset.owners, mixed=mixed)
        loader = ResumableLoader(dataset, batches, num_workers=0)
        seen = Counter(name for batch in loader for name in batch["id"])
        assert loads == dict.fromkeys("012345678", 1)
        assert seen == dict.fromkeys("012345678", 5)
        # without grouping the same cache decodes most scans again and again
        loads.clear()
        list(ResumableLoader(dataset, EpochBatches(45, batch_size=3, seed=0, shuffle=True), num_workers=0))
        assert sum(loads.values()) > 20


# ------------------------------------------------------------------------------ memory that is used again


class Large(Dataset):
    """Samples of 8 KiB whose every number names the sample."""

    def __len__(self):
        return 60

    def __getitem__(self, key):
        return {"image": torch.full((2, 1024), float(key[0] * 100 + key[1])), "id": str(key), "index": key[1]}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_stay_as_they_were_when_workers_use_their_memory_again(monkeypatch, workers):
    monkeypatch.setattr("datamodules.core.loader._LARGE", 4096)
    loader = ResumableLoader(Large(), EpochBatches(60, batch_size=2, seed=0, shuffle=True), num_workers=workers)
    kept = []
    for epoch in range(3):
        for number, batch in enumerate(loader):
            kept.append(batch)
            if number % 7 == 0:
                time.sleep(0.02)  # workers get as far ahead as they may
            if epoch == 1 and number == 10:
                break  # and what they made in vain is overwritten
        if epoch == 1:
            loader.load_state_dict({"epoch": 2, "position": 0})
    assert len(kept) == 30 + 11 + 30
    for batch in kept:
        epoch = [int(name.strip("()").split(", ")[0]) for name in batch["id"]]
        expected = torch.tensor([float(e * 100 + i) for e, i in zip(epoch, batch["index"].tolist(), strict=True)])
        assert torch.equal(batch["image"], expected[:, None, None].expand(2, 2, 1024))
    assert len({batch["image"].data_ptr() for batch in kept}) == len(kept), "every batch is the receiver's own"


def test_workers_do_use_their_memory_again(monkeypatch):
    monkeypatch.setattr("datamodules.core.loader._LARGE", 4096)
    loader = ResumableLoader(Large(), EpochBatches(60, batch_size=2, seed=0, shuffle=True), num_workers=2)
    assert len(list(loader)) == 30
    assert len(loader.ring._mapped) <= 2 * 4, "four places a worker"


def test_a_pool_without_a_thread_ends_its_processes(monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("can't start new thread")

    pool = open_pool(1)
    monkeypatch.setattr("threading.Thread.start", refused)
    with pytest.raises(SslMedError, match="worker processes: Resource temporarily unavailable"), pool, handing_over():
        pool.submit(abs, 1)
    assert not any(process.is_alive() for process in pool._processes.values())

"""Kills runs at random moments by random signals, lets them go on, and compares them bit by bit with runs that nothing stopped.

A process that has imported everything forks one child for each run, so that a run costs its steps and not its imports.
`python tests/experiments/chaos.py KILLS [SEED [NAME ...]]` is a campaign by hand; `make test-chaos` runs the long one.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
CODES = {-signal.SIGKILL, 130, 138, 143}
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=3", "backbone.name=unet", "trainer.precision=32"]
IMAGES = ["data=chest14", "data.patch_size=[32,32]", "data.image_size=40", "backbone.channels=[8,8,16]"]
SCANS = ["data=lits", "data.patch_size=[16,16,16]", "data.crops_per_volume=4", "backbone.channels=[8,8,16]"]
LENGTH = [
    "trainer.batch_size=4",
    "trainer.max_steps=11",
    "trainer.val_every_steps=4",
    "trainer.checkpoint_every_steps=3",
]
EPOCHS = ["trainer.batch_size=16", "trainer.max_epochs=3", "trainer.max_steps=-1", "trainer.val_every_steps=0"]
SMALL = {
    "byol": ["method.hidden_dim=32", "method.out_dim=16"],
    "c2l": ["method.queue=16", "method.momentum=0.9"],
    "deep_cluster": ["method.every=1", "method.clusters=2"],
    "dino": ["method.hidden_dim=32", "method.bottleneck=16", "method.out_dim=32", "method.freeze_steps=2"],
    "moco": ["method.queue=16", "method.momentum=0.9"],
    "pcrl": ["method.queue=16", "method.momentum=0.9", "method.out_dim=16"],
    "pcrl_v2": ["trainer.batch_size=8"],
    "semantic_genesis": ["method.classes=4", "method.memory=8", "method.thumbnail=16"],
    "simclr": ["method.hidden_dim=32"],
    "swav": ["method.hidden_dim=32", "method.prototypes=8", "method.freeze_steps=2", "method.queue=16"],
}
VARIANTS = {
    "epochs": [*EPOCHS],
    "epochs-accumulate": [*EPOCHS, "trainer.batch_size=8", "trainer.accumulate=3", "trainer.checkpoint_every_steps=1"],
    "steps-accumulate": [*LENGTH, "trainer.accumulate=3", "trainer.max_steps=7", "trainer.checkpoint_every_steps=1"],
    "patience": [*LENGTH, "trainer.max_steps=40", "trainer.val_every_steps=2", "trainer.patience=2", "optim.lr=0.03"],
    "workers": [*EPOCHS, "trainer.num_workers=2", "trainer.max_epochs=2"],
    "dropout": [*LENGTH, "task.dropout=0.3", "trainer.max_steps=9"],
}


@dataclass(frozen=True)
class Case:
    """A run to be killed: its name and its words without `out`."""

    name: str
    words: tuple[str, ...]


def merged(*words):
    """Words of a command line; of a key that is given twice, the later one."""
    return tuple({word.partition("=")[0]: word for word in words}.values())


def cases(images: Path, scans: Path, modal: Path) -> list[Case]:
    """Every method by steps, two of them by epochs, and fine-tunings in every form."""
    from experiments.config.sources import method_class_of, names

    found = []
    for name in names("method"):
        method = method_class_of(name)
        if method.min_channels > 1:
            data = [*SCANS, "data=brats", f"data.root={modal}"]
        else:
            data = [*IMAGES, f"data.root={images}"] if 2 in method.dims else [*SCANS, f"data.root={scans}"]
        words = merged("pretrain", f"method={name}", *TINY, *data, *LENGTH, *SMALL.get(name, []))
        found.append(Case(name, words))
    for name in ("moco", "deep_cluster", "dino"):
        data = [*IMAGES, f"data.root={images}", *SMALL[name]]
        words = merged(
            "pretrain", f"method={name}", *TINY, *data, *EPOCHS, "trainer.accumulate=2", "trainer.batch_size=8"
        )
        found.append(Case(f"{name}-epochs", words))
    probed = [*IMAGES, f"data.root={images}", *LENGTH, "online.task=chest14", f"online.data.root={images}"]
    probed += [
        "online.every_steps=3",
        "trainer.monitor=online/knn_auroc",
        "online.data.image_size=40",
        "online.data.patch_size=[32,32]",
    ]
    found.append(Case("online", merged("pretrain", "method=rotation", *TINY, *probed)))
    tuned = ["task.pictures=[0,0,0,0]", f"data.root={images}", *IMAGES[1:]]
    for name, words in VARIANTS.items():
        found.append(
            Case(f"finetune-{name}", merged("finetune", "task=chest14", "init=scratch", *TINY, *tuned, *words))
        )
    segmented = ["task.pictures=[0,0,0,0]", "task.overlap=0", f"data.root={scans}", *SCANS[1:], *LENGTH]
    segmented += ["trainer.max_steps=6", "trainer.batch_size=2"]
    found.append(Case("finetune-volumes", merged("finetune", "task=lits", "init=scratch", *TINY, *segmented)))
    return found


# --- running -----------------------------------------------------------------------------------------------------------


def fork(words, log):
    """Starts a command in a child of this process; its id."""
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs deaf to it
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        from experiments.cli import main

        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the child's own
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        code = main([str(word) for word in words])
    except KeyboardInterrupt:
        code = 130  # before the command has begun; as the interpreter ends
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(number, seconds):
    """Exit code of a child, negative for a signal; None when it is still at work after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def finish(words, log, limit=240):
    """A command from start to end; its exit code."""
    number = fork(words, log)
    code = ended(number, limit)
    if code is None:
        os.killpg(number, signal.SIGKILL)
        ended(number, 60)
        raise AssertionError(f"{' '.join(map(str, words))}: hangs; {log}")
    return code


def kill_group(number, by, limit=60):
    """Sends a signal to a process and those that it started, as soon as it has made them a group of their own."""
    until = time.monotonic() + limit
    while True:
        try:
            return os.killpg(number, by)
        except ProcessLookupError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def kill(words, log, *, after, by, group=False):
    """Sends a signal after some seconds; the exit code, 0 when the run had ended before."""
    number = fork(words, log)
    code = ended(number, after)
    if code is not None:
        return code
    if group:
        kill_group(number, by)
    else:
        os.kill(number, by)
    code = ended(number, 120)
    if code is None:
        os.killpg(number, signal.SIGKILL)
        ended(number, 60)
        raise AssertionError(f"{' '.join(map(str, words))}: does not stop on {by.name}; {log}")
    return code


# --- comparing ---------------------------------------------------------------------------------------------------------

TIMES = ("seconds", "speed/samples_per_second", "online/seconds")


def facts(folder):
    """All that a run leaves, without times: tensors and texts by name."""
    summary = json.loads((folder / "summary.json").read_text())
    metrics = {key: value for key, value in summary["metrics"].items() if key not in TIMES}
    kept = ("status", "steps", "weights", "interval", "errors", "n_test", "notes")
    found = {"metrics of the summary": metrics, **{key: summary.get(key) for key in kept}}
    if "online" in summary:
        found["online"] = {key: summary["online"][key] for key in ("steps", "values")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    found["keys of metrics.jsonl"] = [list(line) for line in lines]
    for name in ("last.ckpt", "best.ckpt"):
        if (folder / name).is_file():
            state = torch.load(folder / name, weights_only=True)
            found[f"steps of {name}"] = state["global_step"]
            found |= {f"{name}: {key}": value for key, value in state["state_dict"].items()}
            for key, value in enumerate(state.get("optimizer_states", [])):
                found[f"optimizer {key} of {name}"] = value["state"]
    if (folder / "backbone.safetensors").is_file():
        found |= {f"backbone: {key}": value for key, value in load_file(folder / "backbone.safetensors").items()}
    if (folder / "test_cases.csv").is_file():
        found["test_cases.csv"] = (folder / "test_cases.csv").read_text()
    return found


def same(one, other):
    """Bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def differences(one, other):
    """Names of what differs."""
    return [key for key in {**one, **other} if not (key in one and key in other and same(one[key], other[key]))]


class Chaos:
    """Kills one case again and again.

    Args:
        case: what is run.
        folder: where it runs; the straight run lies there as `straight`.
        rng: of signals and moments.
    """

    def __init__(self, case, folder, rng):
        self.case, self.folder, self.rng = case, folder, rng
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        code = finish(self.words("straight"), folder / "straight.log")
        assert code == 0, f"{case.name}: {(folder / 'straight.log').read_text()[-1500:]}"
        self.seconds = time.monotonic() - start
        self.straight = facts(folder / "straight")

    def words(self, name):
        return [*self.case.words, f"out={self.folder / name}"]

    def once(self, name):
        """One run, killed up to three times; (signals that hit, what differs from the straight run)."""
        log, hits = self.folder / f"{name}.log", []
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            by, group = self.rng.choice(SIGNALS), self.rng.random() < 0.3
            code = kill(self.words(name), log, after=self.rng.uniform(0, self.seconds), by=by, group=group)
            if code == 0:
                break
            assert code == -by or code == 128 + by, f"exit code {code} for {by.name}; {log}"
            status = self.folder / name / "summary.json"
            if code > 0 and status.is_file():
                assert json.loads(status.read_text())["status"] in ("interrupted", "done"), log
            hits.append(by.name)
        code = finish(self.words(name), log)
        assert code == 0, f"exit code {code}; {log}: {log.read_text()[-1500:]}"
        different = differences(self.straight, facts(self.folder / name))
        if not different:
            shutil.rmtree(self.folder / name)
        return hits, different


def campaign(found, folder, *, kills, seed=0, tell=print):
    """Spreads at least `kills` kills over the cases; (kills by case and by signal, what differed)."""
    rng = random.Random(seed)
    by_case, by_signal, failures = collections.Counter(), collections.Counter(), []
    runs = [Chaos(case, folder / case.name, rng) for case in found]
    count = 0
    while sum(by_signal.values()) < kills:
        for run in runs:
            try:
                hits, different = run.once(f"run{count}")
            except AssertionError as error:
                hits, different = [], [str(error)]
            count += 1
            by_case[run.case.name] += len(hits)
            by_signal.update(hits)
            if different:
                failures.append((run.case.name, f"run{count - 1}", hits, different[:6]))
                tell(f"DIFFERS: {failures[-1]}")
    return by_case, by_signal, failures


def phantoms(folder):
    """Tiny data in true layouts."""
    from datamodules.phantoms import brats, chest14, lits

    return (
        chest14.generate(folder / "chest14", subjects=24, seed=0),
        lits.generate(folder / "lits", subjects=8, seed=0, size=(32, 32, 24)),
        brats.generate(folder / "brats", subjects=8, seed=0, size=(32, 32, 24)),
    )


def main(kills="200", seed="0", *only):
    """The campaign, with its counts."""
    import tempfile

    torch.set_num_threads(1)
    os.environ.update(SSL_MED_QUIET="1", SSL_MED_BF16="0", WANDB_MODE="offline")
    folder = Path(tempfile.mkdtemp(prefix="ssl_med_chaos_"))
    data = phantoms(folder)
    found = [case for case in cases(*data) if not only or case.name in only]
    warm(found, folder)
    start = time.monotonic()
    by_case, by_signal, failures = campaign(found, folder / "runs", kills=int(kills), seed=int(seed))
    for name, count in by_case.items():
        print(f"{name:24s} {count:4d} kills")
    print(", ".join(f"{name} {count}" for name, count in sorted(by_signal.items())))
    print(f"{sum(by_signal.values())} kills of {len(found)} kinds of run in {time.monotonic() - start:.0f} s")
    print(f"{len(failures)} runs differ from the straight run" + (f"; they are kept in {folder}" if failures else ""))
    if not failures:
        shutil.rmtree(folder)
    return int(bool(failures))


def warm(found, folder):
    """Imports what runs import, by running one of each kind in this process."""
    from experiments.cli import main as command

    for kind in ("pretrain", "finetune"):
        case = next((case for case in found if case.words[0] == kind), None)
        if case is not None:
            assert command([*merged(*case.words, "trainer.max_steps=1"), f"out={folder / f'warm-{kind}'}"]) == 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""What stops a run costs nothing: signals, damaged checkpoints, full disks, a second writer, output that nobody reads."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time

import commands
import pytest
import torch
from chaos import differences, facts

from experiments.cli import main
from experiments.comparison.execute import Execution
from experiments.run import lock
from experiments.run.callbacks import Preemption
from experiments.run.checkpoints import CheckpointFiles
from experiments.run.interruption import Interruption, held, listening
from experiments.run.lock import FolderLock
from experiments.run.steps import WholeWindows
from ssl_med.files import new_file, write_file, write_text
from ssl_med.reports.run_folder import read_metrics
from ssl_med.spec import SslMedError

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=4", "tracking.wandb=off"]
IMAGE = ["data.patch_size=[32,32]", "data.image_size=40", "backbone.name=unet", "backbone.channels=[8,8]"]


@pytest.fixture(scope="module")
def images(shared_phantom):
    return shared_phantom("chest14", subjects=12, seed=0)


@pytest.fixture
def words(images):
    return ["pretrain", "method=rotation", "data=chest14", f"data.root={images}", *TINY, *IMAGE]


@pytest.fixture
def tuned(images):
    return ["finetune", "task=chest14", f"data.root={images}", *TINY, *IMAGE, "task.pictures=[0,0,0,0]"]


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


def stopped_at(monkeypatch, batch, number=signal.SIGTERM):
    """Sends a signal to this process at the end of one batch."""
    seen = iter(range(1, 1000))

    def stop(self, trainer, module, outputs, batch_, index):
        if next(seen) == batch:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Preemption, "on_train_batch_end", stop, raising=False)


def validations(folder):
    return [line["step"] for line in read_metrics(folder) if "val/loss" in line]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in [(signal.SIGINT, 130), (signal.SIGUSR1, 138)]),
    ],
)
def test_a_signal_stops_after_the_step_and_says_so(words, tmp_path, monkeypatch, capsys, number, code):
    words = [*words, "trainer.max_steps=5", "trainer.val_every_steps=4", f"out={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        stopped_at(patch, 2, number)
        run(*words, code=code)
    printed = capsys.readouterr()
    assert printed.err == f"ssl-med: interrupted by {number.name}\n"
    assert f"interrupted by {number.name} at step 2; the same command goes on from there" in printed.out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 2)
    assert validations(tmp_path / "run") == [], "a stop adds no validation"
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler), "the handlers are given back"
    run(*words)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 5
    assert validations(tmp_path / "run") == [3]


def test_a_signal_waits_only_where_it_is_held_and_only_once():
    with pytest.raises(Interruption), listening():
        os.kill(os.getpid(), signal.SIGUSR1)
    reached = []

    def step(*numbers):
        with listening(), held():
            for number in numbers:
                os.kill(os.getpid(), number)
            reached.append(numbers)

    with pytest.raises(Interruption) as told:
        step(signal.SIGTERM)
    assert (reached, told.value.code) == ([(signal.SIGTERM,)], 143)
    with pytest.raises(Interruption) as told:
        step(signal.SIGTERM, signal.SIGINT)
    assert (len(reached), told.value.code) == (1, 130)


def test_a_signal_stays_one_whatever_a_library_makes_of_it():
    reached = []

    def fail():
        raise ValueError("Invalid bounding box")

    def library(*, then):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            then()

    def command(then):
        with listening():
            library(then=then)
            reached.append("after the library")
            with held():
                reached.append("training")

    def training():
        with listening(), held():
            library(then=fail)
            fail()

    for then in (fail, lambda: None):
        with pytest.raises(Interruption) as told:
            command(then)
        assert told.value.code == 143
    assert reached == ["after the library"], "no training starts from what it then did"
    with pytest.raises(ValueError, match="Invalid"), listening():
        fail()
    with pytest.raises(ValueError, match="Invalid"):
        training()  # where a signal is noted alone, an error is one


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_that_a_library_spoils_after_the_training_leaves_no_result(tuned, tmp_path, monkeypatch, kept, capsys):
    words = [*tuned, "trainer.max_steps=1", f"out={tmp_path / 'run'}"]

    def spoiled(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            if kept:
                raise ValueError("Invalid bounding box") from None
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("experiments.commands.finetune.error_analysis", spoiled)
        run(*words, code=143)
    assert capsys.readouterr().err == "ssl-med: interrupted by SIGTERM\n"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    run(*words)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["errors"]


@pytest.mark.slow
def test_a_stop_within_an_accumulation_window_waits_for_its_end(tuned, tmp_path, monkeypatch):
    words = [*tuned, "trainer.accumulate=3", "trainer.max_steps=3", "trainer.val_every_steps=2", "optim.lr=0.01"]
    run(*words, f"out={tmp_path / 'straight'}")
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        run(*words, f"out={tmp_path / 'stopped'}", code=143)
    assert json.loads((tmp_path / "stopped" / "summary.json").read_text())["steps"] == 1
    run(*words, f"out={tmp_path / 'stopped'}")
    assert differences(facts(tmp_path / "straight"), facts(tmp_path / "stopped")) == []


@pytest.mark.slow
def test_gradients_of_a_short_window_are_their_mean(tuned, tmp_path, monkeypatch):
    """5 batches an epoch in windows of 3: the last two are a window by themselves."""
    shares = []
    original = WholeWindows._training_step

    def step(self, kwargs):
        result = original(self, kwargs)
        shares.append(round(float(result.closure_loss.detach() / result.loss), 4))
        return result

    monkeypatch.setattr(WholeWindows, "_training_step", step)
    run(*tuned, "trainer.accumulate=3", "trainer.max_epochs=1", "trainer.max_steps=-1", f"out={tmp_path / 'run'}")
    assert shares == [1.0] * 3 + [1.5] * 2, "of the loss that Lightning has divided by 3"


@pytest.mark.slow
def test_a_training_that_would_have_no_validation_has_one_at_its_end(tuned, tmp_path):
    run(*tuned, "trainer.max_steps=2", "trainer.val_every_steps=50", f"out={tmp_path / 'beyond'}")
    run(*tuned, "trainer.max_steps=1", "trainer.val_every_steps=0", f"out={tmp_path / 'epoch'}")
    assert (validations(tmp_path / "beyond"), validations(tmp_path / "epoch")) == ([1], [0])


@pytest.mark.slow
def test_an_epoch_whose_validation_is_not_comparable_ends_well(images, tmp_path):
    words = ["pretrain", "method=moco", "method.queue=64", "data=chest14", f"data.root={images}", *TINY, *IMAGE]
    run(*words, "trainer.max_epochs=2", "trainer.max_steps=-1", "trainer.val_every_steps=0", f"out={tmp_path / 'run'}")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "a flipped bit", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(words, tmp_path, monkeypatch, capsys, damage):
    words = [*words, "trainer.max_steps=4", "trainer.checkpoint_every_steps=1", "trainer.val_every_steps=2"]
    run(*words, f"out={tmp_path / 'straight'}")
    with monkeypatch.context() as patch:
        stopped_at(patch, 3)
        run(*words, f"out={tmp_path / 'run'}", code=143)
    last = tmp_path / "run" / "last.ckpt"
    content = last.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes({"truncated": content[:-999], "empty": b"", "garbage": b"x" * 5000}.get(damage, flipped))
    capsys.readouterr()
    run(*words, f"out={tmp_path / 'run'}")
    told = capsys.readouterr().out
    assert told.count("is damaged") == (damage != "gone")
    assert "previous.ckpt, step 2" in told
    assert differences(facts(tmp_path / "straight"), facts(tmp_path / "run")) == []


@pytest.mark.slow
def test_two_damaged_checkpoints_let_the_run_start_anew(words, tmp_path, monkeypatch, capsys):
    words = [*words, "trainer.max_steps=3", "trainer.checkpoint_every_steps=1", f"out={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        run(*words, code=143)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run" / name).write_bytes(b"PK nothing")
    run(*words)
    assert "the run starts anew" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "train/loss" in line] == [0, 1, 2]


@pytest.mark.slow
def test_a_kill_before_the_first_file_locks_no_folder(words, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("999999999 elsewhere\n")
    (tmp_path / "run" / ".999999999-config.yaml").write_text("half a ")
    run(*words, "trainer.max_steps=1", f"out={tmp_path / 'run'}")
    assert not list((tmp_path / "run").glob(".*-*"))


@pytest.mark.slow
def test_the_system_cannot_be_written_to_is_one_line_and_nothing_is_lost(words, tmp_path, monkeypatch, capsys):
    words = [*words, "trainer.max_steps=4", "trainer.checkpoint_every_steps=2"]
    run(*words, f"out={tmp_path / 'straight'}")
    full = [False]
    real = torch.save

    def save(value, file):
        spoiled = "last.ckpt" in str(file.name)
        real(value, Full(file) if full[0] and spoiled else file)
        full[0] = full[0] or spoiled  # from the second last.ckpt on

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        capsys.readouterr()
        run(*words, f"out={tmp_path / 'run'}", code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        f"ssl-med: cannot write {tmp_path / 'run' / 'last.ckpt'}: No space left on device; free space there, and the "
        "same command goes on"
    )
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 2
    run(*words, f"out={tmp_path / 'run'}")
    assert differences(facts(tmp_path / "straight"), facts(tmp_path / "run")) == []


class Full:
    """A file on a disk that is full after a few thousand bytes."""

    def __init__(self, file):
        self.file, self.left = file, 3000

    def write(self, content):
        self.left -= len(bytes(content))
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def flush(self):
        self.file.flush()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "file"
    write_text(path, "one")
    for error in (OSError(errno.EFBIG, "File too large"), KeyboardInterrupt(), RuntimeError("odd")):

        def half(file, error=error):
            file.write(b"half")
            raise error

        kind = SslMedError if isinstance(error, OSError) else type(error)
        with pytest.raises(kind):
            write_file(path, half)
        assert (path.read_text(), [p.name for p in path.parent.iterdir()]) == ("one", ["file"])
    with new_file(path, keep=tmp_path / "a" / "before") as temporary:
        assert temporary.parent == path.parent, "on the same disk, wherever TMPDIR is"
        temporary.write_text("two")
    assert (path.read_text(), (tmp_path / "a" / "before").read_text()) == ("two", "one")


def test_a_limit_of_file_sizes_ends_in_one_line(tmp_path):
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"x": torch.zeros(10)}, path)
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
            CheckpointFiles().save_checkpoint({"x": torch.zeros(100000)}, path)
        except SslMedError as error:
            (tmp_path / "told").write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "told").read_text().startswith(f"cannot write {path}: File too large; raise the limit")
    assert len(torch.load(path)["x"]) == 10


HOLDER = """
import sys, time
from pathlib import Path
from experiments.run.lock import FolderLock
with FolderLock(Path(sys.argv[1]), "a run is under way here"):
    print("held", flush=True)
    time.sleep(60)
"""


CHAIN = """
import subprocess, sys
code = "import time; import experiments.run.parent as i; i.end_with_parent(0.05); print(1, flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_further_process_ends_with_the_first():
    first = subprocess.Popen([sys.executable, "-c", CHAIN], stdout=subprocess.PIPE, text=True)
    other = int(first.stdout.readline())
    first.kill()
    first.wait()
    end = time.monotonic() + 20
    while gone := alive(other):
        assert time.monotonic() < end, "the other process is left over"
        time.sleep(0.02)
    assert not gone


def alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_one_writer_per_folder_until_it_dies(words, tmp_path, capsys):
    words = [*words, "trainer.max_steps=1", f"out={tmp_path / 'run'}"]
    os.mkfifo(tmp_path / "told")
    holder = commands.Forked(HOLDER, tmp_path / "run", function=commands.script, out=tmp_path / "told")
    try:
        with (tmp_path / "told").open() as told:
            assert told.readline() == "held\n"
        run(*words, code=2)
        line = capsys.readouterr().err.strip()
        assert f"run: a run is under way here (process {holder.pid} on " in line
    finally:
        holder.kill()
    run(*words)


def test_without_locks_of_the_system_the_owners_name_decides(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", no_locks)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for owner, free in (
        (f"{dead.pid} {lock.socket.gethostname()}", True),
        (f"{os.getppid()} {lock.socket.gethostname()}", False),
        (f"{dead.pid} another-machine", False),
        ("", True),
        ("nonsense", True),
    ):
        (tmp_path / ".lock").write_text(owner)
        if free:
            with FolderLock(tmp_path, "busy"):
                assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {lock.socket.gethostname()}\n"
        else:
            with pytest.raises(SslMedError, match="busy"), FolderLock(tmp_path, "busy"):
                pass


def test_equal_nodes_of_a_table_run_once(tmp_path):
    class Plan:
        out = tmp_path
        name = "table"

        def folder(self, node):
            return tmp_path / node.name[0]

        def command(self, node):
            return ()

    class Node:
        kind, needs = "probe", ()

        def __init__(self, name):
            self.name = name

    class Launcher:
        free = 4

        def __init__(self):
            self.running = []

        def start(self, job):
            self.running.append(job)

    execution, launcher = Execution.__new__(Execution), Launcher()
    execution.plan, execution.done, execution.failed = Plan(), set(), {}
    execution.waiting = [Node("a1"), Node("a2"), Node("b")]
    execution._start(launcher)
    assert [job.key.name for job in launcher.running] == ["a1", "b"]
    launcher.running.clear()
    execution.done |= {tmp_path / "a", tmp_path / "b"}
    assert not execution._start(launcher)
    assert execution.waiting == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["head", "closed", "full"])
def test_output_that_nobody_takes_stops_nothing(words, tmp_path, how):
    words = [word.replace("progress=false", "progress=true") for word in (*words, "trainer.max_steps=2")]
    words.append(f"out={tmp_path / 'run'}")
    if how == "closed":  # as a new interpreter finds it
        command = " ".join(f"'{word}'" for word in [sys.executable, "-m", "experiments.cli", *words])
        code = subprocess.run(["bash", "-c", f"{command} >&- 2>&-"], timeout=240).returncode
    elif how == "full":
        code = commands.run(*words, out="/dev/full").returncode
    else:
        os.mkfifo(tmp_path / "pipe")
        process = commands.Forked(*words, out=tmp_path / "pipe")
        with (tmp_path / "pipe").open("rb", buffering=0) as pipe:
            assert len(pipe.read(1)) == 1
        code = process.wait()
    assert code == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "train/loss" in line] == [0, 1]

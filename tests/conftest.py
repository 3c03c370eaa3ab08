"""What all tests share: one thread a process, blank pictures where none is looked at, phantoms made once, real sample data."""

import fcntl
import hashlib
import importlib
import os
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from wandb_server import Server

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("SSL_MED_BF16", "0")  # trainer.precision=auto is 32 on every processor; workers inherit it
os.environ.pop("SSL_MED_DATA", None)
os.environ["SSL_MED_CACHE"] = tempfile.mkdtemp(prefix="ssl-med-tests-")  # phantoms of runs without data.root
torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Pictures are laid out but not rendered, which is most of a fine-tuning's time; the file is there, and blank.

    They are rendered in the tests of reports and in those marked `figures`, their fixtures included.
    """
    if item.get_closest_marker("figures") or "reports" in item.path.parts:
        return (yield)
    render = Figure.savefig

    def savefig(figure, where, **options):
        if isinstance(where, Path):
            Image.new("RGB", (8, 8), "white").save(where)
        else:
            render(figure, where, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        return (yield)


@pytest.fixture(scope="session")
def shared_phantom(tmp_path_factory):
    """`shared_phantom(kind, **options)`: folder of a phantom that the tests of all processes share; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    top = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "phantoms"
    top.mkdir(exist_ok=True)

    def made(kind, **options):
        name = hashlib.sha256(repr((kind, sorted(options.items()))).encode()).hexdigest()[:12]
        with (top / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (top / name / "done").exists():
                importlib.import_module(f"datamodules.phantoms.{kind}").generate(top / name / kind, **options)
                (top / name / "done").touch()
        return top / name / kind

    return made


@pytest.fixture(scope="session")
def shared_data():
    """Folder with real medical images in their true layouts; the test skips when it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSL_MED_REAL_DATA", default))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real sample data not found at {folder}; set SSL_MED_REAL_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def device():
    """The GPU of the tests marked gpu, which skip without one; SSL_MED_TEST_DEVICE=cpu carries their bodies out on a CPU."""
    name = os.environ.get("SSL_MED_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here; the tests marked gpu need one")
    return torch.device(name)


@pytest.fixture
def wandb_server():
    """A W&B server on the loopback interface that remembers what it got."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def generator():
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)

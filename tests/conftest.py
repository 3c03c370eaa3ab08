"""Shared fixtures: one thread per test process, and the folder of real sample data when it is there."""

import os
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from wandb_server import Server

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("SSL_MED_BF16", "0")  # trainer.precision=auto is 32 on every processor; workers inherit it
os.environ.pop("SSL_MED_DATA", None)
os.environ["SSL_MED_CACHE"] = tempfile.mkdtemp(prefix="ssl-med-tests-")  # phantoms of runs without data.root
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data():
    """Folder with real medical images in their true layouts; the test skips when it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SSL_MED_REAL_DATA", default))
    if not (folder / "README.md").is_file():
        pytest.skip(f"real sample data not found at {folder}; set SSL_MED_REAL_DATA to its folder")
    return folder


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

import pytest
from report_samples import write_runs


@pytest.fixture
def run_folders(tmp_path):
    return write_runs(tmp_path / "runs")

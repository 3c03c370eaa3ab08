import pytest
from report_samples import write_study


@pytest.fixture
def run_folders(tmp_path):
    return write_study(tmp_path / "runs")

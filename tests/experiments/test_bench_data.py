import numpy as np
import pytest

from experiments.bench.__main__ import main
from experiments.bench.scans import synthetic_ct
from ssl_med.spec import SslMedError

TINY = ["data", "size=[128,128,64]", "repeats=3", "slow_repeats=1", "batches=10", "tissue_max=0.9"]


@pytest.mark.slow
def test_every_figure_is_measured(tmp_path, capsys):
    rows = {row["row"]: row for row in main([*TINY, f"folder={tmp_path}"])}
    reference, store = rows[".nii.gz, nibabel, whole volume"], rows["**store**"]
    assert 0 < store["ms"] < reference["ms"]
    assert store["disk"] < reference["disk"] < 1
    assert 0 < rows["touched"]["bytes"] <= 2e6
    assert rows["loader, 2 workers on 2 cores, batches of 32, 10 parts"]["rate"] > 0
    assert rows["PCRL pair, mean over the sizes"]["ratio"] > 1
    assert rows["prepare, one worker"]["seconds"] > 0
    printed = capsys.readouterr().out
    assert "| **store** |" in printed
    assert "| PCRL pair, mean over the sizes |" in printed


def test_the_synthetic_ct_is_as_noisy_as_a_real_one(tmp_path):
    ct = synthetic_ct((96, 96, 48), tmp_path)
    assert ct.dtype == np.int16
    assert -1024 <= ct.min() < -900
    soft = (ct[:-1] > -30) & (ct[:-1] < 110) & (ct[1:] > -30) & (ct[1:] < 110)
    steps = np.diff(ct.astype(float), axis=0)[soft]
    assert 7 < 1.4826 * np.median(np.abs(steps - np.median(steps))) < 34
    assert not any(tmp_path.iterdir())


def test_wrong_requests_are_one_line():
    with pytest.raises(SslMedError, match=r"size \[9, 9, 9\] must be three numbers, at least twice a crop"):
        main(["data", "size=[9,9,9]"])
    with pytest.raises(SslMedError, match="'repeats' is 0; it must be at least 1"):
        main(["data", "repeats=0"])
    with pytest.raises(SslMedError, match="key 'repeat' is unknown; did you mean 'repeats'"):
        main(["data", "repeat=3"])

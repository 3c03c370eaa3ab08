import pytest

from experiments.bench.__main__ import main
from experiments.bench.steps import Times
from ssl_med.spec import SslMedError

TINY = ["steps=1", "warmup=0", "batch=2", "patch_2d=[16,16]", "patch_3d=[8,8,8]", "channels=[8,16,16]"]


def test_bench_times_a_method_in_2d_and_3d(capsys):
    rows = main([*TINY, "methods=simclr"])
    assert [(row["method"], row["crop"]) for row in rows] == [("simclr", "16×16"), ("simclr", "8×8×8")]
    assert all(row["step"] > row["views"] > 0 for row in rows)
    assert rows[0]["rate"] == pytest.approx(2000 / rows[0]["step"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("| simclr | 8×8×8 | ")


def test_bench_refuses_in_one_line():
    with pytest.raises(SslMedError, match="method 'simcrl' is unknown; did you mean 'simclr'"):
        main(["methods=simcrl"])
    with pytest.raises(SslMedError, match="'steps' is 0; it must be at least 1"):
        main(["steps=0"])
    with pytest.raises(SslMedError, match="key 'stpes' is unknown; did you mean 'steps'"):
        main(["stpes=2"])


def test_a_step_is_the_sum_of_its_parts():
    assert Times(1.0, 2.0, 3.0).step == 6.0

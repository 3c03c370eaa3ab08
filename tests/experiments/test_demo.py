"""The demo: what it says of pretraining follows from the numbers; the bar of a comparison says where it is."""

import pytest

from experiments.commands.demo import verdict
from experiments.comparison.progress import Bar


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({0: 0.8, 1: 0.7}, "rotation 0.750, scratch 0.550, higher in 2 of 2 seeds: pretraining helps here"),
        ({0: 0.4, 1: 0.4}, "rotation 0.400, scratch 0.550, higher in 0 of 2 seeds: pretraining does harm here"),
        (
            {0: 0.4, 1: 0.8},
            "rotation 0.600, scratch 0.550, higher in 1 of 2 seeds: these seeds show neither help nor harm",
        ),
    ],
)
def test_what_is_said_of_pretraining_follows_from_the_numbers(values, words):
    assert verdict("rotation", values, {0: 0.5, 1: 0.6, 2: 0.9}, baseline="scratch") == words


@pytest.mark.parametrize("terminal", [True, False])
def test_one_bar_says_how_much_is_done_what_runs_and_what_is_left(capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    bar = Bar(40)
    bar.show(10, ["pretrain pcrl, seed 0", "liver at 15 %: scratch, seed 1"], "3 min left")
    bar.say("a line")
    bar.close()
    printed = capsys.readouterr()
    assert printed.out == "a line\n"
    assert ("25%" in printed.err and "10/40 runs" in printed.err) == terminal
    assert ("3 min left, pretrain pcrl, seed 0; liver at 15 %: s…" in printed.err) == terminal

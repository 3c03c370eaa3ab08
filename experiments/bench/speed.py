"""`make bench ARGS=speed`: how much faster than its definition, and than what peers run, each piece is on this machine.

The variants of a piece take turns in one process on one thread, and medians of the processor's time are compared: what a
busy neighbour takes away does not count. References are those of `experiments.bench.references`; peers are measured when
they are installed. The word beside a variant says what it shares with the reference: exact (the same numbers, up to
rounding), same law (the same distribution, other random numbers), approximate. The intensity map is tabulated, and within
3e-5 of the definition at whole Hounsfield units; pooled shufflings follow the law one by one, but crops share them.
`only=transforms,genesis,pcrl,losses` measures some tables alone. bfloat16 is measured where the processor has units for it, or
with bf16=true: emulated, a single step can take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.bench.losses import losses
from experiments.bench.training_steps import genesis_step, pcrl_step
from experiments.bench.transforms import transforms
from experiments.bench.variants import TABLES, BenchSpeedConfig
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.precision import AUTO, decide


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Measures and prints Markdown tables; returns the rows of all of them."""
    config = build(BenchSpeedConfig, [parse_overrides(overrides)], prefix="")
    say(
        f"{hardware()}, torch {torch.__version__}, one thread, medians of the processor's time of variants that take turns"
    )
    if len(config.precisions) == 1:
        say(f"bf16 is left out, because {decide(AUTO, accelerator='cpu').why}; bf16=true measures it anyway")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    makers = {"transforms": transforms, "genesis": genesis_step, "pcrl": pcrl_step, "losses": losses}
    try:
        return [row for name in TABLES if name in config.tables for row in makers[name](config)]
    finally:
        torch.set_num_threads(threads)

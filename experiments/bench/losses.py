"""Losses with their gradients against plain ones and lightly: a table of `make bench ARGS=speed`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.bench import references as reference
from experiments.bench.variants import BASE, EXACT, NEAR, BenchSpeedConfig, Variant, table
from experiments.run.environment import say
from ssl_med.losses.contrastive import info_nce, nt_xent
from ssl_med.losses.distillation import sinkhorn
from ssl_med.networks.queue import Queue

_TAU = 0.2


def losses(config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """Losses with their gradients, and Sinkhorn's assignments."""
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(config.batch, config.dim, generator=generator).requires_grad_() for _ in range(2))
    scores = F.normalize(z1.detach(), dim=1) @ F.normalize(
        torch.randn(config.dim, config.prototypes, generator=generator), dim=0
    )

    def contrast(loss: Callable[..., Tensor], *, bf16: bool = False) -> Callable[[], None]:
        queue = Queue(config.dim, config.queue, generator=torch.Generator().manual_seed(1))

        def work() -> None:
            z1.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss(z1, z2, queue.keys, temperature=_TAU)
            queue.push(z2.detach())
            value.backward()  # type: ignore[no-untyped-call]

        return work

    def pairs(loss: Callable[[Tensor, Tensor], Tensor], *, bf16: bool = False) -> Callable[[], None]:
        def work() -> None:
            z1.grad = z2.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss(z1, z2)
            value.backward()  # type: ignore[no-untyped-call]

        return work

    def our_pairs(a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, temperature=_TAU)

    def their_pairs(a: Tensor, b: Tensor) -> Tensor:
        return reference.nt_xent(a, b, temperature=_TAU)

    queued, paired = [], []
    for precision, bf16 in config.precisions:
        base, ours = (NEAR, NEAR) if bf16 else (BASE, EXACT)
        queued.append(Variant(f"definition, {precision}", base, contrast(reference.info_nce, bf16=bf16)))
        queued.append(Variant(f"ours, {precision}", ours, contrast(info_nce, bf16=bf16)))
        paired.append(Variant(f"definition, {precision}", base, pairs(their_pairs, bf16=bf16)))
        paired.append(Variant(f"ours, {precision}", ours, pairs(our_pairs, bf16=bf16)))
    assigned = [
        Variant("definition, fp32", BASE, lambda: reference.sinkhorn(scores, epsilon=0.05, iterations=3)),
        Variant("ours, fp32", EXACT, lambda: sinkhorn(scores, epsilon=0.05, iterations=3)),
    ]
    if importlib.util.find_spec("lightly"):
        from lightly.loss.ntx_ent_loss import NTXentLoss
        from lightly.loss.swav_loss import sinkhorn as their_sinkhorn

        bank = NTXentLoss(_TAU, memory_bank_size=(config.queue, config.dim))
        queued.append(Variant("lightly NTXentLoss with memory bank, fp32", EXACT, pairs(lambda a, b: bank(a, b))))
        paired.append(Variant("lightly NTXentLoss, fp32", EXACT, pairs(NTXentLoss(_TAU))))
        assigned.append(Variant("lightly sinkhorn, fp32", EXACT, lambda: their_sinkhorn(scores, 3, 0.05)))
    else:
        say("\nlightly is not installed: its rows are left out")
    pieces = {f"InfoNCE, queue {config.queue:,}": queued, "NT-Xent": paired}
    pieces[f"Sinkhorn, {config.prototypes:,} prototypes"] = assigned
    return table(f"Losses with gradients, batch {config.batch}, dimension {config.dim}", pieces, config.repeats)

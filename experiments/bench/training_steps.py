"""Training steps of Models Genesis and PCRL against plain ones: tables of `make bench ARGS=speed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench import references as reference
from experiments.bench.inputs import crops_like_ct, method_of_size
from experiments.bench.variants import BASE, EXACT, NEAR, BenchSpeedConfig, Variant, median_times
from experiments.run.environment import say
from ssl_med.methods.core.branch_views import PCRLConfig
from ssl_med.methods.models_genesis import ModelsGenesis, ModelsGenesisConfig
from ssl_med.methods.pcrl import PCRL
from ssl_med.spec import Batch


def _training(
    method: Any,
    views: dict[str, Tensor],
    *,
    bf16: bool,
    loss: Callable[[], Tensor] | None = None,
    after: Callable[[], None] | None = None,
) -> Callable[[], None]:
    """One step without the making of views: loss, gradient, SGD with momentum, what follows it."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss() if loss else method.terms(views)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        (after or method.after_step)()

    return step


def genesis_step(config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """Models Genesis' training step: plain up path against `fast_up`."""
    generator = torch.Generator().manual_seed(0)
    methods = {
        fast: method_of_size(ModelsGenesis, ModelsGenesisConfig(), config, fast_up=fast) for fast in (False, True)
    }
    batch: Batch = {"image": crops_like_ct(config.genesis_batch, config.patch, generator)}
    views = methods[True].views(batch, generator)
    variants = [
        Variant(f"{name}, {precision}", word, _training(methods[fast], views, bf16=bf16))
        for precision, bf16 in config.precisions
        for name, fast, word in (
            ("definition", False, NEAR if bf16 else BASE),
            ("ours", True, NEAR if bf16 else EXACT),
        )
    ]
    return _steps(f"Models Genesis step, batch {config.genesis_batch}", variants, config)


def pcrl_step(config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """PCRL's: plain up path, copied queue, autograd of concatenated logits, values read, teacher parameter by parameter."""
    generator = torch.Generator().manual_seed(0)
    settings = PCRLConfig(queue=config.queue)
    plain, fast = (method_of_size(PCRL, settings, config, fast_up=up) for up in (False, True))
    image, other = (crops_like_ct(config.pcrl_batch, config.patch, generator) for _ in range(2))
    views = fast.views({"image": image, "image2": other}, generator)
    variants = []
    for precision, bf16 in config.precisions:
        slow = _training(
            plain,
            views,
            bf16=bf16,
            loss=lambda: reference.pcrl_loss(plain, views),
            after=lambda: reference.pcrl_after_step(plain),
        )
        variants.append(Variant(f"definition, {precision}", NEAR if bf16 else BASE, slow))
        variants.append(Variant(f"ours, {precision}", NEAR if bf16 else EXACT, _training(fast, views, bf16=bf16)))
    return _steps(f"PCRL step, batch {config.pcrl_batch}", variants, config)


def _steps(piece: str, variants: list[Variant], config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """Steps beside the convolution rate that this machine reaches in the same minutes."""
    counted = []
    for variant in variants:
        with FlopCounterMode(display=False) as counter:
            variant.work()
        counted.append(counter.get_total_flops())
    rulers = {
        name: _convolution(torch.bfloat16 if bf16 else torch.float32, config.ruler) for name, bf16 in config.precisions
    }
    times = median_times([*variants, *(work for work, _ in rulers.values())], config.step_repeats)
    peaks = {
        name: flops / ms / 1e6  # GFLOP/s
        for (name, (_, flops)), ms in zip(rulers.items(), times[len(variants) :], strict=True)
    }
    size = "×".join(map(str, config.patch))
    say(f"\n**{piece}, crops of {size}, U-Net {'-'.join(map(str, config.channels))}, views made before**\n")
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in peaks.items())
    say(f"Convolution {config.ruler}→{config.ruler} in this run: {rates} GFLOP/s.\n")
    say("| variant | equivalence | ms | times as fast | GFLOP | GFLOP/s | of the convolution's |")
    say("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for variant, ms, flops in zip(variants, times[: len(variants)], counted, strict=True):
        rate, ratio = flops / ms / 1e6, times[0] / ms
        share = rate / peaks[variant.name.rpartition(" ")[2]]
        cells = f"{ms:,.0f} | {ratio:.2f} | {flops / 1e9:,.0f} | {rate:.0f} | {share:.0%}"
        say(f"| {variant.name} | {variant.equivalence} | {cells} |")
        rows.append({"piece": piece, "variant": variant.name, "ms": ms, "ratio": ratio, "flops": flops, "share": share})
    return rows


def _convolution(dtype: torch.dtype, channels: int) -> tuple[Variant, int]:
    """A large 3D convolution, and its floating-point operations."""
    x = torch.rand(2, channels, 32, 32, 16).to(dtype)
    weight = torch.rand(channels, channels, 3, 3, 3).to(dtype)
    if dtype == torch.bfloat16:  # the faster layout of half precision
        x, weight = (v.to(memory_format=torch.channels_last_3d) for v in (x, weight))

    def work() -> None:
        F.conv3d(x, weight, padding=1)

    return Variant(f"convolution {dtype}", BASE, work), 2 * 27 * channels * x.numel()

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

import importlib.util
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench import references as reference
from experiments.run.environment import hardware, say
from ssl_med.config import build, parse_overrides
from ssl_med.losses.contrastive import info_nce, nt_xent
from ssl_med.losses.distillation import sinkhorn
from ssl_med.methods.models_genesis import ModelsGenesis, ModelsGenesisConfig
from ssl_med.methods.pcrl import PCRL, PCRLConfig
from ssl_med.networks.backbone import backbone_config
from ssl_med.networks.queue import Queue
from ssl_med.optim import OptimConfig
from ssl_med.precision import AUTO, HALF, decide
from ssl_med.ranges import Count
from ssl_med.spec import Batch, DataSpec, SslMedError
from ssl_med.transforms import _compiled, corruptions
from ssl_med.transforms.intensity import nonlinear

TABLES = ("transforms", "genesis", "pcrl", "losses")
EXACT, LAW, NEAR, BASE = "exact", "same law", "approximate", "-"
_TAU = 0.2


@dataclass
class BenchSpeedConfig:
    """How long to measure, and what; the defaults are the papers' sizes."""

    only: str = ""
    """comma-separated tables; empty: all"""
    repeats: Count = 15
    """rounds of transforms and losses; their median is printed"""
    step_repeats: Count = 3
    """rounds of training steps"""
    crops: Count = 16
    """crops per round of a transform"""
    patch: tuple[int, ...] = (64, 64, 32)
    """size of a crop, in voxels"""
    windows: Count = 10_000
    """windows of local shuffling"""
    maps: Count = 64
    """shufflings of the pool"""
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    """widths of the U-Net"""
    genesis_batch: Count = 2
    """crops per training step of Models Genesis"""
    pcrl_batch: Count = 1
    """crop pairs per training step of PCRL"""
    batch: Count = 256
    """samples per loss"""
    dim: int = 128
    """length of a contrasted embedding"""
    queue: int = 16384
    """keys of the queue"""
    prototypes: int = 3000
    """clusters of Sinkhorn's algorithm"""
    ruler: int = 128
    """channels of the convolution whose rate steps are compared with"""
    bf16: bool = False
    """measure bfloat16 although the processor emulates it"""

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or min(self.patch) < 24:
            raise SslMedError(
                f"patch {list(self.patch)} must be three numbers of 24 at least: smaller hold no painting"
            )
        for name in self.tables:
            if name not in TABLES:
                raise SslMedError(f"only={name}: is no table; choose of {', '.join(TABLES)}")

    @property
    def precisions(self) -> tuple[tuple[str, bool], ...]:
        """Name of each arithmetic that is measured, and whether it is bfloat16."""
        half = self.bf16 or decide(AUTO, accelerator="cpu").value == HALF
        return (("fp32", False), ("bf16", True)) if half else (("fp32", False),)

    @property
    def tables(self) -> tuple[str, ...]:
        """Those chosen."""
        return tuple(self.only.split(",")) if self.only else TABLES


@dataclass
class Variant:
    """One way to do a piece of work; `units` are the images that a call of `work` makes."""

    name: str
    equivalence: str
    work: Callable[[], Any]
    units: int = 1


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


def race(variants: Sequence[Variant], repeats: int) -> list[float]:
    """Median milliseconds of processor time per unit; a round calls each variant once, and the first is not counted."""
    found: list[list[float]] = [[] for _ in variants]
    for number in range(repeats + 1):
        for variant, times in zip(variants, found, strict=True):
            start = time.process_time()
            variant.work()
            if number:
                times.append(1000 * (time.process_time() - start) / variant.units)
    return [statistics.median(times) for times in found]


def _table(title: str, pieces: dict[str, list[Variant]], repeats: int) -> list[dict[str, Any]]:
    say(f"\n**{title}**\n")
    say("| piece | variant | equivalence | ms | times as fast |")
    say("| --- | --- | --- | ---: | ---: |")
    rows = []
    for piece, variants in pieces.items():
        times = race(variants, repeats)
        for variant, ms in zip(variants, times, strict=True):
            ratio = times[0] / ms
            say(f"| {piece} | {variant.name} | {variant.equivalence} | {ms:.3g} | {ratio:.3g} |")
            rows.append({"piece": piece, "variant": variant.name, "ms": ms, "ratio": ratio})
    return rows


# --- transforms -------------------------------------------------------------------------------------------------------


def crops_like_ct(count: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(B, 1, *S) in [0, 1]: smooth anatomy with noise, whole Hounsfield units from -1000 to 1000."""
    smooth = torch.rand((count, 1, *(max(2, side // 8) for side in shape)), generator=generator)
    anatomy = F.interpolate(smooth, size=tuple(shape), mode="trilinear", align_corners=True)
    noise = 0.02 * torch.randn(anatomy.shape, generator=generator)
    return ((anatomy + noise).clamp(0, 1) * 2000).round() / 2000


def transforms(config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """Corruptions of Models Genesis, one after the other and as its generation of pairs."""
    generator, shape, windows = torch.Generator().manual_seed(0), config.patch, config.windows
    random.seed(0)
    np.random.seed(0)
    x = crops_like_ct(config.crops, shape, generator)
    images = list(x.numpy())
    maps = corruptions.shuffle_maps(config.maps, shape, generator, windows=windows)
    if _compiled.sources() is None:
        say("\nnumba is not installed: rows with and without it are the same")

    def loop(work: Callable[[Any], Any]) -> Variant:
        return Variant("definition", BASE, lambda: [work(image) for image in images], len(images))

    def ours(name: str, equivalence: str, work: Callable[[], Any]) -> Variant:
        return Variant(name, equivalence, work, len(x))

    exact = ours("ours", LAW, lambda: corruptions.local_shuffle(x, generator, p=1.0, windows=windows))
    plain = ours("ours, without numba", LAW, lambda: _without_numba(exact.work))
    pooled = ours(
        "ours, pooled", "same law, few maps", lambda: corruptions.pooled_shuffle(x, generator, maps=maps, p=1.0)
    )
    shuffling = f"local shuffling, {windows:,} windows"
    genesis = ModelsGenesisConfig(windows=windows)
    methods = [_method(ModelsGenesis, ModelsGenesisConfig(windows=windows, pooled=n), config) for n in (0, config.maps)]
    batch: Batch = {"image": x}
    pieces = {
        "Models Genesis pair": [
            loop(lambda image: reference.generate_pair(image, genesis)),
            ours("ours", LAW, lambda: methods[0].views(batch, generator)),
            ours("ours, without numba", LAW, lambda: _without_numba(lambda: methods[0].views(batch, generator))),
            ours("ours, pooled", "same law, few maps", lambda: methods[1].views(batch, generator)),
        ],
        shuffling: [loop(lambda image: reference.local_shuffle(image, windows=windows)), exact, plain, pooled],
        f"{shuffling}, against MONAI": [
            _monai_shuffle(x[0], windows),
            replace(exact, equivalence=NEAR),
            replace(plain, equivalence=NEAR),
            replace(pooled, equivalence=NEAR),
        ],
        "non-linear": [
            loop(reference.nonlinear),
            ours("ours", NEAR, lambda: nonlinear(x, generator, p=1.0)),
        ],
        "in-painting": [loop(reference.inpaint), ours("ours", LAW, lambda: corruptions.inpaint(x, generator))],
        "out-painting": [loop(reference.outpaint), ours("ours", LAW, lambda: corruptions.outpaint(x, generator))],
    }
    size = "×".join(map(str, shape))
    return _table(f"Transforms, per crop of {size}, batches of {len(x)}", pieces, config.repeats)


def _without_numba(work: Callable[[], Any]) -> None:
    with mock.patch.object(_compiled, "sources", return_value=None):
        work()


def _monai_shuffle(image: Tensor, windows: int) -> Variant:
    """MONAI's nearest transform: it shuffles the current content, so a value can wander from window to window."""
    from monai.transforms.intensity.array import RandCoarseShuffle

    largest = [side // 10 for side in image.shape[1:]]
    shuffle = RandCoarseShuffle(holes=windows, spatial_size=1, max_spatial_size=largest, prob=1.0)
    return Variant("MONAI RandCoarseShuffle", BASE, lambda: shuffle(image))


# --- training steps ---------------------------------------------------------------------------------------------------


def _method(kind: type[Any], method_config: Any, config: BenchSpeedConfig, *, fast_up: bool = True) -> Any:
    torch.manual_seed(0)
    spec = DataSpec(name="random", spatial_dims=3, in_channels=1, patch_size=config.patch)
    backbone = backbone_config("unet", channels=config.channels, fast_up=fast_up)
    return kind(method_config, spec=spec, backbone=backbone, optim=OptimConfig(), batch_size=1).train()


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
    methods = {fast: _method(ModelsGenesis, ModelsGenesisConfig(), config, fast_up=fast) for fast in (False, True)}
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
    plain, fast = (_method(PCRL, settings, config, fast_up=up) for up in (False, True))
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
    times = race([*variants, *(work for work, _ in rulers.values())], config.step_repeats)
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


# --- losses -----------------------------------------------------------------------------------------------------------


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
    return _table(f"Losses with gradients, batch {config.batch}, dimension {config.dim}", pieces, config.repeats)

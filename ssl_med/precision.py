"""Which arithmetic a training should use on the device that it runs on: `trainer.precision=auto`.

bfloat16 halves the time of a step on a processor or GPU that has units for it. One that has none emulates it, and is then 2 to
300 times slower than in float32 (measured: docs/benchmarks.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch.nn import functional as F

from ssl_med.processor import has_bf16, processor_name, vector_units
from ssl_med.spec import SslMedError

AUTO, SINGLE, HALF, HALF_FP16 = "auto", "32", "bf16-mixed", "16-mixed"
SWITCH = "SSL_MED_BF16"  # 1 or 0: whether `auto` takes bfloat16 on a processor, whatever its flags and measurement say
WORTH = 1.2  # times as fast as float32 that a measured bfloat16 must be
SLOW = 0.1  # seconds after which a convolution is not repeated: it is emulated, and one time tells enough

_OF_TRAINER: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    SINGLE: "32-true", HALF: "bf16-mixed", HALF_FP16: "16-mixed",
}  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a run.

    * value: as trainer.precision names it. * on_gpu: whether a GPU computes. * why: the machine's reason; '': the user chose.
    """

    value: str
    on_gpu: bool = False
    why: str = ""

    @property
    def of_trainer(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """As Lightning's Trainer names it."""
        return _OF_TRAINER[self.value]

    @property
    def automatic(self) -> bool:
        """Whether the machine decided."""
        return bool(self.why)

    def __str__(self) -> str:
        return f"{self.value}, because {self.why}" if self.automatic else self.value

    def announcement(self) -> str:
        """Line for the start of a run; '' when there is nothing to say."""
        if self.automatic:
            return f"precision: {self}"
        return warning() if self.value == HALF and not self.on_gpu else ""


def decide(asked: str, *, accelerator: str, begun: str = "") -> Precision:
    """The arithmetic that is used when `asked` is.

    Args:
        asked: value of trainer.precision.
        accelerator: value of trainer.accelerator.
        begun: that of the same run before it was interrupted, which `auto` keeps: a training does not change its arithmetic.

    Raises:
        SslMedError: 16-mixed without a GPU.
    """
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if asked != AUTO:
        if asked == HALF_FP16 and not on_gpu and accelerator in ("cpu", "auto"):
            raise SslMedError("trainer.precision=16-mixed needs a GPU; choose auto, 32 or bf16-mixed")
        return Precision(asked, on_gpu)
    if begun:
        return Precision(begun, on_gpu, "this run began with it")
    half, why = _of_gpu() if on_gpu else _of_processor(accelerator)
    return Precision(HALF if half else SINGLE, on_gpu, why)


def warning() -> str:
    """What to say of bfloat16 that was asked for; '' where the processor has units for it or is quicker with it anyway."""
    if has_bf16():
        return ""
    ratio = bf16_speed()
    if ratio >= 1:
        return ""
    return (
        f"warning: trainer.precision={HALF} is emulated by {processor_name()} ({vector_units()}): a small convolution takes "
        f"{1 / ratio:.3g} times as long as in float32; trainer.precision=auto chooses what is faster here"
    )


@cache
def bf16_speed() -> float:
    """How many times as fast as in float32 a small convolution is in bfloat16 on the processor, measured once per process.

    Takes about 20 ms, and up to a second where bfloat16 is emulated.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((1, 16, 16, 16, 16), generator=generator)
    weight = torch.rand((16, 16, 3, 3, 3), generator=generator)

    def seconds(dtype: torch.dtype) -> float:
        a, b = x.to(dtype), weight.to(dtype)
        return _seconds(lambda: F.conv3d(a, b, padding=1))

    return seconds(torch.float32) / seconds(torch.bfloat16)


def _seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some times of `work`, which a busy machine disturbs least; the first one only where it is long."""
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        if times[0] > SLOW:
            return times[0]
    return min(times[1:])


def _of_gpu() -> tuple[bool, str]:
    name = torch.cuda.get_device_name()
    half = torch.cuda.is_bf16_supported(including_emulation=False)
    return half, f"{name} {'computes' if half else 'does not compute'} bfloat16 itself"


def _of_processor(accelerator: str) -> tuple[bool, str]:
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False, "bfloat16 is untried on this accelerator"
    switch = os.environ.get(SWITCH, "")
    if switch:
        if switch not in ("0", "1"):
            raise SslMedError(f"{SWITCH}={switch} must be 0 or 1")
        return switch == "1", f"{SWITCH}={switch}"
    name, known = processor_name(), has_bf16()
    if known is not None:
        return known, f"{name} is {vector_units()}"
    ratio = bf16_speed()
    said = f"{ratio:.2g} times as fast as" if ratio >= 1 else f"{1 / ratio:.2g} times as slow as"
    return ratio >= WORTH, f"a small convolution in bfloat16 is {said} in float32 on {name} ({vector_units()})"

"""What the processor is called, which vector units it has, and whether it computes bfloat16 itself."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
# what tells torch and oneDNN to leave units alone that the processor has
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@cache
def processor_name() -> str:
    """Model of the processor as it names itself, without trademarks; the architecture where it has no name."""
    name = _cpuinfo("model name")
    if not name and platform.system() == "Darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        name = asked.stdout.strip()
    name = name or platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", re.sub(r"\((R|TM|C)\)", "", name, flags=re.IGNORECASE)).strip()


def vector_units() -> str:
    """The widest vector units that torch uses, and those of bfloat16: "AVX512 without bf16 units"."""
    units = torch.backends.cpu.get_cpu_capability()
    limits = [f"{key}={os.environ[key]}" for key in LIMITS if os.environ.get(key)]
    if limits:
        return f"{units}, limited by {' '.join(limits)}"
    known = has_bf16()
    if known is None:
        return units
    found = [flag for flag in BF16_FLAGS if flag in _flags()]
    return f"{units} with {' and '.join(found)}" if known else f"{units} without bf16 units"


def has_bf16() -> bool | None:
    """Whether the processor multiplies bfloat16 in units of its own; None where its flags do not tell (ARM, limited units).

    `torch.ops.mkldnn._is_mkldnn_bf16_supported()` answers another question: it is true on any AVX-512 processor, where
    oneDNN emulates bfloat16.
    """
    if any(os.environ.get(key) for key in LIMITS):
        return None
    flags = _flags()
    if flags:
        return any(flag in flags for flag in BF16_FLAGS)
    if platform.machine().lower() in ("x86_64", "amd64"):  # no /proc: Windows, macOS
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return None


@cache
def _flags() -> frozenset[str]:
    """Flags of an x86 processor on Linux; empty elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """First value of a key of /proc/cpuinfo; '' without it."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else ""

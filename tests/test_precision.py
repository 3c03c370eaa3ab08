"""What `trainer.precision=auto` means on processors that this machine is not, and what is said of emulated bfloat16."""

import pytest
import torch

from ssl_med import precision, processor
from ssl_med.precision import bf16_speed, decide, warning
from ssl_med.spec import SslMedError

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)  Processor @ 2.50GHz\nflags\t\t: fpu avx2 avx512f {}\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine one whose /proc/cpuinfo reads so, and whose small convolution takes these seconds."""

    def make(text, *, single=1.0, half=1.0):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        times = iter([single, half])
        monkeypatch.setattr(processor, "CPUINFO", path)
        monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64" if "flags" in text else "aarch64")
        monkeypatch.setattr(processor.platform, "processor", lambda: "")
        monkeypatch.setattr(precision, "_seconds", lambda work, repeats=5: next(times))
        forget()

    monkeypatch.delenv("SSL_MED_BF16", raising=False)
    for key in processor.LIMITS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    yield make
    forget()


def forget():
    for cached in (processor.processor_name, processor._flags, bf16_speed):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("flags", "value", "units"),
    [
        ("avx512_vnni", "32", "AVX512 without bf16 units"),
        ("avx512_bf16", "bf16-mixed", "AVX512 with avx512_bf16"),
        ("avx512_bf16 amx_bf16", "bf16-mixed", "AVX512 with amx_bf16 and avx512_bf16"),
    ],
)
def test_flags_of_a_processor_decide(machine, flags, value, units):
    machine(XEON.format(flags), single=1.0, half=5.0)
    chosen = decide("auto", accelerator="cpu")
    said = f"precision: {value}, because Intel Xeon Processor @ 2.50GHz is {units}"
    assert (chosen.value, chosen.automatic, chosen.announcement()) == (value, True, said)
    told = decide("bf16-mixed", accelerator="cpu").announcement()
    assert bool(told) == (value == "32")
    if told:
        assert told.startswith(
            "warning: trainer.precision=bf16-mixed is emulated by Intel Xeon Processor @ 2.50GHz (AVX"
        )
        assert "a small convolution takes 5 times as long as in float32" in told
    assert decide("32", accelerator="cpu").announcement() == ""


@pytest.mark.parametrize(("half", "value"), [(0.5, "bf16-mixed"), (0.9, "32"), (300.0, "32")])
def test_a_short_measurement_decides_where_flags_do_not_tell(machine, half, value):
    machine("processor\t: 0\nFeatures\t: fp asimd bf16\n", single=1.0, half=half)
    assert decide("auto", accelerator="auto").value == value
    assert bool(warning()) == (half > 1)


def test_flags_do_not_count_where_the_user_limits_the_units(machine, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    machine(XEON.format("avx512_bf16"), single=1.0, half=200.0)
    why = decide("auto", accelerator="cpu").why
    assert "is 2e+02 times as slow as in float32" in why
    assert "limited by ONEDNN_MAX_CPU_ISA=AVX2" in why


@pytest.mark.parametrize(("units", "value"), [(True, "bf16-mixed"), (False, "32")])
def test_a_gpu_decides_by_what_it_reports(machine, monkeypatch, units, value):
    machine(XEON.format(""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: units and not including_emulation)
    assert decide("auto", accelerator="auto").value == value
    assert decide("auto", accelerator="cpu").value == "32"
    assert decide("bf16-mixed", accelerator="auto").announcement() == ""
    assert decide("16-mixed", accelerator="gpu").value == "16-mixed"


def test_the_users_switch_and_a_run_that_has_begun_rule(machine, monkeypatch):
    machine(XEON.format("avx512_bf16"))
    assert (
        decide("auto", accelerator="cpu", begun="32").announcement() == "precision: 32, because this run began with it"
    )
    assert decide("bf16-mixed", accelerator="cpu", begun="32").value == "bf16-mixed"
    monkeypatch.setenv("SSL_MED_BF16", "0")
    assert decide("auto", accelerator="cpu").announcement() == "precision: 32, because SSL_MED_BF16=0"
    monkeypatch.setenv("SSL_MED_BF16", "yes")
    with pytest.raises(SslMedError, match="SSL_MED_BF16=yes must be 0 or 1"):
        decide("auto", accelerator="cpu")
    with pytest.raises(SslMedError, match=r"trainer\.precision=16-mixed needs a GPU; choose auto, 32 or bf16-mixed"):
        decide("16-mixed", accelerator="cpu")


def test_a_small_convolution_is_timed_once_per_process():
    ratio = bf16_speed()
    assert 1e-4 < ratio < 100
    assert bf16_speed() == ratio

"""A result says what kind of processor computed it."""

from __future__ import annotations

import platform

import pytest

from clat.core import processor
from clat.core.environment import describe_environment

CPUINFO = "processor\t: 0\nvendor_id\t: x\nmodel name\t: Some CPU @ 2.10GHz\nflags\t\t: fpu sse2 {}\nbugs\t\t: y\n"


@pytest.fixture
def says(monkeypatch):
    return lambda text: monkeypatch.setattr(processor, "processor_text", lambda: text)


@pytest.mark.parametrize(
    ("flags", "units"),
    [("avx2", []), ("avx2 avx512_bf16", ["avx512_bf16"]), ("avx512_bf16 amx_bf16", ["amx_bf16", "avx512_bf16"])],
)
def test_name_instructions_and_the_fastest_bfloat16_unit(says, monkeypatch, flags, units):
    says(CPUINFO.format(flags))
    monkeypatch.setattr(processor.torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert processor.bfloat16_units() == units
    told = ", ".join(["Some CPU @ 2.10GHz", "AVX2", *units[:1]])
    assert processor.describe_processor() == told
    assert describe_environment("cpu")["device"] == f"cpu ({told})"


@pytest.mark.parametrize("text", ["", "processor\t: 0\nmodel name\t:\nflags\t\t:\n"])
def test_where_nothing_is_said_python_knows_the_architecture(says, monkeypatch, text):
    says(text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert processor.processor_name() == platform.machine()
    assert processor.bfloat16_units() == []

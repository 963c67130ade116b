"""The counts of a campaign as a page of the documentation, all of it made from the JSON beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WAYS = {
    "SIGKILL": "SIGKILL, to all processes of the command",
    "SIGTERM": "SIGTERM, to the command alone or to all its processes",
    "SIGINT": "SIGINT, as by Ctrl-C",
    "disk full": "a disk that is full at a random size",
    "read-only": "the folder read-only from a random moment on",
}
KINDS = {
    "options": "command lines of every command",
    "recipes": "recipes, trained or shown in full",
    "protocols": "protocols of evaluations",
    "images": "folders of images, tables",
    "weights": "weight files, PyTorch's and safetensors",
    "networks": "networks of one's own, evaluated, ranked, checked, trained",
    "records": "run folders and results that somebody changed",
}


def page(data: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [
        "# Kills and hostile inputs",
        f"    {' '.join(data['command'])}",
        f"Seed {data['seed']}, {data['date']}, commit {data['commit']}, {data['processor']}, one thread, torch "
        f"{data['environment']['torch']}, Python {data['environment']['python']}; "
        f"{data['cpu_seconds'] / 60:.0f} CPU minutes. All below is counted by that command; the numbers are in "
        "[robustness.json](robustness.json). `make test-slow` runs it too.",
        *(_kills(data["kills"]) if "kills" in data else ()),
        *(_inputs(data["inputs"], data["peak_memory_bytes"]) if "inputs" in data else ()),
    ]
    return "\n\n".join(parts) + "\n"


def _kills(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for way, meaning in WAYS.items():
        counts = [found["by_command_and_way"].get(f"{name}, {way}", 0) for name in ("train", "evaluate", "study")]
        if sum(counts):
            rows.append(f"| {meaning} | {' | '.join(map(str, counts))} |")
    anew = sum(one["anew"] for one in found["each"])
    return [
        "## Kills",
        f"{found['kills']} kills at random moments of a training run (two stages, with selections), an evaluation "
        "(four attacks, with a state file) and a study (two rows, one reusing the other's stage), each on "
        "handwritten digits and a network of two convolutions. Each was then gone on with, and had to end with the "
        "same weights, states, metrics and verdicts as one that was left alone, bit for bit; within two seconds of "
        "the signal, with no process left at work, no traceback, and one line for a bad disk.",
        f"**{found['identical']} of {found['kills']} did**; {found['hit']} of them were hit before they had come "
        f"to their end, {anew} were interpreters of their own, hit while they import as well, the others forks.",
        "\n".join(["| | train | evaluate | study |", "| --- | --- | --- | --- |", *rows]),
        *(f"Left out: {reason}." for reason in found["skipped"]),
    ]


def _inputs(found: Mapping[str, Any], memory: int) -> list[str]:
    rows = [
        f"| {KINDS[kind]} | {counts['result']} | {counts['refused']} | {counts['stopped']} | {counts['fault']} |"
        for kind, counts in found["by_kind"].items()
        if sum(counts.values())
    ]
    return [
        "## Hostile inputs",
        f"{found['inputs']} inputs from generators ([how](https://hypothesis.readthedocs.io)), through the command "
        "line. Each must end in a result, or in one line and exit code 2, and change no file that was there; what "
        "was sound and took more than three seconds was stopped as by Ctrl-C, and had to stop.",
        f"**{found['fault']} faults**, and no process took more than {memory / 2**30:.1f} GiB.",
        "\n".join(["| | result | refused | stopped | fault |", "| --- | --- | --- | --- | --- |", *rows]),
    ]


def commit() -> str:
    """Return the short hash of the commit that is checked out, with a mark where files differ from it."""
    told = [
        subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    if told[0].returncode:
        return "unknown"
    return told[0].stdout.strip() + ("+" if told[1].stdout.strip() else "")


def processor() -> str:
    """Return what kind of processor this is, by the instructions that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "a processor"
    flags = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
    best = next((name for flag, name in flags.items() if f" {flag} " in text), "no AVX2")
    vendor = "Intel Xeon" if "GenuineIntel" in text else "AMD" if "AuthenticAMD" in text else "a processor"
    return f"{vendor} with {best}"

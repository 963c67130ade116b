"""The command: `python -m tests.robustness --out docs/results/robustness.json`; see `--help`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}

import torch
from tests.robustness import hostile, kills
from tests.robustness.inputs.records import keep
from tests.robustness.page import commit, page, processor
from tests.robustness.process import import_what_runs_import
from tests.robustness.subjects import TRAIN, prepare

from clat.core.environment import describe_environment


def main() -> int:
    """Run the campaign; return 1 if it found a fault."""
    options = _options()
    torch.set_num_threads(1)
    # What a script starts in the background ignores Ctrl-C, and so would all commands that are started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and take mounts away
    place = Path(tempfile.mkdtemp(prefix="clat-robustness-")) if options.place is None else options.place
    place.mkdir(exist_ok=True)
    prepare(place)
    (place / "first").mkdir()
    import_what_runs_import(TRAIN.start(place / "first"), place, place / "log-first")
    found: dict[str, Any] = {}
    if options.kills:
        found["kills"] = _killed(options, place)
    if options.inputs:
        found["inputs"] = _given(options, place)
    faults = sum(len(part["faults"]) for part in found.values())
    about = _about(options)
    if options.out is not None:
        options.out.write_text(json.dumps({**about, **found}, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(page({**about, **found}))
    print(f"{faults} faults" + (f"; what they left is in {place}" if faults else ""))
    if not faults and options.place is None:
        shutil.rmtree(place)
    return int(faults > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--inputs", type=int, default=1000, help="how many hostile inputs (default: 1000)")
    parser.add_argument("--kinds", nargs="+", choices=hostile.KINDS, help="only these kinds of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the counts as JSON, and beside it as Markdown")
    parser.add_argument("--place", type=Path, metavar="DIR", help="a new folder to work in, which is kept")
    return parser.parse_args()


def _killed(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    start = time.monotonic()
    campaign = kills.Campaign(place, options.seed, _say)
    try:
        found = campaign.run(options.kills)
    finally:
        campaign.close()
    return {"seconds": round(time.monotonic() - start), **kills.counted(found, campaign.skipped)}


def _given(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    start = time.monotonic()
    keep(place / "first", place / "killed_network.py")
    outcomes = []
    for kind, count in hostile.share_out(options.inputs, options.kinds).items():
        outcomes += hostile.run_kind(kind, count, options.seed, place, _say)
    return {"seconds": round(time.monotonic() - start), **hostile.counted(outcomes)}


def _about(options: argparse.Namespace) -> dict[str, Any]:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "command": ["python", "-m", "tests.robustness", *sys.argv[1:]],
        "seed": options.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "environment": describe_environment(),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in (own, children))),
        "peak_memory_bytes": 1024 * max(own.ru_maxrss, children.ru_maxrss),
    }


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

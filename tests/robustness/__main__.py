"""The command: `python -m tests.robustness --out docs/results/robustness.json`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--inputs", type=int, default=1000)
    options.add_argument("--only", nargs="+")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(1)
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(text: str) -> None:
        print(text, flush=True)

    place = chosen.keep or Path(tempfile.mkdtemp())
    place.mkdir(exist_ok=True)
    data = {}
    from tests.robustness.process import import_what_runs_import
    from tests.robustness.subjects import TRAIN, prepare

    prepare(place)
    (place / "first").mkdir()
    import_what_runs_import(TRAIN.start(place / "first"), place, place / "log-first")
    if chosen.kills:
        from tests.robustness.kills import Campaign, counted

        campaign = Campaign(place, chosen.seed, say)
        try:
            kills = campaign.run(chosen.kills)
        finally:
            campaign.close()
        print(campaign.seconds, campaign.bytes)
        data["kills"] = counted(kills, campaign.skipped)
    if chosen.inputs:
        import shutil

        from tests.robustness import hostile
        from tests.robustness.inputs.records import keep

        kept = place / "kept"
        kept.mkdir()
        shutil.copytree(place / "first" / "run", kept / "run")
        shutil.copy(place / "killed_network.py", kept)
        keep(kept)
        outcomes = []
        for kind, count in hostile.share_out(chosen.inputs).items():
            if not chosen.only or kind in chosen.only:
                outcomes += hostile.timed(kind, count, chosen.seed, place, say)
        data["inputs"] = hostile.counted(outcomes)
        lines = {}
        for o in outcomes:
            if o.ended == "refused":
                lines.setdefault(o.line[:120], []).append(o.kind)
        (place / "lines.txt").write_text(
            "\n".join(f"{len(v)} {v[0]} {k}" for k, v in sorted(lines.items(), key=lambda p: -len(p[1])))
        )
    if chosen.out:
        chosen.out.write_text(json.dumps(data, indent=1))
    print({k: {a: b for a, b in v.items() if a not in ("each", "faults")} for k, v in data.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command: `python -m tests.robustness --out docs/results/robustness.json`."""

import argparse
import json
import sys
import tempfile
from pathlib import Path


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path)
    chosen = options.parse_args()
    import torch

    torch.set_num_threads(1)
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from tests.robustness.kills import Campaign, counted

    place = chosen.keep or Path(tempfile.mkdtemp())
    place.mkdir(exist_ok=True)
    campaign = Campaign(place, chosen.seed, lambda t: print(t, flush=True))
    try:
        kills = campaign.run(chosen.kills)
    finally:
        campaign.close()
    print(campaign.seconds, campaign.bytes)
    print(json.dumps(counted(kills, campaign.skipped), indent=1)[:3000])
    return 0


if __name__ == "__main__":
    sys.exit(main())

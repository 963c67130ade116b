"""autoattack-sampled on a robust network by others, and what full AutoAttack would cost:

python -m benchmarks.sampled_run --network cnn_a --eps 8/255 --images 1000 --out FILE
"""

from __future__ import annotations

import argparse
import json

import torch

import clat
from benchmarks.foreign_networks import FILES, foreign_network
from clat.core.files import claim_output, write_json
from clat.evaluation.sampled import SCREENS, evaluate_sampled


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--network", default="cnn_a", choices=list(FILES))
    options.add_argument("--eps", default="8/255")
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--screen", default="cr", choices=SCREENS)
    options.add_argument("--out", required=True)
    chosen = options.parse_args()
    claim_output(chosen.out)
    torch.set_num_threads(1)
    images = clat.load_split("cifar10", "test").take(chosen.images)
    found = evaluate_sampled(
        foreign_network(chosen.network), images, eps=chosen.eps, screen=chosen.screen, batch_size=500
    )
    full = found.full_cost
    passes = found.cost.forwards + found.cost.backwards
    ratio = None if full is None else round(passes / (full.forwards + full.backwards), 3)
    data = {
        "benchmark": "sampled_run",
        **vars(chosen),
        "part of full AutoAttack's passes": ratio,
        **found.to_dict(),
    }
    print(json.dumps(data, indent=1))
    write_json(chosen.out, data)


if __name__ == "__main__":
    main()

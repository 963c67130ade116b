"""The options by which `clat evaluate` is told what to run and when to stop."""

from __future__ import annotations

import argparse


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the protocol, the plans' settings, and the two ways to stop."""
    parser.add_argument(
        "--protocol",
        help="autoattack, standard, cr, pgd-20, ..., a TOML file, or a plan: autoattack-sampled, fast (default: "
        "pgd-20, or what --budget allows)",
    )
    parser.add_argument("--screen", help="of autoattack-sampled: cr, or apgd (default: cr)")
    parser.add_argument("--sample", type=int, metavar="N", help="of autoattack-sampled: images in the sample")
    parser.add_argument("--budget", metavar="TIME", help="30s, 10m, 2h: choose protocol and images that fit in it")
    parser.add_argument(
        "--target-width", type=float, metavar="POINTS", help="go on until the interval is as narrow as that"
    )

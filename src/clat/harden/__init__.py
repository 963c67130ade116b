"""From an ordinary classifier to a robust one within a budget: look, plan, train, keep the promise, measure."""

from clat.harden.run import Hardened, harden, resume_hardening
from clat.harden.settings import HardenConfig, parse_budget

__all__ = ["HardenConfig", "Hardened", "harden", "parse_budget", "resume_hardening"]

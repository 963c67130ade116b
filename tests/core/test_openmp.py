"""torch's threads sleep soon in the commands, unless the user has said how they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clat.core.openmp import SPINS, wait_briefly


@pytest.mark.parametrize("said", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_said_stays(said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(said))
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == (said.get("GOMP_SPINCOUNT") if said else SPINS)


def test_a_command_sets_it_before_torch_is_loaded() -> None:
    code = (
        "import os, sys; sys.argv = ['clat', '--version']\n"
        "from clat.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [SPINS, "False"]

"""The wheel, as a stranger has it: built, checked, installed where nothing of the repository is, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

import clat

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*words: object, **settings: Any) -> str:
    """Run a program outside of the repository and of its PYTHONPATH; its failure is the test's."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=900, env=env, **settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of wheel and sdist, built from a copy of what they are made of."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run(sys.executable, "-m", "build", "--no-isolation", source, cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that holds the wheel alone, and reads torch and the like from this one's.

    A `.pth` file adds a folder without the `.pth` files in it, so an editable clat is not seen through it.
    """
    place = tmp_path_factory.mktemp("empty")
    venv.create(place, with_pip=False, symlinks=True)
    paths = {"base": str(place), "platbase": str(place)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    (wheel,) = dist.glob("*.whl")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        place / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    )
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_wheel_and_sdist_pass_the_index_s_check(dist: Path) -> None:
    pytest.importorskip("twine")
    names = sorted(file.name for file in dist.iterdir())
    version = clat.__version__
    assert names == [f"torch_clat-{version}-py3-none-any.whl", f"torch_clat-{version}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())


def test_the_demo_runs_outside_of_the_repository(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import clat; print(clat.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert run(installed / "clat", "--version", cwd=tmp_path) == f"clat {clat.__version__}\n"
    assert "demo-pgd-at" in run(installed / "clat", "recipes", cwd=tmp_path), "the recipes are in the wheel"
    run(installed / "clat", "demo", "--epochs", 1, "--out", "demo", cwd=tmp_path)
    assert "<svg" in (tmp_path / "demo" / "hardened" / "report.html").read_text()

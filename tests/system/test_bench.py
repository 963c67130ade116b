"""`clat bench` on a narrow network."""

from __future__ import annotations

import json

import pytest

from clat.cli.bench import bench_stages

SMALL = ("--width", 2, "--batch-size", 4, "--image-size", 8, "--rounds", 1, "--steps", 2, "--device", "cpu")


def test_table_and_json(clat, tmp_path):
    out = tmp_path / "bench.json"
    outcome = clat(
        *("bench", *SMALL, "--objectives", "pgd-at", "trades", "clat", "--layers", 11, "--profile", "--out", out)
    )
    assert outcome.code == 0, outcome
    assert "plain trades" in outcome.out
    assert "selection, 100 images" in outcome.out
    found = json.loads(out.read_text())
    rows = found["rows"]
    assert list(rows) == ["pgd-at", "trades", "clat 11"]
    assert (rows["pgd-at"]["forwards"], rows["pgd-at"]["backwards"]) == (3, 3)
    assert (rows["clat 11"]["forwards"], rows["clat 11"]["backwards"]) == (4, 3)  # clean once, two steps, moved
    assert rows["pgd-at"]["to_pgd_at"] == rows["pgd-at"]["to_pgd_at_floor"] == 1
    assert rows["clat 11"]["to_pgd_at_floor"] < 0.8
    assert rows["clat 11"]["to_pgd_at_memory"] < 1
    assert all(row["seconds"] > 0 and row["faster_than_plain"] > 0 for row in rows.values())
    shares = [row["share"] for row in found["surroundings"].values()]
    assert len(shares) == 3
    groups = rows["clat 11"]["profile"]["groups"]
    assert sum(group["share"] for group in groups.values()) == pytest.approx(1)
    assert groups["convolution"]["arithmetic_floor"] > 0


def test_many_layers_are_counted_in_the_label():
    layers = [str(layer) for layer in range(1, 18)]
    assert list(bench_stages(["pgd-at", "clat"], layers, steps=None)) == ["pgd-at", "clat, 17 layers"]
    assert list(bench_stages(["clat"], ["39", "14"], steps=None)) == ["clat 39,14"]


def test_bad_input(refused):
    assert "pgd-at" in refused("bench", "--objectives", "pgd-att")
    assert "--layers" in refused("bench", "--objectives", "clat")
    line = refused("bench", "--objectives", "pgd-at", "trades", "--layers", 99)
    assert "--layers names what" in line
    assert "--steps is for inner attacks of several steps: standard has none" in refused(
        "bench", "--objectives", "standard", "--steps", 3
    )
    assert "layer '99'" in refused("bench", *SMALL, "--objectives", "pgd-at", "clat", "--layers", 99)
    assert "layer 'nine'" in refused("bench", *SMALL, "--objectives", "clat", "--layers", "nine")
    assert "rounds is 0" in refused("bench", *SMALL[:-4], "--rounds", 0, "--device", "cpu")

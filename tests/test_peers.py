"""Peers in the benchmark, from imitated checkouts: each is found, run by its own pipeline and timed pass by pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from cf_app.evaluation import full_size
from cf_app.evaluation.peer import measure_peer
from tests import imitated_peers


def test_every_peer_is_timed_by_its_own_pipeline(tmp_path: Path) -> None:
    places = {
        "Self-Forcing": imitated_peers.self_forcing(tmp_path / "sf"),
        "Context Forcing": imitated_peers.context_forcing(tmp_path / "cf"),
        "FlashDreams": imitated_peers.flashdreams(tmp_path / "fd"),
    }
    wheel = imitated_peers.flashdreams_wheel(tmp_path / "flashdreams-0.1.0-py3-none-any.whl")
    paths = [*places.values(), wheel]
    cases = [{"kind": "peer", "tiny": True, "path": str(path), "visible": 21} for path in paths]
    rows = list(full_size.run(cases, 600))
    assert [row["problem"] for row in rows] == [None] * 4
    assert [row["found"]["peer"] for row in rows] == [*places, "FlashDreams"]
    for row in rows:
        found = row["found"]
        stages = found["stage_ms"]
        assert stages["context"] > 0 and stages["denoise"] > 0 and found["decoder"] == "none"
        assert found["fps"] == pytest.approx(12000 / (stages["context"] + stages["denoise"]))
        assert found["fps_without_cache_pass"] > found["fps"]
    text = full_size.table(rows)
    assert all(f"{name}, 18+3" in text for name in places)


def test_a_folder_that_is_no_peer(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "causal_long_inference.py").touch()
    with pytest.raises(ValueError, match=r"utils/wan_wrapper\.py is not there"):
        measure_peer(tmp_path, 21, lambda **_: None, tiny=True)

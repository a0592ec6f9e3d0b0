"""The ghosts agree with the memory, and a history survives its file."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cf_app.memory.export import history_to_dict, read_history
from cf_app.memory.policy import SlowFast
from cf_app.memory.what_if import would_keep, would_promote
from tests.tiny import tiny_engine

PROMPT = "a red ball hops"
ENGINE = tiny_engine()


def run(policy, chunks: int = 12, seed: int = 1):
    session = ENGINE.new_session(PROMPT, seed=seed, policy=policy)
    return [ENGINE.step(session).snapshot for _ in range(chunks)]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tau=st.floats(0.85, 1.0),
    slow=st.integers(1, 6),
    sink=st.integers(0, 4),
    decision=st.sampled_from(["shared", "per_layer"]),
    timing=st.sampled_from(["clean", "as_released"]),
    seed=st.integers(0, 99),
)
def test_with_the_tau_in_force_it_is_what_is_held(tau, slow, sink, decision, timing, seed) -> None:
    if timing == "as_released":
        decision = "per_layer"
    history = run(SlowFast(sink=sink, slow=slow, tau=tau, timing=timing, decision=decision), 10, seed)
    for upto in range(1, len(history) + 1):
        last = history[upto - 1]
        held = {e.latent: e.agreement for e in last.entries if e.lane == "slow" and e.promoted_at is not None}
        assert would_keep(history[:upto], tau, 3) == held
        assert bool(would_promote(last, tau)) == bool(last.promoted)


def test_a_lower_tau_promotes_less() -> None:
    history = run(SlowFast(tau=0.9))
    counts = [sum(bool(would_promote(one, tau)) for one in history) for tau in (0.0, 0.5, 0.9, 0.95, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    # Two chunks without anything to let go: the memory's first latent frames are ordinary ones.
    assert counts[-1] == len(history) - 2
    with pytest.raises(ValueError, match=r"tau is 1\.5"):
        would_promote(history[-1], 1.5)


def test_a_history_survives_its_file() -> None:
    history = run(SlowFast(tau=0.93, decision="per_layer"))
    again = read_history(json.dumps(history_to_dict(history, {"seed": 1, "prompts": [PROMPT] * len(history)})))
    assert list(again.snapshots) == history
    assert again.facts["seed"] == 1


def test_what_is_no_history_is_refused() -> None:
    data = history_to_dict(run(SlowFast(), 2), {})
    with pytest.raises(ValueError, match="no JSON"):
        read_history("{")
    for broken, match in (
        ([], "no memory history"),
        ({**data, "format": "x"}, "no memory history"),
        ({**data, "version": 9}, "version 9"),
        ({**data, "snapshots": None}, "lacks"),
        ({**data, "snapshots": [3]}, "snapshot 0"),
        ({**data, "snapshots": [{**data["snapshots"][0], "entries": [{}]}]}, "snapshot 0"),
        ({**data, "snapshots": [{**data["snapshots"][0], "extra": 1}]}, "extra"),
    ):
        with pytest.raises(ValueError, match=match):
            read_history(json.dumps(broken))


def test_a_snapshot_tells_policy_and_gate() -> None:
    policy = SlowFast(tau=0.9, slow=5)
    first, *_, last = run(policy, 4)
    assert last.settings == {"policy": "slow_fast", **policy.__dict__}
    assert (first.eligible, last.eligible, last.gate) == (False, True, "sim")
    assert run(replace(policy, gate="none"), 3)[-1].gate == "none"

"""Memory policies as plain data: what is kept, when something is promoted, at which positions it is read.

A policy is a small frozen dataclass; its ``rule()`` says the same in the words that the lanes understand
(``lanes.py``), so a new policy is one class here and one line in ``POLICIES``. No torch, no tensors.

Sources: Slow-Fast memory, Context Forcing (arXiv 2602.06028, section 3 and released code); sink and window, LongLive
v1; first in first out, Self-Forcing; relative positions, KV flush and RoPE cut, Infinity-RoPE; packing, FramePack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import ClassVar, Literal, get_args, get_type_hints

Positions = Literal["slot", "absolute"]
Gate = Literal["sim", "uniform", "none"]
Timing = Literal["clean", "as_released"]
Decision = Literal["shared", "per_layer"]


@dataclass(frozen=True)
class Rule:
    """A policy in the words of the lanes. Sizes are latent frames.

    Attributes:
        sink: the first latent frames, kept for ever.
        slow: room for promoted ones; until promotions replace them, the ordinary latent frames that came next.
        fast: the newest, the current chunk included.
        positions: "slot", bounded positional encoding: the RoPE time index of a key is its place in the memory;
            "absolute": the index of its latent frame since the start.
        gate: what promotes the first latent frame of a chunk. "sim": similarity to the reference below ``tau``;
            "uniform": the index of the latent frame is a multiple of ``interval``; "none": nothing does.
        timing: "clean": decided once per chunk, from the keys of the clean passes, and the clean keys and values are
            kept; "as_released": decided in every pass against the pass before, and what the deciding pass made is kept.
        decision: "shared", the layers' mean similarity decides for all; "per_layer", each layer decides alone.
        global_sink: a re-cache after a prompt switch leaves the sink as it is.
        cut: latent frames by which a flush moves what is left away in RoPE time (Infinity-RoPE's cut); 0 for none.
        pools: tokens averaged into one for cells of the fast lane, by age in latent frames before the chunk; missing
            ages are not pooled.
    """

    sink: int
    slow: int
    fast: int
    positions: Positions = "slot"
    gate: Gate = "none"
    tau: float = 0.95
    interval: int = 6
    timing: Timing = "clean"
    decision: Decision = "shared"
    global_sink: bool = True
    cut: int = 0
    pools: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """Slots in all, the current chunk included."""
        return self.sink + self.slow + self.fast


@dataclass(frozen=True)
class SlowFast:
    """Slow-Fast memory of Context Forcing. Defaults are the paper's; "as_released" with "per_layer" is its code."""

    name: ClassVar[str] = "slow_fast"
    title: ClassVar[str] = "Slow-Fast (Context Forcing)"
    sink: int = 3
    slow: int = 12
    fast: int = 6
    tau: float = 0.95
    timing: Timing = "clean"
    decision: Decision = "shared"
    gate: Gate = "sim"
    interval: int = 6
    bounded: bool = True

    def rule(self, chunk_latents: int) -> Rule:
        """The rule; ``chunk_latents`` is not used."""
        if self.timing == "as_released" and self.decision == "shared":
            raise ValueError(
                f'{self.name}.decision is "shared", expected "per_layer" with timing "as_released": '
                "it is decided inside each layer"
            )
        positions: Positions = "slot" if self.bounded else "absolute"
        return Rule(
            self.sink, self.slow, self.fast, positions, self.gate, self.tau, self.interval, self.timing, self.decision
        )


@dataclass(frozen=True)
class Uniform:
    """Slow-Fast memory that promotes every ``every`` chunks, whatever happens (the paper's ablation)."""

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Slow-Fast, every n chunks"
    every: int = 2
    sink: int = 3
    slow: int = 12
    fast: int = 6

    def rule(self, chunk_latents: int) -> Rule:
        """The rule for chunks of ``chunk_latents``."""
        return Rule(self.sink, self.slow, self.fast, gate="uniform", interval=self.every * chunk_latents)


@dataclass(frozen=True)
class SinkWindow:
    """Attention sink and sliding window of LongLive: ``window`` slots in all, sink and current chunk included."""

    name: ClassVar[str] = "sink_window"
    title: ClassVar[str] = "Sink + window (LongLive)"
    sink: int = 3
    window: int = 12
    global_sink: bool = True

    def rule(self, chunk_latents: int) -> Rule:
        """The rule; ``chunk_latents`` is not used."""
        return Rule(self.sink, 0, self.window - self.sink, "absolute", global_sink=self.global_sink)


@dataclass(frozen=True)
class Fifo:
    """First in, first out (Self-Forcing): a sliding window of ``window`` slots, the current chunk included."""

    name: ClassVar[str] = "fifo"
    title: ClassVar[str] = "First in, first out (Self-Forcing)"
    window: int = 21

    def rule(self, chunk_latents: int) -> Rule:
        """The rule; ``chunk_latents`` is not used."""
        return Rule(0, 0, self.window, "absolute")


@dataclass(frozen=True)
class InfinityRope:
    """Sink and window with relative positions (Infinity-RoPE); a flush with ``cut`` > 0 is its RoPE cut."""

    name: ClassVar[str] = "infinity_rope"
    title: ClassVar[str] = "Relative positions (Infinity-RoPE)"
    sink: int = 3
    window: int = 12
    cut: int = 0

    def rule(self, chunk_latents: int) -> Rule:
        """The rule; ``chunk_latents`` is not used."""
        return Rule(self.sink, 0, self.window - self.sink, "slot", cut=self.cut)


@dataclass(frozen=True)
class FramePack:
    """An approximation of FramePack's idea on a student that was not trained for it: history packed geometrically.

    ``recent`` latent frames in full, then ``level`` each pooled by 2, 4, 8, ...: keys (before RoPE) and values are
    averaged over neighbouring tokens when they are read.
    """

    name: ClassVar[str] = "frame_pack"
    title: ClassVar[str] = "Packed history (training-free approximation of FramePack)"
    recent: int = 3
    level: int = 6
    levels: int = 2
    sink: int = 3

    def rule(self, chunk_latents: int) -> Rule:
        """The rule for chunks of ``chunk_latents``."""
        pools = [1] * self.recent
        for power in range(1, self.levels + 1):
            pools += [2**power] * self.level
        return Rule(self.sink, 0, len(pools) + chunk_latents, pools=tuple(pools))


Policy = SlowFast | Uniform | SinkWindow | Fifo | InfinityRope | FramePack
POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (SlowFast, Uniform, SinkWindow, Fifo, InfinityRope, FramePack)
}
_LEAST = {"interval": 1, "every": 1, "level": 1}
MOST_SLOTS = 1024  # entries of Wan's table of RoPE time indices


def surprisal(similarity: float) -> float:
    """1 - cosine similarity of pooled keys: 0 says that nothing has changed (Context Forcing, eq. 7)."""
    return 1.0 - similarity


def check_policy(policy: Policy, chunk_latents: int, most_slots: int = MOST_SLOTS) -> Rule:
    """The rule of ``policy``, checked.

    Args:
        chunk_latents: latent frames of a chunk.
        most_slots: RoPE time indices that the model has.

    Raises:
        ValueError: a field has the wrong type or lies outside its range, or sizes do not fit the model.
    """
    hints = get_type_hints(type(policy))
    for field in fields(policy):
        _check_field(policy, field.name, hints[field.name])
    rule = policy.rule(chunk_latents)
    if rule.fast < chunk_latents:
        raise ValueError(
            f"{policy.name} leaves {rule.fast} slots for fast memory, expected at least {chunk_latents}: "
            "the current chunk lives there"
        )
    if rule.slots > most_slots:
        raise ValueError(f"{policy.name} asks for {rule.slots} slots, the model has positions for {most_slots}")
    return rule


def _check_field(policy: Policy, name: str, hint: object) -> None:
    value = policy.__dict__[name]
    where = f"{policy.name}.{name} is {value!r}"
    if hint is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{where}, expected true or false")
    elif hint is int:
        least = _LEAST.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_SLOTS:
            raise ValueError(f"{where}, expected a whole number from {least} to {MOST_SLOTS}")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{where}, expected a number from 0 to 1")
    elif value not in get_args(hint):
        raise ValueError(f"{where}, expected one of {', '.join(map(str, get_args(hint)))}")


def policy_to_dict(policy: Policy) -> dict[str, str | int | float | bool]:
    """Registry name under "policy", and the fields."""
    return {"policy": policy.name, **asdict(policy)}


def policy_from_dict(data: Mapping[str, str | int | float | bool], base: Policy | None = None) -> Policy:
    """Inverse of ``policy_to_dict``.

    Args:
        data: registry name under "policy", and any of its fields.
        base: where fields that are not named come from, if it is the same policy or has a field of that name.

    Raises:
        ValueError: unknown policy or field. Values are checked by ``check_policy``.
    """
    name = data.get("policy", base.name if base is not None else SlowFast.name)
    if name not in POLICIES:
        raise ValueError(f"memory policy is {name!r}, expected one of {', '.join(POLICIES)}")
    kind = POLICIES[str(name)]
    known = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    changes = {key: value for key, value in data.items() if key != "policy"}
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"memory policy {name} has no {', '.join(unknown)}, expected {', '.join(known)}")
    if base is not None:
        shared = {key: value for key, value in asdict(base).items() if key in known}
        changes = {**shared, **changes}
    return replace(kind(), **changes)  # type: ignore[arg-type]

"""What commands do to a session. ``check`` refuses a bad one at once, ``apply`` carries it out between chunks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from cf_app.config import SWITCH_MODES
from cf_app.engine import timeline_edits
from cf_app.engine.messages import (
    Command,
    Evict,
    Pause,
    Pin,
    Play,
    Restore,
    Resume,
    SetMemory,
    SetPrompt,
    SetSeed,
    SetTimeline,
    Stop,
    Unpin,
    WatchAttention,
)
from cf_app.engine.sampler import check_seed
from cf_app.engine.timeline import MemoryMode, Timeline, check_prompt
from cf_app.engine.timeline_history import spliced
from cf_app.engine.timeline_markers import MemoryMark, SeedMark, Setting
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import Policy, policy_from_dict

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine
    from cf_app.engine.session import Session


Touch = Pin | Unpin | Evict | Restore


def check(
    engine: Engine, session: Session, command: Command, chunk: int, waiting: Iterable[Command] = ()
) -> int:
    """Refuse what can not be done.

    Args:
        chunk: the first chunk that is not being generated yet.
        waiting: commands that come first and have not been applied yet.

    Returns:
        the chunk from which on the command counts.

    Raises:
        ValueError: says what is wrong with it and what to do.
    """
    if isinstance(command, SetPrompt):
        _with_prompt(session.timeline, session.switch_memory, command, chunk)
        return chunk if command.at_chunk is None else command.at_chunk
    if isinstance(command, SetTimeline):
        engine.check_timeline(command.timeline, session.memory)
    elif isinstance(command, SetSeed):
        check_seed(command.seed)
    elif isinstance(command, SetMemory):
        policy, _ = _changed(session, command)
        session.memory.check_change(policy)
    elif isinstance(command, Touch):
        # The state is immutable, so a shallow copy is a place to try things.
        trial = copy.copy(session.memory)
        for first in waiting:
            if isinstance(first, Touch):
                with suppress(ValueError):
                    _touch(trial, first)
        _touch(trial, command)
    elif isinstance(command, WatchAttention):
        if not isinstance(command.on, bool):
            raise ValueError(f"on is {command.on!r}, expected true or false")
    elif not isinstance(command, Play | Pause | Resume | Stop):
        raise ValueError(f"{command!r} is no command, expected one of engine.messages")
    return chunk


def apply(engine: Engine, session: Session, command: Command) -> int:
    """Carry out a command on a session; returns the chunk from which on it counts. If it fails, nothing changes.

    Play, Pause, Resume and Stop concern the worker and do nothing here.
    """
    chunk = check(engine, session, command, session.chunk)
    if isinstance(command, SetPrompt):
        session.timeline = _with_prompt(session.timeline, session.switch_memory, command, session.chunk)
    elif isinstance(command, SetTimeline):
        session.timeline = spliced(session.timeline, command.timeline, session.chunk)
    elif isinstance(command, SetSeed):
        session.timeline = _marked(session.timeline, command, chunk)
        session.seed = command.seed
    elif isinstance(command, SetMemory):
        policy, mode = _changed(session, command)
        session.timeline = _marked(session.timeline, command, chunk)
        session.memory.reconfigure(policy)
        session.switch_memory = mode
    elif isinstance(command, Touch):
        _touch(session.memory, command)
    elif isinstance(command, WatchAttention):
        session.watch_attention = command.on
    return chunk


def planned(session: Session, waiting: Iterable[Command], chunk: int) -> Timeline:
    """The session's timeline as it will be when the waiting commands have been applied at ``chunk``."""
    timeline = session.timeline
    for command in waiting:
        if isinstance(command, SetPrompt):
            if command.at_chunk is None or command.at_chunk >= chunk:  # else it will be refused
                timeline = _with_prompt(timeline, session.switch_memory, command, chunk)
        elif isinstance(command, SetTimeline):
            timeline = spliced(timeline, command.timeline, chunk)
        elif isinstance(command, SetSeed | SetMemory):
            timeline = _marked(timeline, command, chunk)
    return timeline


def _marked(timeline: Timeline, command: SetSeed | SetMemory, chunk: int) -> Timeline:
    """A live change is written into the plan, so that the plan replays the session to the bit."""
    timeline = timeline_edits.unrolled(timeline, chunk)
    if isinstance(command, SetSeed):
        return timeline_edits.put_marker(timeline, SeedMark(chunk, command.seed), generated=chunk)
    changes: dict[str, Setting] = {}
    for mark in timeline.markers:
        if isinstance(mark, MemoryMark) and mark.chunk == chunk:
            changes.update(mark.changes)
    # "switch" is not in the plan: every cue says for itself what it does to the memory.
    changes.update({name: value for name, value in command.changes.items() if name != "switch"})
    if not changes:
        return timeline
    return timeline_edits.put_marker(timeline, MemoryMark.of(chunk, changes), generated=chunk)


def _with_prompt(timeline: Timeline, switch_memory: str, command: SetPrompt, chunk: int) -> Timeline:
    check_prompt(command.prompt)
    at = chunk if command.at_chunk is None else command.at_chunk
    if at < chunk:
        raise ValueError(f"chunk {at} is generated already, the next one is {chunk}: change the prompt from there on")
    name = switch_memory if command.memory is None else command.memory
    if name not in SWITCH_MODES:
        raise ValueError(f"memory is {name!r}, expected one of {', '.join(SWITCH_MODES)}")
    mode: MemoryMode = name  # type: ignore[assignment]
    timeline = timeline_edits.unrolled(timeline, chunk)
    if any(cue.start == at for cue in timeline.cues):
        parts = ((command.prompt, 1.0),)
        return timeline_edits.change(timeline, at, parts=parts, memory=mode, generated=chunk)
    return timeline_edits.add(timeline, at, command.prompt, memory=mode, generated=chunk)


def _changed(session: Session, command: SetMemory) -> tuple[Policy, str]:
    changes = dict(command.changes)
    mode = str(changes.pop("switch", session.switch_memory))
    if mode not in SWITCH_MODES:
        raise ValueError(f"switch is {mode!r}, expected one of {', '.join(SWITCH_MODES)}")
    return policy_from_dict(changes, session.memory.policy), mode


def _touch(memory: SlowFastMemory, command: Pin | Unpin | Evict | Restore) -> None:
    if isinstance(command, Pin):
        memory.pin(command.latent)
    elif isinstance(command, Unpin):
        memory.unpin(command.latent)
    elif isinstance(command, Evict):
        memory.evict(command.latent)
    else:
        memory.restore(command.latent)

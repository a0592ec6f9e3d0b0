"""What commands do to a session. ``check`` refuses a bad one at once, ``apply`` carries it out between chunks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from cf_app.config import SWITCH_MODES
from cf_app.engine import timeline_edits
from cf_app.engine.engine import check_seed
from cf_app.engine.messages import (
    Command,
    Evict,
    Pause,
    Pin,
    Play,
    Resume,
    SetMemory,
    SetPrompt,
    SetSeed,
    SetTimeline,
    Stop,
    Unpin,
)
from cf_app.engine.timeline import MemoryMode, Timeline, check_prompt
from cf_app.engine.timeline_history import check_past
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import Policy, check_policy, policy_from_dict

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine
    from cf_app.engine.session import Session


def check(engine: Engine, session: Session, command: Command, chunk: int) -> int:
    """Refuse what can not be done.

    Args:
        chunk: the first chunk that is not being generated yet.

    Returns:
        the chunk from which on the command counts.

    Raises:
        ValueError: says what is wrong with it and what to do.
    """
    if isinstance(command, SetPrompt):
        _with_prompt(session, command, chunk)
        return chunk if command.at_chunk is None else command.at_chunk
    if isinstance(command, SetTimeline):
        engine.check_timeline(check_past(session.timeline, command.timeline, chunk), session.memory)
    elif isinstance(command, SetSeed):
        check_seed(command.seed)
    elif isinstance(command, SetMemory):
        policy, _ = _changed(session, command)
        check_policy(policy, session.memory.frames, session.memory.most_positions)
    elif isinstance(command, Pin | Unpin | Evict):
        # The state is immutable, so a shallow copy is a place to try things.
        _touch(copy.copy(session.memory), command)
    elif not isinstance(command, Play | Pause | Resume | Stop):
        raise ValueError(f"{command!r} is no command, expected one of engine.messages")
    return chunk


def apply(engine: Engine, session: Session, command: Command) -> int:
    """Carry out a command on a session; returns the chunk from which on it counts. If it fails, nothing changes.

    Play, Pause, Resume and Stop concern the worker and do nothing here.
    """
    chunk = check(engine, session, command, session.chunk)
    if isinstance(command, SetPrompt):
        session.timeline = _with_prompt(session, command, session.chunk)
    elif isinstance(command, SetTimeline):
        session.timeline = command.timeline
    elif isinstance(command, SetSeed):
        session.seed = command.seed
    elif isinstance(command, SetMemory):
        policy, mode = _changed(session, command)
        session.memory.reconfigure(policy)
        session.switch_memory = mode
    elif isinstance(command, Pin | Unpin | Evict):
        _touch(session.memory, command)
    return chunk


def _with_prompt(session: Session, command: SetPrompt, chunk: int) -> Timeline:
    check_prompt(command.prompt)
    at = chunk if command.at_chunk is None else command.at_chunk
    if at < chunk:
        raise ValueError(f"chunk {at} is generated already, the next one is {chunk}: change the prompt from there on")
    name = session.switch_memory if command.memory is None else command.memory
    if name not in SWITCH_MODES:
        raise ValueError(f"memory is {name!r}, expected one of {', '.join(SWITCH_MODES)}")
    mode: MemoryMode = name  # type: ignore[assignment]
    timeline = timeline_edits.unrolled(session.timeline, chunk)
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


def _touch(memory: SlowFastMemory, command: Pin | Unpin | Evict) -> None:
    if isinstance(command, Pin):
        memory.pin(command.latent)
    elif isinstance(command, Unpin):
        memory.unpin(command.latent)
    else:
        memory.evict(command.latent)

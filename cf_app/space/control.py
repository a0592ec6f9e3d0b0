"""How a running GPU call hears of what happens on the page.

A call runs in a process of its own and takes nothing in but its first arguments. So the page writes a small file for
it, whole each time, and the call looks at it between two events. A file for each session: processes may be used again.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from cf_app.engine.messages import Command


@dataclass(frozen=True)
class Word:
    """What the page says.

    Attributes:
        first: number of ``commands[0]`` since the start of the session.
        commands: not obeyed yet when the call began, oldest first.
        fetched: chunks below this one have reached the browser's side.
        leave: end the call at once; nobody waits for it.
    """

    first: int = 0
    commands: tuple[Command, ...] = ()
    fetched: int = 0
    leave: bool = False


def speak(path: Path, word: Word) -> None:
    """Write ``word``; a reader never sees half of it."""
    part = path.with_suffix(".part")
    part.write_bytes(pickle.dumps(word))
    os.replace(part, path)


class Listener:
    """Reads the file again when it has changed.

    Args:
        obeyed: commands below this number are done.
    """

    def __init__(self, path: Path, obeyed: int) -> None:
        self.obeyed = obeyed
        self._path, self._stamp, self._word = path, (0, 0), Word(obeyed)

    def look(self) -> Word:
        """What the page says now; a file that is gone says: leave."""
        try:
            found = self._path.stat()
            if (found.st_ino, found.st_mtime_ns) != self._stamp:
                self._word = pickle.loads(self._path.read_bytes())
                self._stamp = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            return Word(self.obeyed, leave=True)
        return self._word

    def news(self) -> list[Command]:
        """Commands that have come since the last call."""
        word = self.look()
        new = list(word.commands[max(0, self.obeyed - word.first) :])
        self.obeyed = max(self.obeyed, word.first + len(word.commands))
        return new

"""Colour means prompt: one small palette that player, timeline and memory panel share.

`PromptColors` gives every prompt of a tab a number from 0 to `len(PALETTE) - 1`; the page's style sheet has
the colour itself as `--cf-p0` ... (two tunings, for the dark and the light page). `assets/cf.js` has the
same rule as `cf.color(prompt)` for prompts that the server has not met yet, and takes over the server's
numbers from the `color` of every chunk message.
"""

from __future__ import annotations

from collections.abc import Iterable

# (on dark, on light). Neighbours on the list are far apart in hue, so two prompts that meet are told apart.
PALETTE: tuple[tuple[str, str], ...] = (
    ("#e6a23c", "#b9770e"),  # amber
    ("#5b9df5", "#2f6fd0"),  # blue
    ("#e2697f", "#c43f5b"),  # rose
    ("#46bfa0", "#1b8f73"),  # teal
    ("#a886f2", "#7a52d1"),  # violet
    ("#a9bf4b", "#748a17"),  # lime
    ("#ee8257", "#c9562a"),  # coral
    ("#4bb8dd", "#167fa6"),  # sky
    ("#d179c9", "#a8449f"),  # orchid
    ("#c2a27c", "#8f6d45"),  # sand
)


def preferred_color(prompt: str) -> int:
    """The number that `prompt` would like:

    32-bit FNV-1a over its UTF-8 bytes, spaces trimmed, case ignored.
    """
    value = 0x811C9DC5
    for byte in prompt.strip().lower().encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value % len(PALETTE)


class PromptColors:
    """Prompts in the order in which they were met (`known` first).

    A taken number is passed over while there are free ones.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        for prompt in known:
            self.number(prompt)

    def number(self, prompt: str) -> int:
        """The colour of `prompt`, 0 to `len(PALETTE) - 1`; the same for ever once asked for."""
        key = prompt.strip().lower()
        if key not in self._numbers:
            taken = list(self._numbers.values())
            fewest = min(taken.count(number) for number in range(len(PALETTE)))
            wish = preferred_color(key)
            order = [(wish + step) % len(PALETTE) for step in range(len(PALETTE))]
            self._numbers[key] = next(number for number in order if taken.count(number) == fewest)
        return self._numbers[key]


def css_variables() -> str:
    """The palette as CSS: `--cf-p0: #...` on the dark page (the default) and on the light one."""
    dark = "".join(f"--cf-p{i}:{on_dark};" for i, (on_dark, _) in enumerate(PALETTE))
    light = "".join(f"--cf-p{i}:{on_light};" for i, (_, on_light) in enumerate(PALETTE))
    return f":root{{{dark}}}\nhtml[data-cf-theme=light]{{{light}}}\n"

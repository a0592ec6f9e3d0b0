"""The words of the embedded world: attributes, paraphrases and the prompts made of them.

A scene has six attributes. A prompt names some of them; what it leaves open is drawn at random (the camera
excepted: an unnamed camera stands still). Knows nothing of pictures: `world.py` draws what is named here.
"""
from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("ball", "box", "star", "heart", "pyramid")
MOTIONS = ("hops", "rolls", "floats")
PLACES = ("meadow", "desert", "snow", "beach")
TIMES = ("day", "sunset", "night", "dawn")
CAMERAS = ("still", "right", "left", "away")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "place": PLACES, "time": TIMES, "camera": CAMERAS,
}

_SHAPE_WORDS = {
    "ball": ("ball", "ball", "sphere"), "box": ("box", "box", "cube"), "star": ("star",), "heart": ("heart",),
    "pyramid": ("pyramid", "pyramid", "triangle"),
}
_MOTION_WORDS = {
    "hops": ("hops", "hops", "jumps", "bounces"), "rolls": ("rolls", "rolls", "tumbles"),
    "floats": ("floats", "floats", "hovers", "flies"),
}
_PLACE_WORDS = {
    "meadow": ("through the meadow", "in a green meadow", "over the grass", "in the meadow"),
    "desert": ("through the desert", "in the desert", "across the sand dunes", "in a dry desert"),
    "snow": ("through the snow", "in the snow", "over a snowy field", "in a winter land"),
    "beach": ("on the beach", "over the beach", "by the sea", "along the shore"),
}
_TIME_WORDS = {
    "day": ("by day", "at noon", "on a sunny day"), "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "under the moon"), "dawn": ("at dawn", "in the early morning"),
}
_CAMERA_WORDS = {
    "still": ("", "", "", "still camera", "the camera stands still", "the camera sweeps back", "the camera looks back"),
    "right": ("the camera pans right", "the camera moves right", "panning right"),
    "left": ("the camera pans left", "the camera moves left", "panning left"),
    "away": ("the camera sweeps away", "sweeping away", "the camera looks away", "looking away"),
}


@dataclass(frozen=True)
class Scene:
    """What a prompt can say: one value per attribute of `ATTRIBUTES`."""

    colour: str
    shape: str
    motion: str
    place: str
    time: str
    camera: str

    @staticmethod
    def sample(rng: random.Random) -> Scene:
        """A scene with every attribute drawn uniformly."""
        return Scene(**{name: rng.choice(values) for name, values in ATTRIBUTES.items()})

    def changed(self, rng: random.Random, names: tuple[str, ...]) -> Scene:
        """This scene with a new, different value for each attribute in `names`."""
        return replace(self, **{n: rng.choice([v for v in ATTRIBUTES[n] if v != getattr(self, n)]) for n in names})


def describe(scene: Scene, rng: random.Random | None = None, drop: float = 0.0) -> str:
    """A prompt for `scene`; with `rng` paraphrased, each attribute but colour, shape and a moving camera left out
    with probability `drop` (0 to 1)."""
    def pick(words: tuple[str, ...]) -> str:
        return rng.choice(words) if rng else words[0]

    def keep() -> bool:
        return rng is None or rng.random() >= drop

    colour = scene.colour if keep() else ""
    words = ["an" if colour[:1] == "o" else "a", colour, pick(_SHAPE_WORDS[scene.shape])]
    tail = [pick(_MOTION_WORDS[scene.motion]) if keep() else "",
            pick(_PLACE_WORDS[scene.place]) if keep() else "",
            pick(_TIME_WORDS[scene.time]) if keep() else ""]
    if rng and rng.random() < 0.25:
        tail.append(tail.pop(0))
    text = " ".join(w for w in words + tail if w)
    camera = pick(_CAMERA_WORDS[scene.camera])
    return f"{text}, {camera}" if camera else text


def vocabulary() -> tuple[str, ...]:
    """Every word the grammar can say, sorted, lower case, without punctuation."""
    words: set[str] = {"a", "an", "the"} | set(COLOURS)
    for table in (_SHAPE_WORDS, _MOTION_WORDS, _PLACE_WORDS, _TIME_WORDS, _CAMERA_WORDS):
        for options in table.values():
            words.update(word for option in options for word in option.split())
    return tuple(sorted(words))


def subjects() -> tuple[str, ...]:
    """Every word for a shape, sorted."""
    return tuple(sorted({word for words in _SHAPE_WORDS.values() for word in words}))


def scene_labels(scene: Scene) -> tuple[int, ...]:
    """Index of each attribute's value, in the order of `ATTRIBUTES`."""
    return tuple(ATTRIBUTES[f.name].index(getattr(scene, f.name)) for f in fields(scene))

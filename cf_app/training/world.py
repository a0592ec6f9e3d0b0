"""The procedural world of the embedded student: flat-design landscapes, drawn with signed distances in torch.

Every picture is a pure function of a `World` and a time in seconds, so the truth about what left the picture
and comes back is known. Landmarks are not named by any prompt: only memory can bring the same house back.

Units: the picture is 80 units high and 128 wide at every resolution; y counts downwards; colours are 0 to 1.
Knows nothing of models or latents.
"""
from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from .grammar import Scene

HEIGHT, WIDTH, FPS = 80, 128, 16
HORIZON = 56.0            # y of the ground's upper edge
GROUND = 71.0             # y of what the subject stands on
PAN_SPEED = 32.0          # units per second: one latent cell in a latent frame, so moving on is copying
AWAY = 144.0              # units that a camera sweeps to the right when it looks away: nothing is in both pictures
SWEEP_SECONDS = 5 / FPS   # a sweep by `AWAY`: it moves in the first latent frame of its chunk and rests in the others
SWAY_SECONDS = 12.0       # period in which a subject goes to the right, to the left and back to the middle
HOP_SECONDS = 1.5         # one hop: two chunks
HOP_HEIGHT = 12.0         # units: at most one latent cell in a latent frame, so what moves stays sharp
BLEND_SECONDS = 1.0       # length of the cross-fade after a change of prompt
RADIUS = 16.0             # of the subject: four latent cells across
GRID = 8.0                # units: what no prompt names stands on latent cells and looks the same wherever it is
REACH = 17.0              # from the middle of a landmark to its sides, at most

Colour = tuple[float, float, float]
_SUBJECT: dict[str, Colour] = {
    "red": (.90, .16, .16), "orange": (1., .55, .08), "yellow": (1., .88, .15), "green": (.15, .72, .25),
    "blue": (.16, .36, .95), "purple": (.55, .20, .80), "pink": (1., .50, .72), "white": (.98, .98, .98),
}
# Body and roof. Duller than every subject: the eye (and the student) must never take a tree for the ball.
LANDMARK_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((.66, .33, .27), (.25, .25, .30)), ((.76, .56, .32), (.66, .33, .27)), ((.80, .74, .50), (.33, .52, .55)),
    ((.42, .47, .25), (.76, .56, .32)), ((.20, .42, .33), (.80, .74, .50)), ((.33, .52, .55), (.80, .79, .76)),
    ((.74, .58, .60), (.43, .31, .48)), ((.80, .79, .76), (.66, .33, .27)),
)
LANDMARK_HEIGHTS = {"house": 26.0, "tree": 24.0, "pine": 28.0, "tower": 28.0}    # units
_SUNS = (24.0, 40.0, 88.0, 104.0)
# place: ground, near hills, far hills, height of the hills (units)
_PLACE: dict[str, tuple[Colour, Colour, Colour, float]] = {
    "meadow": ((.40, .72, .32), (.32, .58, .34), (.52, .70, .56), 7.),
    "desert": ((.90, .76, .48), (.82, .60, .38), (.88, .72, .56), 9.),
    "snow": ((.93, .95, .98), (.78, .84, .92), (.70, .77, .88), 11.),
    "beach": ((.96, .88, .66), (.20, .62, .80), (.32, .70, .86), 0.5),
}
# time: sky above, sky below, light on the land, sun or moon, its height (y)
_TIME: dict[str, tuple[Colour, Colour, Colour, Colour, float]] = {
    "day": ((.36, .66, .95), (.78, .90, 1.), (1., 1., 1.), (1., .95, .60), 14.),
    "sunset": ((.45, .22, .48), (1., .58, .30), (1., .78, .66), (1., .82, .40), 34.),
    "night": ((.04, .05, .16), (.13, .16, .36), (.38, .42, .62), (.95, .96, 1.), 14.),
    "dawn": ((.60, .62, .86), (1., .80, .80), (.92, .86, .94), (1., .93, .85), 34.),
}

_SPEED = {"still": 0.0, "right": PAN_SPEED, "left": -PAN_SPEED, "away": 0.0}    # units per second


@dataclass(frozen=True)
class Landmark:
    """A thing that stands in the world at `x` (units) and is in no prompt."""

    kind: str
    x: float
    body: Colour
    roof: Colour


@dataclass(frozen=True)
class World:
    """Everything that decides the pictures: the cues `(seconds, Scene)` and what no prompt names."""

    cues: tuple[tuple[float, Scene], ...]
    landmarks: tuple[Landmark, ...]
    hills: tuple[float, ...]      # six phases
    sun_x: float

    @staticmethod
    def sample(rng: random.Random, cues: tuple[tuple[float, Scene], ...], seconds: float = 60.0) -> World:
        """A random world around `cues`, wide enough for `seconds` of panning either way.

        Of landmarks and sun there are few kinds, on the grid of latent cells: a small student can draw each of them
        sharply, where it makes a mean of sizes and places that differ by a little.
        """
        reach = math.ceil((PAN_SPEED * seconds + AWAY + WIDTH) / GRID) * GRID
        landmarks, x = [], -reach + GRID * rng.randint(0, 5)
        while x < reach + WIDTH:
            landmarks.append(Landmark(rng.choice(tuple(LANDMARK_HEIGHTS)), x, *rng.choice(LANDMARK_COLOURS)))
            x += GRID * rng.randint(5, 8)
        return World(cues, tuple(landmarks), tuple(rng.uniform(0, 2 * math.pi) for _ in range(6)), rng.choice(_SUNS))

    def camera(self, seconds: float) -> float:
        """x of where the camera stands (units) at `seconds`; continuous over every change of prompt."""
        x = 0.0
        ends = [begin for begin, _ in self.cues[1:]] + [math.inf]
        for (begin, scene), end in zip(self.cues, ends, strict=True):
            x += _SPEED[scene.camera] * max(0.0, min(seconds, end) - begin)
        return x

    def view(self, seconds: float) -> float:
        """x of the picture's left edge: the camera's, and on top of that how far it has swept to look away."""
        side = [float(scene.camera == "away") for begin, scene in self.cues if begin <= seconds + 1e-6]
        if len(side) < 2:
            return self.camera(seconds) + AWAY * side[0]
        part = min(1.0, (seconds + 1 / FPS - self.cues[len(side) - 1][0]) / SWEEP_SECONDS)
        return self.camera(seconds) + AWAY * (side[-2] + (side[-1] - side[-2]) * part * part * (3 - 2 * part))

    def motion_clock(self, motion: str, seconds: float) -> float:
        """Seconds since the newest unbroken stretch of cues with `motion` began: each motion starts at its zero."""
        last = max(i for i, (begin, scene) in enumerate(self.cues)
                   if begin <= seconds + 1e-6 and scene.motion == motion)
        return seconds - self._motion_began(last)

    def _motion_began(self, index: int) -> float:
        """When the unbroken stretch of cues began in which the subject moves as in cue `index`."""
        while index and self.cues[index - 1][1].motion == self.cues[index][1].motion:
            index -= 1
        return self.cues[index][0]

    def scene_at(self, seconds: float) -> Scene:
        """The scene that the prompt in force at `seconds` names."""
        return [scene for begin, scene in self.cues if begin <= seconds + 1e-6][-1]


def render(world: World, times: torch.Tensor, height: int = HEIGHT) -> torch.Tensor:
    """Draws `world` at `times` [P] (seconds): uint8-ready float pictures [P, 3, height, width] in 0 to 1."""
    return _Canvas(world, times, height).draw()


class _Canvas:
    """One call of `render`: the pixel grid, the blends of the moment, and the pictures drawn so far."""

    def __init__(self, world: World, times: torch.Tensor, height: int) -> None:
        self.world, self.times, device = world, times, times.device
        width = height * WIDTH // HEIGHT
        self.unit = HEIGHT / height
        self.y = ((torch.arange(height, device=device) + .5) * self.unit)[None, :, None]
        self.x = ((torch.arange(width, device=device) + .5) * self.unit)[None, None, :]
        self.camera = torch.tensor([world.view(t) for t in times.tolist()], device=device)[:, None, None]
        self.mix = [_weights(world, t) for t in times.tolist()]
        self.light = self.blend(lambda s: _TIME[s.time][2])
        self.image = torch.empty(0)

    def blend(self, value: Callable[[Scene], float | tuple[float, ...]]) -> torch.Tensor:
        """The time-blended `value(scene)` (a colour or a number): [P, channels, 1, 1]."""
        rows = []
        for parts in self.mix:
            values = [(w, value(s)) for s, w in parts]
            n = values[0][1]
            size = len(n) if isinstance(n, tuple) else 1
            rows.append([sum(w * (v[i] if isinstance(v, tuple) else v) for w, v in values) for i in range(size)])
        return torch.tensor(rows, device=self.times.device)[:, :, None, None]

    def cover(self, distance: torch.Tensor) -> torch.Tensor:
        """Signed distance (units, negative inside) to coverage 0 to 1 with one pixel of anti-aliasing."""
        return (0.5 - distance / self.unit).clamp(0, 1)

    def paint(self, coverage: torch.Tensor, colour: torch.Tensor) -> None:
        self.image = torch.lerp(self.image, colour.expand_as(self.image), coverage[:, None])

    def lit(self, colour: Colour, shade: float = 1.0) -> torch.Tensor:
        return self.light * torch.tensor(colour, device=self.times.device)[None, :, None, None] * shade

    def draw(self) -> torch.Tensor:
        top, low = self.blend(lambda s: _TIME[s.time][0]), self.blend(lambda s: _TIME[s.time][1])
        ramp = (self.y / HORIZON).clamp(0, 1)[:, None]
        self.image = (top + (low - top) * ramp).expand(-1, -1, -1, self.x.shape[-1]).clone()
        self._sun()
        self._hills()
        for mark in self.world.landmarks:
            near = mark.x - self.camera
            if bool(((near > -REACH) & (near < WIDTH + REACH)).any()):
                self._landmark(mark, self.x - near)
        self._subject()
        return self.image.clamp(0, 1)

    def _sun(self) -> None:
        y = self.blend(lambda s: _TIME[s.time][4])[:, 0]
        distance = torch.hypot(self.x - self.world.sun_x, self.y - y) - 7.5
        self.paint(self.cover(distance), self.blend(lambda s: _TIME[s.time][3]))

    def _hills(self) -> None:
        phase, amplitude = self.world.hills, self.blend(lambda s: _PLACE[s.place][3])[:, 0]
        for index, (lift, speed, first) in enumerate(((9., .3, 3), (3.5, .6, 0))):
            x = self.x + self.camera * speed
            wave = (x * .055 + phase[first]).sin() + .5 * (x * .11 + phase[first + 1]).sin()
            top = HORIZON - lift - amplitude * (.55 + .4 * wave)
            self.paint(self.cover(top - self.y), self.light * self.blend(partial(_hill, nearer=index)))
        ground = self.light * self.blend(lambda s: _PLACE[s.place][0])
        self.paint(self.cover(HORIZON - self.y + 0 * self.camera), ground)

    def _landmark(self, mark: Landmark, x: torch.Tensor) -> None:
        foot, h = HORIZON + 3, LANDMARK_HEIGHTS[mark.kind]
        y, body, roof = self.y, self.lit(mark.body), self.lit(mark.roof)
        if mark.kind == "house":
            self.paint(self.cover(_box(x, y - (foot - h * .3), h * .42, h * .3)), body)
            self.paint(self.cover(_triangle(x, y - (foot - h * .6), h * .56, h * .4)), roof)
            self.paint(self.cover(_box(x, y - (foot - h * .16), h * .1, h * .16)), roof)
        elif mark.kind == "tower":
            self.paint(self.cover(_box(x, y - (foot - h * .5), h * .2, h * .5)), body)
            self.paint(self.cover(_box(x, y - (foot - h * .94), h * .29, h * .13)), roof)
        else:
            self.paint(self.cover(_box(x, y - (foot - h * .18), h * .06, h * .18)), self.lit((.42, .28, .18)))
            if mark.kind == "tree":
                self.paint(self.cover(torch.hypot(x, y - (foot - h * .64)) - h * .34), body)
            else:
                self.paint(self.cover(_triangle(x, y - (foot - h * .26), h * .34, h * .8)), body)

    def _subject(self) -> None:
        """Every (shape, motion) that weighs something now; a change cross-fades."""
        light = .7 + .3 * self.light
        colour = self.blend(lambda s: _SUBJECT[s.colour]) * light
        pairs = {(s.shape, s.motion) for parts in self.mix for s, w in parts if w > 0}
        for shape, motion in sorted(pairs):
            weight = self.blend(partial(_is, shape=shape, motion=motion))[:, 0]
            x, y, turn = self._motion(motion)
            lift = (GROUND - RADIUS - y).clamp(min=0)
            shadow = torch.hypot((self.x - x) / (13.5 - .15 * lift), (self.y - GROUND - 1) / 2.6) - 1
            self.paint((.5 - shadow * 2.6 / self.unit).clamp(0, 1) * .35 * weight, torch.zeros_like(colour))
            u, v = self.x - x, self.y - y
            u, v = u * turn.cos() + v * turn.sin(), v * turn.cos() - u * turn.sin()
            distance = _SHAPES[shape](u, v)
            shade = colour * (1.0 - .012 * (self.y - y)).clamp(.8, 1.15)[:, None]
            self.paint(self.cover(distance) * weight, shade)

    def _motion(self, motion: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Centre x, y (units) and turn (radians) of the subject, each [P, 1, 1]; on screen, not in the world.

        Every motion starts in the middle at its own zero, so a prompt alone says what its first chunk shows.
        """
        shows = [any(s.motion == motion for s, _ in parts) for parts in self.mix]
        clock = [self.world.motion_clock(motion, t) if shown else 0.0
                 for t, shown in zip(self.times.tolist(), shows, strict=True)]
        t = torch.tensor(clock, device=self.times.device)[:, None, None]
        sway, rest = (2 * math.pi * t / SWAY_SECONDS).sin(), GROUND - RADIUS
        if motion == "hops":
            cycle = (t / HOP_SECONDS) % 1.0
            return 64 + 12 * sway, rest - HOP_HEIGHT * 4 * cycle * (1 - cycle), 0 * t
        if motion == "rolls":
            return 64 + 26 * sway, rest + 0 * t, 26 * sway / RADIUS
        bob = (4 * math.pi * t / SWAY_SECONDS).sin()
        return 64 + 12 * sway, 33 + 5 * bob, .15 * bob


def _hill(scene: Scene, nearer: int) -> Colour:
    """The colour of the far hills, or of the nearer ones (1)."""
    _, near, far, _ = _PLACE[scene.place]
    return near if nearer else far


def _is(scene: Scene, shape: str, motion: str) -> float:
    return float((scene.shape, scene.motion) == (shape, motion))


def _weights(world: World, seconds: float) -> list[tuple[Scene, float]]:
    """Scenes in force with weights that sum to 1: the last cue fades in over `BLEND_SECONDS`."""
    live = [cue for cue in world.cues if cue[0] <= seconds + 1e-6]
    begin, scene = live[-1]
    w = min(1.0, (seconds - begin) / BLEND_SECONDS) if len(live) > 1 else 1.0
    return [(scene, 1.0)] if w >= 1 else [(live[-2][1], 1 - w), (scene, w)]


def _box(x: torch.Tensor, y: torch.Tensor, half_w: float, half_h: float) -> torch.Tensor:
    return torch.maximum(x.abs() - half_w, y.abs() - half_h)


def _triangle(x: torch.Tensor, y: torch.Tensor, half_w: float, height: float) -> torch.Tensor:
    """Upright triangle with its base at y = 0."""
    slope = math.hypot(half_w, height)
    return torch.maximum((x.abs() * height + (y + height) * -half_w) / slope, y)


def _ball(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.hypot(x, y) - RADIUS


def _cube(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _box(x, y, RADIUS * .86, RADIUS * .86) - .5


def _pyramid(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _triangle(x, y - RADIUS * .72, RADIUS * 1.08, RADIUS * 1.75)


def _star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    angle = torch.atan2(x, -y)
    sector = 2 * math.pi / 5
    folded = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    r = torch.hypot(x, y)
    px, py = r * folded.cos(), r * folded.sin()
    outer, inner = RADIUS * 1.3, RADIUS * .58
    ix, iy = inner * math.cos(sector / 2), inner * math.sin(sector / 2)
    ex, ey = ix - outer, iy
    return ((px - outer) * ey - py * ex) / math.hypot(ex, ey)


def _heart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    s = RADIUS * 1.06
    u, v = x.abs() / s, -(y / s) + .45
    lobe = torch.hypot(u - .5, v - .62) - .56
    tip = torch.maximum((u + -(v + .62)) / math.sqrt(2), v - .62)
    return torch.minimum(lobe, torch.maximum(tip, u - 1.06)) * s


_SHAPES = {"ball": _ball, "box": _cube, "star": _star, "heart": _heart, "pyramid": _pyramid}

"""Sizes and schedules as frozen data. Nothing else in the package knows a literal size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONFIG_FORMAT = 1
SWITCH_MODES = ("keep", "recache", "flush", "reset")


@dataclass(frozen=True)
class Geometry:
    """Sizes of a model's video.

    A *latent frame* is what the autoencoder makes of ``temporal_scale`` pixel frames; a *chunk* is
    ``chunk_latents`` latent frames, the unit that is generated, shown and scheduled.
    """

    latent_channels: int
    latent_height: int
    latent_width: int
    spatial_scale: int = 8
    temporal_scale: int = 4
    chunk_latents: int = 3
    fps: int = 16

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = self.__dict__[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"geometry {name} is {value!r}, expected a whole number of at least 1")

    @property
    def height(self) -> int:
        """Height of a pixel frame."""
        return self.latent_height * self.spatial_scale

    @property
    def width(self) -> int:
        """Width of a pixel frame."""
        return self.latent_width * self.spatial_scale

    @property
    def chunk_frames(self) -> int:
        """Pixel frames of a chunk."""
        return self.chunk_latents * self.temporal_scale

    @property
    def chunk_seconds(self) -> float:
        """Seconds that a chunk plays."""
        return self.chunk_frames / self.fps

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[C, F, Y, X] of a chunk."""
        return (self.latent_channels, self.chunk_latents, self.latent_height, self.latent_width)

    def chunks_for(self, seconds: float) -> int:
        """Least number of chunks that play at least ``seconds``."""
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds!r}, expected more than 0")
        return max(1, -int(-seconds // self.chunk_seconds))


@dataclass(frozen=True)
class SamplerConfig:
    """The few-step schedule.

    Attributes:
        timesteps: denoising steps, falling, in (0, 1000], before the flow shift.
        shift: flow shift s; sigma = s u / (1 + (s - 1) u) with u = timestep / 1000.
        context_timestep: timestep of the clean pass that makes a chunk's context, 0 for no context noise.
    """

    timesteps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    context_timestep: float = 0.0

    def __post_init__(self) -> None:
        steps = self.timesteps
        if not steps or any(not 0 < t <= 1000 for t in steps) or list(steps) != sorted(set(steps), reverse=True):
            raise ValueError(f"sampler timesteps are {steps!r}, expected falling whole numbers in 1..1000")
        if not self.shift > 0:
            raise ValueError(f"sampler shift is {self.shift!r}, expected more than 0")


@dataclass(frozen=True)
class ModelConfig:
    """What ``cf_config.json`` of a checkpoint folder says.

    Attributes:
        memory: policy name under "policy" and its fields, for ``memory.policy.policy_from_dict``.
        text_length: text tokens of a prompt; shorter ones are padded with zero rows, which are attended to.
        vocabulary: the words that the model knows, None if it was trained on free text.
        subjects: those of them that name what a film is of; a prompt without any of them leaves that to chance.
        switch_memory: what a change of prompt does to the memory: keep, recache, flush or reset.
        base: repository on the Hugging Face Hub that has the parts that the folder lacks (autoencoder, text), or None.
    """

    name: str
    geometry: Geometry
    title: str = ""
    description: str = ""
    sampler: SamplerConfig = SamplerConfig()
    memory: Mapping[str, str | int | float | bool] = field(default_factory=lambda: {"policy": "slow_fast"})
    text_length: int = 512
    vocabulary: frozenset[str] | None = None
    subjects: tuple[str, ...] = ()
    example_prompts: tuple[str, ...] = ()
    switch_memory: str = "keep"
    base: str | None = None

    def __post_init__(self) -> None:
        if self.switch_memory not in SWITCH_MODES:
            raise ValueError(f"switch_memory is {self.switch_memory!r}, expected one of {', '.join(SWITCH_MODES)}")

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> ModelConfig:
        """Read the dictionary of ``cf_config.json``; ValueError names what is wrong."""
        if data.get("format") != CONFIG_FORMAT:
            raise ValueError(f"cf_config.json has format {data.get('format')!r}, this version reads {CONFIG_FORMAT}")
        try:
            geometry = Geometry(**_mapping(data, "geometry"))
            sampler = _mapping(data, "sampler") if "sampler" in data else {}
            if "timesteps" in sampler:
                sampler["timesteps"] = tuple(sampler["timesteps"])
            vocabulary = data.get("vocabulary")
            return ModelConfig(
                name=str(data["name"]),
                title=str(data.get("title", data["name"])),
                description=str(data.get("description", "")),
                geometry=geometry,
                sampler=SamplerConfig(**sampler),
                memory=_mapping(data, "memory") if "memory" in data else {"policy": "slow_fast"},
                text_length=int(_mapping(data, "text").get("max_length", 512)) if "text" in data else 512,
                vocabulary=None if vocabulary is None else frozenset(_strings(vocabulary, "vocabulary")),
                subjects=_strings(data.get("subjects", ()), "subjects"),
                example_prompts=_strings(data.get("example_prompts", ()), "example_prompts"),
                switch_memory=str(data.get("switch_memory", "keep")),
                base=None if data.get("base") is None else str(data["base"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"cf_config.json: {error}") from error

    def to_dict(self) -> dict[str, object]:
        """The dictionary that ``from_dict`` reads."""
        return {
            "format": CONFIG_FORMAT,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "geometry": dict(self.geometry.__dict__),
            "sampler": {**self.sampler.__dict__, "timesteps": list(self.sampler.timesteps)},
            "memory": dict(self.memory),
            "text": {"max_length": self.text_length},
            "vocabulary": None if self.vocabulary is None else sorted(self.vocabulary),
            "subjects": list(self.subjects),
            "example_prompts": list(self.example_prompts),
            "switch_memory": self.switch_memory,
            "base": self.base,
        }


def _mapping(data: Mapping[str, object], key: str) -> dict:
    value = data[key]
    if not isinstance(value, Mapping):
        raise ValueError(f"cf_config.json: {key} is {value!r}, expected an object")
    return dict(value)


def _strings(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or any(not isinstance(item, str) for item in value):
        raise ValueError(f"cf_config.json: {key} is {value!r}, expected a list of strings")
    return tuple(value)

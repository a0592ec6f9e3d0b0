"""The JSON schema of a timeline file (pydantic), and of its pieces as the page sends them. Refusals name the place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cf_app.engine.timeline import MAX_BLEND_CHUNKS, MAX_CUES, MAX_PARTS, MemoryMode, Method, Parts, Transition
from cf_app.engine.timeline_markers import MARKERS, MAX_CHUNK, MAX_SEED, Marker, MemoryMark


class TimelineFormatError(ValueError):
    """The text is not a timeline; the message says where and why."""


class _Model(BaseModel):
    # Strict: "3" is not 3, so a typing error can not turn into another film. Unknown fields are named, not
    # dropped.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Chunk = Annotated[int, Field(ge=0, le=MAX_CHUNK)]


class PartModel(_Model):
    prompt: str
    weight: float = Field(default=1.0, gt=0, le=1e6)


class TransitionModel(_Model):
    chunks: int = Field(default=0, ge=0, le=MAX_BLEND_CHUNKS)
    method: Method = "linear"


class CueModel(_Model):
    chunk: Chunk
    prompt: str | None = None
    blend: list[PartModel] | None = Field(default=None, min_length=1, max_length=MAX_PARTS)
    transition: TransitionModel = TransitionModel()
    memory: MemoryMode = "keep"
    name: str = ""


class SeedModel(_Model):
    kind: Literal["seed"]
    chunk: Chunk
    seed: int = Field(ge=0, le=MAX_SEED)


class MemoryModel(_Model):
    kind: Literal["memory"]
    chunk: Chunk
    changes: dict[str, str | bool | int | float] = Field(min_length=1, max_length=32)


class PauseModel(_Model):
    kind: Literal["pause"]
    chunk: Chunk


class LoopModel(_Model):
    kind: Literal["loop"]
    chunk: Chunk
    to: Chunk


class EndModel(_Model):
    kind: Literal["end"]
    chunk: Chunk


MarkerModel = Annotated[SeedModel | MemoryModel | PauseModel | LoopModel | EndModel, Field(discriminator="kind")]


class TimelineModel(_Model):
    """Version 1 of the file. `TimelineModel.model_json_schema()` is its JSON schema."""

    format: Literal["context-forcing-timeline"]
    version: Literal[1]
    title: str = ""
    cues: list[CueModel] = Field(min_length=1, max_length=MAX_CUES)
    markers: list[MarkerModel] = Field(default=[], max_length=MAX_CUES)


_PARTS = TypeAdapter(Annotated[list[PartModel], Field(min_length=1, max_length=MAX_PARTS)])
_MARKER: TypeAdapter[Any] = TypeAdapter(MarkerModel)


def checked(adapter: TypeAdapter[Any], data: object) -> Any:
    """`data` in the adapter's form, or TimelineFormatError."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise TimelineFormatError("; ".join(_described(detail) for detail in error.errors()[:5])) from error


def parts_from(data: object) -> Parts:
    """[{"prompt": ..., "weight": ...}, ...]"""
    return tuple((part.prompt, part.weight) for part in checked(_PARTS, data))


def transition_from(data: object) -> Transition:
    """{"chunks": ..., "method": ...}"""
    model = checked(TypeAdapter(TransitionModel), data)
    return Transition(model.chunks, model.method)


def marker_from(data: object) -> Marker:
    """{"kind": "seed", "chunk": 8, "seed": 3} and the like."""
    return marker_of(checked(_MARKER, data))


def marker_of(model: BaseModel) -> Marker:
    fields = model.model_dump()
    kind = fields.pop("kind")
    return MemoryMark.of(**fields) if kind == MemoryMark.kind else MARKERS[kind](**fields)


def _described(detail: Any) -> str:
    place = ""
    for step in detail["loc"]:
        place += f"[{step}]" if isinstance(step, int) else f"{'.' if place else ''}{step}"
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown field; remove it or correct its name"
    if detail["type"] == "missing":
        return f"{place}: missing"
    return f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, got {short(detail['input'])}"


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

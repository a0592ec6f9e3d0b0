"""Each measure of `prove`: which films it needs, what is read from them, its rows and its pictures."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

import cf_app

from ..engine.engine import Engine
from ..memory.policy import Fifo, InfinityRope, Policy, SinkWindow, SlowFast, Uniform, policy_to_dict
from ..training.data import CHUNK_FRAMES
from ..training.grammar import MOTIONS
from . import clips, drift, landmarks, likeness, prompts, revisit
from .films import Film, Studio, Take, draw, go_on, recoded, shoot
from .probe import LOOKS, Probe, load_probe, save_probe, train_probe
from .report import Results, sheet

AWAY_SECONDS = 8.0
SIZED = ("slow-fast", "fifo-bounded", "sink-window", "infinity-rope", "uniform-1", "uniform-2")   # bounded ones
TEACHER_STEPS = 32


@dataclass(frozen=True)
class Bench:
    """What every measure works with. `probe` loads (or trains) the probe when it is first wanted."""

    studio: Studio
    probe: Callable[[], Probe]

    def film(self, takes: Sequence[Take], label: str,
             make: Callable[[Engine, Take], Film] = shoot) -> list[Film]:
        """Films with a progress bar, each by `make`."""
        return list(tqdm(self.studio.films(takes, make), total=len(takes), desc=label, unit="film", leave=False))


@contextmanager
def bench(arguments: argparse.Namespace) -> Iterator[Bench]:
    """A studio for the duration of a command."""
    with Studio(loader(arguments.model, arguments), arguments.workers) as studio:
        yield Bench(studio, partial(ready_probe, arguments.probe))


def loader(model: str | None, arguments: argparse.Namespace) -> Callable[[], Engine]:
    """Loads an engine, with one thread where several processes share the cores."""
    return partial(cf_app.load, model, device=arguments.device, threads=1 if arguments.workers > 1 else None)


def ready_probe(path: Path) -> Probe:
    """The probe in `path`, trained and written there first where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tqdm.write("no probe yet: training it on renders")
        save_probe(train_probe(samples=8000, steps=1200), path)
    return load_probe(path)


def policies(own: Policy, size: int | None = None) -> dict[str, Policy]:
    """What is compared, by name. Slow-Fast is the model's own, with its tau; the others have as much room, but
    sink-window and infinity-rope the 12 latents of their releases.

    With `size` latent frames of slow memory, all of them have the same room.
    """
    slow = own if isinstance(own, SlowFast) else SlowFast()
    slow = slow if size is None else replace(slow, slow=size)
    room = slow.sink + slow.slow + slow.fast
    window = SinkWindow.window if size is None else room
    return {
        "slow-fast": slow,
        "fifo": Fifo(room),
        "fifo-bounded": InfinityRope(sink=0, window=room),
        "sink-window": SinkWindow(window=window),
        "infinity-rope": InfinityRope(window=window),
        "uniform-1": Uniform(1, slow.sink, slow.slow, slow.fast),
        "uniform-2": Uniform(2, slow.sink, slow.slow, slow.fast),
        "unbounded": replace(slow, bounded=False),
    }


def chosen_policies(own: Policy, names: Sequence[str] | None) -> dict[str, Policy]:
    """All of `policies`, or those named; ValueError for an unknown name."""
    known = policies(own)
    if unknown := sorted(set(names or ()) - set(known)):
        raise ValueError(f"policy {', '.join(unknown)}: expected some of {', '.join(known)}")
    return {name: policy for name, policy in known.items() if not names or name in names}


def own_policy(bench: Bench, arguments: argparse.Namespace) -> Policy:
    """The model's own memory policy, with the threshold that `--tau` asks for."""
    own = bench.studio.engine.policy
    if arguments.tau is None:
        return own
    return replace(own if isinstance(own, SlowFast) else SlowFast(), tau=arguments.tau)


def revisits(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """A camera that sweeps away for 8 s and back, under every policy and several tau."""
    measure, trial = "revisit", Trial(revisit.sweep_course(arguments.seeds, AWAY_SECONDS))
    own = own_policy(bench, arguments)
    results.begin(measure, seeds=arguments.seeds, interval="95 % bootstrap", **_who(bench, own))
    pictures = {}
    for label, films in trial.truths(bench):
        results.add(measure, label, trial.row(films)[0])
        pictures[label] = trial.story(films[0])
    base: dict[float, list[revisit.Distances]] | None = None
    todo = dict(chosen_policies(own, arguments.policies))
    while todo:
        label, policy = next(iter(todo.items()))
        del todo[label]
        films = bench.film(trial.takes_with(policy), label)
        row, distances = trial.row(films, base)
        results.add(measure, label, row)
        pictures[label] = trial.story(films[0])
        sheet(pictures, results.folder / f"{measure}.png")
        if label == "slow-fast":
            base = distances
            todo |= tau_sweep(policy, films, arguments.taus)


def tau_sweep(policy: Policy, films: Sequence[Film], count: int) -> dict[str, Policy]:
    """Slow-Fast with `count` thresholds, placed where they would promote evenly spaced parts of the chunks."""
    similarities = [value for film in films for value in film.similarities]
    if not isinstance(policy, SlowFast) or not similarities or count < 1:
        return {}
    parts = (np.arange(count) + .5) / count
    taus = [min(1.0, round(float(tau), 5)) for tau in np.quantile(similarities, parts)]
    return {f"tau {tau:g} ({part:.0%})": replace(policy, tau=tau) for tau, part in zip(taus, parts, strict=True)}


def gaps(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """Shorter and longer absences."""
    own = own_policy(bench, arguments)
    results.begin("gaps", seeds=arguments.seeds, interval="95 % bootstrap", **_who(bench, own))
    trials = {gap: Trial(revisit.sweep_course(arguments.seeds, gap)) for gap in arguments.gaps}
    for label in ("truth", *chosen_policies(own, arguments.policies)):
        row: dict[str, object] = {}
        for gap, trial in trials.items():
            policy = policies(own).get(label)
            films = ([draw(take) for take in trial.takes] if label == "truth"
                     else bench.film(trial.takes_with(policy), f"{label}, {gap:g} s"))
            row |= {name if name.endswith(" s") else f"{name} {gap:g} s": value
                    for name, value in trial.row(films)[0].items() if name in (f"{gap:g} s", "recognised")}
        results.add("gaps", label, row)


def sizes(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """The same 8 s with less room: how little memory is enough, when what is kept is chosen well?"""
    trial, own = Trial(revisit.sweep_course(arguments.seeds, AWAY_SECONDS)), own_policy(bench, arguments)
    results.begin("sizes", seeds=arguments.seeds, interval="95 % bootstrap", **_who(bench, own))
    if min(arguments.sizes) < 1:
        raise ValueError(f"--sizes {min(arguments.sizes)}: expected at least 1 latent frame of slow memory")
    for size in arguments.sizes:
        base = None
        for label in chosen_policies(own, arguments.policies or SIZED):
            films = bench.film(trial.takes_with(policies(own, size)[label]), f"{label}, slow memory of {size}")
            row, distances = trial.row(films, base)
            results.add("sizes", f"slow {size}: {label}", row)
            base = distances if label == "slow-fast" else base


class Trial:
    """A course on which policies are compared."""

    def __init__(self, course: revisit.Course) -> None:
        self.course, self.plan, self.gaps = course, course.plan, tuple(course.plan)
        keep = tuple(sorted({*revisit.wanted(self.plan), *course.story}))
        self.takes = [replace(take, keep=keep) for take in course.takes]
        self.groups = [revisit.group_of(take) for take in self.takes]

    def story(self, film: Film) -> list[np.ndarray]:
        """One film in a few pictures."""
        return [film.frames[i] for i in self.course.story]

    def takes_with(self, policy: Policy | None, steps: int | None = None) -> list[Take]:
        return [replace(take, policy=policy, steps=steps) for take in self.takes]

    def truths(self, bench: Bench) -> Iterator[tuple[str, list[Film]]]:
        """The world itself, and the world as the autoencoder gives it back."""
        yield "truth", [draw(take) for take in tqdm(self.takes, desc="truth", unit="film", leave=False)]
        yield "truth, autoencoder", bench.film(self.takes, "autoencoder", recoded)

    def distances(self, films: Sequence[Film]) -> dict[float, list[revisit.Distances]]:
        return {gap: revisit.compare(films, self.groups, self.plan[gap]) for gap in self.gaps}

    def row(self, films: Sequence[Film], base: dict[float, list[revisit.Distances]] | None = None
            ) -> tuple[dict[str, object], dict[float, list[revisit.Distances]]]:
        """One row of a table, with how far `base` (Slow-Fast) lies above it at the middle gap."""
        distances = self.distances(films)
        scores = {gap: revisit.score(rows) for gap, rows in distances.items()}
        middle = self.gaps[len(self.gaps) // 2]
        row: dict[str, object] = {f"{gap:g} s": [s.mean, s.low, s.high] for gap, s in scores.items()}
        row |= {"recognised": scores[middle].recognised, "moved": scores[middle].moved,
                "contrast": scores[middle].contrast}
        chunks = self.takes[0].chunks * len(films)
        row["promoted"] = sum(film.promotions for film in films) / chunks
        if base is not None:
            row[f"slow-fast is above at {middle:g} s"] = list(revisit.difference(base[middle], distances[middle]))
        return row, distances


def _who(bench: Bench, own: Policy) -> dict[str, object]:
    """The model and the memory policy that the others are compared with, for the record."""
    return {"model": bench.studio.engine.name, "memory": policy_to_dict(own)}


def following(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """Accuracy per attribute."""
    takes, probe = prompts.prompt_takes(arguments.prompts), bench.probe()
    results.begin("prompts", prompts=arguments.prompts, read=f"last 2 of {prompts.READ_CHUNKS} chunks")
    shown = bench.film(takes, "prompts")
    for label, films in (("truth", [draw(take) for take in takes]), ("student", shown)):
        results.add("prompts", label, prompts.following(probe, takes, films))
    rows = {f"{i}: {take.prompts()[0][1][:22]}": list(film.frames.values())
            for i, (take, film) in enumerate(zip(takes[:12], shown[:12], strict=True))}
    sheet(rows, results.folder / "prompts.png", scale=1)


def switching(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """Chunks until a change of prompt shows, per attribute."""
    takes, probe = prompts.switch_takes(arguments.switches), bench.probe()
    results.begin("switch", changes=arguments.switches, unit="chunks until it shows", watched=len(prompts.SWITCH_READ))
    runs = {"truth": lambda: [draw(take) for take in takes]}
    for mode in arguments.modes:
        runs[mode] = partial(bench.film, [replace(take, switch=mode) for take in takes], f"switch, {mode}")
    for label, take_all in runs.items():
        films = take_all()
        for name, latency in prompts.latencies(probe, takes, films).items():
            results.add("switch", f"{label}: {name}", asdict(latency))
        if label != "truth":
            at = prompts.frames_of(range(prompts.SWITCH_AT, prompts.SWITCH_AT + 5))[::len(LOOKS)]
            rows = {f"{i} {prompts.change_of(take)}": [film.frames[frame] for frame in at]
                    for i, (take, film) in enumerate(zip(takes[:6], films[:6], strict=True))}
            sheet(rows, results.folder / f"switch_{label}.png")


def drifting(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """Minute by minute, the truth beside it."""
    takes, probe = drift.drift_takes(arguments.films, arguments.minutes), bench.probe()
    results.begin("drift", films=arguments.films, minutes=arguments.minutes, against="each film's own first minute")
    truth = drift.minute_by_minute(probe, takes, [draw(take) for take in takes])
    films = bench.film(takes, "drift")
    student = drift.minute_by_minute(probe, takes, films)
    for label, minutes in (("truth", truth), ("student", student)):
        for minute in minutes:
            row = asdict(minute)
            results.add("drift", f"{label}, minute {row.pop('minute')}", row)
    first = [prompts.frames_of((drift.MINUTE * minute,))[0] for minute in range(arguments.minutes)]
    sheet({f"film {i}": [film.frames[at] for at in first] for i, film in enumerate(films)},
          results.folder / "drift.png", scale=1)


def clipping(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """Two clips to look at: what is remembered beside what a window forgets, and a prompt that is changed."""
    results.begin("clips", model=bench.studio.engine.name)
    own, away = bench.studio.engine.policy, clips.looking_away()
    compared = {"Slow-Fast memory": own, "a window of the same size": policies(own)["fifo-bounded"]}
    films = bench.film([replace(away, policy=policy) for policy in compared.values()], "clip: remember")
    results.add("clips", "remember.webp", clips.write_clip(results.folder / "remember.webp", away,
                                                           dict(zip(compared, films, strict=True))))
    take = clips.steering()
    film, = bench.film([take], "clip: steer")
    results.add("clips", "steer.webp", clips.write_clip(results.folder / "steer.webp", take, {"live": film}))


def coding(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """What the autoencoder keeps of held-out worlds, by what their cameras do."""
    results.begin("autoencoder", clips=arguments.clips, model=bench.studio.engine.name)
    pictures: dict[str, list[np.ndarray]] = {}
    at = likeness.CODED_CHUNKS - 1
    for camera, said in (("still", "camera stands"), ("right", "camera pans")):
        takes = likeness.coded_takes(arguments.clips, camera)
        truths, shown = [draw(take) for take in takes], bench.film(takes, said, recoded)
        results.add("autoencoder", said, {"dB": likeness.psnr(shown, truths, at),
                                          "crispness": likeness.crispness(shown, truths, at)})
        middle = likeness.pictures_of(at)[CHUNK_FRAMES // 2]
        pictures |= {f"{said}, {label}": [film.frames[middle] for film in films[:6]]
                     for label, films in (("truth", truths), ("decoded", shown))}
    sheet(pictures, results.folder / "autoencoder.png")


def holding(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """From a true first chunk on: dB against the truth, by motion, and the autoencoder's own."""
    results.begin("hold", films=arguments.held, model=bench.studio.engine.name, camera="still")
    takes = likeness.held_takes(arguments.held)
    truths = [draw(take) for take in takes]
    coded, shown = bench.film(takes, "autoencoder", recoded), bench.film(takes, "hold", go_on)
    runs = {"truth, autoencoder": coded, "student": shown}
    for label, films in runs.items():
        for motion in ("all", *MOTIONS):
            pairs = [(film, truth) for film, truth, take in zip(films, truths, takes, strict=True)
                     if motion in ("all", take.cues[0][1].motion)]
            if pairs:
                mine, true = zip(*pairs, strict=True)
                results.add("hold", f"{label}, {motion}", {f"dB in chunk {chunk + 1}": likeness.psnr(mine, true, chunk)
                                                           for chunk in likeness.HELD_CHUNKS})
    at = [likeness.pictures_of(chunk)[CHUNK_FRAMES // 2] for chunk in likeness.HELD_CHUNKS]
    rows = {f"{i} {name}": [film.frames[frame] for frame in at] for i in range(min(6, len(takes)))
            for name, film in (("truth", truths[i]), ("student", shown[i]))}
    sheet(rows, results.folder / "hold.png")


def inventing(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """How many landmarks of the world's own kinds a picture shows under a panning camera, and the truth's."""
    results.begin("landmarks", films=arguments.pans, model=bench.studio.engine.name, unit="found in a picture")
    takes = landmarks.pan_takes(arguments.pans)
    runs = {"truth without landmarks": [landmarks.draw_without(take) for take in takes],
            "truth": [draw(take) for take in takes], "truth, autoencoder": bench.film(takes, "autoencoder", recoded),
            "student": bench.film(takes, "landmarks")}
    for label, films in runs.items():
        results.add("landmarks", label, {"landmarks": landmarks.landmarks_per_picture(takes, films)})
    sheet({f"{i} {name}": [runs[name][i].frames[frame] for frame in takes[i].keep]
           for i in range(min(6, len(takes))) for name in ("truth", "student")}, results.folder / "landmarks.png")


def few_and_many(bench: Bench, arguments: argparse.Namespace, results: Results) -> None:
    """The same measures with other numbers of denoising steps, and for a teacher with its many."""
    results.begin("steps", prompts=arguments.prompts, seeds=arguments.seeds)
    runs = [(f"{bench.studio.engine.name}, {steps} steps", bench, steps) for steps in arguments.steps]
    for label, where, steps in runs:
        results.add("steps", label, _at_steps(where, arguments, steps, label))
    if arguments.teacher:
        with Studio(loader(arguments.teacher, arguments), arguments.workers) as studio:
            label = f"teacher, {TEACHER_STEPS} steps"
            results.add("steps", label, _at_steps(Bench(studio, bench.probe), arguments, TEACHER_STEPS, label))


def _at_steps(bench: Bench, arguments: argparse.Namespace, steps: int, label: str) -> dict[str, object]:
    asked = [replace(take, steps=steps) for take in prompts.prompt_takes(arguments.prompts)]
    films = bench.film(asked, f"{label}: prompts")
    row: dict[str, object] = dict(prompts.following(bench.probe(), asked, films))
    row["sharpness"] = drift.sharpness(films)
    trial = Trial(revisit.sweep_course(arguments.seeds, AWAY_SECONDS))
    seen, _ = trial.row(bench.film(trial.takes_with(None, steps), f"{label}: revisit"))
    return row | {f"revisit {name}": value for name, value in seen.items() if name.endswith(" s")}


PROOFS: dict[str, Callable[[Bench, argparse.Namespace, Results], None]] = {
    "prompts": following, "revisit": revisits, "gaps": gaps, "sizes": sizes, "switch": switching,
    "drift": drifting, "steps": few_and_many, "clips": clipping,
    "autoencoder": coding, "hold": holding, "landmarks": inventing,
}

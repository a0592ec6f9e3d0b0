"""Downloads from the Hugging Face Hub through its own cache: one commit, resumed, checked, offline once there.

Which commit: the one that the registry names; else the one that the first download found. That is written into
``downloads.json`` beside the converted checkpoints, with every file's size, and held to from then on: nothing changes
under a user's feet, what is there needs no network, and a truncated file is noticed. Every failure is one line that
says what to do. ``HF_HUB_OFFLINE=1``, ``HF_HOME`` and ``HF_TOKEN`` mean what they always mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, RepoFile, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

_BLOCK = 2**20


@dataclass(frozen=True)
class Progress:
    """How far something that takes long is: what it works on, bytes done and bytes in all (0: not known)."""

    label: str
    done: int = 0
    total: int = 0


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Download:
    """What is known of a repository here.

    Attributes:
        commit: the one that is held to.
        files: path -> (bytes, SHA-256 or None) of what has been downloaded.
    """

    commit: str
    files: Mapping[str, tuple[int, str | None]]


def silent(progress: Progress) -> None:
    """A ``Tell`` for nobody. huggingface_hub shows its bars on the terminal either way."""


def converted_home() -> Path:
    """Where converted checkpoints and ``downloads.json`` are, beside the Hub's own cache."""
    return Path(constants.HF_HOME) / "cf_app"


def records() -> Path:
    """The file that says which commits are held to."""
    return converted_home() / "downloads.json"


def known(repository: str, pinned: str | None = None) -> Download | None:
    """What is known without asking anybody; ``pinned`` comes from the registry and wins. ValueError: damaged record."""
    found = _read().get(repository)
    if pinned is not None and (found is None or found.commit != pinned):
        return Download(pinned, {})
    return found or _cached_by_others(repository)


def local(repository: str, wanted: Sequence[str], pinned: str | None = None) -> Path | None:
    """Folder that holds all of ``wanted`` (files, or folders that end in "/"), or None. Asks nobody.

    Raises:
        ValueError: a file is truncated.
    """
    here = known(repository, pinned)
    if here is None:
        return None
    folder = _snapshots(repository) / here.commit
    for name in wanted:
        listed = [path for path in here.files if path == name or (name.endswith("/") and path.startswith(name))]
        if not listed:
            # Downloaded by another program: complete as far as can be seen.
            there = (folder / name).is_dir() if name.endswith("/") else (folder / name).is_file()
            if not there:
                return None
        for path in listed:
            if not (folder / path).is_file():
                return None
            _check_size(folder / path, here.files[path][0])
    return folder


def missing_bytes(repository: str, wanted: Sequence[str], pinned: str | None = None) -> int:
    """What a download would fetch. ValueError as in ``download``."""
    if constants.HF_HUB_OFFLINE or local(repository, wanted, pinned) is not None:
        return 0
    with _explained(repository, wanted):
        commit, files = _listed(repository, wanted, pinned)
        return sum(file.size for file in files if not _is_cached(repository, file.path, commit))


def download(repository: str, wanted: Sequence[str], *, pinned: str | None = None, tell: Tell = silent) -> Path:
    """Folder of the repository's commit with ``wanted`` in it (files, or folders that end in "/").

    Raises:
        ValueError: offline, not found, gated, a file is truncated, or too little room on the disk.
    """
    here = local(repository, wanted, pinned)
    if here is not None and (constants.HF_HUB_OFFLINE or _is_recorded(repository, wanted, pinned)):
        return here
    try:
        return _fetched(repository, wanted, pinned, tell)
    except ValueError:
        if here is None:
            raise
        return here  # downloaded by another program; whether it is complete can not be asked now


def _fetched(repository: str, wanted: Sequence[str], pinned: str | None, tell: Tell) -> Path:
    with _explained(repository, wanted):
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        commit, files = _listed(repository, wanted, pinned)
        todo = [file for file in files if not _is_cached(repository, file.path, commit)]
        total, done = sum(file.size for file in todo), 0
        check_disk({Path(constants.HF_HUB_CACHE): total})
        _record(repository, commit, files)  # before: what is listed and not there yet is what a next try fetches
        for file in todo:
            tell(Progress(file.path, done, total))
            hf_hub_download(repository, file.path, revision=commit, tqdm_class=_bar(tell, file.path, done, total))
            done += file.size
    return _snapshots(repository) / commit


def verify(repository: str, path: str, *, tell: Tell = silent) -> None:
    """Compare a downloaded file with the SHA-256 that the Hub says it has, where it says one.

    Raises:
        ValueError: it is damaged; names the file to delete.
    """
    here = known(repository)
    if here is None or here.files.get(path, (0, None))[1] is None:
        return
    size, expected = here.files[path]
    file = (_snapshots(repository) / here.commit / path).resolve()
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(16 * _BLOCK):
            digest.update(block)
            tell(Progress(f"checking {path}", stream.tell(), size))
    if digest.hexdigest() != expected:
        raise ValueError(_damaged(file, "its contents are not what the Hub lists"))


def check_disk(needs: Mapping[Path, int]) -> None:
    """Raise ValueError if ``needs`` (folder -> bytes to be written in it) do not fit on the disks that they are on."""
    sums: dict[int, tuple[Path, int]] = {}
    for folder, need in needs.items():
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        disk = place.stat().st_dev
        sums[disk] = (place, need + sums.get(disk, (place, 0))[1])
    for place, need in sums.values():
        free = shutil.disk_usage(place).free
        if need > free:
            raise ValueError(
                f"{need / 1e9:.1f} GB are needed on the disk of {place}, {free / 1e9:.1f} GB are free: "
                "make room, or set HF_HOME to another disk"
            )


def _listed(repository: str, wanted: Sequence[str], pinned: str | None) -> tuple[str, list[RepoFile]]:
    """The commit to take and its files that are wanted. Asks the Hub."""
    here = known(repository, pinned)
    commit = here.commit if here is not None else HfApi().model_info(repository).sha
    assert commit is not None
    tree = HfApi().list_repo_tree(repository, recursive=True, revision=commit)
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    chosen: list[RepoFile] = []
    for name in wanted:
        found = [file for file in files if file.path == name or (name.endswith("/") and file.path.startswith(name))]
        if not found:
            raise EntryNotFoundError(f"{name} is not among its files")
        chosen += found
    return commit, chosen


def _is_recorded(repository: str, wanted: Sequence[str], pinned: str | None) -> bool:
    here = known(repository, pinned)
    files = () if here is None else here.files
    return all(any(path == name or (name.endswith("/") and path.startswith(name)) for path in files) for name in wanted)


def _is_cached(repository: str, path: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(repository, path, revision=commit), str)


def _snapshots(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"


def _cached_by_others(repository: str) -> Download | None:
    """What another program left in the Hub's cache."""
    main = _snapshots(repository).parent / "refs" / "main"
    return Download(main.read_text(encoding="utf-8").strip(), {}) if main.is_file() else None


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size
    if found != size:
        raise ValueError(_damaged(path.resolve(), f"it has {found} bytes, expected {size}"))


def _damaged(file: Path, why: str) -> str:
    return f"{file} is damaged ({why}): delete this file and start again, it is downloaded again"


def _bar(tell: Tell, path: str, before: int, total: int) -> type[tqdm]:
    """huggingface_hub's own bar, which also tells how far all files together are."""

    class Bar(tqdm):
        start: float | None = None  # bytes that an earlier try left
        more = 0.0

        def update(self, n: float | None = 1) -> bool | None:
            self.start = self.n if self.start is None else self.start
            self.more += n or 0
            tell(Progress(path, before + int(self.start + self.more), total))
            return super().update(n)

    return Bar


def _read() -> dict[str, Download]:
    if not records().is_file():
        return {}
    try:
        rows = json.loads(records().read_text(encoding="utf-8"))
        return {
            name: Download(str(row["commit"]), {path: (int(size), sha) for path, (size, sha) in row["files"].items()})
            for name, row in rows.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{records()} is damaged ({error}): delete it, it is written again") from error


def _record(repository: str, commit: str, files: Sequence[RepoFile]) -> None:
    """Write down what has been downloaded of ``commit``; what is known of another commit is forgotten."""
    rows = _read()
    old = rows.get(repository)
    before = old.files if old is not None and old.commit == commit else {}
    new = {file.path: (file.size, None if file.lfs is None else file.lfs.sha256) for file in files}
    rows[repository] = Download(commit, {**before, **new})
    data = {name: {"commit": row.commit, "files": dict(row.files)} for name, row in rows.items()}
    records().parent.mkdir(parents=True, exist_ok=True)
    part = records().with_name(f".{records().name}.{os.getpid()}.part")
    part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(part, records())


@contextmanager
def _explained(repository: str, wanted: Sequence[str]) -> Iterator[None]:
    """Whatever the Hub says becomes one line."""
    listed = ", ".join(wanted)
    try:
        yield
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{repository} ({listed}) is not in the local cache and can not be downloaded now: "
            "check the connection and HF_HUB_OFFLINE"
        ) from error
    except GatedRepoError as error:
        raise ValueError(
            f"{repository} is gated: accept its terms at {constants.ENDPOINT}/{repository}, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{repository} no longer has the commit that this app holds to: remove its entry from {records()} to "
            "take the newest"
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ValueError(f"{repository} has no {listed} any more, look for where it has gone") from error
    except (HTTPError, OSError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{repository} ({listed}) could not be downloaded ({line}): check the connection and try again, it resumes"
        ) from error

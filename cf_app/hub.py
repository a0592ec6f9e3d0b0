"""Downloads from the Hugging Face Hub through its own cache: resumed, shown on the terminal, offline once there.

Every failure is one line that says what to do. ``HF_HUB_OFFLINE=1`` and ``HF_HOME`` mean what they always mean.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)


def converted_home() -> Path:
    """Where converted checkpoints are kept, beside the Hub's own cache."""
    return Path(constants.HF_HOME) / "cf_app"


def cached(repository: str, files: Sequence[str]) -> bool:
    """Whether all files are in the local cache."""
    return all(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def download(repository: str, files: Sequence[str]) -> list[Path]:
    """Local paths of ``files``, downloaded where they are not cached.

    Raises:
        ValueError: offline, not found, gated, or too little room on the disk.
    """
    missing = [file for file in files if not cached(repository, [file])]
    try:
        if missing and not constants.HF_HUB_OFFLINE:
            _check_disk(sum(_sizes(repository, missing)), Path(constants.HF_HUB_CACHE))
        return [Path(hf_hub_download(repository, file)) for file in files]
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{repository} ({', '.join(missing)}) is not in the local cache and can not be downloaded now: "
            "check the connection and HF_HUB_OFFLINE"
        ) from error
    except GatedRepoError as error:
        raise ValueError(
            f"{repository} is gated: accept its terms at https://huggingface.co/{repository}, then `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ValueError(f"{repository} has no {', '.join(missing)} any more, look for where it has gone") from error
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{repository} could not be downloaded ({line}), try again: it resumes") from error


def download_parts(repository: str, parts: Sequence[str]) -> Path:
    """Folder of a repository with the sub-folders ``parts``. ValueError as in ``download``."""
    patterns = [f"{part}/*" for part in parts]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{repository} ({', '.join(parts)}) is not in the local cache and can not be downloaded now: "
            "check the connection and HF_HUB_OFFLINE"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{repository} could not be downloaded ({line}), try again: it resumes") from error


def _sizes(repository: str, files: Sequence[str]) -> list[int]:
    found = HfApi().get_paths_info(repository, list(files))
    return [info.size for info in found if hasattr(info, "size")]


def _check_disk(need: int, folder: Path) -> None:
    """Raise ValueError if ``need`` bytes do not fit where ``folder`` is or will be."""
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if need > free:
        raise ValueError(
            f"the download needs {need / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB free: make room, or set HF_HOME"
        )

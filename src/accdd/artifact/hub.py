"""Distilled sets on the Hugging Face hub: published with a complete data set card, and fetched by "hf:owner/name".

What is published is the set's own folder, and its decoded images as parquet beside it, so that `datasets.load_dataset`
and the hub's viewer can read them without accdd. What is fetched is a stranger's file, and is read as every other.
"""

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from accdd import data
from accdd.artifact import card
from accdd.artifact import format as folders
from accdd.artifact.distilled import Distilled
from accdd.artifact.export import PICTURES
from accdd.artifact.format import HEADER, TENSORS
from accdd.config import InputError

PREFIX = "hf:"
_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_BESIDE = {".gitattributes"}
"""What the hub itself puts into a repository."""


class Pushed(NamedTuple):
    """What was published."""

    url: str
    """Of the commit."""
    files: tuple[str, ...]
    """Paths in the repository."""


def load(path: str | Path) -> Distilled:
    """A distilled set from its folder, that of its run, or the hub; see `accdd.artifact.format.load`.

    Args:
        path: the folder; or "hf:owner/name", or "hf:owner/name@revision", which is kept in the hub's own cache.

    Raises:
        InputError: what is there is no whole distilled set; or the hub cannot be reached, or has no such set.
    """
    named = Path(path).as_posix()  # the command line makes paths of what it is given
    if not named.startswith(PREFIX):
        return folders.load(path)
    import huggingface_hub  # seconds, and only this needs it

    repository, _, revision = named.removeprefix(PREFIX).partition("@")
    _check_name(repository)
    with _hub_errors(f"'{named}' cannot be fetched"):
        folder = huggingface_hub.snapshot_download(
            repository, repo_type="dataset", revision=revision or None, allow_patterns=[HEADER, TENSORS]
        )
    if missing := [name for name in (HEADER, TENSORS) if not (Path(folder) / name).is_file()]:
        raise InputError(
            f"'{named}' holds no distilled set: there is no {missing[0]}. Expected what 'accdd push' made."
        )
    return folders.load(folder)


def push(distilled: Distilled, repository: str, *, licence: str, private: bool = False) -> Pushed:
    """Publish a set as a data set of the hub, as a new commit where it is there already.

    Paths of this machine that the set's record holds are left out. Who may write is for the hub's client to know
    (`hf auth login`, or HF_TOKEN).

    Args:
        distilled: the set, whose images have 1 or 3 channels.
        repository: "owner/name".
        licence: of the data that the set was made from, as the hub spells it, as in `cc-by-4.0` or `other`.
        private: of a repository that is made now.

    Raises:
        InputError: a name or a licence that is none, a repository that holds something else, or the hub refuses.
    """
    _check_name(repository)
    if not _LICENCE.fullmatch(licence):
        raise InputError(
            f"'{licence}' is no licence as the hub spells them. Expected that of the source data, as in mit, "
            "cc-by-4.0, cc0-1.0, other or unknown."
        )
    import huggingface_hub

    hub, shared = huggingface_hub.HfApi(), portable(distilled)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        folders.save(shared, folder)
        PICTURES["hf"](shared, folder)
        (folder / "README.md").write_text(card.card(shared, card.Hub(repository, licence)), encoding="utf-8")
        paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        with _hub_errors(f"'{repository}' cannot be published"):
            _refuse_another(hub, repository)
            hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repository, repo_type="dataset", folder_path=folder, commit_message="A set distilled by accdd"
            )
    return Pushed(str(done.commit_url), tuple(paths))


def portable(distilled: Distilled) -> Distilled:
    """The same set, whose record holds the names of files and folders of this machine instead of their paths."""
    info = _named(distilled.info)
    source = distilled.info.get("source")
    path = source.get("path") if isinstance(source, dict) else None
    if path is not None and not (data.is_name(path) or str(path).startswith("hf:")):
        del info["source"]["path"]  # its name alone would be looked for where the set is used
    return dataclasses.replace(distilled, info=info)


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _named(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    if isinstance(value, str):
        quoted = re.sub(r"'([^']+)'", lambda found: f"'{_last(found[1])}'", value)  # as notes name files
        return _last(quoted)
    return value


def _last(text: str) -> str:
    """The name at the end of a path; other text as it is."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() or text.startswith("~") or kind(text).parts[:1] == ("..",):
            return kind(text).name
    return text


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise InputError(f"'{repository}' does not name a data set of the hub. Expected owner/name.")


def _refuse_another(hub: Any, repository: str) -> None:
    """Refuse to put a set beside what is none."""
    if not hub.repo_exists(repository, repo_type="dataset"):
        return
    present = set(hub.list_repo_files(repository, repo_type="dataset")) - _BESIDE
    if present and not {HEADER, TENSORS} <= present:
        raise InputError(
            f"'{repository}' is there already and holds no distilled set ({', '.join(sorted(present)[:3])}). "
            "Expected a new name, or that of a set to replace."
        )


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Whatever the hub's client raises is for the user: no network, no such name, no leave to write."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # those of its transport are of a library that accdd does not know
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{what}: {reason.rstrip('.')}. Expected a name that is there, a network, and to be logged in "
            "(hf auth login) where that is needed."
        ) from error

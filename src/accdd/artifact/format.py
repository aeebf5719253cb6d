"""Writing a distilled set as a folder, and reading one that may come from a stranger.

    images.safetensors   images float32 (n, c, h, w) in [0, 1], labels int64 (n,)
    distilled.json       everything else, the SHA-256 of the tensors (safetensors has no checksum), and its own
    preview.png          the stored images in a grid
    README.md            a data set card

Reading never executes anything, never allocates what a file merely claims, and accepts nothing in doubt.
"""

import dataclasses
import hashlib
import json
import math
import reprlib
from pathlib import Path
from typing import Any, BinaryIO, Literal

import safetensors
import safetensors.torch
import torch
from PIL import Image
from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from accdd import files, keys
from accdd.artifact import card
from accdd.artifact.distilled import Distilled
from accdd.config import InputError
from accdd.formation import WHOLE

FORMAT, FORMAT_VERSION = "accdd.distilled", 1
TENSORS, HEADER = "images.safetensors", "distilled.json"
DTYPES = {"images": "F32", "labels": "I64"}
"""The tensors of a set, all of them and no others, and their safetensors types."""

_BYTES = {"F32": 4, "I64": 8}
_MAX_HEADER = 1_000_000  # bytes of distilled.json
_MAX_LAYOUT = 64 * 1024  # bytes of safetensors' own header; two tensors need 150


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Header:
    """The contents of distilled.json, format version 1."""

    format: Literal["accdd.distilled"] = FORMAT
    """Tells this file from any other JSON."""
    format_version: Literal[1] = FORMAT_VERSION
    """Raised whenever an older reader would misunderstand a newer file."""
    key_scheme: int
    """The `keys.SCHEME` the set was drawn with: seeds mean the same numbers only within one scheme."""
    formation: str = "uniform"
    """How a stored image becomes training images: a name from `formation.WHOLE`; uniform where a file does not say."""
    factor: int
    """A stored image decodes into factor x factor images."""
    class_names: tuple[str, ...]
    """One per class."""
    mean: tuple[float, ...]
    """Per channel."""
    std: tuple[float, ...]
    """Per channel."""
    shapes: dict[str, tuple[PositiveInt, ...]]
    """Of each tensor."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of images.safetensors."""
    info: dict[str, Any]
    """Where the set comes from; see `Distilled.info`."""
    checksum: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of all other entries as JSON with sorted keys and no spaces; None, as in older files, is not checked."""


def save(distilled: Distilled, path: str | Path, preview: Image.Image | None = None) -> None:
    """Write a distilled set as a new folder, atomically and durably.

    Args:
        preview: the picture kept as preview.png; None draws a grid of the stored images.

    Raises:
        InputError: something is at `path` already, or `distilled.info` is not JSON or too long.
    """
    try:
        with files.commit_folder(path) as folder:
            _write(distilled, folder, preview or card.preview(distilled))
    except FileExistsError:
        raise InputError(f"{path} exists already and is not overwritten. Choose another folder or remove it.") from None


def annotate(distilled: Distilled, path: str | Path) -> None:
    """Rewrite what a saved set says about itself (`distilled.info`), file by file; its tensors stay as they are."""
    folder = _set_folder(Path(path))
    old = _read_header(folder / HEADER)
    header = dataclasses.replace(old, info=distilled.info)
    files.write_text(folder / HEADER, _header_bytes(header).decode())
    files.write_text(folder / "README.md", card.card(distilled))


def load(path: str | Path) -> Distilled:
    """Read a distilled set; a run folder is accepted and stands for the `distilled` folder in it.

    Raises:
        InputError: anything at all is missing, damaged, out of range or unknown; names the file and the reason.
    """
    try:
        folder = _set_folder(Path(path))
        header = _read_header(folder / HEADER)
        tensors = _read_tensors(folder / TENSORS, header)
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror}.") from None
    try:
        return Distilled(
            images=tensors["images"],
            labels=tensors["labels"],
            class_names=header.class_names,
            mean=header.mean,
            std=header.std,
            factor=header.factor,
            formation=header.formation,
            info=header.info,
        )
    except InputError as error:
        raise InputError(f"{folder / TENSORS} and {HEADER} hold no usable set: {error}") from None


def _write(distilled: Distilled, folder: Path, preview: Image.Image) -> None:
    tensors = {"images": distilled.images.contiguous(), "labels": distilled.labels.contiguous()}
    files.save_tensors(tensors, folder / TENSORS)
    header = Header(
        key_scheme=keys.SCHEME,
        formation=distilled.formation,
        factor=distilled.factor,
        class_names=distilled.class_names,
        mean=distilled.mean,
        std=distilled.std,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        sha256=files.sha256(folder / TENSORS),
        info=distilled.info,
    )
    (folder / HEADER).write_bytes(_header_bytes(header))
    preview.save(folder / "preview.png")
    (folder / "README.md").write_bytes(card.card(distilled).encode())


def _header_bytes(header: Header) -> bytes:
    tree = {name: getattr(header, name) for name in Header.__dataclass_fields__}
    try:
        tree["checksum"] = _checksum(json.loads(json.dumps(tree)))  # as it will be read: keys become text
        raw = json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"The distilled set's info and class names must be JSON: {error}.") from None
    if len(raw) > _MAX_HEADER:
        raise InputError(f"{HEADER} would have {len(raw):,} bytes, more than {_MAX_HEADER:,}. Shorten info.")
    return raw


def _checksum(tree: dict[str, Any]) -> str:
    """Of a header's entries but the checksum itself."""
    entries = {name: value for name, value in tree.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _set_folder(path: Path) -> Path:
    folder = path if (path / HEADER).exists() or not (path / "distilled").is_dir() else path / "distilled"
    if not path.exists():
        raise InputError(f"{path} does not exist. Expected a folder with {HEADER} and {TENSORS}.")
    for name in (HEADER, TENSORS):
        if not (folder / name).is_file():  # false for pipes and devices, on which reading might never end
            raise InputError(f"{folder / name}: there is no such file, so {path} is no distilled set.")
    return folder


def _read_header(file: Path) -> Header:
    with file.open("rb") as stream:
        raw = stream.read(_MAX_HEADER + 1)
    if len(raw) > _MAX_HEADER:
        raise _refused(file, f"is longer than {_MAX_HEADER:,} bytes")
    tree = _parse(raw, file)
    if tree.get("format") != FORMAT:
        raise _refused(file, f"does not say 'format': '{FORMAT}'")
    version = tree.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{file}: format version {version!r} is unknown; this accdd reads version {FORMAT_VERSION}. "
            f"Upgrade with 'pip install --upgrade accdd'."
        )
    formation = tree.get("formation", "uniform")
    if not isinstance(formation, str) or formation not in WHOLE:
        raise InputError(
            f"{file}: the formation {reprlib.repr(formation)} is unknown; this accdd decodes by {', '.join(WHOLE)}. "
            f"Upgrade with 'pip install --upgrade accdd'."
        )
    if tree.get("checksum") not in (None, _checksum(tree)):
        raise InputError(
            f"{file}: its checksum is not that of its entries: it is damaged, or was edited. "
            "Expected it as it was written; whoever edited it on purpose leaves 'checksum' out."
        )
    try:
        return TypeAdapter(Header).validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise _refused(file, f"{place!r}: {first['msg']}") from None


def _read_tensors(file: Path, header: Header) -> dict[str, torch.Tensor]:
    with file.open("rb") as stream:
        raw = _read_checked(stream, file, header)
    if hashlib.sha256(raw).hexdigest() != header.sha256:
        raise _refused(file, f"its SHA-256 is not the one in {HEADER}: the contents have changed")
    try:
        return safetensors.torch.load(raw)
    except safetensors.SafetensorError as error:
        raise _refused(file, f"safetensors cannot read it ({error})") from None


def _read_checked(stream: BinaryIO, file: Path, header: Header) -> bytes:
    """The whole file, read only once its own layout agrees with distilled.json and with its size on disk."""
    size = file.stat().st_size
    prefix = stream.read(8)  # length of the layout, little-endian
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(_MAX_LAYOUT, size - 8):
        raise _refused(file, f"is not a safetensors file of a distilled set ({size:,} bytes, header of {length:,})")
    layout = stream.read(length)
    declared = _declared_bytes(_parse(layout, file), file, header)
    if 8 + length + declared != size:
        raise _refused(file, f"has {size:,} bytes where its header makes {8 + length + declared:,}")
    return prefix + layout + stream.read(declared)


def _declared_bytes(layout: dict[str, Any], file: Path, header: Header) -> int:
    """Bytes of all tensors; their names, types and shapes must be those of distilled.json."""
    if set(layout) != set(DTYPES):
        raise _refused(file, f"holds {sorted(layout)}; expected {sorted(DTYPES)} and nothing else")
    for name, dtype in DTYPES.items():
        expected = (dtype, list(header.shapes.get(name, ())))
        entry = layout[name] if isinstance(layout[name], dict) else {}
        found = (entry.get("dtype"), entry.get("shape"))
        if found != expected:
            raise _refused(file, f"{name} are {found[0]} of shape {found[1]}; expected {expected[0]} of {expected[1]}")
    return sum(math.prod(header.shapes[name]) * _BYTES[dtype] for name, dtype in DTYPES.items())


def _parse(raw: bytes, file: Path) -> dict[str, Any]:
    """JSON without the tolerance of the standard library: no duplicate keys, no NaN, an object at the top."""
    try:
        tree = json.loads(raw.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
        json.dumps(tree)  # as deep as can be written again, for its checksum
    except (ValueError, RecursionError) as error:
        raise _refused(file, f"is not the JSON expected ({error})") from None
    if not isinstance(tree, dict):
        raise _refused(file, "is not a JSON object")
    return tree


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in pairs:
        if name in tree:
            raise ValueError(f"the key {name!r} appears twice")
        tree[name] = value
    return tree


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _refused(file: Path, reason: str) -> InputError:
    shown = reason if len(reason) <= 300 else reason[:299] + "…"
    return InputError(f"{file}: {shown}. The file is damaged or no distilled set; fetch the folder again.")

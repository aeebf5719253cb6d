"""The zip archive around a `.pt` file, read so that no claim in it costs memory: see `torch_file`."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from accdd.config import InputError

MAX_FILE = 2 * 1024**3
"""Bytes of a file that is read at all."""

_MAX_DIRECTORY = 64 * 1024  # bytes of the list of members; a tensor takes 70
_END, _ENTRY, _LOCAL = struct.Struct("<4s4H2IH"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_AGAIN = (
    "On a machine that you can afford to lose, write it again: "
    "torch.save(torch.load(FILE, map_location='cpu', weights_only=False), NEW)"
)


def refused(path: Path, reason: str) -> InputError:
    """The error for a file that is not read, or not to its end."""
    return InputError(f"{path}: {reason}. Nothing of it was run. Expected tensors as torch.save writes them.")


class Archive:
    """The members of a zip archive as PyTorch writes it: stored as they are, one behind the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        if self.size > MAX_FILE:
            raise refused(path, f"it has {self.size:,} bytes, more than {MAX_FILE:,}")
        with path.open("rb") as stream:
            self._check_kind(stream.read(4))
            stream.seek(max(0, self.size - _END.size))
            end = stream.read()
            if len(end) < _END.size or not end.startswith(b"PK\5\6"):
                raise refused(path, "it has no list of members at its end, so it is cut off or was appended to")
            *_, length, self.start, comment = _END.unpack(end)
            if length > _MAX_DIRECTORY or self.start + length > self.size - _END.size or comment:
                raise refused(path, f"its list of members claims {length:,} bytes at {self.start:,}")
            stream.seek(self.start)
            self.members = dict(self._entries(stream.read(length)))
        claimed = sum(size for _, size, _ in self.members.values())
        if claimed > self.size:
            raise refused(path, f"its members claim {claimed:,} bytes, more than the file's {self.size:,}")
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise refused(path, "it is a zip archive, but not of torch.save (no data.pkl)")
        self.prefix = pickles[0].removesuffix("data.pkl")
        order = self.prefix + "byteorder"
        if order in self.members and self.read(order) != b"little":
            raise refused(path, "its numbers are not little-endian")

    def read(self, name: str) -> bytearray:
        """The bytes of a member, checked against its CRC."""
        if name not in self.members:
            raise refused(self.path, f"it has no member '{name[:80]}'")
        where, size, crc = self.members[name]
        raw = bytearray(size)
        with self.path.open("rb") as stream:
            stream.seek(where)
            head = stream.read(_LOCAL.size)
            if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
                raise refused(self.path, f"member '{name[:80]}' is not where the list says")
            *_, name_length, extra = _LOCAL.unpack(head)
            stream.seek(name_length + extra, 1)  # PyTorch aligns numbers by a long extra field
            if stream.tell() + size > self.start or stream.readinto(raw) != size or zlib.crc32(raw) != crc:
                raise refused(self.path, f"member '{name[:80]}' is damaged (cut off, or another CRC)")
        return raw

    def _check_kind(self, magic: bytes) -> None:
        if magic[:1] == b"\x80":
            raise InputError(
                f"{self.path} is a bare pickle (PyTorch before 1.6, or pickle itself), which could run code when it "
                f"is read, and was not read. {_AGAIN}."
            )
        if magic != b"PK\3\4":
            raise refused(self.path, "it is not a .pt file (no zip archive)")

    def _entries(self, raw: bytes) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """(name, (position, bytes, CRC)) of each member."""
        at = 0
        while at < len(raw):
            if len(raw) - at < _ENTRY.size or not raw.startswith(b"PK\1\2", at):
                raise refused(self.path, "its list of members is damaged")
            _, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, where = _ENTRY.unpack_from(
                raw, at
            )
            shown = raw[at + _ENTRY.size : at + _ENTRY.size + name].decode(errors="replace")
            if method or flags & 1 or packed != size:
                raise refused(
                    self.path, f"member '{shown[:80]}' is compressed ({packed:,} bytes for {size:,}) or encrypted"
                )
            yield shown, (where, size, crc)
            at += _ENTRY.size + name + extra + comment

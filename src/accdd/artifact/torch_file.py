"""Reading the tensors of a `.pt` file from a stranger: nothing in it is imported, called or trusted.

A `.pt` file is a zip archive of a pickle and of raw numbers. `torch.load(weights_only=True)` is not used: it makes
tensors of a stride of 0, sparse ones without checking them, and inflates compressed members; and it refuses the files
of DC, DSA and DM, in which accuracies are numpy scalars. Here the pickle is read as data, by the few opcodes that
`torch.save` writes, and a tensor is read only when it is asked for, so that memory stays below three times the file.
"""

import dataclasses
import math
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from accdd.artifact.torch_archive import Archive, refused
from accdd.config import InputError

MAX_DIMENSIONS = 4

_MAX_PICKLE = 256 * 1024  # bytes; a thousand recorded accuracies take 30 kB

_DTYPES = {
    "torch FloatStorage": torch.float32, "torch DoubleStorage": torch.float64, "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16, "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16, "torch CharStorage": torch.int8, "torch ByteStorage": torch.uint8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file; dense, and known to be wholly there."""

    archive: "Archive"
    member: str
    dtype: torch.dtype
    offset: int
    """Elements before the first."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """The tensor, contiguous, on the CPU.

        Raises:
            InputError: the bytes are not those that were written, or numbers are NaN or infinite.
        """
        raw, count = self.archive.read(self.member), math.prod(self.shape)
        tensor = torch.frombuffer(raw, dtype=self.dtype, count=count, offset=self.offset * self.dtype.itemsize)
        # The sum is not finite if any number is not; where it overflows, the numbers are no pixels either.
        if self.dtype.is_floating_point and not math.isfinite(float(tensor.sum(dtype=torch.float64))):
            raise refused(self.archive.path, "a tensor has numbers that are NaN or infinite")
        return tensor.as_strided(self.shape, self.strides).contiguous()


def read(path: str | Path) -> Any:
    """What `torch.save` wrote: lists, tuples, dictionaries, text and numbers, with each tensor as `Stored`.

    Raises:
        InputError: no such file, another kind of file, a damaged one, or one that holds anything else.
    """
    path = Path(path)
    if not path.is_file():  # false for pipes and devices, on which reading might never end
        raise InputError(f"{path}: there is no such file. Expected one that torch.save wrote.")
    try:
        archive = Archive(path)
        return _Pickle(archive).value(archive.read(archive.prefix + "data.pkl"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


class _Opaque:
    """A value that is there and of no interest: a numpy scalar, for one."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A global that the pickle refers to; never looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    member: str
    count: int


class _Pickle:
    """A machine for the opcodes of `torch.save`'s pickle that only ever builds plain values."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Positions in the stack: looking for a mark there would cost the square of the pickle's length."""
        self.memo: dict[int, Any] = {}

    def value(self, raw: bytearray) -> Any:
        """What the pickle describes."""
        if len(raw) > _MAX_PICKLE:
            raise self._refused(f"its pickle has {len(raw):,} bytes, more than {_MAX_PICKLE:,}")
        try:
            for opcode, argument, _ in pickletools.genops(bytes(raw)):
                if opcode.name not in _OPCODES:
                    raise self._refused(f"its pickle uses {opcode.name}, which torch.save does not")
                _OPCODES[opcode.name](self, argument)
            (result,) = self.stack
        except InputError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error):
            raise self._refused("its pickle is damaged") from None
        return result

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        at = self.marks.pop()
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def top(self, count: int) -> list[Any]:
        """The last `count` values, taken."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("only lists are appended to")
        self.stack[-1].extend(values)

    def update(self, flat: list[Any]) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        # Other keys, such as tuples of tuples, can take for ever to hash.
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str | int) for key, _ in pairs):
            raise TypeError("only dictionaries with text or numbers as keys are filled")
        self.stack[-1].update(pairs)

    def name(self, name: str) -> None:
        if name not in _MEANINGS and name not in _DTYPES:
            shown = name.replace(" ", ".")[:80]
            raise self._refused(f"it names '{shown}', which is code to be run, or no plain dense tensor")
        self.push(_Name(name))

    def storage(self) -> None:
        kind, dtype, key, _, count = self.stack.pop()  # the device it was on does not matter
        if kind != "storage" or not isinstance(key, str) or not _is_count(count):
            raise TypeError("not a storage")
        storage = _Storage(_DTYPES[dtype.name], f"{self.archive.prefix}data/{key}", count)
        there = self.archive.members.get(storage.member, (0, 0, 0))[1]
        if count * storage.dtype.itemsize != there:
            raise self._refused(
                f"storage '{key[:20]}' claims {count:,} numbers, and the file has {there:,} bytes of it"
            )
        self.push(storage)

    def call(self) -> None:
        name, arguments = self.top(2)
        self.push(_MEANINGS[name.name](self, *arguments))

    def tensor(self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Stored:
        if not isinstance(storage, _Storage) or not all(map(_is_count, (offset, *shape, *strides))):
            raise TypeError("not a tensor")
        if len(shape) > MAX_DIMENSIONS or len(shape) != len(strides) or 0 in shape:
            raise self._refused(f"a tensor has the shape {list(shape)[:8]}")
        # Transposed is as good as contiguous: every number is there, and once. Strides of lengths of 1 mean nothing.
        dense = 1
        for stride, length in sorted(zip(strides, shape, strict=True)):
            if length > 1 and stride != dense:
                raise self._refused(f"a tensor of shape {list(shape)} and strides {list(strides)} is not dense")
            dense *= length
        if offset + math.prod(shape) > storage.count:
            raise self._refused(f"a tensor of shape {list(shape)} reaches past its {storage.count:,} numbers")
        return Stored(self.archive, storage.member, storage.dtype, offset, tuple(shape), tuple(strides))

    def _refused(self, reason: str) -> InputError:
        return refused(self.archive.path, reason)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _put(machine: _Pickle, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _opaque(machine: _Pickle, *_: Any) -> _Opaque:
    del machine
    return _Opaque()


_MEANINGS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _Pickle.tensor,
    "torch._utils _rebuild_parameter": lambda machine, data, *_: data,
    "collections OrderedDict": lambda machine, *_: {},
    "numpy.core.multiarray scalar": _opaque,
    "numpy._core.multiarray scalar": _opaque,
    "numpy dtype": _opaque,
    "_codecs encode": _opaque,
}
"""What takes the place of a call. Signature: `(machine, *arguments) -> value`."""

_OPCODES: dict[str, Callable[[_Pickle, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Pickle.push),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.top(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.top(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.top(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "APPEND": lambda machine, _: machine.extend(machine.top(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.update(machine.top(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.marked()),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "GLOBAL": _Pickle.name,
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.top(1).clear(),
    "STOP": lambda machine, _: None,
}

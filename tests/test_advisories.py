"""Every advisory that names readers of files like ours (trust in what others were caught by), as a file we refuse.

Most concern PyTorch's unpickler and scanners of pickles, which list what is forbidden. accdd unpickles nothing and
lists what is allowed, so that what is tried here is less the trick of each than that its way in is shut.
"""

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_exchange import Attack, good, repickled, rezipped, saved

from accdd import artifact, data
from accdd.config import InputError


def calling(module: str, name: str) -> bytes:
    """A .pt file whose pickle calls a function with one text: the way in of every scanner's bypass."""
    call = f"\x80\x02c{module}\n{name}\nX\x08\x00\x00\x00attacked\x85R.".encode("latin-1")
    return rezipped(good(), data_pkl=call)


def bare(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n(Vattacked\ntR.".encode()


def scripted() -> bytes:
    """TorchScript, which torch.load hands on to another loader."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {"constants.pkl": b"\x80\x02).", "code/x.py": b"", "data.pkl": b"\x80\x02N."}.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def tarred() -> bytes:
    """The format of PyTorch before 0.1.10, whose reader checked nothing."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            raw = pickle.dumps(Attack("attacked"))
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            archive.addfile(about, io.BytesIO(raw))
    return stream.getvalue()


def broken_checksum() -> bytes:
    """A zip archive with a wrong checksum, at which scanners gave up and PyTorch did not."""
    raw = bytearray(calling("posix", "system"))
    at = raw.index(b"PK\1\2")
    raw[at + 16 : at + 20] = b"\0\0\0\0"
    return bytes(raw)


def set_on_a_tensor() -> bytes:
    """SETITEM on what is no dictionary, and a storage that is smaller than the tensor on it says."""
    return rezipped(good(), data_pkl=b"\x80\x02]K\x00K\x01s.")


ADVISORIES: dict[str, tuple[Callable[[], bytes], ...]] = {
    "CVE-2025-32434, torch.load runs code in spite of weights_only": (scripted, tarred),
    "CVE-2026-24747, torch.load corrupts memory in spite of weights_only": (
        set_on_a_tensor, lambda: repickled(b"(K\x04K\x03", b"(M\xff\xffK\x03"),
    ),
    "CVE-2025-62164, sparse tensors reach outside": (
        lambda: saved([torch.eye(4).to_sparse(), torch.arange(4)]),
        lambda: saved([torch.eye(4).to_sparse_csr(), torch.arange(4)]),
    ),
    "CVE-2025-1716, a scanner allows pip": (lambda: calling("pip", "main"), lambda: bare("pip", "main")),
    "CVE-2025-10155, a scanner goes by the ending": (lambda: pickle.dumps(Attack("attacked")),),
    "CVE-2025-10156, a scanner stops at a checksum": (broken_checksum,),
    "CVE-2025-71325, CVE-2025-71348, functions that a list of scanners lacks": (
        lambda: calling("cProfile", "run"), lambda: calling("idlelib.pyshell", "ModifiedInterpreter.runcode"),
        lambda: calling("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ),
    "CVE-2026-3490, CVE-2026-53873, what no list can hold": (
        lambda: calling("functools", "partial"), lambda: calling("operator", "methodcaller"),
        lambda: calling("torch._utils", "_rebuild_tensor"), lambda: calling("torch", "load"),
        lambda: calling("importlib", "import_module"), lambda: calling("builtins", "getattr"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("advisory", ADVISORIES)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_what_others_were_caught_by_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advisory: str
):
    monkeypatch.chdir(tmp_path)
    for make in ADVISORIES[advisory]:
        Path("old.pt").write_bytes(make())
        for kind in ("idc", "dc"):
            with pytest.raises(InputError, match=r"old\.pt.*(Nothing of it was run|was not read)"):
                artifact.import_set("old.pt", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pt"]


def test_a_picture_of_another_format_is_not_decoded_whatever_its_name(tmp_path: Path):
    """CVE-2026-25990: tiles of a PSD that Pillow writes outside of its buffer."""
    layers = struct.pack(">4i", -9, -9, 2**30, 2**30)
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(8) + struct.pack(">I", 16) + layers
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "ant" / "evil.png").write_bytes(psd)
    with pytest.raises(InputError, match=r"evil\.png"):
        data.load(tmp_path)


def test_an_npz_that_grows_a_thousandfold_is_refused_before_it_does(tmp_path: Path):
    """numpy: 97 kB become 100 MB."""
    file = tmp_path / "x.npz"
    np.savez_compressed(file, images=np.zeros((100_000_000 // 192, 3, 8, 8), np.uint8), labels=np.zeros(4, int))
    assert file.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"claims arrays of 100,00.*three times the file.*np\.savez"):
        data.load(file)


def test_an_npz_whose_header_was_changed_is_refused(tmp_path: Path):
    """numpy reads less than there is, and never comes to the checksum."""
    file = tmp_path / "x.npz"
    np.savez(file, images=np.zeros((900, 3, 8, 8), np.uint8), labels=np.arange(900) % 2)
    raw = file.read_bytes()
    assert raw.count(b"(900, 3, 8, 8)") == 1
    file.write_bytes(raw.replace(b"(900, 3, 8, 8)", b"(900, 3, 8, 4)"))
    with np.load(file) as arrays:
        assert arrays["images"].shape == (900, 3, 8, 4), "or the refusal below shows nothing"
    with pytest.raises(InputError, match=r"not a readable \.npz file"):
        data.load(file)


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path: Path):
    """keras#23016: two kilobytes whose header asks for terabytes."""
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(2000))
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(InputError, match=r"not a readable \.npz file"):
        data.load(tmp_path / "x.npz")


def test_a_picture_bomb_is_refused_by_what_it_declares(tmp_path: Path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png)
    with pytest.raises(InputError, match=r"50 million pixels"):
        data.load(tmp_path)

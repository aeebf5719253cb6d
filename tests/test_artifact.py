"""A distilled set survives the disk bit for bit, and nothing damaged or hostile gets in."""

import copy
import dataclasses
import io
import json
import math
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from accdd import data
from accdd.artifact import Distilled, export, load, save
from accdd.artifact.card import card, escape, preview
from accdd.config import InputError
from accdd.files import sha256
from accdd.formation import WHOLE, decode

TENSORS, HEADER = "images.safetensors", "distilled.json"


def a_set(classes: int = 2, ipc: int = 3, channels: int = 3, size: int = 8, factor: int = 2, **info: Any) -> Distilled:
    generator = torch.Generator().manual_seed(0)
    return Distilled(
        images=torch.rand(classes * ipc, channels, size, size, generator=generator),
        labels=torch.arange(classes).repeat_interleave(ipc),
        class_names=tuple(f"class {label}" for label in range(classes)),
        mean=(0.1,) * channels,
        std=(1 / 3,) * channels,
        factor=factor,
        info=info,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(a_set(method="idc"), tmp_path / "set")
    return tmp_path / "set"


def rewrite_header(folder: Path, **changes: Any) -> None:
    """With other entries, and without a checksum, so that they are looked at themselves."""
    tree = json.loads((folder / HEADER).read_bytes())
    del tree["checksum"]
    (folder / HEADER).write_text(json.dumps(tree | changes))


def rewrite_tensors(folder: Path, raw: bytes, **changes: Any) -> None:
    """New bytes whose SHA-256 is right, as an attacker would write them."""
    (folder / TENSORS).write_bytes(raw)
    rewrite_header(folder, sha256=sha256(folder / TENSORS), **changes)


def packed(layout: dict[str, Any] | bytes, payload: bytes) -> bytes:
    header = layout if isinstance(layout, bytes) else json.dumps(layout).encode()
    return struct.pack("<Q", len(header)) + header + payload


def unpacked(folder: Path) -> tuple[dict[str, Any], bytes]:
    raw = (folder / TENSORS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


# --- round trip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formation", WHOLE)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_is_exact(tmp_path: Path, factor: int, channels: int, formation: str):
    scores = [{"network": "convnet", "protocol": "idc", "n": 3, "mean": 67.1, "std": None, "accuracies": [67.1]}]
    distilled = a_set(factor=factor, channels=channels, method="idc", scores=scores)
    distilled = dataclasses.replace(distilled, class_names=("ä\n", "<b>"), formation=formation)
    distilled.save(tmp_path / "set")
    again = load(tmp_path / "set")
    assert torch.equal(again.images, distilled.images)
    assert torch.equal(again.labels, distilled.labels)
    for name in ("class_names", "mean", "std", "factor", "formation", "info"):
        assert getattr(again, name) == getattr(distilled, name)
    assert {each.name for each in (tmp_path / "set").iterdir()} == {TENSORS, HEADER, "preview.png", "README.md"}


@pytest.mark.parametrize("formation", WHOLE)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_set_of_images_that_are_not_square_is_saved_and_decoded(tmp_path: Path, factor: int, formation: str):
    distilled = dataclasses.replace(a_set(factor=factor, size=12), formation=formation)
    distilled = dataclasses.replace(distilled, images=distilled.images[..., :7, :])
    distilled.save(tmp_path / "set")
    images, labels = load(tmp_path / "set").decode()
    assert torch.equal(images, distilled.decode()[0])
    assert images.shape == (distilled.count, 3, 7, 12) and len(labels) == distilled.count


def test_a_set_that_names_no_formation_is_uniform(saved: Path):
    tree = json.loads((saved / HEADER).read_bytes())
    del tree["formation"], tree["checksum"]
    (saved / HEADER).write_text(json.dumps(tree))
    assert load(saved).formation == "uniform"


@pytest.mark.parametrize(
    ("old", "new"), [('"idc"', '"dsa"'), ("0.1", "0.2"), ("0.1", "1e999"), ('"uniform"', '"multi"')]
)
def test_a_header_that_was_changed_is_refused_though_it_is_valid(saved: Path, old: str, new: str):
    text = (saved / HEADER).read_text()
    assert old in text
    (saved / HEADER).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"distilled.json: its checksum is not that of its entries: it is damaged, or"):
        load(saved)
    (saved / HEADER).write_text(" ".join(text.split()))
    load(saved)  # how it is laid out does not matter


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path):
    save(load(saved), tmp_path / "again")
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_slices_are_stored_as_they_are_seen(tmp_path: Path):
    full = a_set()
    part = dataclasses.replace(full, images=full.images[::2].transpose(2, 3), labels=full.labels[::2])
    save(part, tmp_path / "set")
    assert torch.equal(load(tmp_path / "set").images, part.images)


def test_a_run_folder_stands_for_its_set(tmp_path: Path):
    save(a_set(), tmp_path / "run" / "distilled")
    assert load(tmp_path / "run").ipc == 3


def test_an_existing_folder_is_not_overwritten(saved: Path):
    before = (saved / TENSORS).read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save(a_set(classes=1), saved)
    assert (saved / TENSORS).read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_others_may_read_the_set(tmp_path: Path):
    before = os.umask(0o022)
    try:
        save(a_set(), tmp_path / "set")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "set").iterdir()} == {0o644}


@pytest.mark.parametrize("value", [math.nan, object(), "\udc80", "x" * 1_000_001])
def test_info_that_could_not_be_read_back_is_refused(tmp_path: Path, value: Any):
    with pytest.raises(InputError, match=r"JSON|Shorten"):
        save(a_set(note=value), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_info_with_numbers_for_keys_is_read_back_with_text_for_them(tmp_path: Path):
    save(a_set(counts={9: "nine", 10: "ten"}), tmp_path / "set")
    assert load(tmp_path / "set").info["counts"] == {"9": "nine", "10": "ten"}


# --- the value ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_decoding_repeats_the_labels_in_the_order_of_the_crops(factor: int):
    distilled = a_set(factor=factor)
    images, labels = distilled.decode()
    assert images.shape == (6 * factor**2, 3, 8, 8)
    assert torch.allclose(images, decode(distilled.images, factor))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] * factor**2


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_multi_decodes_by_every_factor_one_after_the_other(factor: int):
    distilled = dataclasses.replace(a_set(factor=factor), formation="multi")
    images, labels = distilled.decode()
    parts = [decode(distilled.images, each) for each in range(1, factor + 1)]
    assert torch.allclose(images, torch.cat(parts))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] * (1, 5, 14)[factor - 1]
    assert distilled.count == len(images)


@pytest.mark.parametrize("factor", [1, 2])
def test_what_is_decoded_may_be_changed_without_changing_the_set(factor: int):
    distilled = a_set(factor=factor)
    before = distilled.images.clone()
    images, _ = distilled.decode()
    images.sub_(0.5)
    assert torch.equal(distilled.images, before)


def test_decoded_images_stay_in_range():
    extreme = a_set()
    images, _ = dataclasses.replace(extreme, images=extreme.images.round()).decode()
    assert images.min() >= 0
    assert images.max() <= 1


def test_ipc_and_classes():
    distilled = a_set(classes=4, ipc=2)
    assert (distilled.ipc, distilled.num_classes) == (2, 4)
    assert dataclasses.replace(distilled, images=distilled.images[1:], labels=distilled.labels[1:]).ipc == 2


WRONG_VALUES: dict[str, dict[str, Any]] = {
    "expected a detached torch.float32": {"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)},
    "with 4 dimensions": {"images": torch.zeros(2, 8, 8)},
    "detached": {"images": torch.zeros(2, 3, 8, 8, requires_grad=True)},
    "do not go with": {"images": torch.zeros(3, 3, 8, 8)},
    "reach from nan": {"images": torch.full((2, 3, 8, 8), math.nan)},
    "to 1.5": {"images": torch.full((2, 3, 8, 8), 1.5)},
    "from -0.1": {"images": torch.full((2, 3, 8, 8), -0.1)},
    "torch.int64": {"labels": torch.zeros(2, dtype=torch.int32)},
    "labels reach from 0 to 2; expected 0 to 1": {"labels": torch.tensor([0, 2])},
    "labels reach from -1": {"labels": torch.tensor([-1, 0])},
    "for 3 channels": {"mean": (0.5,)},
    "std > 0": {"std": (1.0, 0.0, 1.0)},
    "must be finite": {"mean": (0.5, math.nan, 0.5)},
    "factor is 9": {"factor": 9},
    "Unknown formation of a distilled set 'bounded'": {"formation": "bounded"},
}


@pytest.mark.parametrize("message", WRONG_VALUES)
def test_values_that_do_not_fit_are_refused(message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        dataclasses.replace(a_set(ipc=1), **WRONG_VALUES[message])


# --- damaged and hostile folders ----------------------------------------------------------------------------------


def flipped_byte(folder: Path) -> None:
    raw = bytearray((folder / TENSORS).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / TENSORS).write_bytes(raw)


def truncated(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-1])


def appended(folder: Path) -> None:
    rewrite_tensors(folder, (folder / TENSORS).read_bytes() + b"\0")


def emptied(folder: Path) -> None:
    (folder / TENSORS).write_bytes(b"")


def wrong_key(folder: Path) -> None:
    layout, payload = unpacked(folder)
    layout["pictures"] = layout.pop("images")
    rewrite_tensors(folder, packed(layout, payload))


def more_keys(folder: Path) -> None:
    layout, payload = unpacked(folder)
    rewrite_tensors(folder, packed(layout | {"__metadata__": {"a": "b"}}, payload))


def duplicate_tensor(folder: Path) -> None:
    layout, payload = unpacked(folder)
    text = json.dumps(layout)[:-1] + ', "images": ' + json.dumps(layout["images"]) + "}"
    rewrite_tensors(folder, packed(text.encode(), payload))


def wrong_dtype(folder: Path) -> None:
    layout, payload = unpacked(folder)
    layout["images"]["dtype"] = "I32"
    rewrite_tensors(folder, packed(layout, payload))


def wrong_shape(folder: Path) -> None:
    layout, payload = unpacked(folder)
    layout["images"]["shape"] = [6, 3, 4, 16]
    rewrite_tensors(folder, packed(layout, payload))


def overlapping(folder: Path) -> None:
    layout, payload = unpacked(folder)
    layout["labels"]["data_offsets"] = [0, 48]
    layout["images"]["data_offsets"] = [0, 6 * 3 * 8 * 8 * 4]
    rewrite_tensors(folder, packed(layout, payload))


def huge_claim(folder: Path) -> None:
    layout, payload = unpacked(folder)
    shape = [10**6, 3, 10**3, 10**3]
    layout["images"] |= {"shape": shape, "data_offsets": [0, 12 * 10**12]}
    rewrite_tensors(folder, packed(layout, payload), shapes={"images": shape, "labels": [6]})


def huge_header_length(folder: Path) -> None:
    rewrite_tensors(folder, struct.pack("<Q", 2**63) + (folder / TENSORS).read_bytes()[8:])


def long_header(folder: Path) -> None:
    layout, payload = unpacked(folder)
    rewrite_tensors(folder, packed(json.dumps(layout).encode().ljust(70_000), payload))


def header_past_the_end(folder: Path) -> None:
    rewrite_tensors(folder, struct.pack("<Q", 5000) + b"{}")


def tensors_of(folder: Path, **changes: torch.Tensor) -> None:
    distilled = load(folder)
    tensors = {"images": distilled.images, "labels": distilled.labels} | changes
    rewrite_tensors(folder, safetensors.torch.save(tensors))


def nan(folder: Path) -> None:
    images = load(folder).images
    images[-1, -1, -1, -1] = math.nan
    tensors_of(folder, images=images)


def out_of_range(folder: Path) -> None:
    tensors_of(folder, images=load(folder).images * 255)


def label_out_of_range(folder: Path) -> None:
    tensors_of(folder, labels=torch.tensor([0, 0, 0, 1, 1, 2]))


def negative_label(folder: Path) -> None:
    tensors_of(folder, labels=torch.tensor([0, 0, 0, 1, 1, -1]))


def json_too_big(folder: Path) -> None:
    rewrite_header(folder, info={"note": "x" * 1_000_000})


def json_too_deep(folder: Path) -> None:
    (folder / HEADER).write_bytes(b"[" * 900_000)


def json_not_utf8(folder: Path) -> None:
    (folder / HEADER).write_bytes(b'{"format": "\xff"}')


def json_of_another_kind(folder: Path) -> None:
    (folder / HEADER).write_text("[1, 2]")


def duplicate_json_key(folder: Path) -> None:
    text = (folder / HEADER).read_text()
    (folder / HEADER).write_text(text.replace('"factor": 2', '"factor": 2, "factor": 1'))


def json_with_nan(folder: Path) -> None:
    rewrite_header(folder, info={"mean": math.nan})


def unknown_version(folder: Path) -> None:
    rewrite_header(folder, format_version=2, something_new=True)


def another_format(folder: Path) -> None:
    rewrite_header(folder, format="other")


def unknown_field(folder: Path) -> None:
    rewrite_header(folder, soft_labels=True)


def wrong_type(folder: Path) -> None:
    rewrite_header(folder, factor="2")


def wrong_sha(folder: Path) -> None:
    rewrite_header(folder, sha256="../" * 20)


def unknown_formation(folder: Path) -> None:
    rewrite_header(folder, formation="multi_scale")


def bounded_formation(folder: Path) -> None:
    rewrite_header(folder, formation="bounded")


def formation_of_another_type(folder: Path) -> None:
    rewrite_header(folder, formation=[["uniform"]])


def huge_formation(folder: Path) -> None:
    rewrite_header(folder, formation="m" * 100_000)


def huge_factor(folder: Path) -> None:
    rewrite_header(folder, factor=1000)


def fewer_means(folder: Path) -> None:
    rewrite_header(folder, mean=[0.5])


def no_tensors(folder: Path) -> None:
    (folder / TENSORS).unlink()


def no_header(folder: Path) -> None:
    (folder / HEADER).unlink()


def tensors_are_a_folder(folder: Path) -> None:
    (folder / TENSORS).unlink()
    (folder / TENSORS).mkdir()


# Damage -> the file that must be named, and the reason given.
DAMAGES = {
    flipped_byte: (TENSORS, "SHA-256"),
    truncated: (TENSORS, "bytes where its header makes"),
    appended: (TENSORS, "bytes where its header makes"),
    emptied: (TENSORS, "is not a safetensors file"),
    wrong_key: (TENSORS, r"holds \['labels', 'pictures'\]; expected \['images', 'labels'\]"),
    more_keys: (TENSORS, "__metadata__"),
    duplicate_tensor: (TENSORS, "'images' appears twice"),
    wrong_dtype: (TENSORS, "images are I32"),
    wrong_shape: (TENSORS, r"of shape \[6, 3, 4, 16\]; expected F32 of \[6, 3, 8, 8\]"),
    overlapping: (TENSORS, "safetensors cannot read it"),
    huge_claim: (TENSORS, "bytes where its header makes"),
    huge_header_length: (TENSORS, "is not a safetensors file"),
    long_header: (TENSORS, "is not a safetensors file"),
    header_past_the_end: (TENSORS, "is not a safetensors file"),
    nan: (TENSORS, "images reach from nan"),
    out_of_range: (TENSORS, r"expected finite values in \[0, 1\]"),
    label_out_of_range: (TENSORS, "labels reach from 0 to 2"),
    negative_label: (TENSORS, "labels reach from -1"),
    json_too_big: (HEADER, "longer than 1,000,000 bytes"),
    json_too_deep: (HEADER, "is not the JSON expected"),
    json_not_utf8: (HEADER, "is not the JSON expected"),
    json_of_another_kind: (HEADER, "is not a JSON object"),
    duplicate_json_key: (HEADER, "'factor' appears twice"),
    json_with_nan: (HEADER, "NaN is not a JSON number"),
    unknown_version: (HEADER, "version 2 is unknown.*Upgrade"),
    another_format: (HEADER, "does not say 'format': 'accdd.distilled'"),
    unknown_field: (HEADER, "'soft_labels': Unexpected"),
    wrong_type: (HEADER, "'factor': Input should be a valid integer"),
    wrong_sha: (HEADER, "'sha256'"),
    unknown_formation: (HEADER, "formation 'multi_scale' is unknown; this accdd decodes by uniform, multi. Upgrade"),
    bounded_formation: (HEADER, "formation 'bounded' is unknown"),
    formation_of_another_type: (HEADER, r"formation \[\['uniform'\]\] is unknown"),
    huge_formation: (HEADER, "formation 'mmmm.*is unknown"),
    huge_factor: (HEADER, "factor is 1000"),
    fewer_means: (HEADER, "for 3 channels"),
    no_tensors: (TENSORS, "there is no such file"),
    no_header: (HEADER, "there is no such file"),
    tensors_are_a_folder: (TENSORS, "there is no such file"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_refused_and_named(saved: Path, damage):
    damage(saved)
    file, reason = DAMAGES[damage]
    with pytest.raises(InputError, match=f"(?s){re.escape(file)}.*{reason}") as caught:
        load(saved)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [TENSORS, HEADER])
def test_no_single_flipped_bit_is_missed_or_escapes_as_another_error(saved: Path, name: str):
    original = (saved / name).read_bytes()
    expected = copy.deepcopy(vars(load(saved)))
    for position in range(0, min(len(original), 1200), 7):
        raw = bytearray(original)
        raw[position] ^= 1 << position % 8
        (saved / name).write_bytes(raw)
        try:
            found = vars(load(saved))
        except InputError:
            continue
        # distilled.json has no checksum of its own: a changed class name is still a valid set of other values.
        assert name == HEADER
        assert torch.equal(found["images"], expected["images"])


def test_no_truncation_is_missed(saved: Path):
    for name in (TENSORS, HEADER):
        original = (saved / name).read_bytes()
        for length in range(0, len(original) - 1, 41):
            (saved / name).write_bytes(original[:length])
            with pytest.raises(InputError):
                load(saved)
        (saved / name).write_bytes(original)
    load(saved)


class Attack:
    """Unpickling it creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def as_pickle(attack: Attack) -> bytes:
    return pickle.dumps(attack)


def as_torch_file(attack: Attack) -> bytes:
    stream = io.BytesIO()
    torch.save({"images": attack}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("dump", [as_pickle, as_torch_file])
@pytest.mark.parametrize("name", [TENSORS, HEADER])
def test_a_pickle_is_refused_and_not_run(saved: Path, tmp_path: Path, dump, name: str):
    raw = dump(Attack(tmp_path / "attacked"))
    if name == TENSORS:
        rewrite_tensors(saved, raw)
    else:
        (saved / name).write_bytes(raw)
    with pytest.raises(InputError):
        load(saved)
    assert not (tmp_path / "attacked").exists()
    pickle.loads(as_pickle(Attack(tmp_path / "attacked")))
    assert (tmp_path / "attacked").exists(), "the attack itself must work, or this test shows nothing"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang_the_reader(saved: Path):
    (saved / TENSORS).unlink()
    os.mkfifo(saved / TENSORS)
    with pytest.raises(InputError, match="there is no such file"):
        load(saved)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none does not exist\. Expected a folder with"):
        load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no distilled set"):
        load(tmp_path / "file")


# --- preview and card ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "ipc", "size"), [(2, 1, 8), (10, 1, 28), (10, 10, 32), (100, 50, 8), (3, 10, 224), (2, 3, 1024)]
)
def test_the_preview_has_a_sensible_size(classes: int, ipc: int, size: int):
    picture = preview(a_set(classes=classes, ipc=ipc, size=size, channels=1))
    assert 200 <= picture.width <= 1200
    assert picture.height <= 6000


def test_the_preview_shows_the_stored_images_unsmoothed(saved: Path):
    distilled = load(saved)
    with Image.open(saved / "preview.png") as picture:
        pixels = np.array(picture)
    step = (picture.width + 2) // distilled.num_classes
    scale = (step - 2) // 8
    for index, image in enumerate(distilled.images):
        label, row = divmod(index, distilled.ipc)
        top, left = row * step, label * step
        shown = pixels[top : top + 8 * scale : scale, left : left + 8 * scale : scale]
        assert np.array_equal(shown, (image * 255).round().byte().permute(1, 2, 0).numpy())


def test_a_given_preview_is_kept(tmp_path: Path):
    save(a_set(), tmp_path / "set", preview=Image.new("RGB", (5, 7), "red"))
    with Image.open(tmp_path / "set" / "preview.png") as picture:
        assert picture.size == (5, 7)


def test_the_card_states_method_scores_and_limits():
    scores = [{"network": "convnet", "protocol": "idc", "n": 3, "mean": 67.12, "std": 0.31}, "no score"]
    scores.append({"network": "resnet10", "protocol": "idc", "n": 1, "mean": 65, "std": None})
    text = card(a_set(method="idc", source={"name": "digits"}, scores=scores))
    assert "| Method | idc |" in text
    assert "| Source | digits |" in text
    assert "| Images per class (IPC) | 3 |" in text
    assert "| Classes | class 0, class 1 |" in text
    assert "| convnet | idc | 3 | 67.1 ± 0.3 |" in text
    assert "| resnet10 | idc | 1 | 65.0 |" in text
    assert "not a privacy guarantee" in text
    assert "None recorded." in card(a_set())


@pytest.mark.parametrize("strange", [7, None, "x", [None, 1], [{"mean": "x", "n": []}], {"mean": 1}])
def test_the_card_survives_strange_info(strange: Any):
    assert "privacy" in card(a_set(scores=strange, source=strange, method=strange))


HOSTILE = (
    "<script>alert(1)</script>",
    "[link](javascript:alert(1))",
    "a|b `code` **bold** _it_ ~~s~~ $x$ {0} {method}",
    "line\n# heading\r\n---",
    "\x1b[31mred\u202eesrever\x00",
    "https://example.org www.example.org @someone",
    "&lt;already&gt; ![x](y)",
    "long" * 1000,
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_act_as_markup(name: str):
    plain, hostile = a_set(method="m"), dataclasses.replace(a_set(method=name), class_names=(name, name))
    shown = escape(name)
    assert re.fullmatch(r"(?:\w| |…|\N{REPLACEMENT CHARACTER}|&#\d+;)*", shown)
    assert card(hostile).count("\n") == card(plain).count("\n")
    expected = card(plain).replace("class 0, class 1", f"{shown}, {shown}").replace("| m |", f"| {shown} |")
    assert card(hostile) == expected


def test_a_long_list_of_names_is_cut():
    assert " and 5 more |" in card(a_set(classes=105, ipc=1))


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("formation", ["uniform", "multi"])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_card_s_code_without_accdd_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int, formation: str
):
    distilled = dataclasses.replace(a_set(factor=factor, size=8), formation=formation)
    save(distilled, tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set")
    with_accdd, without = python_blocks((tmp_path / "set" / "README.md").read_text(encoding="utf-8"))
    assert "accdd.load(" in with_accdd and "accdd" not in without
    names: dict[str, Any] = {}
    exec(without, names)
    images, labels = distilled.to_numpy()
    assert names["images"].dtype == np.float32
    np.testing.assert_allclose(names["images"], images, rtol=0, atol=1e-6)
    assert np.array_equal(names["labels"], labels)
    assert tuple(names["class_names"]) == distilled.class_names


# --- export -------------------------------------------------------------------------------------------------------


def test_npz_holds_what_a_network_trains_on_and_what_is_stored(tmp_path: Path):
    distilled = a_set(factor=2)
    export(distilled, "npz", tmp_path / "set.npz")
    images, labels = distilled.decode()
    with np.load(tmp_path / "set.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], images.numpy())
        assert np.array_equal(arrays["labels"], labels.numpy())
        assert arrays["images"].dtype == np.float32
        assert arrays["class_names"].tolist() == list(distilled.class_names)
        assert tuple(arrays["mean"]) == distilled.mean
        assert tuple(arrays["std"]) == distilled.std
        assert arrays["factor"] == 2 and arrays["formation"] == "uniform"
        assert np.array_equal(arrays["stored_images"], distilled.images.numpy())
        assert np.array_equal(arrays["stored_labels"], distilled.labels.numpy())
    assert [each.name for each in tmp_path.iterdir()] == ["set.npz"]


def test_an_exported_npz_can_be_distilled_again(tmp_path: Path):
    distilled = a_set(factor=2)
    export(distilled, "npz", tmp_path / "set.npz")
    dataset = data.load(tmp_path / "set.npz")
    assert dataset.class_names == distilled.class_names
    assert len(dataset.images) + len(dataset.test_images) == len(distilled.decode()[0])


def test_export_overwrites_nothing_and_names_its_formats(tmp_path: Path):
    (tmp_path / "mine.npz").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        export(a_set(), "npz", tmp_path / "mine.npz")
    assert (tmp_path / "mine.npz").read_text() == "precious"
    with pytest.raises(InputError, match="Expected one of: npz"):
        export(a_set(), "npy", tmp_path / "other")

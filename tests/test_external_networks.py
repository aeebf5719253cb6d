"""Networks of a user's own: found by name, refused in one sentence, and never imported for a file's sake."""

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CPU, assert_same, generator, network, noise, problem, settings, stripes
from torch import Tensor, nn

import accdd
from accdd import engine, loop, planning, training
from accdd.artifact import Distilled
from accdd.config import InputError, Train
from accdd.config import Network as NetworkSettings
from accdd.execution import Plan
from accdd.keys import Key
from accdd.networks import Architecture, Forward, architecture, calibrated, external, find, identity

SOURCE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, channels, size, num_classes, norm=nn.BatchNorm2d):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), norm(4), nn.ReLU(), nn.AvgPool2d(2))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * (size // 2) ** 2, num_classes)
    def embed(self, x):
        return self.features(x).flatten(1)
    def forward(self, x):
        return self.fc(self.drop(self.embed(x)))

class Blind(nn.Module):
    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.fc = nn.Linear(channels * size * size, num_classes)
    def forward(self, x):
        return self.fc(x.flatten(1))

class Patches(Blind):
    def __init__(self, channels, size, num_classes):
        super().__init__(channels, size, num_classes)
        self.embed = nn.Conv2d(channels, channels, 2, 2)

class Stateful(Blind):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.register_buffer("seen", torch.zeros(()))

def wide(channels, size, num_classes):
    return Blind(channels, size, num_classes + 1)

def two(channels, size, num_classes):
    class Two(Blind):
        def forward(self, x):
            return super().forward(x), x
    return Two(channels, size, num_classes)

class Pooled(nn.Module):
    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(channels, 4, size), nn.BatchNorm2d(4), nn.Linear(4, num_classes)
    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).flatten(1))

def tracked(channels, size, num_classes):
    return Small(channels, size, num_classes, lambda c: nn.InstanceNorm2d(c, track_running_stats=True))

def nothing(channels, size, num_classes):
    return None

def fails(channels, size, num_classes):
    raise KeyError("size")

def lazy(channels, size, num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def misfits(channels, size, num_classes):
    return nn.Linear(7, num_classes)

number = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`mine_net.py` in the current folder, and no memory of others' that were imported."""
    path = tmp_path / "mine_net.py"
    path.write_text(SOURCE)
    (tmp_path / "broken_net.py").write_text("def build(:\n")
    (tmp_path / "leaky_net.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.chdir(tmp_path)
    forget()
    yield path
    forget()


def forget() -> None:
    external.find.cache_clear()
    importlib.invalidate_caches()
    for name in ("mine_net", "broken_net", "leaky_net"):
        sys.modules.pop(name, None)


def own(name: str, size: int = 8) -> Architecture:
    return architecture(NetworkSettings(name=name), 3, size, 2)


def test_a_network_of_a_user_s_own_is_a_function_of_its_parameters():
    shape = own("mine_net:Small")
    weights = shape.initialise(Key(0))
    assert set(weights) == {
        f"{layer}.{kind}" for layer in ("features.0", "features.1", "fc") for kind in ("weight", "bias")
    }
    assert_same(weights, shape.initialise(Key(0)))
    images = noise(5, 3, 8, 8)
    logits = Forward(shape)(weights, images)
    assert_same(Forward(shape)(weights, images), logits)  # dropout is off
    module = sys.modules["mine_net"].Small(3, 8, 2).train()  # its BatchNorm is PyTorch's, with the batch's statistics
    module.load_state_dict(weights, strict=False)
    module.drop.eval()
    torch.testing.assert_close(logits, module(images).detach())
    torch.testing.assert_close(Forward(shape).embed(weights, images), module.embed(images).detach())
    assert (str(shape), sys.path.count(str(Path.cwd()))) == ("mine_net:Small", 0)


@pytest.mark.parametrize("norm", ["BatchNorm2d", "InstanceNorm2d", "GroupNorm", "LayerNorm", "Identity"])
@pytest.mark.parametrize("plan", [Plan(classes=2), Plan(precision="bf16"), Plan(precision="bf16", classes=2)], ids=str)
def test_it_is_matched_in_bf16_and_several_classes_at_once(mine: Path, norm: str, plan: Plan):
    arguments = {"GroupNorm": "2, 4", "LayerNorm": "[4, 8, 8]"}.get(norm, "4")
    mine.write_text(SOURCE.replace("norm(4), nn.ReLU()", f"nn.{norm}({arguments}), nn.ReLU(inplace=True)"))
    shape, data = own("mine_net:Small"), stripes()
    given = problem(data)._replace(forward=Forward(shape))
    drawn = loop.draw(data, given, settings({"match.augment": []}), Key(0))[0]
    stored = torch.rand(2, 2, 3, 8, 8, generator=generator())
    weights = shape.initialise(Key(0))
    assert planning.most_parts(given, settings({"ipc": 2})) == 1, "it may mix images in ways that nobody knows"
    losses, slopes = engine.sweep(given, weights, data.images, stored, drawn)
    found = engine.sweeper(given, plan)(weights, data.images, stored, drawn)
    torch.testing.assert_close(found[0], losses, rtol=0.2, atol=0)
    assert nn.functional.cosine_similarity(found[1].flatten(), slopes.flatten(), dim=0) > 0.9


def test_one_image_has_no_statistics_and_is_matched_on_those_of_real_ones():
    told = {
        "ipc": 1, "network.name": "mine_net:Pooled", "loop.steps": 2, "images.factor": 1, "score.seeds": 0,
        "targets.count": 0, "loop.inner_steps": 1, "loop.train_images": 0, "loop.train_epochs": 0, "pool.use": False,
        "compile": "never",
    }  # fmt: skip
    data = stripes()
    assert accdd.distill(data, settings={**told, "method": "dc"}).distilled.images.isfinite().all()
    with pytest.raises(InputError, match=r"BatchNorm of the network 'mine_net:Pooled' sees a single value.*--ipc"):
        accdd.distill(data, settings={**told, "method": "idc"})
    with pytest.raises(InputError, match=r"^The network 'mine_net:Blind' has no method `embed`"):
        accdd.distill(data, settings={**told, "method": "dm", "network.name": "mine_net:Blind"})
    with pytest.raises(InputError, match=r"^The network 'mine_net:Patches' has no method `embed`"):  # but a layer
        accdd.distill(data, settings={**told, "method": "dm", "network.name": "mine_net:Patches"})


def test_workers_choose_real_images_as_one_process_does_where_the_set_s_network_is_not_asked_for(tmp_path: Path):
    data = stripes()
    names = ("images", "labels", "test_images", "test_labels")
    np.savez(tmp_path / "stripes.npz", **{name: getattr(data, name).numpy() for name in names})
    small = {
        "ipc": 2, "network.name": "mine_net:Small", "loop.steps": 1, "targets.count": 0, "score.seeds": 0,
        "pool.networks": 1, "pool.epochs": 1, "precision": "fp32", "compile": "never",
    }  # fmt: skip
    accdd.distill(str(tmp_path / "stripes.npz"), out=tmp_path / "run", settings=small)
    told = {"networks": ["mlp", "convnet/width=4/depth=1"], "baselines": ["herding"], "seeds": 1, "epochs": 1}
    handed_out = accdd.evaluate(tmp_path / "run", executor="local:1", **told)
    assert [score.found for score in handed_out] == [1] * 4


def test_making_one_moves_nobody_s_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Forward(own("mine_net:Small"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("mapped", [True, False])
def test_it_trains_on_a_last_batch_of_one_image(mapped: bool):
    # Of one image that is one value per channel, batch norm leaves its shift alone, whatever the image.
    data, shape, recipe = stripes(), own("mine_net:Pooled"), Train(batch=8, augment=(), cutmix=0.0, momentum=0.0)
    keys = [Key(0), Key(1)]
    step = training.make_step(shape, recipe, data.mean, data.std, CPU, count=2, mapped=mapped)
    trained = training.begin([shape.initialise(key) for key in keys])
    order = torch.arange(9).repeat(2, 1)
    steps = training.train(
        step, trained, data.images, data.labels, order, recipe=recipe, lr=0.1, num_classes=2, keys=keys
    )
    (before, _), (after, losses) = steps
    for was, now, loss in zip(training.networks(before), training.networks(after), losses, strict=True):
        logits = nn.functional.linear(was["norm.bias"], was["fc.weight"], was["fc.bias"])
        torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, data.labels[8]), rtol=1e-3, atol=0)
        decayed = was["conv.weight"] * (1 - 0.1 * recipe.weight_decay)
        torch.testing.assert_close(now["conv.weight"], decayed, rtol=0, atol=1e-3)
        assert not torch.equal(now["norm.bias"], was["norm.bias"])


def test_its_batch_norm_takes_frozen_statistics():
    shape = own("mine_net:Small")
    weights, batches = shape.initialise(Key(0)), [noise(5, 3, 8, 8, seed=seed) for seed in range(3)]
    frozen = calibrated(Forward(shape), weights, batches)
    module = sys.modules["mine_net"].Small(3, 8, 2, lambda c: nn.BatchNorm2d(c, momentum=None))
    module.load_state_dict(weights, strict=False)
    for batch in batches:
        module(batch)
    torch.testing.assert_close(Forward(shape)(frozen, batches[0]), module.eval()(batches[0]).detach())


def test_it_can_be_distilled_with_and_evaluated_on(tmp_path: Path):
    data = stripes()
    settings = {
        "network.name": "mine_net:Small", "pool.networks": 1, "pool.epochs": 1, "train.batch": 8, "loop.steps": 2,
        "score.networks": ["mine_net:Small", "mine_net:Blind"], "score.epochs": 1, "score.seeds": 1,
        "precision": "fp32", "compile": "never", "device": "cpu",
    }  # fmt: skip
    source = {"images": data.images.numpy(), "labels": data.labels.numpy()}
    result = accdd.distill((source["images"], source["labels"]), ipc=1, out=tmp_path / "run", settings=settings)
    assert [score.network for score in result.scores[::2]] == ["mine_net:Small", "mine_net:Blind"]
    test = (data.test_images.numpy(), data.test_labels.numpy())
    options: dict[str, Any] = {"test": test, "seeds": 1, "epochs": 1, "compile": "never"}
    scores = accdd.evaluate(tmp_path / "run", networks=["mine_net:Small", "convnet"], **options)
    assert [score.network for score in scores] == ["mine_net:Small", "convnet"]
    forget()
    with pytest.raises(InputError, match=r"names the network 'mine_net:Small'.*--networks mine_net:Small.*trust"):
        accdd.evaluate(tmp_path / "run", **options)
    assert "mine_net" not in sys.modules
    accdd.evaluate(tmp_path / "run", networks=["convnet"], **options)
    assert "mine_net" not in sys.modules


@pytest.mark.parametrize("name", ["leaky_net:build", "timm:resnet18"])
def test_code_that_only_a_file_names_is_not_imported(name: str):
    info = {"settings": {"network": {"name": name}}, "source": {"name": "stripes", "path": "digits"}}
    stranger = Distilled(
        images=torch.rand(2, 3, 8, 8), labels=torch.arange(2), class_names=("lying", "standing"), mean=(0.5,) * 3,
        std=(0.2,) * 3, factor=1, info=info,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"'{name}', which is code.*Expected --networks {name}"):
        accdd.evaluate(stranger)
    assert "leaky_net" not in sys.modules


def test_without_features_gradients_are_matched_and_distributions_are_not():
    shape = own("mine_net:Blind")
    weights = shape.initialise(Key(0))
    given = problem(stripes())._replace(forward=Forward(shape))
    found = engine.real_half(given, weights, torch.rand(4, 3, 8, 8), torch.tensor(1), {})
    assert list(found) == ["fc.weight"]
    with pytest.raises(InputError, match=r"'mine_net:Blind' has no method `embed`.*Expected `embed\(images\)"):
        Forward(shape).embed(weights, noise(2, 3, 8, 8))


WRONG = [
    ("mine_net", "Unknown network 'mine_net'.*one of: convnet, .*Or your own, module:callable; or timm:NAME"),
    ("mine_net:", "'mine_net:' names nothing. Expected module:callable"),
    (":build", "':build' names nothing"),
    ("mine_net:a.b", "'mine_net:a.b' names nothing"),
    ("nowhere_net:build", "Importing 'nowhere_net'.*ModuleNotFoundError: No module named 'nowhere_net'"),
    ("broken_net:build", "Importing 'broken_net'.*failed with SyntaxError"),
    ("leaky_net:build", "Importing 'leaky_net'.*failed with RuntimeError: imported"),
    ("mine_net:build", r"'build' is not there in '.*mine_net\.py'.*\(channels, size, num_classes\)"),
    ("mine_net:number", r"'number' is not callable in '.*mine_net\.py'"),
    ("mine_net:nothing", "'mine_net:nothing' made a NoneType. Expected a torch.nn.Module"),
    ("mine_net:fails", "Building the network 'mine_net:fails' failed with KeyError: 'size'"),
    ("mine_net:Stateful", "has the buffers seen. Expected parameters alone"),
    ("mine_net:tracked", "has the buffers features.1.running_mean, "),
    ("mine_net:lazy", "'mine_net:lazy' has lazy layers. Expected layers that are told their sizes"),
    ("mine_net:wide", r"makes \(2, 3\) of 2 images of 3 x 8 x 8. Expected logits \(2, 2\)"),
    ("mine_net:two", "makes tuple of 2 images"),
    ("mine_net:misfits", "on images of 3 x 8 x 8 failed with RuntimeError: "),
]


@pytest.mark.parametrize(("name", "message"), WRONG, ids=[name for name, _ in WRONG])
def test_what_is_wrong_is_said(name: str, message: str):
    with pytest.raises(InputError, match=f"(?s){message}"):
        own(name)


def test_a_shape_is_refused():
    with pytest.raises(InputError, match=r"network\.width is 4, but a mine_net:Small has no choice"):
        architecture(NetworkSettings(name="mine_net:Small", width=4), 3, 8, 2)


def test_what_its_code_was_names_what_is_kept_in_the_cache(mine: Path):
    before = identity(own("mine_net:Small"))
    assert identity(NetworkSettings(name="mine_net:Small"))["code"] == before["code"]
    mine.write_text(SOURCE + "\nnumber = 4\n")
    forget()
    assert identity(own("mine_net:Small")) != before
    assert "code" not in identity(network())


# timm ---------------------------------------------------------------------------------------------------------


class NormAct(nn.BatchNorm2d):
    """A norm with an activation of its own, as timm has them."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class TimmLike(nn.Module):
    def __init__(self, in_chans: int, num_classes: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(in_chans, 4, 3), NormAct(4)
        self.fc = nn.Linear(4, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"'timm:resnet18' needs timm\. Expected: pip install timm"):
        find("timm:resnet18")
    assert "timm" in (Path(__file__).parents[1] / "pyproject.toml").read_text().split("optional-dependencies]")[1]


def test_a_network_of_timm_is_made_for_the_data(monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append({"name": name, **options})
        return TimmLike(options["in_chans"], options["num_classes"])

    fused: list[bool] = []
    fake = types.SimpleNamespace(
        __version__="1.2.3", is_model=lambda name: name == "small", create_model=create_model,
        layers=types.SimpleNamespace(set_fused_attn=fused.append),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "timm", fake)
    with pytest.raises(InputError, match=r"timm 1\.2\.3 has no network 'smal'.*timm\.list_models\(\)"):
        find("timm:smal")
    shape = own("timm:small")
    assert identity(shape)["code"] == "1.2.3" and set(fused) == {False}
    assert asked[0] == {"name": "small", "pretrained": False, "in_chans": 3, "num_classes": 2}
    weights, images = shape.initialise(Key(0)), noise(4, 3, 8, 8)
    forward = Forward(shape)
    features = forward.embed(weights, images)
    maps = nn.functional.conv2d(images, weights["network.conv.weight"], weights["network.conv.bias"])
    expected = torch.relu(nn.functional.batch_norm(maps, None, None, training=True)).mean((2, 3))
    torch.testing.assert_close(features, expected)
    logits = nn.functional.linear(features, weights["network.fc.weight"], weights["network.fc.bias"])
    torch.testing.assert_close(forward(weights, images), logits)
    assert forward.batch_norms == ["network.bn"]
    external.find.cache_clear()

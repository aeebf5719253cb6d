"""Networks: published sizes, instance norm, width and depth by image size, initialisation by key."""

import dataclasses
import itertools
import math
import re
from typing import Any, get_args, get_type_hints

import pytest
import torch
from helpers import assert_same, doubled, generator, network, noise, problem, tiny
from torch import nn

from accdd import defaults
from accdd.augment import draw
from accdd.config import InputError, Settings, override
from accdd.config import Network as NetworkSettings
from accdd.data import Dataset
from accdd.engine import real_half, synthetic_half
from accdd.keys import Key
from accdd.networks import (
    NETWORKS,
    Architecture,
    Forward,
    architecture,
    densenet,
    efficientnet,
    identity,
    settings_for,
    vit,
)
from accdd.networks.layers import ACTIVATIONS, NORMS, POOLINGS, InstanceNorm, Layer, MeanPool
from accdd.networks.resnet import Block

NAMED = tuple(tiny(name) for name in NETWORKS)
LEAST = {"vgg11": 28, "efficientnet_b0": 17}
"""Images that are larger than the least, 16 pixels, of the others."""


@pytest.mark.parametrize("side", [4, 7, 9])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_what_is_compiled_pools_as_what_is_not(monkeypatch: pytest.MonkeyPatch, side: int, size: int):
    x = noise(2, 3, side, side + 1).double().requires_grad_()
    weights = noise(2, 3, side // size, (side + 1) // size, seed=1).double()
    plain = MeanPool(size)(x)
    (expected,) = torch.autograd.grad((plain * weights).sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    pooled = MeanPool(size)(x)
    torch.testing.assert_close(pooled, plain)
    torch.testing.assert_close(torch.autograd.grad((pooled * weights).sum(), x)[0], expected)


def test_convnet_normalises_each_channel_of_each_image_by_itself():
    module = Architecture("convnet", 5, 2, 3, 8, 10).build()
    x = 3 * noise(2, 5, 8, 8) + 1
    for norm in (each for each in module.modules() if isinstance(each, nn.GroupNorm)):
        torch.testing.assert_close(norm(x), nn.functional.instance_norm(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [*NAMED, NetworkSettings(width=4, depth=2)], ids=[*NETWORKS, "convnet-2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (1, 28), (3, 32), (3, 64), (3, 128), (3, 129), (1, 224)])
def test_forward_gives_one_logit_per_class_from_what_it_embeds(settings: NetworkSettings, channels: int, size: int):
    size = max(size, LEAST.get(settings.name, 16))
    shape = architecture(settings, channels, size, 7)
    weights, images = shape.initialise(Key(0)), noise(2, channels, size, size)
    logits, features = Forward(shape)(weights, images), Forward(shape).embed(weights, images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0  # the images are told apart
    linear = nn.functional.linear(features, weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(linear, logits)


@pytest.mark.parametrize("settings", NAMED, ids=NETWORKS)
def test_a_network_may_be_built_from_what_its_settings_became(settings: NetworkSettings, data: Dataset):
    enlarged = dataclasses.replace(data, images=data.images.repeat(1, 1, 4, 4))  # 32 x 32
    resolved = defaults.resolve(Settings(network=settings), enlarged).network
    assert architecture(resolved, 3, 32, 2) == architecture(settings, 3, 32, 2)
    assert (resolved.width, resolved.norm) == (settings.width, None)


def test_what_a_convnet_is_identified_by_stays():
    """Early-stage models are found again by these entries."""
    own = {"norm": "instance", "activation": "relu", "pooling": "avg"}
    for settings in (NetworkSettings(), override(Settings(), {f"network.{k}": v for k, v in own.items()}).network):
        assert identity(architecture(settings, 3, 32, 10)) == {
            "name": "convnet", "width": 128, "depth": 3, "channels": 3, "size": 32, "num_classes": 10,
        }  # fmt: skip
    assert identity(NetworkSettings(width=128, depth=3)) == {"name": "convnet", "width": 128, "depth": 3}


@pytest.mark.parametrize("option", [{"norm": "batch"}, {"activation": "gelu"}, {"pooling": "max"}], ids=str)
def test_another_choice_is_another_network(option: dict[str, Any]):
    chosen = architecture(dataclasses.replace(NetworkSettings(), **option), 3, 32, 10)
    assert identity(chosen).items() >= option.items()


def test_networks_say_their_shape():
    assert str(architecture(NetworkSettings(), 3, 32, 10)) == "convnet of depth 3 and width 128"
    assert str(architecture(NetworkSettings(name="resnet_ap10"), 3, 32, 10)) == "resnet_ap10 of width 64"
    assert str(architecture(NetworkSettings(name="lenet"), 3, 32, 10)) == "lenet"
    chosen = NetworkSettings(norm="batch", activation="relu", pooling="max")
    assert str(architecture(chosen, 3, 32, 10)) == "convnet of depth 3, width 128, batch norm and max pooling"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_matched_network_s_shape_serves_itself_alone(name: str):
    matched = NetworkSettings(name=name, width=5)
    assert settings_for(name, matched) == matched
    for other in set(NETWORKS) - {name}:
        assert settings_for(other, matched) == NetworkSettings(name=other)


def test_a_name_may_say_a_shape():
    matched = NetworkSettings(width=32, norm="group")
    assert settings_for("convnet/depth=4", matched) == NetworkSettings(width=32, depth=4, norm="group")
    assert settings_for("convnet/width=8/norm=batch", matched) == NetworkSettings(width=8, norm="batch")
    assert settings_for("resnet10/width=8", matched) == NetworkSettings(name="resnet10", width=8)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnet/32", "'32' is no option. Expected one as in convnet/width=32"),
        ("convnet/name=mlp", "'name=mlp' is no option"),
        ("convnet/widht=32", "Did you mean 'network.width'?"),
        ("convnet/width=wide", "'network.width' = 'wide'"),
        ("convnett/width=32", "Unknown network 'convnett'"),
        ("convnet/width=32/width=64", "has 'width' twice"),
    ],
)
def test_a_shape_that_cannot_be_said(name: str, said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        settings_for(name, NetworkSettings())


def test_28_pixel_images_begin_as_32_pixel_maps():
    grey = Architecture("convnet", 4, 3, 1, 28, 10)
    same_maps = Architecture("convnet", 4, 3, 1, 32, 10)
    weights = grey.initialise(Key(0))
    assert weights["classifier.weight"].shape == (10, 4 * 4 * 4)
    images = noise(2, 1, 28, 28)
    # Padding 3 in the first convolution is padding 2 beforehand and 1 in the convolution.
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    torch.testing.assert_close(Forward(grey)(weights, images), Forward(same_maps)(weights, padded))


def test_forward_is_the_module_with_these_weights():
    module = network().build()
    weights = network().initialise(Key(3))
    module.load_state_dict(weights)
    images = noise(2, 3, 8, 8)
    torch.testing.assert_close(Forward(network())(weights, images), module(images).detach())


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (28, 3), (32, 3), (64, 4), (128, 5)])
def test_depth_follows_from_the_image_size_and_leaves_maps_of_about_4_pixels(size: int, depth: int):
    assert architecture(NetworkSettings(), 3, size, 10).depth == depth


@pytest.mark.parametrize("size", [4, 8, 16, 28, 32, 48, 64, 96, 128, 224, 256, 512, 1024])
def test_every_derived_depth_can_be_built(size: int):
    derived = architecture(NetworkSettings(width=2), 3, size, 10)
    with torch.device("meta"):
        assert derived.build()


def test_a_depth_that_is_given_is_kept_and_one_that_is_too_deep_is_refused():
    assert architecture(NetworkSettings(depth=1), 3, 64, 10).depth == 1
    with pytest.raises(InputError, match=r"depth 4 halves 8-pixel images.*at most 3"):
        architecture(NetworkSettings(depth=4), 3, 8, 10)


@pytest.mark.parametrize("size", [8, 28, 32, 48])
def test_the_depth_named_as_the_largest_is_the_largest_that_is_accepted(size: int):
    with pytest.raises(InputError) as refused:
        network(size=size, depth=8)
    largest = int(str(refused.value).rstrip(".").split()[-1])
    assert network(size=size, depth=largest).depth == largest
    with pytest.raises(InputError):
        network(size=size, depth=largest + 1)


def test_an_unknown_network_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"Unknown network 'convnets'\. Did you mean 'convnet'\?"):
        network(name="convnets")


def test_initial_weights_follow_from_the_key():
    assert_same(network().initialise(Key(0)), network().initialise(Key(0)))
    for other in (Key(1), Key(0).at("step", 0)):
        assert not torch.equal(
            network().initialise(other)["convs.0.weight"], network().initialise(Key(0))["convs.0.weight"]
        )


def test_initial_weights_are_pytorch_s_default():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(0).generator("initialise").initial_seed())
        assert_same(network().initialise(Key(0)), dict(network().build().state_dict()))


# Published sizes ----------------------------------------------------------------------------------------------


def parameters(name: str, size: int = 32, num_classes: int = 10, channels: int = 3) -> int:
    with torch.device("meta"):
        module = architecture(NetworkSettings(name=name), channels, size, num_classes).build()
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "num_classes", "count"),
    [
        ("convnet", 32, 10, 320_010),
        ("resnet10", 32, 10, 1_228_970),
        ("densenet121", 32, 10, 1_000_618),
        ("resnet_ap10", 224, 10, 4_910_922),
        # On ImageNet: as the papers' and timm's tables have them (5.3 M and 5.7 M), and torchvision's for ResNet-18.
        ("efficientnet_b0", 224, 1000, 5_288_548),
        ("vit_tiny", 224, 1000, 5_717_416),
        ("resnet18", 224, 1000, 11_689_512),
    ],
)
def test_networks_have_their_published_number_of_parameters(name: str, size: int, num_classes: int, count: int):
    assert parameters(name, size, num_classes) == count


def conv(before: int, after: int, kernel: int, bias: bool = True) -> int:
    return before * after * kernel**2 + bias * after


def linear(before: int, after: int) -> int:
    return (before + 1) * after


def residual(width: int, per_stage: int, kernel: int) -> int:
    """A ResNet by hand: stem, four stages, shortcuts where maps get wider; two numbers a channel for each norm."""
    total, before = conv(3, width, kernel, False) + 2 * width, width
    for stage in range(4):
        after = width * 2**stage
        for _ in range(per_stage):
            total += conv(before, after, 3, False) + conv(after, after, 3, False) + 4 * after
            total += (conv(before, after, 1, False) + 2 * after) * (before != after)
            before = after
    return total + linear(before, 10)


def test_the_others_have_the_number_that_their_layers_add_up_to():
    assert parameters("resnet18") == residual(32, 2, 3)
    assert parameters("resnet_ap18") == residual(64, 2, 3)
    assert parameters("resnet_ap18", 224) == residual(64, 2, 7)
    assert parameters("mlp") == linear(3072, 128) + linear(128, 128) + linear(128, 10)
    assert parameters("mlp", 28, channels=1) == linear(784, 128) + linear(128, 128) + linear(128, 10)
    lenet = conv(6, 16, 5) + linear(400, 120) + linear(120, 84) + linear(84, 10)
    assert parameters("lenet") == conv(3, 6, 5) + lenet
    assert parameters("lenet", 28, channels=1) == conv(1, 6, 5) + lenet
    alexnet = conv(128, 192, 5) + conv(192, 256, 3) + conv(256, 192, 3) + conv(192, 192, 3) + linear(192 * 16, 10)
    assert parameters("alexnet") == conv(3, 128, 5) + alexnet
    assert parameters("alexnet", 28, channels=1) == conv(1, 128, 5) + alexnet
    filters = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    vgg = sum(conv(before, after, 3) + 2 * after for before, after in itertools.pairwise(filters))
    assert parameters("vgg11") == vgg + linear(512, 10)
    block = 4 * 192 + linear(192, 3 * 192) + linear(192, 192) + linear(192, 768) + linear(768, 192)
    assert parameters("vit_tiny") == linear(3 * 4 * 4, 192) + 192 + 65 * 192 + 12 * block + 2 * 192 + linear(192, 10)
    assert parameters("efficientnet_b0") == 5_288_548 - linear(1280, 1000) + linear(1280, 10)


@pytest.mark.parametrize(("size", "side"), [(8, 1), (12, 2), (16, 2), (28, 4), (32, 4), (64, 8), (96, 16), (224, 16)])
def test_patches_are_an_eighth_of_small_images_and_16_pixels_of_photographs(size: int, side: int):
    shape = architecture(NetworkSettings(name="vit_tiny", width=4, depth=1), 3, size, 10)
    assert shape.build().get_parameter("positions").shape == (1, math.ceil(size / side) ** 2 + 1, 4)


# Choices ------------------------------------------------------------------------------------------------------


def test_the_choices_that_settings_allow_are_those_there_are():
    hints = get_type_hints(NetworkSettings)
    for option, there in (("norm", NORMS), ("activation", ACTIVATIONS), ("pooling", POOLINGS)):
        allowed = {value for literal in get_args(hints[option]) for value in get_args(literal)}
        assert allowed == set(there)


CHOICES = list(itertools.product(NORMS, ACTIVATIONS, POOLINGS))


@pytest.mark.parametrize(("norm", "activation", "pooling"), CHOICES)
def test_a_convnet_is_made_of_what_is_chosen(norm: str, activation: str, pooling: str):
    """Written out in PyTorch's own functions, one block after the other."""
    shape = network(norm=none_if(norm, "instance"), activation=none_if(activation, "relu"),
                    pooling=none_if(pooling, "avg"))  # fmt: skip
    weights, x = shape.initialise(Key(0)), noise(4, 3, 8, 8)
    found = Forward(shape)(weights, x)
    act = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.01), "sigmoid": nn.Sigmoid(), "gelu": nn.GELU(),
           "silu": nn.SiLU()}[activation]  # fmt: skip
    dims = {"instance": (2, 3), "batch": (0, 2, 3), "layer": (1, 2, 3), "group": (2, 3)}  # four groups of one channel
    for block in range(2):
        x = nn.functional.conv2d(x, weights[f"convs.{block}.weight"], weights[f"convs.{block}.bias"], padding=1)
        if norm != "none":
            variance, mean = torch.var_mean(x, dims[norm], correction=0, keepdim=True)
            x = (x - mean) / (variance + 1e-5).sqrt()
        x = act(x)
        x = {"avg": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "none": nn.Identity()}[pooling](x)
    expected = nn.functional.linear(x.flatten(1), weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(found, expected)


def none_if(value: str, own: str) -> str | None:
    return None if value == own else value


def test_groups_are_four_or_as_many_as_divide_the_channels():
    for channels, groups in ((128, 4), (6, 2), (5, 1)):
        norm = NORMS["group"](channels)
        x = 3 * noise(2, channels, 4, 4) + 1
        torch.testing.assert_close(norm(x), nn.functional.group_norm(x, groups))


def test_without_pooling_a_convnet_may_be_as_deep_as_wished():
    assert architecture(NetworkSettings(depth=9, width=2, pooling="none"), 3, 8, 10).depth == 9
    with pytest.raises(InputError, match="depth 9 halves 8-pixel images"):
        architecture(NetworkSettings(depth=9, width=2), 3, 8, 10)


CHANGEABLE = {
    "convnet": {"width", "depth", "norm", "activation", "pooling"}, "mlp": {"width"}, "alexnet": {"width"},
    "lenet": set(), "vit_tiny": {"width", "depth"},
}  # fmt: skip
"""What can be chosen; in the others width and norm."""


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_network_has_no_choice_of_is_refused(name: str):
    choices = {"width": 8, "depth": 2, "norm": "group", "activation": "silu", "pooling": "max"}
    for option, value in choices.items():
        settings = dataclasses.replace(NetworkSettings(name=name), **{option: value})
        if option in CHANGEABLE.get(name, {"width", "norm"}):
            chosen = architecture(settings, 3, 32, 10)
            assert getattr(chosen, option) == value
            logits = Forward(chosen)(chosen.initialise(Key(0)), noise(2, 3, 32, 32))
            assert logits.isfinite().all() and logits.shape == (2, 10)
        else:
            with pytest.raises(InputError, match=rf"network\.{option} is {value}, but a {name} has no choice of it"):
                architecture(settings, 3, 32, 10)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("convnet", "mlp", "vit_tiny")])
def test_images_that_are_too_small_are_refused_and_the_least_are_not(name: str):
    with pytest.raises(InputError, match=rf"A {name} shrinks 7-pixel images") as refused:
        architecture(tiny(name), 3, 7, 10)
    least = int(str(refused.value).split("data.size=")[1].split()[0])
    shape = architecture(tiny(name), 3, least, 10)
    logits = Forward(shape)(shape.initialise(Key(0)), noise(2, 3, least, least))
    assert logits.std(0).min() > 1e-6
    with pytest.raises(InputError, match=f"at least {least}"):
        architecture(tiny(name), 3, least - 1, 10)


def test_a_width_that_attention_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match=r"network\.width 200 is not divided by the 3 attention heads"):
        architecture(NetworkSettings(name="vit_tiny", width=200), 3, 32, 10)


# Layers of single networks ------------------------------------------------------------------------------------


def test_attention_is_pytorch_s_own():
    block = vit.Block(128).double()
    block.requires_grad_(False)
    x = noise(2, 5, 128, dtype=torch.float64)
    own = nn.MultiheadAttention(128, 2, batch_first=True, dtype=torch.float64).requires_grad_(False)
    own.in_proj_weight.copy_(block.queries_keys_values.weight)
    own.in_proj_bias.copy_(block.queries_keys_values.bias)
    own.out_proj.load_state_dict(block.project.state_dict())
    torch.testing.assert_close(block.attend(x), own(x, x, x, need_weights=False)[0])


def test_a_patch_is_a_square_of_the_image():
    """The patches of a linear layer are those of the strided convolution with the same numbers."""
    module = architecture(NetworkSettings(name="vit_tiny", width=4, depth=1), 3, 32, 10).build().double()
    x, seen = noise(2, 3, 32, 32, dtype=torch.float64), []
    patches = module.get_submodule("patches")
    patches.register_forward_hook(lambda _layer, _given, out: seen.append(out))
    module(x)
    weights = module.get_parameter("patches.weight").unflatten(1, (3, 4, 4))
    expected = nn.functional.conv2d(x, weights, module.get_parameter("patches.bias"), stride=4)
    torch.testing.assert_close(seen[0], expected.flatten(2).mT)


def test_a_transition_that_pools_first_is_the_published_one_that_convolves_first():
    layer = densenet.Transition(4, 2, NORMS["batch"]).double()
    x = noise(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.pool(layer.conv(torch.relu(layer.norm(x)))))


def test_excitation_weighs_channels_of_the_bottleneck():
    """With excitation saturated by its bias, it is a plain inverted bottleneck; with the opposite, its shortcut."""
    block = efficientnet.Bottleneck(4, 4, 6, 3, 1, NORMS["batch"]).double().requires_grad_(False)
    x = noise(2, 4, 6, 6, dtype=torch.float64)
    block.excite.weight.zero_()
    block.get_parameter("excite.bias").fill_(50)
    expand = block.expand
    assert expand is not None
    plain = block.project(nn.functional.silu(block.depthwise(nn.functional.silu(expand(x)))))
    torch.testing.assert_close(block(x), x + plain)
    assert efficientnet.Bottleneck(4, 5, 6, 3, 1, NORMS["batch"])(noise(2, 4, 6, 6)).shape == (2, 5, 6, 6)
    assert efficientnet.Bottleneck(4, 4, 6, 5, 2, NORMS["batch"])(noise(2, 4, 6, 6)).shape == (2, 4, 3, 3)


# ResNets ------------------------------------------------------------------------------------------------------


def resnet(size: int = 32, width: int | None = 4, depth: int | None = None) -> Architecture:
    return architecture(NetworkSettings(name="resnet_ap10", width=width, depth=depth), 3, size, 10)


@pytest.mark.parametrize("size", [16, 31, 32, 64, 65, 128, 129, 224])
@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_a_strided_resnet_halves_three_times_after_a_stem_by_image_size(name: str, size: int):
    shape = architecture(NetworkSettings(name=name, width=4), 3, size, 10)
    maps: list[int] = []
    module = shape.build()
    for block in (each for each in module.modules() if isinstance(each, Block)):
        block.register_forward_hook(lambda _block, _given, out: maps.append(out.shape[-1]))
    module(noise(2, 3, size, size))
    first = size if size <= 64 else math.ceil(size / 2) if size <= 128 else math.ceil(math.ceil(size / 2) / 2)
    sides = [first, math.ceil(first / 2), math.ceil(first / 4), math.ceil(first / 8)]
    assert maps == [side for side in sides for _ in range({"resnet10": 1, "resnet18": 2}[name])]


@pytest.mark.parametrize(
    ("size", "kernel", "sides"),
    [
        (16, 3, [16, 8, 4, 2]),
        (32, 3, [32, 16, 8, 4]),
        (64, 3, [64, 32, 16, 8]),
        (65, 3, [32, 16, 8, 4]),
        (128, 3, [64, 32, 16, 8]),
        (129, 7, [32, 16, 8, 4]),
        (224, 7, [56, 28, 14, 7]),
        (256, 7, [64, 32, 16, 8]),
    ],
)
def test_resnet_ap10_pools_by_image_size_and_never_strides(size: int, kernel: int, sides: list[int]):
    module = resnet(size).build()
    maps = []
    for block in (each for each in module.modules() if isinstance(each, Block)):
        block.register_forward_hook(lambda _block, _given, out: maps.append(tuple(out.shape[1:])))
    module(noise(1, 3, size, size))
    assert maps == [(width, side, side) for width, side in zip([4, 8, 16, 32], sides, strict=True)]
    convs = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [kernel, 3, 3, *3 * [3, 3, 1]]
    assert all(conv.stride == (1, 1) and conv.bias is None for conv in convs)


def test_a_shortcut_that_pools_first_is_the_published_one_that_convolves_first():
    pool, conv, norm = Block(3, 6, InstanceNorm, pools=True).double().shortcut.children()
    x = noise(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(norm(conv(pool(x))), norm(pool(conv(x))))


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_block_without_its_convolutions_is_its_shortcut(norm: Layer, pools: bool):
    same, wider = Block(4, 4, norm, pools=pools), Block(4, 8, norm, pools=pools)
    x = noise(2, 4, 8, 8)
    for block in (same, wider):
        nn.init.zeros_(block.conv2.weight)
        torch.testing.assert_close(block(x), torch.relu(block.shortcut(x)))
    assert_same(same.shortcut(x), x)


def test_resnet_ap10_s_convolutions_are_drawn_by_fan_out_and_its_norms_change_nothing():
    for name, value in resnet(32, width=32).initialise(Key(0)).items():
        if value.ndim == 4:
            fan_out = value[:, 0].numel()
            assert value.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif "norm" in name:
            assert_same(value, torch.full_like(value, "weight" in name))


def test_resnet_ap10_s_image_gradient_is_the_slope_of_the_matching_loss(data: Dataset):
    shape = resnet(32)
    given = problem(data, factor=2)._replace(forward=Forward(shape))
    weights = doubled(shape.initialise(Key(0)))
    real, stored = torch.rand(2, 3, 3, 32, 32, generator=generator(), dtype=torch.float64)
    label, subset = torch.tensor(1), torch.tensor([0, 3, 5, 10])
    drawn = doubled(draw(("color", "crop", "cutout"), (1,), 32, generator()))
    target = real_half(given, weights, real, label, drawn)
    assert len(target) == 12  # every convolution: one in the stem, eight in the blocks, three in shortcuts

    def matched(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return synthetic_half(given, weights, target, images, label, drawn, subset)

    loss, slope = matched(stored)
    assert loss > 0
    direction, step = noise(3, 3, 32, 32, seed=1, dtype=torch.float64), 1e-6
    ahead, behind = (matched(stored + sign * step * direction)[0] for sign in (1, -1))
    torch.testing.assert_close((ahead - behind) / (2 * step), (slope * direction).sum(), rtol=1e-5, atol=0)


def test_a_depth_is_refused_where_it_has_no_meaning():
    with pytest.raises(InputError, match=r"network\.depth is 3, but a resnet_ap10 has no choice.*leave it out"):
        resnet(64, depth=3)


def test_images_that_a_resnet_ap10_would_shrink_to_single_pixels_are_refused():
    with pytest.raises(InputError, match=r"15-pixel images.*at least 16: --set data\.size=16"):
        resnet(15)
    assert resnet(16).size == 16

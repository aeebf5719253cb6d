"""Networks: published sizes, instance norm, width and depth by image size, initialisation by key."""

import dataclasses

import pytest
import torch
from helpers import assert_same, doubled, generator, network, noise, problem
from torch import nn

from accdd import defaults
from accdd.augment import draw
from accdd.config import InputError, Settings
from accdd.config import Network as NetworkSettings
from accdd.data import Dataset
from accdd.engine import real_half, synthetic_half
from accdd.keys import Key
from accdd.networks import NETWORKS, Architecture, Forward, architecture, settings_for
from accdd.networks.layers import MeanPool
from accdd.networks.resnet import Block

NAMED = tuple(NetworkSettings(name=name, width=4) for name in NETWORKS)


def test_convnet_3_of_width_128_has_the_published_number_of_parameters():
    module = Architecture("convnet", 128, 3, 3, 32, 10).build()
    assert sum(value.numel() for value in module.parameters()) == 320_010


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
def test_forward_gives_one_logit_per_class(settings: NetworkSettings, channels: int, size: int):
    shape = architecture(settings, channels, size, 7)
    logits = Forward(shape)(shape.initialise(Key(0)), noise(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0  # the images are told apart


@pytest.mark.parametrize("settings", NAMED, ids=NETWORKS)
def test_a_network_may_be_built_from_what_its_settings_became(settings: NetworkSettings, data: Dataset):
    enlarged = dataclasses.replace(data, images=data.images.repeat(1, 1, 2, 2))  # 16 x 16
    resolved = defaults.resolve(Settings(network=settings), enlarged).network
    assert architecture(resolved, 3, 16, 2) == architecture(settings, 3, 16, 2)
    assert resolved.width == 4


def test_what_a_convnet_is_identified_by_stays():
    """Early-stage models are found again by these entries."""
    assert dataclasses.asdict(architecture(NetworkSettings(), 3, 32, 10)) == {
        "name": "convnet", "width": 128, "depth": 3, "channels": 3, "size": 32, "num_classes": 10,
    }  # fmt: skip


def test_networks_say_their_shape():
    assert str(architecture(NetworkSettings(), 3, 32, 10)) == "convnet of depth 3 and width 128"
    assert str(architecture(NetworkSettings(name="resnet_ap10"), 3, 32, 10)) == "resnet_ap10 of width 64"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_matched_network_s_shape_serves_itself_alone(name: str):
    matched = NetworkSettings(name=name, width=5)
    assert settings_for(name, matched) == matched
    for other in set(NETWORKS) - {name}:
        assert settings_for(other, matched) == NetworkSettings(name=other)


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


# ResNetAP-10 --------------------------------------------------------------------------------------------------


def resnet(size: int = 32, width: int | None = 4, depth: int | None = None) -> Architecture:
    return architecture(NetworkSettings(name="resnet_ap10", width=width, depth=depth), 3, size, 10)


def test_resnet_ap10_has_the_published_number_of_parameters_for_photographs():
    assert sum(value.numel() for value in resnet(224, width=None).build().parameters()) == 4_910_922
    assert resnet(224).width == 4


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
    pool, conv, norm = Block(3, 6).double().shortcut.children()
    x = noise(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(norm(conv(pool(x))), norm(pool(conv(x))))


def test_a_block_without_its_convolutions_is_its_shortcut():
    same, wider = Block(4, 4), Block(4, 8)
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
    with pytest.raises(InputError, match=r"network\.depth is 3, but a resnet_ap10 has four blocks.*leave it out"):
        resnet(64, depth=3)


def test_images_that_a_resnet_ap10_would_shrink_to_single_pixels_are_refused():
    with pytest.raises(InputError, match=r"15-pixel images.*at least 16: --set data\.size=16"):
        resnet(15)
    assert resnet(16).size == 16

"""Networks: published sizes, instance norm, depth by image size, initialisation by key."""

import pytest
import torch
from helpers import assert_same, network, noise
from torch import nn

from accdd.config import InputError
from accdd.config import Network as NetworkSettings
from accdd.keys import Key
from accdd.networks import NETWORKS, Architecture, Forward, architecture


def test_convnet_3_of_width_128_has_the_published_number_of_parameters():
    module = Architecture("convnet", 128, 3, 3, 32, 10).build()
    assert sum(value.numel() for value in module.parameters()) == 320_010


def test_convnet_normalises_each_channel_of_each_image_by_itself():
    module = Architecture("convnet", 5, 2, 3, 8, 10).build()
    x = 3 * noise(2, 5, 8, 8) + 1
    for norm in (each for each in module.modules() if isinstance(each, nn.GroupNorm)):
        torch.testing.assert_close(norm(x), nn.functional.instance_norm(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size", "depth"), [(1, 28, 3), (3, 32, 3), (3, 8, 2), (1, 28, 2), (3, 64, 4)])
def test_forward_gives_one_logit_per_class(name: str, channels: int, size: int, depth: int):
    shape = Architecture(name, 4, depth, channels, size, 7)
    logits = Forward(shape)(shape.initialise(Key(0)), noise(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


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

"""VGG-11 (Simonyan & Zisserman, ICLR 2015) in the form of DC's released code (Zhao et al., ICLR 2021)."""

from torch import Tensor, nn

from accdd.networks.layers import NORMS, Classifier, first_padding, maps_from
from accdd.networks.shape import Shape, refuse_smaller, settle

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Filters of the convolutions of each stage, in widths; each stage ends with max pooling."""


class VGG11(Classifier):
    """Eight 3x3 convolutions with biases, instance norm and ReLU in five stages; then one linear classifier.

    28-pixel images are padded so that maps start at 32. Weights are drawn as PyTorch does.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before, padding = channels, first_padding(size, 3)
        for stage in STAGES:
            layers: list[nn.Module] = []
            for factor in stage:
                layers += [
                    nn.Conv2d(before, factor * width, 3, padding=padding),
                    NORMS[norm](factor * width),
                    nn.ReLU(),
                ]
                before, padding = factor * width, 1
            self.stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        side = maps_from(size) >> len(STAGES)
        self.classifier = nn.Linear(before * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 8 * width * (h / 32)^2)."""
        for stage in self.stages:
            x = stage(x)
        return x.flatten(1)

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width and norm given, or the published ones.

        Raises:
            InputError: something else is given, or the images are too small.
        """
        refuse_smaller(maps_from(size), 32, "vgg11")
        return settle("vgg11", given, Shape(64, norm="instance"))

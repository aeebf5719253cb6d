"""LeNet-5 (LeCun et al., Proceedings of the IEEE 1998) in the form of DC's released code, with ReLU and max pooling."""

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import Classifier, first_padding
from accdd.networks.shape import Shape, refuse_smaller, settle


class LeNet(Classifier):
    """Two 5x5 convolutions of 6 and 16 filters, each with ReLU and pooling; linear layers of 120, 84 and the classes.

    28-pixel images are padded by 2, so that maps end as 5 x 5 as for 32 pixels. Weights are drawn as PyTorch does.
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        padding = first_padding(size, 5) - 2
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        self.hidden1 = nn.Linear(16 * side * side, 120)
        self.hidden2 = nn.Linear(120, 84)
        self.classifier = nn.Linear(84, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 84)."""
        for conv in (self.conv1, self.conv2):
            x = self.pool(F.relu(conv(x)))
        return F.relu(self.hidden2(F.relu(self.hidden1(x.flatten(1)))))

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """Nothing can be chosen.

        Raises:
            InputError: something is given, or the images are too small.
        """
        refuse_smaller(size, 16, "lenet")
        return settle("lenet", given, Shape())

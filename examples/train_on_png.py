"""Train on what `accdd export OUT --to png DEST` wrote, with PyTorch and Pillow alone.

    python train_on_png.py DEST [TEST]

TEST is a folder of class folders with real pictures of the same size, to test on.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def read(root):
    """Pixels from 0 to 1, and labels in the order of the folders' names."""
    folders = sorted(each for each in Path(root).iterdir() if each.is_dir())
    pairs = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.glob("*.png"))]
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).float() / 255 for file, _ in pairs])
    return images, torch.tensor([label for _, label in pairs])


def train(images, labels, steps=200):
    """A linear network, which brings its own normalisation."""
    torch.manual_seed(0)
    mean, std = images.mean(), images.std()
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), int(labels.max()) + 1))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network((images - mean) / std), labels).backward()
        optimiser.step()
    return lambda pixels: network((pixels - mean) / std).argmax(1)


if __name__ == "__main__":
    predict = train(*read(Path(sys.argv[1]) / "train"))
    for name, root in zip(("training", "test"), (Path(sys.argv[1]) / "train", *sys.argv[2:]), strict=False):
        images, labels = read(root)
        print(f"{name} accuracy {100 * (predict(images) == labels).float().mean():.1f} % of {len(labels)}")

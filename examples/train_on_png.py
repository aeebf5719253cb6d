"""Train on what `accdd export OUT --to png DEST` wrote, with PyTorch and Pillow alone: python train_on_png.py DEST."""

import pathlib
import sys

import numpy as np
import torch
from PIL import Image

folders = sorted(each for each in (pathlib.Path(sys.argv[1]) / "train").iterdir() if each.is_dir())  # label order
pairs = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.glob("*.png"))]
images = torch.stack([torch.from_numpy(np.array(Image.open(file))).float() / 255 for file, _ in pairs])
images, labels = (images - images.mean()) / images.std(), torch.tensor([label for _, label in pairs])
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), len(folders)))
optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 200):
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"training loss {loss:.3f}, accuracy {100 * (network(images).argmax(1) == labels).float().mean():.0f} %")

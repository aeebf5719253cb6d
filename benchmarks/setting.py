"""What the benchmarks run on, and the plain reference: the shape of the released loops, written as directly as it goes.

One class at a time, eager fp32, a module with its GroupNorm, `autograd.grad(create_graph=True)`, and one optimiser
over all images that steps after every class.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from accdd import augment, config, data, defaults, engine, execution, loop, methods, networks, planning
from accdd.config import Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.execution import Plan
from accdd.keys import Key
from accdd.networks import Architecture, Parameters


@dataclasses.dataclass(frozen=True)
class Case:
    """Random images, a network, and settings: picklable, so that each process makes its own."""

    ipc: int = 10
    network: str = "convnet"
    width: int | None = 128
    size: int = 32
    classes: int = 10
    factor: int = 2
    per_class: int = 200
    precision: str = "auto"

    def settings(self, **changes: Any) -> Settings:
        """Resolved, with IDC's loop."""
        given = {
            "ipc": self.ipc, "network.name": self.network, "network.width": self.width,
            "images.factor": self.factor, "loop.inner_steps": 100, "loop.train_images": 2000,
            "precision": self.precision,
        }  # fmt: skip
        return defaults.resolve(config.override(Settings(), given | changes), self.data())

    def data(self) -> Dataset:
        """Random pixels: what they show does not matter to a clock."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(self.classes * self.per_class) % self.classes
        pixels = torch.randint(256, (len(labels), 3, self.size, self.size), generator=generator, dtype=torch.uint8)
        tested = torch.arange(self.classes)
        real = data.build("random pixels", (pixels, labels), (pixels[tested], tested))
        return real.to(execution.device("auto"))

    def architecture(self) -> Architecture:
        given = config.Network(name=self.network, width=self.width)
        return networks.architecture(given, 3, self.size, self.classes)


@dataclasses.dataclass(frozen=True)
class Matching:
    """What a sweep needs."""

    problem: Problem
    settings: Settings
    real: Dataset
    parameters: Parameters
    stored: Tensor
    drawn: engine.Sweep
    plan: Plan

    @classmethod
    def of(cls, case: Case) -> "Matching":
        real, settings = case.data(), case.settings(compile="always")
        problem = methods.problem(settings, real, case.architecture())
        shape = (case.classes, case.ipc, 3, case.size, case.size)
        stored = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(real.device)
        (drawn, *_) = loop.draw(real, problem, settings, Key(0))
        parameters = case.architecture().initialise(Key(0), real.device)
        plan = planning.choose_plan(problem, real, settings)
        return cls(problem, settings, real, parameters, stored, drawn, plan)


def module(case: Case, where: torch.device) -> torch.nn.Module:
    """The network as the released codes use it."""
    net = case.architecture().build()
    net.load_state_dict(case.architecture().initialise(Key(0)))
    return net.to(where)


class ReferenceMatching:
    """The matching of one inner iteration, class by class."""

    def __init__(self, case: Case, *, synthetic_only: bool = False) -> None:
        given = Matching.of(case)
        self._given, self._net = given, module(case, given.real.device)
        self._parameters = list(self._net.parameters())
        self._images = given.stored.clone().requires_grad_(True)
        self._sgd = torch.optim.SGD([self._images], lr=1e-6, momentum=0.5)
        self._synthetic_only, self._targets = synthetic_only, {}

    def __call__(self) -> None:
        drawn, real, problem = self._given.drawn, self._given.real, self._given.problem
        for label in range(real.num_classes):
            siamese = augment.at(drawn.siamese, label)
            if label not in self._targets or not self._synthetic_only:
                batch = real.images[drawn.real[label]].float() / 255
                self._targets[label] = [
                    slope.detach().clone() for slope in self._gradient(batch, siamese, label, False)
                ]
            decoded = problem.decode(self._images[label])[drawn.subset[label]]
            own = self._gradient(decoded, siamese, label, True)
            loss = torch.zeros((), device=real.device)
            for wanted, found in zip(self._targets[label], own, strict=True):
                if wanted.ndim == 4:
                    loss = loss + (wanted - found).square().sum()
            loss.item()
            self._sgd.zero_grad()
            loss.backward()
            self._sgd.step()

    def _gradient(self, batch: Tensor, siamese: augment.Draw, label: int, again: bool) -> tuple[Tensor, ...]:
        batch = augment.apply(augment.normalise(batch, self._given.problem.mean, self._given.problem.std), siamese)
        truth = torch.full((len(batch),), label, device=batch.device)
        return torch.autograd.grad(F.cross_entropy(self._net(batch), truth), self._parameters, create_graph=again)


class ReferenceTraining:
    """A network trained for some steps by `loss.backward()` and `torch.optim.SGD`."""

    def __init__(self, case: Case, recipe: config.Train, *, images: int, steps: int, networks: int = 1) -> None:
        self._real, self._recipe, self._steps, self._images = case.data(), recipe, steps, images
        self._nets = [module(case, self._real.device) for _ in range(networks)]
        self._sgd = [
            torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
            for net in self._nets
        ]

    def __call__(self) -> None:
        real, recipe = self._real, self._recipe
        for net, sgd in zip(self._nets, self._sgd, strict=True):
            batches = torch.randperm(self._images).to(real.device).split(recipe.batch)
            for number in range(self._steps):
                rows = batches[number % len(batches)]
                generator = torch.Generator().manual_seed(number)
                drawn = augment.to(augment.draw(recipe.augment, (len(rows),), real.size, generator), real.device)
                mixed = augment.draw_cutmix(recipe.cutmix, 1, len(rows), real.size, generator)
                batch = augment.apply(augment.normalise(real.images[rows], real.mean, real.std), drawn)
                targets = F.one_hot(real.labels[rows], real.num_classes).float()
                if mixed:
                    batch, targets = augment.apply_cutmix(batch, targets, augment.to(augment.at(mixed, 0), real.device))
                sgd.zero_grad()
                loss = F.cross_entropy(net(batch), targets)
                loss.backward()
                sgd.step()
                loss.item()

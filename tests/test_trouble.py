"""Numbers that are not finite, and memory that does not suffice: the run goes on or gives up, and says so."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CPU, Notes, assert_same, network, settings

import accdd
from accdd import defaults, engine, loop, methods, run
from accdd.augmented_models import Fresh
from accdd.config import Settings
from accdd.data import Dataset
from accdd.execution import PLAIN, Plan
from accdd.loop import Progress, State
from accdd.run import Quiet, RunFolder, checkpoints, learn, trouble

STEPS = 12


def growing(progress: Progress, since: State | None) -> Iterator[State]:
    """Images that grow to infinity in five sweeps, unless their step size was halved twice."""
    state = since or State(0, torch.ones(2, 1), torch.zeros(0), torch.zeros(2, 1))
    if since is None:
        yield state
    for sweep in range(state.sweep + 1, STEPS + 1):
        images = state.images * (1e9 if state.halvings < 2 else 0.5)
        state = State(sweep, images, images.sum(1), torch.zeros(2, 1), halvings=state.halvings)
        yield state


def told(**changes: Any) -> Settings:
    return settings(
        {"loop.steps": STEPS, "loop.inner_steps": 1, **{k.replace("_", "."): v for k, v in changes.items()}}
    )


def test_a_run_goes_back_and_halves_its_step_size_until_its_numbers_are_finite(tmp_path: Path):
    given, notes = told(loop_checkpoint=1e-9), Notes()
    folder = RunFolder.create(tmp_path / "run", None, "f", {}, given, CPU, PLAIN)
    found = learn(growing, CPU, given, notes, folder)
    # Every state is saved, so the last good one is that of sweep 4: 1e36. Sweep 5 is infinite, three times in a row.
    assert (found.sweeps, found.halvings) == (STEPS, 2)
    assert [line["not finite"] for line in lines(folder) if "not finite" in line] == [5, 5]
    assert notes.said[0].startswith("Not finite in sweep 5: back to sweep 4, with the images' step size halved (1 of")
    failing, problems = checkpoints.newest(folder.path / "checkpoints" / checkpoints.FAILED, CPU)
    assert failing and not problems and failing.state.sweep == 4
    replayed = next(iter(growing(lambda sweeps: 0.0, failing.state)))
    assert not trouble.finite(replayed)
    last, _ = checkpoints.newest(folder.path / "checkpoints", CPU)
    assert last and last.state.halvings == 2


def test_a_snapshot_that_is_not_finite_is_never_kept(tmp_path: Path):
    def breaking(progress: Progress, since: State | None) -> Iterator[State]:
        for state in growing(progress, since):
            value = math.nan if state.halvings < 2 and state.sweep >= 3 else 1.0
            yield state._replace(images=torch.full((2, 1), value), losses=torch.ones(2))

    given = told(loop_checkpoint=1e9, loop_snapshots=8)
    folder = RunFolder.create(tmp_path / "run", None, "f", {}, given, CPU, PLAIN)
    assert learn(breaking, CPU, given, Quiet(), folder).halvings == 2
    kept = [run.read_snapshot(each) for each in run.snapshots(folder.path)]
    assert len(kept) > 2 and all(images.isfinite().all() for images in kept)


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_the_failing_sweep_is_found_though_nobody_looked(tmp_path: Path):
    """With a look only at the end, the run goes back to its start; the sweep is found by repeating those between."""
    given, notes = told(), Notes()
    folder = RunFolder.create(tmp_path / "run", None, "f", {}, given, CPU, PLAIN)
    assert learn(growing, CPU, given, notes, folder).halvings == 2
    assert [text.partition(",")[0] for text in notes.said] == ["Not finite in sweep 5: back to sweep 0"] * 2
    sweeps = [line["sweep"] for line in lines(folder)]
    assert sweeps == sorted(sweeps)


def test_a_run_is_given_up_after_a_stated_number_of_times(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trouble, "HALVINGS", 1)
    with pytest.raises(ArithmeticError, match=r"in sweep 5, also with .* halved 1 times\. Lower images\.lr"):
        learn(growing, CPU, told(), Quiet(), None)


def test_a_sound_run_is_not_touched_and_half_a_step_is_half_a_step(data: Dataset):
    given = defaults.resolve(settings({"targets.count": 0, "loop.steps": 1, "loop.inner_steps": 1}), data)
    problem, source = methods.problem(given, data, network()), Fresh(network(), CPU)
    first, whole = loop.distill(data, problem, source, given)
    assert first.halvings == whole.halvings == 0
    (half,) = loop.distill(data, problem, source, given, since=first._replace(halvings=1))
    torch.testing.assert_close(half.images - first.images, (whole.images - first.images) / 2, rtol=1e-3, atol=1e-7)
    assert half.halvings == 1


def test_the_verdict_says_that_the_step_size_was_halved(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    real, lost = engine.sweeper, [True]

    def sweeper(*args: Any) -> Any:
        def sweep(*own: Any) -> Any:
            losses, slopes = real(*args)(*own)
            return (losses * torch.nan if lost else losses), slopes

        return sweep

    monkeypatch.setattr(engine, "sweeper", sweeper)
    monkeypatch.setattr(trouble, "last_finite", lambda *args: lost.clear())
    told = {"ipc": 1, "score.seeds": 0, "pool.use": False, "targets.count": 0, "network.width": 4, "loop.steps": 1}
    result = accdd.distill(data, settings={**told, "loop.inner_steps": 1, "precision": "fp32"})
    assert "the step size was halved 1 x" in result.verdict
    assert result.distilled.info["halvings"] == 1


# Memory -------------------------------------------------------------------------------------------------------


def test_a_sweep_that_does_not_fit_is_repeated_with_half_the_classes_and_the_same_draws():
    tried: list[tuple[int, int]] = []
    released: list[int] = []

    def begin(plan: Plan, progress: Progress, since: State | None) -> Iterator[State]:
        for state in growing(progress, since):
            tried.append((plan.classes, state.sweep))
            if plan.classes > (4 if state.sweep < 2 else 1):
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield state

    notes = Notes()
    plan = dataclasses.replace(PLAIN, classes=8)
    begun = trouble.within_memory(begin, plan, notes.note, release=lambda: released.append(len(tried)))
    found = list(begun(lambda n: 0.0, None))
    assert released == [1, 4, 5]  # before the sweep is repeated
    assert tried[:7] == [(8, 0), (4, 0), (4, 1), (4, 2), (2, 2), (1, 2), (1, 3)]
    assert [state.sweep for state in found] == list(range(STEPS + 1))
    for mine, right in zip(found, growing(lambda n: 0.0, None), strict=True):
        assert_same(mine.images, right.images)
    assert notes.said[-1] == "Out of memory after sweep 1: going on with 1 classes at once."


def test_where_classes_overlap_fewer_do_when_they_do_not_fit():
    tried: list[tuple[int, int]] = []

    def begin(plan: Plan, progress: Progress, since: State | None) -> Iterator[State]:
        tried.append((plan.classes, plan.overlapping))
        if plan.overlapping > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from growing(progress, since)

    notes = Notes()
    plan = dataclasses.replace(PLAIN, classes=2, overlapping=5)
    list(trouble.within_memory(begin, plan, notes.note)(lambda n: 0.0, None))
    assert tried == [(2, 5), (1, 5), (1, 3), (1, 2)]
    assert notes.said[-1] == "Out of memory after sweep 0: going on with 2 classes at once."


def test_a_class_that_does_not_fit_is_matched_in_twice_as_many_parts():
    tried: list[int] = []

    def begin(plan: Plan, progress: Progress, since: State | None) -> Iterator[State]:
        tried.append(plan.parts)
        if plan.parts < limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from growing(progress, since)

    notes, limit = Notes(), 5
    list(trouble.within_memory(begin, PLAIN, notes.note, most_parts=7)(lambda n: 0.0, None))
    assert tried == [1, 2, 4, 7]
    assert notes.said[-1] == "Out of memory after sweep 0: going on with the synthetic images of a class in 7 parts."
    limit = 8
    with pytest.raises(torch.OutOfMemoryError):
        list(trouble.within_memory(begin, PLAIN, notes.note, most_parts=7)(lambda n: 0.0, None))


def test_one_class_that_does_not_fit_is_an_error():
    def begin(plan: Plan, progress: Progress, since: State | None) -> Iterator[State]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    with pytest.raises(torch.OutOfMemoryError):
        list(trouble.within_memory(begin, PLAIN, lambda text: None)(lambda n: 0.0, None))

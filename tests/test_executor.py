"""Executors: what is done is skipped, what is lost is run again, what fails is named."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Notes, network, settings, trained

import accdd
from accdd import evaluation, execution, executor, files, scoring
from accdd.augmented_models import pool
from accdd.config import InputError
from accdd.data import Dataset
from accdd.executor import ATTEMPTS, Task


def square(number: int, file: Path) -> None:
    files.write_text(file, str(number**2))


class Squarer:
    def __init__(self, number: int) -> None:
        self.number = number

    def square(self, file: Path) -> None:
        square(self.number, file)


def killed_once(number: int, file: Path) -> None:
    tried = file.with_suffix(".tried")
    if not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    square(number, file)


def killed(file: Path) -> None:
    with file.with_suffix(".tried").open("a") as tried:
        tried.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def fails() -> None:
    raise ValueError("no such luck")


def squares(folder: Path, count: int) -> list[Task]:
    files_ = [folder / f"cell-{number}" / "done" for number in range(count)]
    return [Task(f"cell-{number}", square, (number, file), file) for number, file in enumerate(files_)]


def values(tasks: list[Task]) -> list[int]:
    return [int(task.done.read_text()) for task in tasks]


def test_every_task_is_done_and_what_is_done_is_skipped(tmp_path: Path):
    tasks = squares(tmp_path, 4)
    files.write_text(tasks[2].done, "-1")
    executor.run(tasks, "local:2")
    assert values(tasks) == [0, 1, -1, 9]


def does_nothing(*arguments: object) -> None:
    del arguments


def counts_threads(file: Path) -> None:
    files.write_text(file, str(torch.get_num_threads()))


@pytest.mark.parametrize(("threads", "workers", "each"), [(1, 2, 1), (3, 1, 3), (5, 2, 2)])
def test_workers_share_the_threads_of_whoever_hands_out(threads: int, workers: int, each: int, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        executor.run([Task("cell", counts_threads, (tmp_path / "n",), tmp_path / "n")], f"local:{workers}")
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "n").read_text() == str(each)


def takes_its_place(file: Path) -> None:
    taken = file.with_name(f"place {os.environ['LOCAL_RANK']} of {os.environ[execution.WORKERS]}")
    taken.touch(exist_ok=False)
    time.sleep(0.2)
    taken.unlink()
    files.write_text(file, taken.name)


def test_workers_have_places_of_which_no_two_at_once_have_the_same(tmp_path: Path):
    tasks = [Task(str(n), takes_its_place, (tmp_path / str(n),), tmp_path / str(n)) for n in range(5)]
    before = dict(os.environ)
    executor.run(tasks, "local:2")
    assert {task.done.read_text() for task in tasks} == {"place 0 of 2", "place 1 of 2"}
    assert dict(os.environ) == before
    tasks[0].done.unlink()
    executor.run(tasks, "local:2")
    assert tasks[0].done.read_text() == "place 0 of 1"


def test_a_killed_worker_loses_no_task(tmp_path: Path):
    tasks, told = squares(tmp_path, 3), []
    tasks[1] = tasks[1]._replace(function=killed_once)
    tasks[1].done.parent.mkdir()
    executor.run(tasks, "local:2", told.append)
    assert values(tasks) == [0, 1, 4]
    assert [text for text in told if "lost" in text] == ["cell-1: its worker was lost; it is run again."]


class Deadly:
    """Ends the worker that reads it."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (1,)


def test_a_worker_that_is_gone_before_it_has_read_its_task_is_lost_like_others(tmp_path: Path):
    tasks, more = squares(tmp_path, 2), bytes(1 << 20)  # more than a pipe holds
    tasks[0] = tasks[0]._replace(function=does_nothing, arguments=(Deadly(), more))
    with pytest.raises(InputError, match=r"cell-0: its worker was lost 3 times"):
        executor.run(tasks, "local:1")
    assert values(tasks[1:]) == [1]


def tells(file: Path) -> None:
    files.write_text(file, f"{os.environ.get('TOLD')} {os.getppid()} {'torch._dynamo' in sys.modules}")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every task imports anew")
def test_workers_import_once_and_see_the_environment_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = []
    for number in range(2):
        monkeypatch.setenv("TOLD", str(number))
        file = tmp_path / str(number) / "done"
        executor.run([Task("cell", tells, (file,), file)], "local:2")
        said.append(file.read_text().split())
    assert [words[0] for words in said] == ["0", "1"]
    assert said[0][1] == said[1][1] != str(os.getpid()) and said[0][2] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")
def test_the_server_imports_what_is_imported_here(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str | None, ...]] = []
    names = "PYTHONSAFEPATH", "PYTHONPATH"

    def start() -> None:
        seen.append(tuple(map(os.environ.get, names)))
        raise OSError("no room")

    monkeypatch.setattr(executor.forkserver, "ensure_running", start)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", "mine")
    with pytest.raises(OSError, match="no room"):
        executor.processes()
    assert seen == [("1", os.pathsep.join(sys.path))] and tuple(map(os.environ.get, names)) == (None, "mine")


def compiles(file: Path) -> None:
    files.write_text(file, str(execution._compiled_folder()))


def test_workers_leave_no_folder_of_their_own_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "with a space"))
    file = tmp_path / "done"
    executor.run([Task("cell", compiles, (file,), file)], "local:1")
    own = Path(file.read_text())
    assert tmp_path not in own.parents and not own.exists()


def test_tasks_that_fail_are_named_and_the_others_are_kept(tmp_path: Path):
    tasks = squares(tmp_path, 3)
    tasks[0] = tasks[0]._replace(function=fails, arguments=())
    tasks[1] = tasks[1]._replace(function=killed, arguments=(tasks[1].done,))
    tasks[1].done.parent.mkdir()
    with pytest.raises(InputError, match=r"2 of 3 tasks failed.*cell-0: ValueError: no such luck; cell-1: .*lost 3"):
        executor.run(tasks, "local:2")
    assert values(tasks[2:]) == [4]
    assert len(tasks[1].done.with_suffix(".tried").read_text()) == ATTEMPTS


@pytest.mark.parametrize("package, how", [("submitit", "slurm:cluster=local,timeout_min=5"), ("ray", "ray:num_cpus=1")])
def test_clusters_lose_no_task(package: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(package, reason=f"the extra with {package} is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    tasks = squares(tmp_path, 3)
    tasks[1] = tasks[1]._replace(function=killed_once)
    tasks[1].done.parent.mkdir()
    executor.run(tasks, how)
    assert values(tasks) == [0, 1, 4]


def test_of_what_a_job_of_submitit_raised_the_last_line_is_told():
    dashes = "-" * 22
    said = (
        f"Job (task=0) failed during processing with trace:\n{dashes}\nTraceback (most recent call last):\n  File x\n"
        f"ValueError: no such luck.\n\n{dashes}\nYou can check full logs with 'job.stderr(0)' at paths:\n  - /a.err"
    )
    assert executor._last_line(said) == "ValueError: no such luck"
    assert executor._last_line("Job 3 has no output") == "Job 3 has no output"


@pytest.mark.parametrize("package, how", [("submitit", "slurm:cluster=local,timeout_min=5"), ("ray", "ray:num_cpus=1")])
def test_clusters_take_methods_of_objects(package: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the cells of a study are."""
    pytest.importorskip(package, reason=f"the extra with {package} is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    file = tmp_path / "cell" / "done"
    executor.run([Task("cell", Squarer(3).square, (file,), file)], how)
    assert file.read_text() == "9"


@pytest.mark.parametrize("how", ["local:0", "local:x", "local", "inline:2", "threads", "slurm:", ""])
def test_unknown_executors_are_refused(how: str):
    with pytest.raises(InputError, match=r"is unknown\. Expected inline, local:K"):
        executor.parse(how)


@pytest.mark.parametrize("kind, package", [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}. Expected: pip install {package}"):
        executor.parse(kind)


# What accdd hands out: networks of pools, targets, networks of scores -----------------------------------------------


def test_pools_targets_and_scores_on_workers_are_those_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Dataset
):
    names = ("images", "labels", "test_images", "test_labels")
    np.savez(tmp_path / "stripes.npz", **{name: getattr(data, name).numpy() for name in names})
    source = str(tmp_path / "stripes.npz")
    small = {
        "network.width": 4, "network.depth": 2, "pool.networks": 2, "pool.epochs": 1, "targets.real_batch": 4,
        "train.batch": 64, "precision": "fp32", "compile": "never", "score.seeds": 0, "loop.steps": 3,
        "targets.count": 20,
    }  # fmt: skip
    monkeypatch.setattr(execution, "SMALL_FLOPS", 0)  # one by one here, too: side by side, the last bits differ
    told: dict[str, list[str]] = {}
    made, scores = {}, {}
    for how in ("inline", "local:2"):
        monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / how.replace(":", "")))
        notes = Notes()
        made[how], _ = accdd.build_targets(source, settings=small, executor=how, reporter=notes)
        accdd.distill(source, out=tmp_path / f"run-{how[:5]}", settings=small)
        runs, networks = [tmp_path / f"run-{how[:5]}"], ["convnet/width=4/depth=2", "mlp"]
        scores[how] = accdd.evaluate(
            runs, networks=networks, protocol=["idc", "dsa"], seeds=2, epochs=2, executor=how, reporter=notes
        )
        told[how] = notes.said
    for number in (0, 19):
        mine, theirs = (made[how][number] for how in made)
        for kind in ("parameters", "gradients"):
            for name, value in getattr(mine, kind).items():
                assert torch.equal(value, getattr(theirs, kind)[name])
    assert [each.accuracies for each in scores["inline"]] == [each.accuracies for each in scores["local:2"]]
    assert len(scores["inline"]) == 4 and all(score.found == 2 for score in scores["local:2"]), "workers trained them"
    done = sorted(line for line in told["local:2"] if line.startswith("Done: "))
    assert len(done) == 2 + 1 + 4 and "Done: blocks 0 to 1." in done
    assert not any(line.startswith("Done: ") for line in told["inline"])
    assert not list((tmp_path / "local2" / "executor").iterdir())
    assert not any("trained before" in line for line in told["local:2"])
    again = Notes()
    accdd.build_targets(source, settings=small, executor="local:2", reporter=again)
    assert not any(line.startswith("Done: ") for line in again.said), "all is there"


def test_scores_that_workers_do_not_leave_in_the_cache_are_not_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Dataset
):
    names = ("images", "labels", "test_images", "test_labels")
    np.savez(tmp_path / "stripes.npz", **{name: getattr(data, name).numpy() for name in names})
    learned = {
        "pool.use": False, "targets.count": 0, "loop.steps": 1, "network.width": 4, "network.depth": 2,
        "compile": "never", "score.seeds": 0,
    }  # fmt: skip
    accdd.distill(str(tmp_path / "stripes.npz"), out=tmp_path / "run", settings=learned)
    (files.cache_folder() / "scores").touch()  # so that nothing can be written there
    with pytest.raises(InputError, match=r"1 of 1 tasks failed.*Scores cannot be kept in the cache"):
        accdd.evaluate(tmp_path / "run", seeds=1, epochs=1, executor="local:1")
    monkeypatch.setattr(scoring, "_in_cache", does_nothing)  # as workers of another kind, whose scores are others
    with pytest.raises(InputError, match=r"The workers are done, but made something else than is wanted here \(cpu"):
        accdd.evaluate(tmp_path / "run", seeds=1, epochs=1, executor="local:1")


def test_workers_train_on_the_real_images_that_were_chosen_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Dataset
):
    """With another number of threads, or on a GPU, theirs could be others where two are nearly equal."""
    names = ("images", "labels", "test_images", "test_labels")
    np.savez(tmp_path / "stripes.npz", **{name: getattr(data, name).numpy() for name in names})
    learned = {
        "pool.networks": 1, "pool.epochs": 1, "targets.count": 0, "loop.steps": 1, "network.width": 4,
        "network.depth": 2, "compile": "never", "score.seeds": 0,
    }  # fmt: skip
    accdd.distill(str(tmp_path / "stripes.npz"), ipc=2, out=tmp_path / "run", settings=learned)
    chosen = evaluation.chosen
    monkeypatch.setattr(evaluation, "chosen", lambda *arguments: chosen(*arguments).flip(-1))  # here alone
    told = {"seeds": 2, "epochs": 1, "baselines": ["herding", "random"], "executor": "local:1"}
    scores = accdd.evaluate(tmp_path / "run", **told)
    assert [(score.set.rpartition("/")[2], score.found) for score in scores] == [
        ("run", 2), ("herding", 2), ("random", 2)
    ]  # fmt: skip


@pytest.mark.parametrize("call", [accdd.build_pool, accdd.build_targets])
def test_workers_that_make_something_else_are_noticed(
    data: Dataset, call: Callable[..., object], monkeypatch: pytest.MonkeyPatch
):
    """As those with another kind of device do, whose work has another place in the cache."""
    monkeypatch.setattr(executor, "run", lambda tasks, how, note: [task.done.touch() for task in tasks])
    small = {"network.width": 4, "pool.networks": 1, "pool.epochs": 1, "precision": "fp32"}
    with pytest.raises(InputError, match=r"made something else than is wanted here \(cpu, fp32, torch"):
        call((data.images.numpy(), data.labels.numpy()), settings=small, executor="local:2")


@pytest.mark.parametrize("call", [accdd.build_pool, accdd.build_targets])
def test_an_unknown_executor_is_refused_before_anything_is_made(data: Dataset, call: Callable[..., object]):
    with pytest.raises(InputError, match="--executor local:0 is unknown"):
        call(data, settings={"network.width": 4, "compile": "never"}, executor="local:0")
    assert not files.cache_folder().exists() or not list(files.cache_folder().glob("pools/*"))


def test_a_damaged_network_that_was_trained_ahead_is_trained_again(data: Dataset):
    given, shape = settings({"pool.networks": 2}), network()
    expected = [trained(data, shape, given, networks=[number]) for number in (0, 1)]
    for number in (0, 1):
        pool.build_member(data, shape, given, number)
    assert pool.missing(data, shape, given) == []
    (file,) = files.cache_folder().glob("pools/*/000001/0.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.warns(UserWarning, match="is damaged.*is built again"):
        found = pool.load_or_build(data, shape, given).models
    for mine, theirs in zip(found, [*expected[0], *expected[1]], strict=True):
        assert mine.network == theirs.network
        assert all(torch.equal(value, theirs.parameters[name]) for name, value in mine.parameters.items())

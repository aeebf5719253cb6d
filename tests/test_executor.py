"""Executors: what is done is skipped, what is lost is run again, what fails is named."""

import os
import signal
import sys
from pathlib import Path

import pytest

from accdd import executor, files
from accdd.config import InputError
from accdd.executor import ATTEMPTS, Task


def square(number: int, file: Path) -> None:
    files.write_text(file, str(number**2))


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


@pytest.mark.parametrize("how", ["inline", "local:2"])
def test_every_task_is_done_and_what_is_done_is_skipped(how: str, tmp_path: Path):
    tasks = squares(tmp_path, 4)
    files.write_text(tasks[2].done, "-1")
    executor.run(tasks, how)
    assert values(tasks) == [0, 1, -1, 9]


def test_a_killed_worker_loses_no_task(tmp_path: Path):
    tasks, told = squares(tmp_path, 3), []
    tasks[1] = tasks[1]._replace(function=killed_once)
    tasks[1].done.parent.mkdir()
    executor.run(tasks, "local:2", told.append)
    assert values(tasks) == [0, 1, 4]
    assert [text for text in told if "lost" in text] == ["cell-1: its worker was lost; it is run again."]


def test_tasks_that_fail_are_named_and_the_others_are_kept(tmp_path: Path):
    tasks = squares(tmp_path, 3)
    tasks[0] = tasks[0]._replace(function=fails, arguments=())
    tasks[1] = tasks[1]._replace(function=killed, arguments=(tasks[1].done,))
    tasks[1].done.parent.mkdir()
    with pytest.raises(InputError, match=r"2 of 3 cells failed.*cell-0: ValueError: no such luck; cell-1: .*lost 3"):
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


@pytest.mark.parametrize("how", ["local:0", "local:x", "local", "inline:2", "threads", "slurm:", ""])
def test_unknown_executors_are_refused(how: str):
    with pytest.raises(InputError, match=r"is unknown\. Expected inline, local:K"):
        executor.parse(how)


@pytest.mark.parametrize("kind, package", [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}. Expected: pip install 'accdd\[{kind}\]'"):
        executor.parse(kind)

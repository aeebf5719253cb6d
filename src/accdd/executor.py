"""Independent work on one executor: worker processes of this machine, Slurm (submitit) or Ray.

A task tells by a file, which appears whole, that it is done; what is done is skipped. A task whose worker was lost is
run again, at most `ATTEMPTS` times; one that raises is not, for it would raise again.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml

from accdd import execution, files
from accdd.config import InputError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext  # the first is not on Windows

ATTEMPTS = 3
"""How often a task is tried when its workers are lost."""

PRELOADED = ("accdd.api", "torch._dynamo")
"""What takes seconds to import and every task needs."""

STARTING = threading.Lock()
"""Held while the environment is that of the server that workers are forked from."""


class Task(NamedTuple):
    """A piece of independent work; function and arguments can be pickled."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    done: Path
    """The file that it writes last."""


@contextlib.contextmanager
def marks() -> Iterator[Path]:
    """A folder that all workers see, for the length of a block, in which tasks mark that they are done."""
    shared = files.cache_folder() / "executor"
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def marked(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], mark: Path) -> Task:
    """A task that writes no file of its own to tell by: it marks that it is done."""
    return Task(name, _marking, (function, arguments, mark), mark)


def _marking(function: Callable[..., Any], arguments: tuple[Any, ...], mark: Path) -> None:
    function(*arguments)
    files.write_text(mark, "")


Ended = Iterator[tuple[Task, str | None]]
"""Tasks as they end, with what they raised; None where they ended well or their worker was lost."""


def parse(executor: str) -> Callable[[Sequence[Task]], Ended] | None:
    """What runs tasks; None is this process.

    Args:
        executor: `inline`; `local:K` for K processes; `slurm` or `ray`, each with options as in
            `slurm:slurm_partition=gpu,timeout_min=60` (submitit's, and `cluster`) and `ray:num_cpus=2` (of a task).

    Raises:
        InputError: it is none of these, or a package is missing.
    """
    kind, colon, rest = executor.partition(":")
    if executor == "inline":
        return None
    if kind == "local" and rest.isdecimal() and int(rest) > 0:
        return lambda tasks: _local(tasks, int(rest))
    if kind in CLUSTERS and bool(colon) == bool(rest):
        package, runs = CLUSTERS[kind]
        options = _options(executor, rest)
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            raise InputError(f"--executor {kind} needs {package}. Expected: pip install {package}.") from None
        return lambda tasks: runs(tasks, module, options)
    raise InputError(
        f"--executor {executor} is unknown. Expected inline, local:K with K of at least 1, as in local:2, "
        "slurm[:key=value,...] or ray[:key=value,...]."
    )


def run(tasks: Sequence[Task], executor: str, note: Callable[[str], None] = lambda text: None) -> None:
    """Carry out all tasks that are not done.

    Args:
        tasks: any order is right.
        executor: as for `parse`, but `inline`, for which callers do the work themselves.
        note: told of what ends and what is lost.

    Raises:
        InputError: a task raised, or lost its worker too often; the others are done.
    """
    runs = parse(executor)
    assert runs, "what is done here needs no executor"
    failed: dict[str, str] = {}
    for attempt in range(ATTEMPTS):
        left = [task for task in tasks if task.name not in failed and not task.done.exists()]
        if not left:
            break
        for task, error in runs(left):
            if error is not None:
                failed[task.name] = error
            elif task.done.exists():
                note(f"Done: {task.name}.")
            else:
                again = "it is run again" if attempt + 1 < ATTEMPTS else "it is given up"
                note(f"{task.name}: its worker was lost; {again}.")
    for task in tasks:
        if task.name not in failed and not task.done.exists():
            failed[task.name] = f"its worker was lost {ATTEMPTS} times (killed, or out of memory?)"
    if failed:
        alike: dict[str, list[str]] = {}
        for name, error in failed.items():
            alike.setdefault(error, []).append(name)
        listed = "; ".join(f"{', '.join(names)}: {error}" for error, names in alike.items())
        raise InputError(
            f"{len(failed)} of {len(tasks)} tasks failed, the others are kept. {listed}. "
            "Expected the same command again when that is mended."
        )


def made_elsewhere(where: torch.device, precision: str) -> InputError:
    """What to raise where workers are done and this process, of that device and precision, does not find their work."""
    return InputError(
        f"The workers are done, but made something else than is wanted here ({where.type}, {precision}, torch "
        f"{torch.__version__}): what is made depends on these. Expected workers like the machine that hands out the "
        "work, or --device and --precision that hold on both."
    )


def _local(tasks: Sequence[Task], workers: int) -> Ended:
    """A process for each task, so that one that is killed takes nothing with it."""
    context = processes()
    threads = max(1, torch.get_num_threads() // workers)  # as many as this process may use
    workers = min(workers, len(tasks))
    waiting, places = list(tasks), list(range(workers))
    running: dict[Connection, tuple[Task, Any, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task, place = waiting.pop(0), places.pop(0)
                mine, its = context.Pipe(duplex=False)
                # They take GPUs in turn, as those of torchrun, and share the memory of one.
                environment = os.environ | {"LOCAL_RANK": str(place), execution.WORKERS: str(workers)}
                process = context.Process(target=_work, args=(its, environment, threads, task.function, task.arguments))
                try:
                    process.start()
                except BrokenPipeError:  # it has gone before it was told all
                    mine.close()
                    places.append(place)
                    yield task, None
                else:
                    running[mine] = task, process, place
                its.close()
            ready = wait(list(running)) if running else ()  # of none it would wait for ever
            for mine in [each for each in running if each in ready]:
                task, process, place = running.pop(mine)
                try:
                    error = mine.recv()
                except EOFError:  # the process has gone without a word
                    error = None
                mine.close()
                process.join()
                places.append(place)
                yield task, error
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def processes(preloaded: Sequence[str] = PRELOADED) -> "ForkServerContext | SpawnContext":
    """What makes processes. A fork of this one would share the threads of PyTorch, which is not allowed; a new Python
    for each would import for seconds. So one is forked that has imported and done nothing else, where that is sound.

    Args:
        preloaded: modules that the first call imports there, for all later ones.
    """
    if sys.platform != "linux":  # macOS's own libraries do not survive a fork, Windows has none
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    # It imports from where this one does, which older Pythons do not see to: files of the current folder are modules
    # there only if they are here.
    with STARTING, _environment({"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables that have other values for a while."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        os.environ.update(changes)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _work(
    said: Connection,
    environment: Mapping[str, str],
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    # The server's is that of its start; niceness, limits and where output goes stay so.
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    try:
        function(*arguments)
    except Exception as error:
        said.send(_told(error))
    else:
        said.send(None)


def _slurm(tasks: Sequence[Task], submitit: Any, options: Mapping[str, Any]) -> Ended:
    seen = tasks[0].done.parent.parent  # by all hosts
    seen.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".submitit-", dir=seen))
    own = dict(options)
    try:
        queue = submitit.AutoExecutor(folder=folder, cluster=own.pop("cluster", None))
        queue.update_parameters(**own)
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"submitit: {error}. Expected its parameters, as in slurm:slurm_partition=gpu.") from None
    for task, job in [(task, queue.submit(task.function, *task.arguments)) for task in tasks]:
        try:
            job.result()
        except submitit.core.utils.FailedJobError as error:
            yield task, _last_line(str(error))
        except submitit.core.utils.UncompletedJobError:
            yield task, None
        except Exception as error:  # the debug executor raises the task's own
            yield task, _told(error)
        else:
            yield task, None


def _ray(tasks: Sequence[Task], ray: Any, options: Mapping[str, Any]) -> Ended:
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    # A function of this file, as Ray takes no methods.
    remote = ray.remote(max_retries=0, **options)(_call)
    jobs = {remote.remote(task.function, task.arguments): task for task in tasks}
    while jobs:
        for job in ray.wait(list(jobs))[0]:
            task = jobs.pop(job)
            try:
                ray.get(job)
            except ray.exceptions.RayTaskError as error:
                yield task, _told(error.cause)
            except ray.exceptions.RayError:
                yield task, None
            else:
                yield task, None


CLUSTERS = {"slurm": ("submitit", _slurm), "ray": ("ray", _ray)}
"""The package that each needs, and what runs tasks with it."""


def _options(executor: str, text: str) -> dict[str, Any]:
    pairs = [each.partition("=") for each in text.split(",")] if text else []
    if any(not key or not equals for key, equals, _ in pairs):
        raise InputError(f"--executor {executor}: expected key=value with commas between, as in slurm:timeout_min=60.")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)


def _last_line(message: str) -> str:
    """What a job raised, of submitit's message: a traceback between two lines of dashes, and where its logs are."""
    raised = message.split("-----\n")[1] if message.count("-----\n") > 1 else message
    lines = [line.strip() for line in raised.splitlines() if line.strip(" -")]
    return (lines or [message])[-1].rstrip(". ")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(". ")

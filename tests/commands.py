"""Python commands in processes of their own, forked from one that has imported what takes seconds."""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from accdd import executor


class Command:
    """`python ARGUMENTS`, which are -m MODULE ..., -c CODE ... or FILE ...; what it prints goes to a file."""

    def __init__(self, arguments: Sequence[str], said: Path, environment: Mapping[str, str]) -> None:
        self.said = said
        forked = executor.processes()
        if sys.platform == "linux":
            forked.set_forkserver_preload([*executor.PRELOADED, "sklearn.datasets"])  # where digits are from
        given = (tuple(arguments), str(said), {**os.environ, **environment})
        self._process = forked.Process(target=_run, args=given)
        self._process.start()

    @property
    def code(self) -> int | None:
        """As of `subprocess`: None while it runs, minus the signal where one ended it."""
        return self._process.exitcode

    def send(self, signal: int) -> None:
        assert self._process.pid
        os.kill(self._process.pid, signal)

    def wait(self, seconds: float = 100) -> int:
        """Its exit status.

        Raises:
            TimeoutError: it had not ended after so many seconds, and was killed.
        """
        self._process.join(seconds)
        if self.code is None:
            self._process.kill()
            raise TimeoutError(self.said.read_text())
        return self.code


def _run(arguments: Sequence[str], said: str, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # which is read at the import
    with Path(said).open("wb") as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    what, *rest = arguments
    sys.argv = list(arguments)
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        runpy.run_path(what, run_name="__main__")

"""Python commands in processes of their own, forked from one that has imported what takes seconds."""

import contextlib
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from accdd import executor


class Command:
    """`python ARGUMENTS`, which are -m MODULE ..., -c CODE ... or FILE ..., with what it prints in a file. Unlike the
    real one it has one thread, no children by multiprocessing and no finalisation of Python, and what is read at an
    import is that of the first command."""

    def __init__(self, arguments: Sequence[str], said: Path, environment: Mapping[str, str]) -> None:
        self.said = said
        said.write_bytes(b"")
        context = executor.processes((*executor.PRELOADED, "sklearn.datasets"))  # which the digits are from
        given = (tuple(arguments), said, {**os.environ, **environment})
        self._process = context.Process(target=_run, args=given, daemon=True)  # ended if a test fails meanwhile
        self._process.start()

    @property
    def code(self) -> int | None:
        """As of `subprocess`: None while it runs, minus the signal where one ended it."""
        return self._process.exitcode

    def send(self, signal: int) -> None:
        assert self._process.pid
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
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


def _run(arguments: Sequence[str], said: Path, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    with said.open("wb") as file:
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

"""The pages of docs/ keep their word: what they show can be typed.

In every test run, commands are read by the command's own parser and Python is compiled. `make docs` runs the slow test:
all blocks of a page in order, in a folder of its own that holds the pictures they speak of. What they learn is made
smaller there, so that it takes seconds (`SMALLER`); only `AS_SHOWN` pages run exactly as they stand.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image
from typer.testing import CliRunner

import accdd
from accdd import ahead, api, scoring, studies
from accdd.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]

NOT_RUN = {
    ("install.md", "make install"): "installs; `make docs` itself begins so",
    ("install.md", "pip install ."): "installs",
    ("install.md", "download.pytorch.org"): "downloads",
    ("host.md", "pip install ./examples/host"): "installs; the test puts the package where pip would",
    ("processes.md", "torchrun"): "launches processes; tests/test_parallel.py does",
    ("processes.md", "--count 100"): "workers know nothing of smaller settings; tests/test_executor.py has them",
    ("use.md", "accdd push"): "publishes; tests/test_hub.py does, on a hub of its own",
    ("use.md", 'accdd.load("hf:'): "downloads; tests/test_hub.py does",
    ("own-images.md", "--resume"): "needs a run that was interrupted; tests/test_resume.py has them",
}
"""Blocks that are only read, by page and words that occur in that block alone, and why."""

AS_SHOWN = ("first-result.md",)

SMALLER = {
    "pool.networks": 1, "pool.epochs": 0.1, "network.width": 4,
    "loop.steps": 2, "loop.inner_steps": 1, "score.seeds": 1, "score.epochs": 1,
}  # fmt: skip
"""Settings that win over those shown."""

SHRINKING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_docs
test_docs.shrink(setattr)
"""

PROGRAM = f"#!{sys.executable}{SHRINKING}test_docs.app()\n"
"""`accdd`, for what needs a shell."""

EXECUTE = """
import sys
import nbclient, nbformat
nbclient.NotebookClient(nbformat.read(sys.argv[1], 4), timeout=1200).execute()
"""


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    language: str
    code: str

    @property
    def reason(self) -> str | None:
        """Why it is not run, if it is not."""
        found = [why for (page, words), why in NOT_RUN.items() if page == self.page.name and words in self.code]
        return found[0] if found else None


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(page, *each) for each in found]


def commands(code: str) -> Iterator[list[str]]:
    """The words of every accdd command in a block of bash, once through its loops."""
    for line in code.replace("$seed", "0").splitlines():
        words = shlex.split(line.strip(), comments=True)
        if words and words[0] == "accdd":
            yield words[1:]


NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
EVERY = [block for page in PAGES for block in blocks(page)]


def named(page: Path) -> str:
    return page.name


# Read in every test run ------------------------------------------------------------------------------------------


def test_every_command_in_the_docs_parses():
    found = [words for block in EVERY if block.language == "bash" for words in commands(block.code)]
    assert len(found) > 30
    for verb, *arguments in found:
        if verb != "--help":
            COMMANDS[verb].make_context(verb, arguments)  # reads every argument and runs nothing


def test_every_setting_in_the_docs_exists():
    given = {}
    for block in EVERY:
        for words in commands(block.code) if block.language == "bash" else ():
            pairs = [after for flag, after in itertools.pairwise(words) if flag == "--set"]
            given |= {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    assert given
    accdd.config.override(accdd.Settings(), given)


def test_every_flag_in_the_words_of_the_docs_exists():
    flags = {flag for each in COMMANDS.values() for own in each.params for flag in (*own.opts, *own.secondary_opts)}
    others = {
        "--help",
        "--index-url",
        "--nproc-per-node",
        "--max-restarts",
        "--rdzv-endpoint",
    }  # of typer, pip, torchrun
    for page in PAGES:
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text(encoding="utf-8")))
        assert mentioned <= flags | others, page.name


def test_python_in_the_docs_compiles_and_uses_public_names():
    code = [block for block in EVERY if block.language == "python"]
    for block in code:
        compile(block.code, str(block.page), "exec")
    used = set(re.findall(r"\baccdd\.(\w+)\(", "\n".join(block.code for block in code)))
    assert used and used <= set(accdd.__all__)


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^::: accdd\.[\w.]*?(\w+)$", reference, re.MULTILINE))
    assert set(accdd.__all__) <= described


def test_guides_begin_with_their_level_and_minutes():
    guides = [page for page in PAGES if re.search(r"^\*(Beginner|Researcher|Contributor)\.", _second(page))]
    others = {"index.md", "commands.md", "settings.md", "presets.md", "api.md"}
    assert {page.name for page in PAGES} - {page.name for page in guides} == others
    for page in guides:
        assert re.search(r"\d+ minutes", _second(page)), page.name


def test_what_is_not_run_is_named_for_one_block_each():
    for page, words in NOT_RUN:
        assert sum(block.page.name == page and words in block.code for block in EVERY) == 1, (page, words)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_notebooks_are_kept_without_what_they_printed(notebook: Path):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell["source"]


def _second(page: Path) -> str:
    """What follows the title."""
    return page.read_text(encoding="utf-8").split("\n\n")[1]


# Run by `make docs` ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the pages take for given: the reader's pictures, a copy of CIFAR-10, an example."""
    folder, installed, known = tmp_path / "here", tmp_path / "installed", tmp_path / "data"
    _pictures(folder / "my_images", ("cat", "dog", "horse"), 15, (40, 36))
    _pictures(known / "cifar10" / "train", tuple("abcdefghij"), 12, (32, 32))
    _pictures(known / "cifar10" / "test", tuple("abcdefghij"), 2, (32, 32))
    program = tmp_path / "bin" / "accdd"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    about = installed / "accdd_moments-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: accdd-moments\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[accdd.methods]\nmoments = moments:MOMENTS\n")
    shutil.copy(ROOT / "examples" / "host" / "moments.py", installed)
    paths = [str(installed), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("ACCDD_DATA", str(known))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in (*PAGES, ROOT / "README.md") if blocks(page)], ids=named)
def test_what_a_page_shows_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch):
    if page.name not in AS_SHOWN:
        shrink(monkeypatch.setattr)
    variables: dict[str, Any] = {}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            exec(compile(block.code, str(page), "exec"), variables)
        elif all(line.startswith("accdd ") for line in block.code.splitlines()):
            for words in commands(block.code):  # here, because every new process imports PyTorch anew
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, (words, done.stderr[-2000:])
        else:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True)
            assert done.returncode == 0, (block.code, done.stderr[-2000:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_notebooks_run(notebook: Path, place: Path):
    pytest.importorskip("nbclient", reason="`make docs` installs it")
    if notebook.stem not in {Path(page).stem for page in AS_SHOWN}:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        first = {"cell_type": "code", "id": "smaller", "metadata": {}, "execution_count": None, "outputs": []}
        content["cells"].insert(0, first | {"source": SHRINKING})
        notebook = place / notebook.name
        notebook.write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", EXECUTE, str(notebook)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def shrink(replace: Callable[[Any, str, Any], None]) -> None:
    """Let what learns and what scores take seconds, whatever it is told."""
    evaluate = scoring.evaluate

    def smaller(learn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, settings=None, **more: learn(*given, settings={**(settings or {}), **SMALLER}, **more)

    for home, name in ((api, "distill"), (api, "forecast"), (ahead, "build_pool"), (ahead, "build_targets")):
        replace(home, name, smaller(getattr(home, name)))
    for name in ("ablate", "compare", "reproduce"):
        replace(studies, name, smaller(getattr(studies, name)))
    replace(scoring, "evaluate", lambda *given, **more: evaluate(*given, **more | {"epochs": 1}))


def _pictures(root: Path, classes: tuple[str, ...], count: int, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def test_every_promise_names_a_test_that_exists():
    text = (ROOT / "docs" / "killed.md").read_text()
    known = {
        name
        for file in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    named = set(re.findall(r"\b(test_\w+)(?=`)", text))
    assert named and named <= known, named - known
    assert all((ROOT / file).is_file() for file in re.findall(r"tests/test_\w+\.py", text))

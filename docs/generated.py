"""What the site's pages say of accdd in its own words: read from the code when the site is built.

A page names a table by a line of its own, as in `{{ settings }}`; RESULTS.md becomes a page as it is.
"""

import html
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from accdd.cli import app
from accdd.config import Settings, describe
from accdd.evaluation import PROTOCOLS
from accdd.presets import PRESETS

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """RESULTS.md as a page: its pictures lie beside it here, and links to code, which is not on the site, are names."""
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8").replace("](docs/", "](")
    text = re.sub(r"\[([^\]]+)\]\((?:benchmarks|tests|src|examples)/[^)]+\)", r"`\1`", text)
    files.append(File.generated(config, "results.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its tables filled in."""
    del page, config, files
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda match: TABLES[match[1]](), markdown, flags=re.MULTILINE)


def commands() -> str:
    """What `--help` says of every verb."""
    group: Any = typer.main.get_command(app)
    return "\n".join(f"## {verb}\n\n```text\n{_help(verb)}\n```\n" for verb in group.commands)


def settings() -> str:
    """Every setting with its default and meaning, a table for each group."""
    groups: dict[str, list[tuple[str, Any, str]]] = {}
    for row in describe(Settings()):
        groups.setdefault(row[0].rpartition(".")[0], []).append(row)
    parts = []
    for group, rows in groups.items():
        parts.append(f"\n## {group or 'The whole run'}\n")
        cells = ((f"`{key}`", f"`{json.dumps(default)}`", _text(meaning)) for key, default, meaning in rows)
        parts.append(_table(("Setting", "Default", "Meaning"), cells))
    return "\n".join(parts)


def presets() -> str:
    """Every preset with what was published for it."""
    cells = (
        (
            f"`{name}`",
            _text(row.source),
            ", ".join(f"{ipc}: {accuracy}" for ipc, accuracy in row.published.items()),
            _text(row.cost),
        )
        for name, row in PRESETS.items()
    )
    return _table(("Preset", "Source", "Published accuracy, % (images per class: accuracy)", "Published cost"), cells)


def protocols() -> str:
    """Every protocol with its source and its cost."""
    rows = PROTOCOLS.items()
    cells = ((f"`{name}`", _text(each.source), _text(each.cost.rstrip("."))) for name, each in rows)
    return _table(("Protocol", "Source", "Cost of one network"), cells)


def host() -> str:
    """The example of a host."""
    return f"```python\n{(ROOT / 'examples/host/moments.py').read_text(encoding='utf-8')}```\n"


TABLES: dict[str, Callable[[], str]] = {each.__name__: each for each in (commands, settings, presets, protocols, host)}


def _help(verb: str) -> str:
    return CliRunner().invoke(app, [verb, "--help"], prog_name="accdd").stdout.strip()


def _text(words: str) -> str:
    """Words for a cell of a table."""
    return html.escape(" ".join(words.split()), quote=False).replace("|", "\\|")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"

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

from accdd.cli import app
from accdd.config import Settings, describe
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
    """Every verb with its arguments and options, as `--help` has them."""
    group: Any = typer.main.get_command(app)
    return "\n".join(_verb(name, command) for name, command in group.commands.items())


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


TABLES: dict[str, Callable[[], str]] = {"commands": commands, "settings": settings, "presets": presets}


def _verb(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(["accdd", name, "[OPTIONS]", *(each.make_metavar(_context(command)) for each in arguments)])
    parts = [f"\n## {name}\n", _text(command.help or ""), f"\n```text\n{usage}\n```\n"]
    rows = [(f"`{each.human_readable_name}`", "", _text(each.help or "")) for each in arguments]
    rows += [
        (", ".join(f"`{flag}`" for flag in (*each.opts, *each.secondary_opts)), _default(each), _text(each.help or ""))
        for each in options
    ]
    return "\n".join([*parts, _table(("Argument or option", "Default", "Meaning"), rows)])


def _context(command: Any) -> Any:
    return command.context_class(command)


def _default(option: Any) -> str:
    return "" if option.default is None or option.is_flag else f"`{option.default}`"


def _text(words: str) -> str:
    """Words as Markdown shows them, in a cell, too."""
    return html.escape(" ".join(words.split()), quote=False).translate(
        {ord(sign): f"\\{sign}" for sign in r"\`*_{}[]|"}
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"

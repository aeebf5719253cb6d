"""What the documents name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


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

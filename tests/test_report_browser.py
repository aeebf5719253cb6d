"""The page in a real browser: headless Chromium, spoken to through a pipe as its own developer tools do."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest

import accdd
from accdd import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the search path")

SETTINGS = {
    "pool.networks": 1, "pool.epochs": 1, "network.width": 4, "train.batch": 8, "loop.steps": 3, "score.seeds": 2,
    "score.epochs": 1, "images.factor": 2,
}  # fmt: skip


class Browser:
    """One tab. Whatever it complains of (scripts, blocked content) is in `complaints`."""

    def __init__(self, profile: Path) -> None:
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        flags = f"--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={profile}"
        # It reads commands from file 3 and answers into file 4.
        line = f"exec {shlex.quote(str(CHROMIUM))} {flags} about:blank 3<&{to_read} 4>&{from_write}"
        self._process = subprocess.Popen(
            ["bash", "-c", line], pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        self._to, self._from = os.fdopen(to_write, "wb", buffering=0), os.fdopen(from_read, "rb", buffering=0)
        self._number, self._rest, self._session = 0, b"", None
        self.complaints: list[str] = []
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._from.read(1 << 20)
            assert read, "the browser has gone"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        told = json.loads(message)
        if told.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(told["params"]))
        self.last = told.get("method")
        return told

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.as_uri())
        self.last = None
        while self.last != "Page.loadEventFired":
            self._next()

    def value(self, expression: str) -> Any:
        """Of a line of JavaScript in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(20)
        self._to.close()
        self._from.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        stripes = helpers.stripes()
        accdd.distill((stripes.images.numpy(), stripes.labels.numpy()), ipc=2, out=root / "run", settings=SETTINGS)
    yield root / "run"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    tab = Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def tab(browser: Browser, folder: Path) -> Iterator[Browser]:
    """The page of a run, freshly opened from its file; nothing may have been complained of in the end."""
    browser.complaints.clear()
    browser.open(folder / "report.html")
    yield browser
    assert browser.complaints == []


VISIBLE = "[...document.querySelectorAll('figure:not([hidden]) .zoom img:not([hidden])')]"


def test_every_image_is_decoded_and_the_script_has_run(tab: Browser):
    assert tab.value("[...document.images].every((img) => img.complete && img.naturalWidth > 0)")
    assert tab.value("document.querySelector('.controls').hidden") is False
    assert tab.value(f"{VISIBLE}.map((img) => img.dataset.view)") == ["stored"] * 2 + ["nearest"] * 2
    assert tab.value("getComputedStyle(document.querySelector('.gallery')).display") == "grid"  # the style is allowed


def test_the_slider_goes_through_the_snapshots(tab: Browser):
    assert tab.value("document.querySelector('#at').value.endsWith('the result')")
    tab.value("step.value = 0; step.dispatchEvent(new Event('input'))")
    assert tab.value("document.querySelector('#at').value").startswith("sweep 0,")
    assert tab.value(f"{VISIBLE}.map((img) => img.dataset.view + img.dataset.step)") == ["step0"] * 2 + ["nearest"] * 2


def test_the_decoded_view_takes_the_stored_one_s_place(tab: Browser):
    tab.value("view.value = 'decoded'; view.dispatchEvent(new Event('change'))")
    assert tab.value(f"{VISIBLE}.map((img) => img.dataset.view)") == ["decoded"] * 2 + ["nearest"] * 2


def test_the_filter_leaves_one_class(tab: Browser):
    tab.value("filter.value = '1'; filter.dispatchEvent(new Event('input'))")
    assert tab.value("[...document.querySelectorAll('figure:not([hidden])')].map((f) => f.dataset.class)") == ["1", "1"]
    assert tab.value("document.querySelector('#found').value") == "1 of 2"


def test_zoom_opens_and_closes(tab: Browser):
    tab.value("document.querySelector('.zoom').click()")
    assert tab.value("dialog.open && dialog.querySelector('img').alt") == "2 learned images of class 0"
    assert tab.value("dialog.querySelector('img').width > 3 * document.querySelector('.zoom img').naturalWidth")
    tab.value("dialog.querySelector('button').click()")
    assert tab.value("dialog.open") is False


def background(tab: Browser) -> str:
    return tab.value("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light_follow_the_system_and_the_button(tab: Browser):
    for scheme, ground, other in (("light", (255, 255, 255), (20, 23, 27)), ("dark", (20, 23, 27), (255, 255, 255))):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.value("delete document.documentElement.dataset.theme")
        assert background(tab) == f"rgb{ground}"
        tab.value("document.querySelector('#theme').click()")
        assert background(tab) == f"rgb{other}"
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert background(tab) == "rgb(255, 255, 255)"  # whatever was chosen
    tab.call("Emulation.setEmulatedMedia", media="", features=[])


def test_nothing_is_wider_than_a_phone(tab: Browser):
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    assert tab.value("document.documentElement.scrollWidth") <= 360
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_it_is_read_without_a_script(browser: Browser, folder: Path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(folder / "report.html")
    shown = browser.call("Runtime.evaluate", expression="document.body.innerText", returnByValue=True)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    text = shown["result"]["value"]
    assert json.loads((folder / "evaluation.json").read_text())["verdict"] in text
    assert "On the way" not in text and "Dark or light" not in text


def test_a_script_in_a_name_is_not_run(browser: Browser, folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "<img src=x onerror=window.run=1>"))
    told = json.loads((copy / "evaluation.json").read_text())
    told["verdict"] = "<img src=x onerror=window.run=1><script>window.run=1</script>"
    (copy / "evaluation.json").write_text(json.dumps(told))
    browser.open(report.write(copy, tmp_path / "page.html"))
    assert browser.value("window.run") is None and told["verdict"] in browser.value("document.body.innerText")


def test_runs_compared_open_too(browser: Browser, folder: Path, tmp_path: Path):
    browser.complaints.clear()
    browser.open(report.compare([folder, folder], tmp_path / "all.html"))
    assert browser.value("document.querySelectorAll('tbody tr').length") == 2 and browser.complaints == []

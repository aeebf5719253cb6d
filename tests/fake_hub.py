"""The Hugging Face hub as far as accdd asks it, on this machine: repositories in memory, answered over HTTP."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class Hub:
    """What it holds, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.forbids = False
        """Whether it refuses to write."""

    def revision(self, name: str) -> str:
        """Of what a repository holds."""
        return hashlib.sha1(json.dumps(sorted(map(repr, self.repositories[name].items()))).encode()).hexdigest()


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client library asks instead of the real one."""
    import huggingface_hub.constants as constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, code: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(f"POST {path}")
        if self.hub.forbids:
            return self.answer(403, {"error": "You have no leave to write here"})
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            if name in self.hub.repositories:
                return self.answer(
                    409,
                    {
                        "error": "You already created this dataset repo",
                        "url": f"http://{self.headers['Host']}/datasets/{name}",
                    },
                )
            self.hub.repositories[name] = {".gitattributes": b""}
            self.hub.private[name] = bool(told.get("private")) or told.get("visibility") == "private"
            return self.answer(200, {"url": f"http://{self.headers['Host']}/datasets/{name}", "name": name})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.repositories[found[1]][entry["value"]["path"]] = content
            revision = self.hub.revision(found[1])
            url = f"http://{self.headers['Host']}/datasets/{found[1]}/commit/{revision}"
            return self.answer(200, {"commitUrl": url, "commitOid": revision, "success": True})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        return self.answer(404, {"error": f"nothing at {path}"})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        missing = {"X-Error-Code": "RepoNotFound"}
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            name = found[1]
            if name not in self.hub.repositories:
                return self.answer(404, {"error": "Repository not found"}, missing)
            files = [{"rfilename": each} for each in sorted(self.hub.repositories[name])]
            return self.answer(200, {"id": name, "sha": self.hub.revision(name), "siblings": files, "private": False})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+", path):
            if found[1] not in self.hub.repositories:
                return self.answer(404, {"error": "Repository not found"}, missing)
            tree = [
                {"type": "file", "path": each, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                for each, raw in sorted(self.hub.repositories[found[1]].items())
            ]
            return self.answer(200, tree)
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            name, file = found[1], found[2]
            if name not in self.hub.repositories:
                return self.answer(404, {"error": "Repository not found"}, missing)
            if file not in self.hub.repositories[name]:
                return self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            raw = self.hub.repositories[name][file]
            about = {
                "ETag": f'"{hashlib.sha1(raw).hexdigest()}"',
                "X-Repo-Commit": self.hub.revision(name),
                "Content-Type": "application/octet-stream",
            }
            return self.answer(200, raw, about)
        return self.answer(404, {"error": f"nothing at {path}"})

    do_HEAD = do_GET

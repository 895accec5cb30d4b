"""A stand-in for the Hugging Face hub: what its client asks for a model, served from memory on this machine."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_thisisthetokenofthetests"


@dataclass
class Repository:
    """A model; `files` by name, `revisions` by branch, tag or commit.

    Attributes:
        gated: needs TOKEN, and even then `accepted` terms.
        private: looks missing without TOKEN.
        cut: how often the sending of a file breaks off, and behind which part of it.
        listed: names that the list has beside the files.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    accepted: bool = False
    private: bool = False
    cut: int = 0
    listed: list[str] = field(default_factory=list)
    status: int | None = None

    def commit_of(self, revision: str | None) -> str | None:
        known = {None: self.commit, "main": self.commit, self.commit: self.commit, **self.revisions}
        return known.get(revision, revision if revision in self.revisions.values() else None)


class Hub:
    """Repositories by name, and the requests that were made: (method, path, range, token)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.endpoint = ""

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            path.rpartition("/")[2] for method, path, _, _ in self.requests if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def served():
    """A Hub that answers at `hub.endpoint` while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, with_body):
            path = unquote(urlsplit(self.path).path)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            hub.requests.append((self.command, path, self.headers.get("Range"), token))
            api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path)
            match = api or file
            repository = hub.repositories.get(match[1]) if match else None
            if refusal := self.refusal(repository, token):
                return self.say(*refusal, with_body)
            commit = repository.commit_of(match[2])
            if commit is None:
                return self.say(404, "RevisionNotFound", f"Invalid rev id: {match[2]}", with_body)
            if api:
                return self.list(match[1], repository, commit)
            if match[3] not in repository.files:
                return self.say(404, "EntryNotFound", "Entry not found", with_body, {"X-Repo-Commit": commit})
            return self.send(repository, commit, repository.files[match[3]], with_body)

        def refusal(self, repository, token):
            if token is not None and token != TOKEN:
                return 401, None, "Invalid credentials in Authorization header"
            if repository is None or (repository.private and token is None):
                return (401 if token is None else 404), "RepoNotFound", "Repository not found"
            if repository.status is not None:
                return repository.status, None, "trouble"
            if repository.gated and not (token and repository.accepted):
                return (401 if token is None else 403), "GatedRepo", "Access to model is restricted"
            return None

        def say(self, status, code, message, with_body, more=None):
            headers = {"X-Error-Message": message, **(more or {}), **({"X-Error-Code": code} if code else {})}
            self.whole(status, json.dumps({"error": message}).encode(), headers, with_body)

        def list(self, name, repository, commit):
            names = [*repository.files, *repository.listed]
            siblings = [{"rfilename": one, "size": len(repository.files.get(one, b""))} for one in names]
            about = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False, "tags": []}
            self.whole(200, json.dumps(about).encode(), {"Content-Type": "application/json"}, True)

        def send(self, repository, commit, content, with_body):
            begin = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": commit,
                "Accept-Ranges": "bytes",
            }
            if begin:
                headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            part = content[begin:]
            if with_body and repository.cut and len(content) > 100_000:
                repository.cut -= 1
                return self.whole(206 if begin else 200, part, headers, True, sent=len(part) // 2)
            return self.whole(206 if begin else 200, part, headers, with_body)

        def whole(self, status, body, headers, with_body, sent=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body[:sent])
            if sent is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

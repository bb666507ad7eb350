"""The Hugging Face Hub in small: its cache on disk, and a server for one repository on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_WEIGHTS = (".safetensors", ".bin", ".pt")


def lay_out(
    home: Path,
    repo: str,
    commit: str,
    files: Mapping[str, bytes],
    *,
    weights: bool = True,
    named_as: Mapping[str, bytes] | None = None,
) -> Path:
    """Write what the Hub's cache below `HF_HOME` holds of a commit, and return its snapshot.

    Without `weights` they are left out, as for a worker that fetched config and tokenizer only.
    `named_as` gives the bytes by whose hash a file's blob is named, where these are not its own.
    """
    place = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for folder in (place / "blobs", place / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    for name, data in files.items():
        if not weights and name.endswith(_WEIGHTS):
            continue
        blob = place / "blobs" / etag(name, (named_as or {}).get(name, data))
        blob.write_bytes(data)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint, as a repository would have them."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


def etag(name: str, data: bytes) -> str:
    """Weights are large files, which the Hub names by SHA-256; all else by git's hash of it."""
    if name.endswith(_WEIGHTS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """A server that holds one repository at one commit."""

    repo: str
    commit: str
    files: Mapping[str, bytes]
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request, in order."""

    @property
    def endpoint(self) -> str:
        """For `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def weights_asked(self) -> list[str]:
        """Paths of weights whose bytes somebody wanted."""
        return [path for method, path in self.asked if method == "GET" and path.endswith(_WEIGHTS)]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        """Answer requests while it lasts."""
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Request, self)) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join(10)


class _Request(BaseHTTPRequestHandler):
    """What huggingface_hub asks for: a repository, its tree, and its files."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, hub: Hub, *args: object) -> None:
        self._hub = hub
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._hub.asked.append((self.command, path))
        about = f"/api/models/{self._hub.repo}"
        if path.startswith((f"{about}/tree/", f"/{self._hub.repo}/tree/")):
            self._answer_json([self._entry(name) for name in self._hub.files])
        elif path == about or path.startswith(f"{about}/revision/"):
            siblings = [{"rfilename": name} for name in self._hub.files]
            self._answer_json({"id": self._hub.repo, "sha": self._hub.commit, "siblings": siblings})
        elif path.startswith(f"/{self._hub.repo}/resolve/"):
            self._answer_file(path.split("/", 5)[-1])
        else:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _entry(self, name: str) -> dict[str, object]:
        data = self._hub.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": etag(name, data)}

    def _answer_json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, name: str) -> None:
        data = self._hub.files.get(name)
        if data is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(200, data, {"ETag": f'"{etag(name, data)}"'})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": self._hub.commit, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """`asked` is the log."""

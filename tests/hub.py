"""A local server that answers what huggingface_hub asks the Hub: a model's files and their metadata by revision."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ERRORS = {"RepoNotFound": 401, "GatedRepo": 403, "RevisionNotFound": 404, "EntryNotFound": 404, "ServerError": 503}


@dataclass
class Hub:
    """Models and faults of the server; ``asked`` collects method, path and headers of every request."""

    models: dict[str, Path]  # folder by name
    url: str = ""
    commit: str = COMMIT
    gated: set[str] = field(default_factory=set)
    broken: bool = False
    cuts: list[int] = field(default_factory=list)  # numbers of body bytes after which the next long answers are cut
    damaged: bool = False  # weights are sent with another last byte
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def paths(self, method: str) -> list[str]:
        return [path for how, path, _ in self.asked if how == method]


@contextmanager
def serving_models(models: dict[str, Path]) -> Iterator[Hub]:
    """Serve folders as models of a Hub until the end of the block."""
    hub = Hub(models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def refuse(self, code: str) -> None:
            self.send_response(ERRORS[code])
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, dict(self.headers)))
            if hub.broken:
                return self.refuse("ServerError")
            parts = path.removeprefix("/api/models").strip("/").split("/")
            name = "/".join(parts[:2])
            if name not in hub.models:
                return self.refuse("RepoNotFound")
            folder = hub.models[name]
            if path.startswith("/api/models/"):
                if len(parts) > 3 and parts[3] not in ("main", hub.commit):
                    return self.refuse("RevisionNotFound")
                siblings = [self.described(each) for each in sorted(folder.iterdir())]
                return self.send(json.dumps({"id": name, "sha": hub.commit, "siblings": siblings}).encode())
            if parts[3] not in ("main", hub.commit):
                return self.refuse("RevisionNotFound")
            if name in hub.gated:
                return self.refuse("GatedRepo")
            file = folder / parts[4]
            if not file.is_file():
                return self.refuse("EntryNotFound")
            body = file.read_bytes()
            tag = hashlib.sha256(body).hexdigest() if self.large(file) else hashlib.sha1(body).hexdigest()
            if hub.damaged and self.large(file):
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send(body, tag)

        def large(self, file: Path) -> bool:
            return file.suffix in (".safetensors", ".bin")

        def described(self, file: Path) -> dict[str, object]:
            size = file.stat().st_size
            lfs = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": size, "pointerSize": 134}
            return {"rfilename": file.name, "size": size} | ({"lfs": lfs} if self.large(file) else {})

        def send(self, body: bytes, tag: str | None = None) -> None:
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if tag is not None:
                self.send_header("ETag", f'"{tag}"')
                self.send_header("X-Repo-Commit", hub.commit)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            sent = body[start:]
            if hub.cuts and len(sent) > hub.cuts[0]:
                sent = sent[: hub.cuts.pop(0)]
                self.close_connection = True
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

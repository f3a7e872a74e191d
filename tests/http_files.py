"""A local file server that can misbehave like real servers."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mmap import mmap


@dataclass
class FileServer:
    """Files and faults of the server; ``asked`` collects the path and the Range header of every request."""

    files: dict[str, bytes | mmap]
    url: str = ""
    cuts: list[int] = field(default_factory=list)  # numbers of body bytes after which the next answers are cut, one each
    # Numbers of body bytes after which the next uncut answers wait for ``released`` and then close, one each.
    holds: list[int] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)  # set when an answer waits
    released: threading.Event = field(default_factory=threading.Event)
    statuses: list[int] = field(default_factory=list)  # HTTP error codes of the next answers
    redirects: dict[str, str] = field(default_factory=dict)  # new location by path
    knows_ranges: bool = True
    shift: int = 0  # answers to range requests start this many bytes too late
    extra_length: int = 0  # bytes that are announced but never sent
    announces: bool = True
    headers: dict[str, str] = field(default_factory=dict)  # added to every answer
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, bytes | mmap], certificate: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    """Serve ``files`` (by path, such as ``/a.tar.gz``) until the end of the block, over HTTPS if there is a certificate for localhost."""
    state = FileServer(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.statuses:
                return self.send_error(state.statuses.pop(0))
            if self.path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[self.path])
                return self.end_headers()
            if self.path not in state.files:
                return self.send_error(404)
            body = state.files[self.path]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.knows_ranges else 0
            if start and start >= len(body):
                return self.send_error(416)
            if start:
                start += state.shift
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            for name, value in state.headers.items():
                self.send_header(name, value)
            if state.announces:
                self.send_header("Content-Length", str(len(body) - start + state.extra_length))
            self.end_headers()
            sent = memoryview(body)[start:]
            if state.cuts:
                sent = sent[: state.cuts.pop(0)]
            elif state.holds:
                self.wfile.write(sent[: state.holds.pop(0)])
                state.held.set()
                state.released.wait()
                return
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}" if certificate is None else f"https://localhost:{server.server_port}"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()

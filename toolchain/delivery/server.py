"""Transmission to the UE: an HTTP server for bitstreams, and measurements of the time to first transcript over the rate."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from pydantic import ValidationError

from device_runner.bitstream.format import read_header
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, package_versions
from device_runner.files import sha256_of, shown, write_json, write_record
from device_runner.package import ROOT
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.delivery.measurements import Delivered, Delivery
from toolchain.delivery.reception import Reception

if TYPE_CHECKING:
    from starlette.applications import Starlette

START_SECONDS = 10.0
LIMIT_SECONDS = 600.0  # time limit of a reception, in addition to the transfer at its rate


def application(files: Sequence[Path]) -> "Starlette":
    """Create a web application that serves files by name, with range requests and digests (RFC 9530).

    Args:
        files: Bitstreams to serve.

    Raises:
        AsrDeployError: Two files have the same name, or a file is not a bitstream.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route

    offered = {address_of(path): path for path in files}
    if len(offered) < len(files):
        raise AsrDeployError("Two bitstreams have the same file name, but they are served by name. Rename one of them.")
    for path in files:
        read_header(path)

    def file(request: Request) -> Response:
        # Not the decoded path: names may contain bytes that are not UTF-8.
        path = offered.get(quote(unquote_to_bytes(request.scope["raw_path"].removeprefix(b"/"))))
        if path is None or not path.is_file():
            return PlainTextResponse("This bitstream is not available.\n", 404)
        stat = path.stat()
        digest = base64.b64encode(bytes.fromhex(_digest(path, stat.st_mtime_ns, stat.st_size))).decode()
        return FileResponse(path, media_type="application/octet-stream", headers={"Repr-Digest": f"sha-256=:{digest}:"})

    def index(request: Request) -> Response:
        return PlainTextResponse("".join(f"{name}\n" for name in offered))

    return Starlette(routes=[Route("/", index), Route("/{name}", file)])


def address_of(path: Path) -> str:
    """Return the part of the URL that names a served file, with everything escaped that has a meaning in URLs."""
    return quote(os.fsencode(path.name))


@lru_cache
def _digest(path: Path, changed: int, size: int) -> str:
    """Return the SHA-256 of a file, cached by its modification time and size."""
    return sha256_of(path)


@contextmanager
def serving(files: Sequence[Path]) -> Iterator[str]:
    """Serve files on this machine until the end of the block and yield the server's address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application(files), host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise AsrDeployError(f"The bitstream server did not start within {START_SECONDS:g} s. Repeat the command.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(START_SECONDS)


def serve(files: Sequence[Path], host: str, port: int) -> None:
    """Serve files until the process is interrupted.

    Args:
        files: Bitstreams to serve.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        AsrDeployError: Two files have the same name, or a file is not a bitstream.
    """
    import uvicorn

    uvicorn.run(application(files), host=host, port=port, log_level="info")


def deliver(
    files: Sequence[Path],
    rates: Sequence[float],
    folder: Path,
    progress: Callable[[str, float], None] = lambda what, share: None,
    *,
    model: str | None = None,
) -> Delivery:
    """Send every bitstream at every rate to a receiver in a fresh process, and write the measurements to ``folder``.

    Finished receptions are kept, so an interrupted delivery resumes when it is repeated.

    Args:
        files: Bitstreams of one model.
        rates: Rates of the content in bit/s.
        folder: Folder for ``delivery.json`` and the receptions.
        progress: Callback that receives the current step and the finished share (0 to 1) of the expected transfer time.
        model: Custom model of the bitstreams. Required if a factory builds it.

    Raises:
        AsrDeployError: The bitstreams belong to different models, a file is not a bitstream or is an update, or a reception failed.
    """
    check_deliverable(files, model)
    check_folder(folder)
    files, rates = sorted(files, key=lambda path: path.stat().st_size), sorted(rates)
    code = None
    if model is not None:
        from toolchain.models.loading import load_model  # imports PyTorch, which is only needed here for custom models

        code = load_model(model).weights
    whole = sum(1 + 8 * path.stat().st_size / rate for path in files for rate in rates)
    passed = 0.0
    received = []
    with serving(files) as address:
        for path in files:
            receptions, digest = [], sha256_of(path)
            for rate in rates:
                progress(f"{path.name} at {rate / 1e6:g} Mbit/s", passed / whole)
                receptions.append(_reception(f"{address}/{address_of(path)}", path.stat().st_size, digest, rate, folder, model, code))
                passed += 1 + 8 * path.stat().st_size / rate
            received.append((shown(path.stem), digest, tuple(receptions)))
    after = median(each.seconds.load + each.seconds.first_inference for _, _, receptions in received for each in receptions)
    delivered = [Delivered(name=name, sha256=digest, receptions=each, after=after) for name, digest, each in received]
    result = Delivery(bitstreams=tuple(delivered), machine=machine_facts())
    write_record(folder / "delivery.json", result)
    return result


def check_deliverable(files: Sequence[Path], model: str | None = None) -> None:
    """Check that bitstreams belong to one model and can be decoded without anything else; see ``deliver``.

    Raises:
        AsrDeployError: They belong to different models, a file is not a bitstream or is an update, or a factory's model is missing.
    """
    headers = {path: read_header(path) for path in files}
    if len({(header.model, header.network) for header in headers.values()}) > 1:
        raise AsrDeployError("These bitstreams belong to different models. Deliver the bitstreams of one model at a time.")
    for path, header in headers.items():
        if header.base is not None or header.codec == EXTERNAL or not header.model:
            raise AsrDeployError(f"{path} cannot be decoded without a base or a decoder. Use `asrdeploy receive` with --base or --decoder.")
        if model is None and header.network is not None and header.network.factory is not None:
            raise AsrDeployError(f"{path} needs {header.network.factory}, but a bitstream contains no code. Give the model with --model.")


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something other than a delivery.

    Raises:
        AsrDeployError: The folder is neither empty nor that of a delivery.
    """
    if folder.exists() and {each.name for each in folder.iterdir()} - {"inputs.json"} and not (folder / "receptions").is_dir():
        raise AsrDeployError(f"{folder} exists but contains no delivery. Choose another folder with -o.")


def _reception(url: str, size: int, digest: str, rate: float, folder: Path, model: str | None, code: str | None) -> Reception:
    """Return a kept reception of the same bitstream, rate, versions and custom model (``code``), or run one."""
    facts = [digest, rate, package_versions(), *filter(None, [code])]
    wanted = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    kept = folder / "receptions" / f"{wanted}.json"
    try:
        return Reception.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        pass
    limit = LIMIT_SECONDS + 2 * 8 * size / rate
    # -P: a module of the user's folder must not stand in for one of ours; that folder comes last, for a factory's module.
    command = [sys.executable, "-P", "-m", "toolchain.delivery.reception", url, repr(rate)]
    surroundings = os.environ | {"no_proxy": "127.0.0.1"}  # a proxy would distort the measurement or not reach this machine
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if model is not None:
        command.append(model)
        paths.append(str(Path.cwd()))
    surroundings["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        done = subprocess.run(
            command,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise AsrDeployError(f"The receiver exceeded its limit of {limit:.0f} s for {url}. Repeat the command to resume.") from error
    if done.returncode != 0:
        raise AsrDeployError(f"The receiver failed: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}.'])[-1]}")
    made = Reception.model_validate_json(done.stdout.strip().splitlines()[-1])
    write_json(kept, made.model_dump())
    return made

"""Transmission to the UE: a server of bitstreams, and the time to the first transcript over rates, measured in fresh processes."""

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

from pydantic import ValidationError

from device_runner.bitstream.format import read_header
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, package_versions
from device_runner.files import sha256_of, write_json, write_record
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.delivery.measurements import Delivered, Delivery
from toolchain.delivery.reception import Reception

if TYPE_CHECKING:
    from starlette.applications import Starlette

START_SECONDS = 10.0
LIMIT_SECONDS = 600.0  # for a reception beyond what its rate asks for


def application(files: Sequence[Path]) -> "Starlette":
    """Return a web application that offers files by name: ranges, a digest of each (RFC 9530), nothing else.

    Raises:
        AsrDeployError: two files have the same name, or one is no bitstream.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response
    from starlette.routing import Route

    offered = {path.name: path for path in files}
    if len(offered) < len(files):
        raise AsrDeployError("Two bitstreams have the same name; they are offered by name.")
    for path in files:
        read_header(path)

    def file(request: Request) -> Response:
        path = offered.get(request.path_params["name"])
        if path is None or not path.is_file():
            return PlainTextResponse("There is no such bitstream here.\n", 404)
        stat = path.stat()
        digest = base64.b64encode(bytes.fromhex(_digest(path, stat.st_mtime_ns, stat.st_size))).decode()
        return FileResponse(path, media_type="application/octet-stream", headers={"Repr-Digest": f"sha-256=:{digest}:"})

    def index(request: Request) -> Response:
        return PlainTextResponse("".join(f"{name}\n" for name in offered))

    return Starlette(routes=[Route("/", index), Route("/{name}", file)])


@lru_cache
def _digest(path: Path, changed: int, size: int) -> str:
    """Hash a file once for each version of it."""
    return sha256_of(path)


@contextmanager
def serving(files: Sequence[Path]) -> Iterator[str]:
    """Serve files on this machine until the end of the block; yields the address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application(files), host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise AsrDeployError("The server of bitstreams did not start.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(START_SECONDS)


def serve(files: Sequence[Path], host: str, port: int) -> None:
    """Serve files until the process is interrupted."""
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
    """Send every bitstream at every rate to a receiver in a fresh process, and write what it took into ``folder``.

    Each reception is kept: the same command goes on where an earlier one stopped.

    Args:
        files: bitstreams of one model.
        rates: of the content, in bits per second.
        folder: gets ``delivery.json`` and the receptions.
        progress: is told what goes on, and the share of the whole by expected seconds of transfer.
        model: the custom model that they are of, where a factory makes it.

    Raises:
        AsrDeployError: no bitstreams, of different models, updates, or a reception that failed.
    """
    headers = {path: read_header(path) for path in files}
    if len({(header.model, header.network) for header in headers.values()}) > 1:
        raise AsrDeployError("These bitstreams are of different models; deliver those of one at a time.")
    for path, header in headers.items():
        if header.base is not None or header.codec == EXTERNAL or not header.model:
            raise AsrDeployError(f"{path} needs more than itself to be decoded; `asrdeploy receive` takes --base and --decoder.")
        if model is None and header.network is not None and header.network.factory is not None:
            raise AsrDeployError(f"{path} holds weights of {header.network.factory}, and a bitstream brings no code: give it with --model.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "receptions").is_dir():
        raise AsrDeployError(f"{folder} exists and holds no delivery; choose another folder for the results.")
    files, rates = sorted(files, key=lambda path: path.stat().st_size), sorted(rates)
    code = None
    if model is not None:
        from toolchain.models.loading import load_model  # torch: a server, and bitstreams of test cases, do without

        code = load_model(model).weights
    whole = sum(1 + 8 * path.stat().st_size / rate for path in files for rate in rates)
    passed = 0.0
    received = []
    with serving(files) as address:
        for path in files:
            receptions, digest = [], sha256_of(path)
            for rate in rates:
                progress(f"{path.name} at {rate / 1e6:g} Mbit/s", passed / whole)
                receptions.append(_reception(f"{address}/{path.name}", path.stat().st_size, digest, rate, folder, model, code))
                passed += 1 + 8 * path.stat().st_size / rate
            received.append((path.stem, digest, tuple(receptions)))
    after = median(each.seconds.load + each.seconds.first_inference for _, _, receptions in received for each in receptions)
    delivered = [Delivered(name=name, sha256=digest, receptions=each, after=after) for name, digest, each in received]
    result = Delivery(bitstreams=tuple(delivered), machine=machine_facts())
    write_record(folder / "delivery.json", result)
    return result


def _reception(url: str, size: int, digest: str, rate: float, folder: Path, model: str | None, code: str | None) -> Reception:
    """Return an earlier reception of the same bitstream at the same rate by the same versions, or make one; ``code``: of the custom model."""
    facts = [digest, rate, package_versions(), *filter(None, [code])]
    wanted = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    kept = folder / "receptions" / f"{wanted}.json"
    try:
        return Reception.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        pass
    limit = LIMIT_SECONDS + 2 * 8 * size / rate
    command = [sys.executable, "-m", "toolchain.delivery.reception", url, repr(rate)]
    surroundings = os.environ | {"no_proxy": "127.0.0.1"}  # a proxy would be measured, or know nothing of this machine
    place = Path(__file__).parents[2]  # `-m` looks in the current folder first, so a checkout that is not installed works too
    if model is not None:  # its files, and a factory's module, lie where the command was given
        command.append(model)
        surroundings["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
        place = Path.cwd()
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired as error:
        raise AsrDeployError(f"The receiver took longer than {limit:.0f} s for {url}.") from error
    if done.returncode != 0:
        raise AsrDeployError(f"The receiver failed: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    made = Reception.model_validate_json(done.stdout.strip().splitlines()[-1])
    write_json(kept, made.model_dump())
    return made

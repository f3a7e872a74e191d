"""Workers on a Ray cluster, for evaluations and sweeps: utterances and test configurations are its tasks.

Every node requires asrdeploy with the same package versions, and the module of a Python factory if a custom model has one. Ray sends the
weights once to every node, and the recordings with the tasks.
"""

import logging
import os
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from device_runner.artifact import MANIFEST, open_artifact
from device_runner.audio import read_audio
from device_runner.engines import Engine, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.facts import machine_facts, package_versions
from device_runner.windows import WindowedEngine
from toolchain.accuracy.transcriber import Transcriber
from toolchain.accuracy.workers import Transcription, longest_first, shut_down, transcribe
from toolchain.data.datasets import Utterance
from toolchain.extras import lacking

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel

NEW = "local"  # Ray's name for a new cluster on this machine
RETRIES = 4  # of a task after its worker or node was lost
BUNCH = 20.0  # seconds of audio per task: a task costs about 1 ms, and the last tasks must stay short
PATIENCE = 30.0  # seconds without a finished task before the nodes are checked
READ_AHEAD = 8  # number of recordings
AHEAD = 2  # tasks in flight per worker
CPUS_A_CONFIGURATION = 8  # in sweeps: fewer leave workers idle between configurations, more wait for decompression

Made = TypeVar("Made")
Recording = tuple[Utterance, Waveform]


@contextmanager
def open_cluster(address: str | None, threads: int) -> Iterator["RayWorkers"]:
    """Connect to a cluster, or start one on this machine, until the end of the block.

    Args:
        address: Address of the cluster, ``HOST:PORT`` (default: ``RAY_ADDRESS``, else a new cluster on this machine).
        threads: Number of threads of every worker. Each worker takes as many CPUs.

    Raises:
        AsrDeployError: Ray is not installed, the cluster cannot be reached or has too few CPUs, or nodes have other package versions.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends no usage statistics
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # unlimited by default
    try:
        import ray
    except ModuleNotFoundError as error:
        raise AsrDeployError(lacking(error) or "Ray cannot be imported. Install it again.") from error
    mine = not ray.is_initialized()
    if mine:
        address = address or os.environ.get("RAY_ADDRESS") or NEW
        _reach(address)
        # Ray rejects this option when it joins a cluster.
        dashboard = False if address == NEW else None
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=dashboard)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise AsrDeployError(f"The Ray cluster {address} cannot be reached: {_first_line(error)}.") from error
    try:
        yield RayWorkers(threads, _check_nodes(threads))
    finally:
        if mine:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raise AsrDeployError if nothing answers at HOST:PORT, because Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # a name such as "local"
        return
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
    except OSError as error:
        raise AsrDeployError(
            f"The Ray cluster {address} cannot be reached: {error.strerror or error}. Start it with `ray start --head`."
        ) from error


def _check_nodes(threads: int) -> list[dict[str, Any]]:
    """Return facts about every node. Raise AsrDeployError if one has other package versions than this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= threads]
    if not alive:
        raise AsrDeployError(f"No node of the Ray cluster has {threads} CPU(s). Use fewer --threads.")
    task = ray.remote(num_cpus=0, max_retries=RETRIES)(machine_facts)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
    answers = [task.options(scheduling_strategy=place).remote() for place in places]
    facts: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for node, answer in zip(alive, answers, strict=True):
        try:
            facts.append((node, ray.get(answer)))
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {each["NodeID"] for each in ray.nodes() if each["Alive"]}:
                continue  # the node was lost; the others can do its work
            reason = _first_line(error)
            raise AsrDeployError(f"A node of the Ray cluster cannot run asrdeploy: {reason}. Install the same version there.") from error
    if not facts:
        raise AsrDeployError("All nodes of the Ray cluster were lost at the start. Restart the cluster and repeat the command.")
    here = machine_facts()["versions"]
    for node, there in facts:
        other = sorted(name for name in here.keys() | there["versions"].keys() if here.get(name) != there["versions"].get(name))
        if other:
            raise AsrDeployError(
                f"Node {node['NodeManagerAddress']} has other package versions than this machine, for example of {other[0]}. "
                "Install the same versions there."
            )
    return [fact | {"cpus": int(node["Resources"]["CPU"])} for node, fact in facts]


class RayWorkers:
    """The workers of a cluster; see ``workers.Workers``.

    Args:
        threads: Number of threads of every worker.
        nodes: Facts about every node, including ``cpus``.
    """

    def __init__(self, threads: int, nodes: list[dict[str, Any]]) -> None:
        self._threads = threads
        self._nodes = nodes
        self._kept: list[tuple[object, Any]] = []
        self._keeping = Lock()

    @property
    def count(self) -> int:
        """Number of workers that the cluster has CPUs for."""
        return sum(node["cpus"] // self._threads for node in self._nodes)

    @property
    def configurations(self) -> int:
        """See ``workers.Workers``. At least two, so that one is compressed while another is transcribed."""
        return max(2, self.count // CPUS_A_CONFIGURATION)

    @property
    def facts(self) -> dict[str, Any]:
        """See ``workers.Workers``."""
        return {"cluster": self._nodes}

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """See ``workers.Workers``. A task runs again elsewhere if its worker or node is lost."""
        import ray

        self._check_products(transcriber)
        packed = ray.put(_pack(transcriber))
        task = ray.remote(num_cpus=self._threads, max_retries=RETRIES)(_transcribe_bunch)
        bunches = _bunches(utterances, transcriber.sample_rate)
        begun: list[Any] = []
        try:
            while True:
                # Taking a bunch waits for its recordings to be read, so it happens only when the cluster has room.
                for bunch in islice(bunches, AHEAD * self.count - len(begun)):
                    begun.append(task.remote(packed, self._threads, bunch))
                if not begun:
                    return
                first = self._first_of(begun)
                begun.remove(first)
                yield from _result(first)
        finally:
            for each in begun:
                ray.cancel(each, force=True)

    def call(self, function: Callable[..., Made], *arguments: object) -> Made:
        """See ``workers.Workers``. A large argument of an earlier call is not sent again."""
        import ray

        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        small = (str, int, float, Mapping, type(None))
        sent = [each if isinstance(each, small) else self._put(each) for each in arguments]
        made: Made = _result(self._first_of([task.remote(package_versions(), function, *sent)]))
        return made

    def _put(self, argument: object) -> Any:
        import ray

        with self._keeping:
            for known, reference in self._kept:
                if known is argument:
                    return reference
            reference = ray.put(argument)
            # Keep the argument alive: Python may give the identity of a freed object to another one.
            self._kept = [*self._kept[-3:], (argument, reference)]
            return reference

    def _first_of(self, begun: list[Any]) -> Any:
        """Wait until one of the tasks ends, and return it. Raise AsrDeployError if no node is left to run them."""
        import ray

        while True:
            ended, _ = ray.wait(begun, timeout=PATIENCE)
            if ended:
                return ended[0]
            if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= self._threads for node in ray.nodes()):
                raise AsrDeployError(
                    "The Ray cluster has no node left that has enough CPUs for a worker. Add a node and repeat the command to resume."
                )

    def _check_products(self, transcriber: Transcriber) -> None:
        """Raise AsrDeployError if nodes compute 8-bit products differently."""
        exact = {node["int8_exact"] for node in self._nodes} | {machine_facts()["int8_exact"]}
        if len(exact) > 1 and transcriber.saturates:
            raise AsrDeployError(
                "Some nodes compute 8-bit products exactly and others saturate them, so transcripts would depend on the node. "
                "Use nodes with the same type of CPU, or export with --quant SCHEME+reduce_range."
            )


def _bunches(utterances: Sequence[Utterance], sample_rate: int) -> Iterator[list[Recording]]:
    """Read recordings ahead, longest first, and yield them in bunches of about ``BUNCH`` seconds."""
    rest = iter(longest_first(utterances))
    with shut_down(ThreadPoolExecutor(1)) as reader:
        coming = deque((each, reader.submit(read_audio, each.path, sample_rate, each.part)) for each in islice(rest, READ_AHEAD))
        bunch: list[Recording] = []
        while coming:
            # Removed from the queue, because a corpus does not fit into memory.
            utterance, reading = coming.popleft()
            bunch.append((utterance, reading.result()))
            del reading
            coming.extend((each, reader.submit(read_audio, each.path, sample_rate, each.part)) for each in islice(rest, 1))
            if sum(len(each) for _, each in bunch) >= BUNCH * sample_rate:
                yield bunch
                bunch = []
        if bunch:
            yield bunch


def _result(reference: Any) -> Any:
    """Return the result of a task. Raise its AsrDeployError, or one that says that its worker was lost."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AsrDeployError):
            raise AsrDeployError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise AsrDeployError(
            f"The Ray cluster lost a task {RETRIES + 1} times ({_first_line(error)}). Check its nodes and repeat the command to resume."
        ) from error


def _first_line(error: Exception) -> str:
    # The text of a task's error begins with escape codes and a traceback.
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


# What runs on the nodes

Packed = dict[str, Any]


def _pack(transcriber: Transcriber) -> Packed:
    """Return what a node needs to open a transcriber, as arrays that its workers share without copies."""
    common = {"identity": transcriber.identity, "versions": package_versions(), "int8_exact": None, "windows": transcriber.windows}
    if transcriber.artifact is not None:
        if transcriber.saturates:
            common["int8_exact"] = machine_facts()["int8_exact"]
        names = [MANIFEST, *(each.name for each in transcriber.artifact.manifest.files)]
        return common | {"files": {name: np.fromfile(transcriber.artifact.folder / name, np.uint8) for name in names}}
    model = transcriber.model
    assert model is not None, "a transcriber has an artifact or a model"
    state = {name: tensor.numpy() for name, tensor in model.state().items()}
    facts = {"half": transcriber.half, "trained": model.trained, "weights": model.weights}
    return common | facts | {"case": model.case, "state": state}


_engines: dict[tuple[object, ...], tuple[Engine, tuple[str, ...], int]] = {}


def _call(versions: dict[str, str], function: Callable[..., Made], *arguments: object) -> Made:
    _check_versions(versions)
    return function(*arguments)


def _check_versions(versions: dict[str, str]) -> None:
    """Raise AsrDeployError if this node, which may have joined late, has other package versions than the calling machine."""
    if versions != package_versions():
        raise AsrDeployError(
            "A node that joined the Ray cluster has other package versions than this machine. Install the same versions there."
        )


def _transcribe_bunch(packed: Packed, threads: int, bunch: list[Recording]) -> list[Transcription]:
    """Transcribe recordings. The process keeps only the last engine, because a sweep opens many."""
    key = (packed["identity"], threads, packed.get("half"), packed["windows"])
    if key not in _engines:
        _check_versions(packed["versions"])
        if packed["int8_exact"] not in (None, machine_facts()["int8_exact"]):
            raise AsrDeployError(
                "A node that joined the Ray cluster computes 8-bit products differently. Use nodes with the same type of CPU."
            )
        _engines.clear()
        engine, labels, sample_rate = _open(packed, threads)
        windows = packed["windows"]
        _engines[key] = (engine if windows is None else WindowedEngine(engine, windows)), labels, sample_rate
    engine, labels, sample_rate = _engines[key]
    return [transcribe(engine, waveform, labels, sample_rate, utterance) for utterance, waveform in bunch]


def _open(packed: Packed, threads: int) -> tuple[Engine, tuple[str, ...], int]:
    if "files" in packed:
        # Runtimes load models from files, which they no longer need afterwards.
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as name:
            for file, content in packed["files"].items():
                content.tofile(Path(name) / file)
            artifact = open_artifact(Path(name))
            return open_engine(artifact, threads), artifact.manifest.labels, artifact.manifest.sample_rate
    from toolchain.accuracy.torch_engine import TorchEngine

    model = _unpacked(packed)
    return TorchEngine(model, threads, half=packed["half"]), model.case.labels, model.case.sample_rate


def _unpacked(packed: Packed) -> "AnchorModel":
    import torch

    from toolchain.models.anchor_model import model_with

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # shared weights are only read
        state = {name: torch.from_numpy(array) for name, array in packed["state"].items()}
    case = packed["case"]
    if case.network is None or case.network.factory is None:
        return model_with(case, state, packed["weights"], trained=packed["trained"])
    from toolchain.models.custom.factories import factory_again  # the user named this factory for this run

    return factory_again(case).with_state(state, packed["weights"], trained=packed["trained"])

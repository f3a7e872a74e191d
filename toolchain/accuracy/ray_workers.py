"""A Ray cluster as the pool of an accuracy run or a sweep: utterances and test configurations are its tasks.

Nodes need asrdeploy in the same versions, and nothing else (but for the module of a factory that makes a custom model): weights travel
once to every node, recordings with their tasks.
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
from toolchain.accuracy.transcriber import Transcriber
from toolchain.accuracy.workers import Transcription, longest_first, shut_down, transcribe
from toolchain.data.datasets import Utterance
from toolchain.extras import lacking

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel

NEW = "local"  # Ray's word for a cluster of this machine alone
RETRIES = 4  # of a task whose worker or node was lost
BUNCH = 20.0  # seconds of audio in a task: a task costs a millisecond, and the last ones shall not be long
PATIENCE = 30.0  # seconds without a finished task before nodes are counted
READ_AHEAD = 8  # recordings
AHEAD = 2  # tasks under way for every CPU
CPUS_A_CONFIGURATION = 8  # of a sweep: fewer leave gaps between its configurations, more wait for their reconstruction

Made = TypeVar("Made")
Recording = tuple[Utterance, Waveform]


@contextmanager
def open_cluster(address: str | None, threads: int) -> Iterator["RayWorkers"]:
    """Connect to a cluster, or begin one of this machine alone, for the time of the block.

    Args:
        address: HOST:PORT of the cluster; None: what ``RAY_ADDRESS`` says, else a new one of this machine.
        threads: of every worker's engine; each takes as many CPUs.

    Raises:
        AsrDeployError: Ray is not installed, the cluster cannot be reached, has no room, or its nodes have other versions than we.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # else without end
    try:
        import ray
    except ModuleNotFoundError as error:
        raise AsrDeployError(lacking(error) or "Ray cannot be imported; install it anew.") from error
    mine = not ray.is_initialized()
    if mine:
        address = address or os.environ.get("RAY_ADDRESS") or NEW
        _reach(address)
        # Ray refuses to be told of a dashboard where it joins a cluster.
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
    """Raise AsrDeployError where nothing answers at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # a name that Ray knows
        return
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
    except OSError as error:
        raise AsrDeployError(
            f"The Ray cluster {address} cannot be reached: {error.strerror or error}; begin it with `ray start`."
        ) from error


def _check_nodes(threads: int) -> list[dict[str, Any]]:
    """Return facts about every node; AsrDeployError where one would hear other things than this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= threads]
    if not alive:
        raise AsrDeployError(f"No node of the Ray cluster has {threads} CPU(s); give fewer --threads.")
    task = ray.remote(num_cpus=0, max_retries=RETRIES)(machine_facts)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
    answers = [task.options(scheduling_strategy=place).remote() for place in places]
    facts: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for node, answer in zip(alive, answers, strict=True):
        try:
            facts.append((node, ray.get(answer)))
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {each["NodeID"] for each in ray.nodes() if each["Alive"]}:
                continue  # it was lost just now, which costs nothing but its CPUs
            reason = _first_line(error)
            raise AsrDeployError(f"A node of the Ray cluster cannot run asrdeploy: {reason}; install it there as it is here.") from error
    if not facts:
        raise AsrDeployError("Every node of the Ray cluster was lost while it was asked; mend it; the same command goes on.")
    here = machine_facts()["versions"]
    for node, there in facts:
        other = sorted(name for name in here.keys() | there["versions"].keys() if here.get(name) != there["versions"].get(name))
        if other:
            raise AsrDeployError(
                f"Node {node['NodeManagerAddress']} has other versions than this machine, first of {other[0]}: install the same ones there."
            )
    return [fact | {"cpus": int(node["Resources"]["CPU"])} for node, fact in facts]


class RayWorkers:
    """The workers of a cluster; see ``workers.Workers``.

    Args:
        threads: of every worker's engine.
        nodes: facts about every node, ``cpus`` among them.
    """

    def __init__(self, threads: int, nodes: list[dict[str, Any]]) -> None:
        self._threads = threads
        self._nodes = nodes
        self._kept: list[tuple[object, Any]] = []
        self._keeping = Lock()

    @property
    def count(self) -> int:
        """Tasks that the cluster has CPUs for."""
        return sum(node["cpus"] // self._threads for node in self._nodes)

    @property
    def configurations(self) -> int:
        """See ``workers.Workers``; at least two, so that one is compressed while another is heard."""
        return max(2, self.count // CPUS_A_CONFIGURATION)

    @property
    def facts(self) -> dict[str, Any]:
        """See ``workers.Workers``."""
        return {"cluster": self._nodes}

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """See ``workers.Workers``. A task whose worker or node is lost is run again elsewhere."""
        import ray

        self._check_products(transcriber)
        packed = ray.put(_pack(transcriber))
        task = ray.remote(num_cpus=self._threads, max_retries=RETRIES)(_transcribe_bunch)
        bunches = _bunches(utterances, transcriber.sample_rate)
        begun: list[Any] = []
        try:
            while True:
                # Beginning waits for recordings to be read; a bunch is begun only when the cluster has room for it.
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
        """See ``workers.Workers``; an argument that was there before is not sent again."""
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
            # The argument is kept with its reference: Python gives a freed object's identity to the next one.
            self._kept = [*self._kept[-3:], (argument, reference)]
            return reference

    def _first_of(self, begun: list[Any]) -> Any:
        """Wait for the first of some tasks that ends; AsrDeployError where none can, for want of nodes."""
        import ray

        while True:
            ended, _ = ray.wait(begun, timeout=PATIENCE)
            if ended:
                return ended[0]
            if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= self._threads for node in ray.nodes()):
                raise AsrDeployError("The Ray cluster has no node left with room for a worker: mend it; the same command goes on.")

    def _check_products(self, transcriber: Transcriber) -> None:
        """Raise AsrDeployError where nodes would compute 8-bit products differently."""
        exact = {node["int8_exact"] for node in self._nodes} | {machine_facts()["int8_exact"]}
        if len(exact) > 1 and transcriber.saturates:
            raise AsrDeployError(
                "Some nodes' processors compute 8-bit products exactly and others saturate them, so the transcripts would depend on "
                "the node: use nodes of one kind, or export with +reduce_range."
            )


def _bunches(utterances: Sequence[Utterance], sample_rate: int) -> Iterator[list[Recording]]:
    """Read recordings, the longest first and some ahead, and yield them in bunches of a task's length."""
    rest = iter(longest_first(utterances))
    with shut_down(ThreadPoolExecutor(1)) as reader:
        coming = deque((each, reader.submit(read_audio, each.path, sample_rate)) for each in islice(rest, READ_AHEAD))
        bunch: list[Recording] = []
        while coming:
            # Taken out: a corpus does not fit into memory.
            utterance, reading = coming.popleft()
            bunch.append((utterance, reading.result()))
            del reading
            coming.extend((each, reader.submit(read_audio, each.path, sample_rate)) for each in islice(rest, 1))
            if sum(len(each) for _, each in bunch) >= BUNCH * sample_rate:
                yield bunch
                bunch = []
        if bunch:
            yield bunch


def _result(reference: Any) -> Any:
    """Return what a task gave; its own complaint, or a sentence where its worker is lost for good."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AsrDeployError):
            raise AsrDeployError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise AsrDeployError(
            f"The Ray cluster lost a task {RETRIES + 1} times ({_first_line(error)}): mend it; the same command goes on."
        ) from error


def _first_line(error: Exception) -> str:
    # A task's error begins with escape codes and the place where it was raised.
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


# What runs on the nodes

Packed = dict[str, Any]


def _pack(transcriber: Transcriber) -> Packed:
    """Return what a node needs to open a transcriber, in arrays that its workers share without copies."""
    common = {"identity": transcriber.identity, "versions": package_versions(), "int8_exact": None}
    if transcriber.artifact is not None:
        if transcriber.saturates:
            common["int8_exact"] = machine_facts()["int8_exact"]
        names = [MANIFEST, *(each.name for each in transcriber.artifact.manifest.files)]
        return common | {"files": {name: np.fromfile(transcriber.artifact.folder / name, np.uint8) for name in names}}
    model = transcriber.model
    assert model is not None, "a transcriber is an artifact or a model"
    state = {name: tensor.numpy() for name, tensor in model.state().items()}
    facts = {"half": transcriber.half, "trained": model.trained, "weights": model.weights}
    return common | facts | {"case": model.case, "state": state}


_engines: dict[tuple[object, ...], tuple[Engine, tuple[str, ...], int]] = {}


def _call(versions: dict[str, str], function: Callable[..., Made], *arguments: object) -> Made:
    _check_versions(versions)
    return function(*arguments)


def _check_versions(versions: dict[str, str]) -> None:
    """Raise AsrDeployError where this node, which may have come late, would hear other things than the machine that asks."""
    if versions != package_versions():
        raise AsrDeployError("A node that joined the Ray cluster has other versions than this machine: install the same ones there.")


def _transcribe_bunch(packed: Packed, threads: int, bunch: list[Recording]) -> list[Transcription]:
    """Hear recordings with an engine that this process keeps; the last one alone, since a sweep has many."""
    key = (packed["identity"], threads, packed.get("half"))
    if key not in _engines:
        _check_versions(packed["versions"])
        if packed["int8_exact"] not in (None, machine_facts()["int8_exact"]):
            raise AsrDeployError("A node that joined the Ray cluster computes 8-bit products differently: use nodes of one kind.")
        _engines.clear()
        _engines[key] = _open(packed, threads)
    engine, labels, sample_rate = _engines[key]
    return [transcribe(engine, waveform, labels, sample_rate, utterance) for utterance, waveform in bunch]


def _open(packed: Packed, threads: int) -> tuple[Engine, tuple[str, ...], int]:
    if "files" in packed:
        # Runtimes read files; once loaded they need them no more.
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
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes into shared weights
        state = {name: torch.from_numpy(array) for name, array in packed["state"].items()}
    case = packed["case"]
    if case.network is None or case.network.factory is None:
        return model_with(case, state, packed["weights"], trained=packed["trained"])
    from toolchain.models.custom.loading import from_factory  # the user named it for this very run

    return from_factory(case).with_state(state, packed["weights"], trained=packed["trained"])

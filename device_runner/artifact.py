"""The artifact: a folder with model files and ``manifest.json``, everything that a receiver needs."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from device_runner.errors import AsrDeployError, first_problem
from device_runner.files import sha256_of, write_record

MANIFEST = "manifest.json"


class ModelFile(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=200)]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @field_validator("name")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        if len(PurePosixPath(name).parts) != 1 or "\\" in name or name in {"..", "."}:
            raise ValueError(f"file name {name!r} leaves the artifact's folder")
        return name


class Manifest(BaseModel):
    """What a receiver must know about a model; the first of ``files`` is the one that an engine opens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    weights: str = Field(description="where the weights come from: bundled, downloaded, file sha256 …, random seed …")
    trained: bool = Field(description="False for random weights: size and latency only")
    format: str
    scheme: str
    codec: str | None = Field(default=None, description="the codec whose reconstruction was exported, with its parameters")
    transmitted_bytes: int | None = Field(default=None, description="size of that codec's bitstream; None: the artifact is sent")
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    sample_rate: Annotated[int, Field(gt=0)]
    normalised_waveform: bool = Field(description="the graph itself normalises the waveform; a client passes it as it is")
    parameters: Annotated[int, Field(gt=0)]
    minimum_samples: Annotated[int, Field(ge=1)] = Field(description="shorter waveforms have no frame")
    maximum_samples: int | None = Field(default=None, description="longer waveforms are refused; None: no bound")
    rewrites: tuple[str, ...] = Field(default=(), description="what was done to the module before the export")
    planned_bytes: int | None = Field(default=None, description="memory that the runtime plans for the longest waveform")
    delegated: dict[str, int] = Field(default_factory=dict, description="operators in the delegate, by number")
    portable: dict[str, int] = Field(default_factory=dict, description="operators left to portable kernels, by number")
    weight_names: dict[str, str] = Field(default_factory=dict, description="the file's keys of weights, where it has no names")
    quantised: dict[str, int] = Field(default_factory=dict, description="operators by what was done to them")
    tuned_on: tuple[str, ...] = Field(
        default=(), description="ids of the utterances that codec or scheme were calibrated with; no word error rate comes from them"
    )
    parity: tuple["Parity", ...] = ()
    versions: dict[str, str]


class Parity(BaseModel):
    """Distance of an artifact's logits to torch on one waveform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    largest: float = Field(description="largest absolute difference of logits")
    mean: float = Field(description="mean absolute difference of logits")
    relative: float = Field(description="norm of the difference over the norm of torch's logits")
    equal_arg_max: float = Field(description="share of frames with the same best label")


@dataclass(frozen=True)
class Artifact:
    """An opened artifact."""

    folder: Path
    manifest: Manifest
    by_digest: bool = False  # its files' names are their sha256, as in the folder of a job's files

    @property
    def model_path(self) -> Path:
        """The file that an engine opens."""
        return self.path_of(self.manifest.files[0])

    def path_of(self, file: ModelFile) -> Path:
        """Return where a file of the manifest lies."""
        return self.folder / (file.sha256 if self.by_digest else file.name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all model files: what is transmitted where the receiver has no decoder."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def transmitted_bits(self) -> int:
        """Bits that reach the UE: the bitstream's where it has a decoder, else the artifact's."""
        return 8 * (self.manifest.transmitted_bytes or self.size_bytes)

    @property
    def digest(self) -> str:
        """The sha256 of the model file that an engine opens."""
        return self.manifest.files[0].sha256


def open_artifact(folder: Path) -> Artifact:
    """Open an artifact and check every file's size and sha256.

    Raises:
        AsrDeployError: no manifest, one that is not valid, or files that do not fit it.
    """
    path = folder / MANIFEST
    if folder.is_file():
        raise AsrDeployError(f"{folder} is a file; an artifact is the folder that `asrdeploy export` writes, with {MANIFEST} in it.")
    if not path.is_file():
        raise AsrDeployError(f"{folder} is not an artifact: it has no {MANIFEST}; `asrdeploy export` makes one.")
    return _checked(Artifact(folder, _read_manifest(path)))


def open_stored(files: Path, digest: str) -> Artifact:
    """Open an artifact whose files, the manifest too, lie in one folder under their sha256.

    Raises:
        AsrDeployError: a file is missing, or is not what its name says.
    """
    path = files / digest
    if not path.is_file():
        raise AsrDeployError(f"The artifact's manifest {digest} is not in {files}; send it again.")
    if sha256_of(path) != digest:
        raise AsrDeployError(f"{path} does not fit its sha256: it was changed or cut; send it again.")
    return _checked(Artifact(files, _read_manifest(path), by_digest=True))


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise AsrDeployError(f"{path} is not a valid manifest: {first_problem(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise AsrDeployError(f"{path} is not JSON: {error}.") from error


def _checked(artifact: Artifact) -> Artifact:
    """Return the artifact after its files were compared with its manifest."""
    for file in artifact.manifest.files:
        found = artifact.path_of(file)
        if not found.is_file():
            raise AsrDeployError(f"{artifact.folder} is incomplete: {file.name} is missing; export it again.")
        if found.stat().st_size != file.bytes or sha256_of(found) != file.sha256:
            raise AsrDeployError(f"{found} does not fit the sha256 in {MANIFEST}: it was changed or cut; export or copy it again.")
    return artifact


def describe_file(path: Path) -> ModelFile:
    """Return the manifest's entry for a file that was just written."""
    return ModelFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into an artifact's folder."""
    write_record(folder / MANIFEST, manifest)

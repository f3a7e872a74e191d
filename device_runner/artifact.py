"""Artifacts: folders with model files and a ``manifest.json``, which contain everything that a receiver needs."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from device_runner.documents import read_json
from device_runner.errors import AsrDeployError, first_problem
from device_runner.files import sha256_of, write_record

MANIFEST = "manifest.json"
PLAIN_LAYOUT = "asrdeploy"
INNER = "onnx"  # Hugging Face's layout has the model and its manifest in this folder


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
            raise ValueError(f"file name {name!r} points outside the artifact's folder")
        return name


class Manifest(BaseModel):
    """Everything that a receiver must know about a model. Engines open the first of ``files``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    model: str
    weights: str = Field(description="origin of the weights: bundled, downloaded, file sha256 …, random seed …")
    trained: bool = Field(description="False for random weights, which are for size and latency only")
    format: str
    scheme: str
    layout: str = Field(default=PLAIN_LAYOUT, description="runtimes whose files lie around the model, separated by commas")
    codec: str | None = Field(default=None, description="codec whose decoded weights were exported, with its parameters")
    transmitted_bytes: int | None = Field(default=None, description="size of the codec's bitstream; None if the artifact itself is sent")
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1, fail_fast=True)]
    labels: Annotated[tuple[str, ...], Field(min_length=2, fail_fast=True)]
    sample_rate: Annotated[int, Field(gt=0)]
    normalised_waveform: bool = Field(description="whether the graph normalises the waveform itself, so that clients pass raw samples")
    parameters: Annotated[int, Field(gt=0)]
    minimum_samples: Annotated[int, Field(ge=1)] = Field(description="shortest waveform that gives one frame")
    maximum_samples: int | None = Field(default=None, description="longest accepted waveform; None if unlimited")
    rewrites: tuple[str, ...] = Field(default=(), fail_fast=True, description="changes made to the module before the export")
    planned_bytes: int | None = Field(default=None, description="memory that the runtime reserves for the longest waveform")
    delegated: dict[str, int] = Field(default_factory=dict, description="number of operators in the delegate, by name")
    portable: dict[str, int] = Field(default_factory=dict, description="number of operators left to portable kernels, by name")
    weight_names: dict[str, str] = Field(
        default_factory=dict, description="weight names by their keys in the model file, if the file has no names"
    )
    quantised: dict[str, int] = Field(default_factory=dict, description="number of operators or layers, by how they are quantised")
    tuned_on: tuple[str, ...] = Field(
        default=(), fail_fast=True, description="ids of the utterances used to calibrate the codec or the scheme; never used to measure WER"
    )
    parity: tuple["Parity", ...] = Field(default=(), fail_fast=True)
    versions: dict[str, str]


class Parity(BaseModel):
    """Difference between the logits of an artifact and of PyTorch on one waveform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float
    largest: float = Field(description="largest absolute difference of the logits")
    mean: float = Field(description="mean absolute difference of the logits")
    relative: float = Field(description="norm of the difference divided by the norm of PyTorch's logits")
    equal_arg_max: float = Field(description="fraction of frames with the same best label")


@dataclass(frozen=True)
class Artifact:
    """An opened artifact."""

    folder: Path
    manifest: Manifest
    by_digest: bool = False  # the files are named by their sha256, as in the folder of a job

    @property
    def name(self) -> str:
        """Name of the folder that was exported. Layouts with the model in a subfolder have the name of the folder around it."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == INNER and self.manifest.layout != PLAIN_LAYOUT else folder.name

    @property
    def model_path(self) -> Path:
        """Path of the model file that an engine opens."""
        return self.path_of(self.manifest.files[0])

    def path_of(self, file: ModelFile) -> Path:
        """Return the path of a file of the manifest."""
        return self.folder / (file.sha256 if self.by_digest else file.name)

    @property
    def size_bytes(self) -> int:
        """Total size of the model files in bytes, which is what a receiver without a decoder downloads."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def transmitted_bits(self) -> int:
        """Number of transmitted bits: of the bitstream if the manifest names its size, otherwise of the artifact."""
        return 8 * (self.manifest.transmitted_bytes or self.size_bytes)

    @property
    def digest(self) -> str:
        """SHA-256 of the model file that an engine opens."""
        return self.manifest.files[0].sha256


def open_artifact(folder: str | Path) -> Artifact:
    """Open an artifact and check the size and sha256 of every file.

    Example:
        >>> artifact = asrdeploy.open_artifact("artifacts/tiny")  # doctest: +SKIP
        >>> artifact.manifest.format, artifact.size_bytes  # doctest: +SKIP

    Args:
        folder: Folder of the artifact, in any layout.

    Returns:
        The artifact.

    Raises:
        AsrDeployError: If the manifest is missing or invalid, or if a file does not match it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise AsrDeployError(f"{folder} is a file, not an artifact. Give the folder that `asrdeploy export` wrote; it contains {MANIFEST}.")
    place = manifest_folder(folder)
    if place is None:
        raise AsrDeployError(f"{folder} is not an artifact: it has no {MANIFEST}. Create an artifact with `asrdeploy export`.")
    return _checked(Artifact(place, _read_manifest(place / MANIFEST)))


def manifest_folder(folder: Path) -> Path | None:
    """Return where the manifest of an exported folder lies, which depends on the layout; None if the folder has none."""
    return next((each for each in (folder, folder / INNER) if _is_file(each / MANIFEST)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its folder is not readable
        return False


def open_stored(files: Path, digest: str) -> Artifact:
    """Open an artifact whose files, including the manifest, are stored in one folder and named by their sha256.

    Args:
        files: Folder of the files.
        digest: SHA-256 of the manifest.

    Raises:
        AsrDeployError: If a file is missing or does not match its sha256.
    """
    path = files / digest
    if not path.is_file():
        raise AsrDeployError(f"The artifact's manifest: file {digest} is missing from {files}. Send it again.")
    if sha256_of(path) != digest:
        raise AsrDeployError(f"The artifact's manifest: {path} does not match its sha256: it was changed or cut short. Send it again.")
    return _checked(Artifact(files, _read_manifest(path), by_digest=True))


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate(read_json(path, "manifest"))
    except ValidationError as error:
        raise AsrDeployError(f"{path} is not a valid manifest: {first_problem(error)}.") from error


def _checked(artifact: Artifact) -> Artifact:
    """Compare the artifact's files with its manifest and return the artifact."""
    for file in artifact.manifest.files:
        found = artifact.path_of(file)
        if not found.is_file():
            raise AsrDeployError(f"{artifact.folder} is incomplete: {file.name} is missing. Export or copy the artifact again.")
        if found.stat().st_size != file.bytes or sha256_of(found) != file.sha256:
            raise AsrDeployError(
                f"{found} does not match its sha256 in {MANIFEST}: it was changed or cut short. Export or copy the artifact again."
            )
    return artifact


def describe_file(path: Path) -> ModelFile:
    """Return the manifest entry for a file."""
    return ModelFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` into the folder of an artifact."""
    write_record(folder / MANIFEST, manifest)

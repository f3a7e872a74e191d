"""Job folders and the runners that run in them, for tests that all implementations of the contract share."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from jsonschema import Draft202012Validator

from device_runner.artifact import MANIFEST, Artifact
from device_runner.contract import Result, job_digest, lines_path, read_result
from device_runner.device_choice import qemu_device
from tests.android.fixtures import benchcore_jar
from tests.helpers import REPOSITORY

SCHEMAS = REPOSITORY / "docs" / "schemas"
EMULATED = "arm"


def schema(name: str) -> Draft202012Validator:
    """Return a published schema."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.v1.schema.json").read_text()))


@dataclass(frozen=True)
class Place:
    """Folder of a job, as on a device."""

    folder: Path
    command: tuple[str, ...]

    @property
    def job(self) -> Path:
        return self.folder / "job.json"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def lines(self) -> Path:
        return lines_path(self.result)

    @property
    def digest(self) -> str:
        return job_digest(self.job.read_text())

    def store(self, content: bytes) -> str:
        """Store a file under its sha256 and return the sha256."""
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "files").mkdir(exist_ok=True)
        (self.folder / "files" / digest).write_bytes(content)
        return digest

    def artifact(self, artifact: Artifact, model: bytes | None = None, **changes: object) -> str:
        """Store the files of an artifact with a changed manifest and return the manifest's sha256."""
        content = model if model is not None else artifact.model_path.read_bytes()
        manifest = json.loads((artifact.folder / MANIFEST).read_text())
        manifest["files"][0] |= {"bytes": len(content), "sha256": self.store(content)}
        return self.store(json.dumps(manifest | changes).encode())

    def write(self, artifact: str, recordings: dict[str, bytes], **settings: object) -> None:
        """Write a job over WAV files."""
        audio = [{"id": name, "sha256": self.store(content)} for name, content in recordings.items()]
        self.job.write_text(json.dumps({"mode": "accuracy", "artifact": artifact, "audio": audio} | settings))

    def start(self, result: Path | None = None) -> subprocess.Popen[str]:
        words = [*self.command, str(self.job), str(result or self.result)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def run(self, result: Path | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(result) as process:
            said = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, *said)

    def finish(self) -> Result:
        """Run a job that succeeds; check that the result and the lines match the schemas and that no other file is left."""
        done = self.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self.checked()

    def fail(self) -> Result:
        """Run a job that fails; check that it prints the error of its result, and return the result."""
        self.result.write_text("left by an earlier job")
        sentence = self.refuse()
        result = self.checked()
        assert result.error == sentence and not result.valid
        return result

    def refuse(self, result: Path | None = None) -> str:
        """Run a job that fails and return the error message."""
        done = self.run(result)
        assert done.returncode == 2 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
        assert done.stderr.endswith(".\n") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr.rstrip("\n")

    def checked(self) -> Result:
        assert {each.name for each in self.folder.iterdir()} <= {"files", "job.json", "result.json", "result.jsonl"}
        schema("result").validate(json.loads(self.result.read_text()))
        result = read_result(self.result)
        assert result.job == self.digest
        if self.lines.exists():
            first, *lines = map(json.loads, self.lines.read_text().splitlines())
            assert first == {"job": self.digest}
            for line in lines:
                schema("timed" if "samples" in line else "heard").validate(line)
            made = [*result.transcripts, *result.timings]
            assert [type(each).model_validate(line) for each, line in zip(made, lines, strict=True)] == made
        return result


def command_of(name: str) -> tuple[str, ...]:
    """Return the command line of a runner."""
    if name == EMULATED:
        return qemu_device().command
    return (sys.executable, "-m", "device_runner") if name == "python" else ("java", "-jar", str(benchcore_jar()))

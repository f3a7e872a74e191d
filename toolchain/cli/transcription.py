"""What `asrdeploy transcribe` does with every file: a bad one is named, and the others are transcribed."""

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from toolchain.cli.options import complain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from device_runner.artifact import Artifact
    from device_runner.contract import Heard, Timed
    from device_runner.devices import Device
    from toolchain.accuracy.transcriber import Transcriber
    from toolchain.data.recordings import Needs

logger = logging.getLogger("asrdeploy")


class Transcription:
    """Transcripts and errors of files. Each is printed as soon as it is known, so an interrupted command loses nothing.

    Args:
        files: Audio files. The same file may be given twice.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._texts: dict[int, str] = {}
        self._errors: dict[int, str] = {}

    @property
    def begun(self) -> bool:
        """Whether anything is known of a file."""
        return bool(self._texts or self._errors)

    @property
    def failed(self) -> bool:
        """Whether a file could not be transcribed."""
        return bool(self._errors)

    def figures(self) -> list[dict[str, Any]]:
        """Return an entry for each file, in the given order, with ``text`` or ``error``."""
        known = [(file, self._texts.get(number), self._errors.get(number)) for number, file in enumerate(self.files)]
        return [
            {"file": file, "text": text} if text is not None else {"file": file, "error": error or "The command ended before this file."}
            for file, text, error in known
        ]

    def run_here(self, transcriber: "Transcriber") -> None:
        """Transcribe the files on this machine."""
        for number, waveform in self._waveforms(transcriber.needs):
            try:
                text = transcriber.transcribe(waveform)
            except AsrDeployError as error:
                self._refuse(number, error)
            else:
                self._print(number, text)

    def run_on(self, device: "Device", artifact: "Artifact", threads: int) -> None:
        """Transcribe the files on a device.

        Raises:
            AsrDeployError: The device failed. What it had transcribed before is kept.
        """
        from device_runner.contract import Timed
        from device_runner.jobs import make_task
        from toolchain.accuracy.transcriber import artifact_transcriber

        numbers: dict[str, int] = {}

        def recordings() -> "Iterator[tuple[str, npt.NDArray[np.float32]]]":
            for number, waveform in self._waveforms(artifact_transcriber(artifact).needs):
                # Numbered, because a file may be given twice and two folders may have files of the same name.
                name = f"{number} {shown(self.files[number].name)}"[:200]
                numbers[name] = number
                yield name, waveform

        found = recordings()
        first = next(found, None)
        if first is None:
            return
        task = make_task(artifact, chain([first], found), mode="accuracy", threads=threads)

        def heard(line: "Heard | Timed") -> None:
            if not isinstance(line, Timed):
                self._print(numbers[line.id], line.hypothesis)

        device.run(task, heard)

    def _waveforms(self, needs: "Needs") -> "Iterator[tuple[int, npt.NDArray[np.float32]]]":
        """Yield the number and the samples ``[samples]`` of every file that can be transcribed; warn of what is peculiar."""
        from device_runner.audio import read_checked

        for number, file in enumerate(self.files):
            try:
                if str(file) == "-" and not file.exists():
                    raise AsrDeployError("Standard input (-) is not read. Save the recording to a file and give its name.")
                waveform, checked = read_checked(file, needs.sample_rate, needs.shortest, needs.longest)
            except AsrDeployError as error:
                self._refuse(number, error)
                continue
            if checked.remark is not None:
                logger.warning(f"{shown(file)} {checked.remark}")
            yield number, waveform

    def _print(self, number: int, text: str) -> None:
        self._texts[number] = text
        typer.echo(f"{shown(self.files[number])}: {text}" if len(self.files) > 1 else text)

    def _refuse(self, number: int, error: AsrDeployError) -> None:
        name = shown(self.files[number])
        self._errors[number] = str(error) if name in str(error) else f"{name}: {error}"
        complain(self._errors[number])

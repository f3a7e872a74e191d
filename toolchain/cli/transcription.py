"""What `asrdeploy transcribe` does with every recording: a bad one is named, and the others are transcribed."""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from device_runner.errors import AsrDeployError
from device_runner.files import shown, write_text
from toolchain.cli.inputs import STANDARD_INPUT, Source
from toolchain.cli.options import complain
from toolchain.reports.subtitles import FORMATS, SUFFIXES, TimedText

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from device_runner.artifact import Artifact
    from device_runner.contract import Heard, Timed
    from device_runner.devices import Device
    from toolchain.accuracy.transcriber import Transcriber
    from toolchain.data.recordings import Needs

logger = logging.getLogger("asrdeploy")

STANDARD_OUTPUT = Path("-")


class Stopped(SystemExit):
    """The end after Ctrl-C, with what to say about it.

    Args:
        sentence: What became of the work.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(130)
        self.sentence = sentence


class Destination:
    """Where transcripts go: standard output, a file, or a folder with a file for each recording.

    Args:
        format_name: Key of ``FORMATS``.
        output: Value of ``-o``; None or ``-`` for standard output.
        several: Whether ``output`` is a folder because there may be several recordings.
        replace: Overwrite existing files.

    Raises:
        AsrDeployError: Unknown format, a format that has no place for several recordings, or a file in place of the folder.
    """

    def __init__(self, format_name: str, output: Path | None, *, several: bool, replace: bool = False) -> None:
        if format_name not in FORMATS:
            from device_runner.suggestions import nearest

            raise nearest(format_name, tuple(FORMATS), "format")
        self.format_name = format_name
        self.output = None if output == STANDARD_OUTPUT else output
        self._several, self._replace = several, replace
        if self.output is None and several and format_name in ("srt", "vtt", "tsv"):
            raise AsrDeployError(f"--format {format_name} writes a file for each recording. Give a folder with -o.")
        if self.output is not None and several and self.output.exists() and not self.output.is_dir():
            raise AsrDeployError(f"{shown(self.output)} is a file, and several recordings need a folder. Choose another path with -o.")

    def places(self, sources: Sequence[Source]) -> tuple[Path | None, ...]:
        """Return the file of each recording; None for standard output.

        In a folder, the file is named like the recording. Names that are taken, in upper or lower case, get a number: ``a-2.srt``.

        Raises:
            AsrDeployError: Files exist, and they may not be replaced.
        """
        if self.output is None:
            return (None,) * len(sources)
        found = [self.output]
        if self._several or self.output.is_dir():
            taken: set[str] = set()
            found = [self._free(self.output, "standard-input" if _piped(each) else each.name.stem, taken) for each in sources]
        read = {each.path.resolve() for each in sources}
        if over := [each for each in found if each.resolve() in read]:
            raise AsrDeployError(f"{shown(over[0])} is a recording that is transcribed. Choose another output with -o.")
        there = [] if self._replace else [each for each in found if each.exists()]
        if there:
            what = f"{shown(there[0])} exists" if len(there) == 1 else f"{shown(there[0])} and {len(there) - 1} more exist"
            raise AsrDeployError(f"{what}. Choose another output with -o, or use --replace to overwrite.")
        return tuple(found)

    def _free(self, folder: Path, stem: str, taken: set[str]) -> Path:
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        return folder / f"{name}{SUFFIXES[self.format_name]}"


class Transcription:
    """Transcripts and errors of recordings. Each is written as soon as it is known, so an interrupted command loses nothing.

    Args:
        sources: The recordings. The same may be there twice.
        destination: Where transcripts go.
        channel: Channel of recordings with several, counted from 1; None if they are refused.

    Raises:
        AsrDeployError: The channel is below 1, or output files exist, and they may not be replaced.
    """

    def __init__(self, sources: Sequence[Source], destination: Destination, channel: int | None = None) -> None:
        from device_runner.audio import Part
        from toolchain.data.datasets import check_channel

        check_channel(channel)
        self.sources = sources
        self._part = Part(channel=None if channel is None else channel - 1)
        self._format = destination.format_name
        self._places = destination.places(sources)
        self._spoken: dict[int, TimedText] = {}
        self._errors: dict[int, str] = {}

    @property
    def begun(self) -> bool:
        """Whether anything is known of a recording."""
        return bool(self._spoken or self._errors)

    @property
    def failed(self) -> bool:
        """Whether a recording could not be transcribed."""
        return bool(self._errors)

    @property
    def ended(self) -> str:
        """What to say after Ctrl-C."""
        place = "printed" if not self._places or self._places[0] is None else "in the output"
        return f"Interrupted. {len(self._spoken)} of {len(self.sources)} transcripts are {place}. Repeating the command begins again."

    def figures(self) -> list[dict[str, Any]]:
        """Return an entry for each recording, in the given order: ``file``, and ``text`` or ``error``.

        Formats with times add ``words``.
        """
        return [
            self._spoken[number].figures()
            if number in self._spoken
            else {"file": source.name, "error": self._errors.get(number, "The command ended before this file.")}
            for number, source in enumerate(self.sources)
        ]

    def run_here(self, transcriber: "Transcriber", window: float | None = None, overlap: float | None = None) -> None:
        """Transcribe the recordings on this machine. A bar on a terminal shows the progress of long ones.

        Args:
            transcriber: What transcribes.
            window: Length of the windows in seconds; see ``long_recordings.windowed_if_long``.
            overlap: Overlap of the windows in seconds.

        Raises:
            AsrDeployError: The windows do not fit the model.
        """
        from toolchain.accuracy.long_recordings import windowed_if_long
        from toolchain.accuracy.progress import LongRecordings

        progress = LongRecordings()
        transcriber = windowed_if_long(transcriber, window, overlap, progress)
        for number, waveform in self._waveforms(transcriber.needs):
            file = str(self.sources[number].name)
            try:
                with progress.recording(f"{shown(file)} ({number + 1}/{len(self.sources)})", len(waveform) / transcriber.sample_rate):
                    if self._format == "text":
                        spoken = TimedText(file, transcriber.transcribe(waveform))
                    else:
                        spoken = TimedText(file, *transcriber.timed(waveform))
            except AsrDeployError as error:
                self._refuse(number, error)
            else:
                self._write(number, spoken)

    def run_on(self, device: "Device", artifact: "Artifact", threads: int) -> None:
        """Transcribe the recordings on a device, which returns no times.

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
                name = f"{number} {shown(self.sources[number].name.name)}"[:200]
                numbers[name] = number
                yield name, waveform

        found = recordings()
        first = next(found, None)
        if first is None:
            return
        task = make_task(artifact, chain([first], found), mode="accuracy", threads=threads)

        def heard(line: "Heard | Timed") -> None:
            if not isinstance(line, Timed):
                number = numbers[line.id]
                self._write(number, TimedText(str(self.sources[number].name), line.hypothesis))

        device.run(task, heard)

    def _waveforms(self, needs: "Needs") -> "Iterator[tuple[int, npt.NDArray[np.float32]]]":
        """Yield the number and the samples ``[samples]`` of every recording that can be transcribed; warn of what is peculiar."""
        from device_runner.audio import read_checked

        for number, source in enumerate(self.sources):
            try:
                if source.error is not None:
                    raise AsrDeployError(source.error)
                waveform, checked = read_checked(source.path, needs.sample_rate, needs.shortest, needs.longest, part=self._part)
            except AsrDeployError as error:
                self._refuse(number, error)
                continue
            if checked.remark is not None:
                logger.warning(f"{'Standard input' if _piped(source) else shown(source.name)} {checked.remark}")
            yield number, waveform

    def _write(self, number: int, spoken: TimedText) -> None:
        self._spoken[number] = spoken  # first: Ctrl-C after the output must not leave it out of --json
        place = self._places[number]
        text = FORMATS[self._format](spoken)
        if place is not None:
            write_text(place, text)
        elif self._format == "text" and len(self.sources) > 1:
            typer.echo(f"{shown(self.sources[number].name)}: {spoken.text}")
        else:
            typer.echo(text, nl=False)

    def _refuse(self, number: int, error: AsrDeployError) -> None:
        from device_runner.not_audio import conversion

        source = self.sources[number]
        sentence = str(error)
        if _piped(source) and source.error is None:
            command = conversion(source.path)
            sentence = sentence.replace(command, "ffmpeg -i - -vn -ac 1 -f wav - | asrdeploy …").replace(
                shown(source.path), "Standard input"
            )
        named = shown(source.name) in sentence or _piped(source)
        self._errors[number] = sentence if named else f"{shown(source.name)}: {sentence}"
        complain(self._errors[number])


def _piped(source: Source) -> bool:
    return str(source.name) == STANDARD_INPUT and (source.path != source.name or source.error is not None)

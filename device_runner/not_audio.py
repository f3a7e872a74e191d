"""What a file is that libsndfile cannot read as audio."""

import re
import shlex
from pathlib import Path

from device_runner.audio_headers import Order, chunks
from device_runner.files import shown

# Offset, first bytes and name of archives and pointers, which lie in the place of any kind of file; weights are checked for them too.
ARCHIVES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"(\xb5/\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf'\x1c", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
)
LFS_POINTER, ANNEX_POINTER, EMPTY_ZIP = b"version https://git-lfs.github.com/spec/", b"/annex/objects/", b"PK\x05\x06"

CONVERT = "convert it to FLAC or WAV, for example with ffmpeg"  # followed by the command where the path is known
UNPACK = "unpack it first"

# Offset, first bytes, what the file is, and what to do.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, LFS_POINTER, "a Git LFS pointer, not the audio", "fetch the file with `git lfs pull`"),
    (0, ANNEX_POINTER, "a git-annex pointer, not the audio", "fetch the file with `git annex get`"),
    (4, b"ftyp", "an MP4 (M4A) or similar file", CONVERT),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file", CONVERT),
    (0, b"0&\xb2u\x8ef\xcf\x11", "a Windows Media file", CONVERT),
    (0, b"#!AMR", "an AMR file", CONVERT),
    (0, b"wvpk", "a WavPack file", CONVERT),
    (0, b"MAC ", "a Monkey's Audio file", CONVERT),
    (0, b"ajkg", "a Shorten file", CONVERT),
    (0, b"\x0bw", "an AC-3 file", CONVERT),
    (0, b"ADIF", "an AAC file", CONVERT),
    (0, b"#!SILK", "a SILK file", CONVERT),
    (0, b"\x02#!SILK", "a SILK file", CONVERT),
    (0, b"FLV\x01", "a Flash video", CONVERT),
    (0, b".RMF", "a RealMedia file", CONVERT),
    (0, b"MThd", "a MIDI file, which contains notes and no audio", "give a recording"),
    (8, b"AVI ", "an AVI video", CONVERT),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, EMPTY_ZIP, "an empty ZIP archive", "give an audio file"),
    *((offset, start, what, UNPACK) for offset, start, what in ARCHIVES),
    (0, b"%PDF", "a PDF document", "give an audio file"),
    (0, b"\x89PNG", "a PNG picture", "give an audio file"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "give an audio file"),
)

_CONTAINERS = ((b"fLaC", "a FLAC"), (b"OggS", "an Ogg file"), (b".snd", "an AU file"), (b"caff", "a CAF file"), (b"FORM", "an AIFF file"))


def conversion(path: Path) -> str:
    """Return the ffmpeg command that makes a mono FLAC beside a file, in any format that ffmpeg reads."""
    target = path.with_suffix(".flac") if path.suffix.lower() != ".flac" else path.with_name(f"{path.stem}-converted.flac")
    # A name that begins with - would be an option, and one with a colon a protocol.
    source, made = (f"./{each}" if not each.is_absolute() and re.match("-|.*:", str(each)) else str(each) for each in (path, target))
    return f"ffmpeg -i {shlex.quote(shown(source))} -vn -ac 1 {shlex.quote(shown(made))}"


def why_not_audio(data: bytes, path: Path) -> str:
    """Return what a file is that libsndfile cannot open, and what to do, to be put behind its name.

    Args:
        data: Bytes of the file.
        path: The file, for the command that converts it.

    Returns:
        The rest of a sentence without its full stop, such as "is a ZIP archive; unpack it first".
    """
    reason = _reason(data)
    return f"{reason}: `{conversion(path)}`" if reason.endswith(CONVERT) else reason


def _reason(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes); copy or record it again"
    if not any(data[:1_000_000]):
        return "contains only zero bytes and cannot be read as audio; copy or record it again"
    for offset, start, what, remedy in _SIGNATURES:
        if data[offset : offset + len(start)] == start:
            return f"is {what}, and cannot be read as audio; {remedy}"
    if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return _why_not_wav(data)
    if data[:7] == b"NIST_1A":
        how = (
            "its samples are compressed" if b"shorten" in data[:1024] or b"wavpack" in data[:1024] else "its header is cut short or damaged"
        )
        return f"is a NIST SPHERE file that cannot be read as audio because {how}; use sph2pipe, or {CONVERT}"
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:  # the sync word of ADTS, layer 0
        return f"is an AAC file, and cannot be read as audio; {CONVERT}"
    if data[:4] == b"OggS" and b"Speex   " in data[:256]:
        return f"is an Ogg file in the unsupported encoding Speex, and cannot be read as audio; {CONVERT}"
    if any(data[:4] == start and not any(data[field]) for start, field in _rates(data)):
        return "cannot be read as audio because its header states a sample rate of 0 Hz; copy or record it again"
    for start, what in _CONTAINERS:
        if data[:4] == start:
            return f"is {what} that cannot be read as audio because it is cut short, damaged, or in an unsupported encoding; {CONVERT}"
    return _why_not_text(data)


def _rates(data: bytes) -> tuple[tuple[bytes, slice], ...]:
    """Return the first bytes of formats, and where they state the sample rate."""
    wave64 = data.find(b"fmt \xf3\xac\xd3\x11", 0, 4096) + 28
    return (b".snd", slice(16, 20)), (b"caff", slice(20, 28)), (b"riff", slice(wave64, wave64 + 4))


def _why_not_wav(data: bytes) -> str:
    start = data.find(b"fmt ", 12, 4096)
    if start == -1 or len(data) < start + 24 or data.find(b"data", start) == -1:
        return "is a WAV that cannot be read as audio because it is cut short or damaged within its header; copy or record it again"
    order: Order = "big" if data[:4] == b"RIFX" else "little"
    tag, channels = (int.from_bytes(data[at : at + 2], order) for at in (start + 8, start + 10))
    rate = int.from_bytes(data[start + 12 : start + 16], order)
    for value, what in ((channels, "channels"), (rate, "Hz")):
        if not 0 < value < 1 << 31:
            return f"is a WAV whose header states {value} {what}, and cannot be read as audio; copy or record it again"
    names = [name for name, _, _ in chunks(data, order)]
    if b"RIFF" in names:
        return "contains a second WAV behind the first, and cannot be read as audio; join recordings with ffmpeg or SoX, not with cat"
    if names.count(b"data") > 1:
        return f"is a WAV with {names.count(b'data')} chunks of samples instead of one, and cannot be read as audio; save it again"
    if tag == 0xFFFE and len(data) >= start + 34:  # the tag is the beginning of the format's GUID
        tag = int.from_bytes(data[start + 32 : start + 34], order)
    bits = int.from_bytes(data[start + 22 : start + 24], order)
    return f"is a WAV in an unsupported or damaged encoding (format {tag:#06x}, {bits} bits) and cannot be read as audio; {CONVERT}"


def _why_not_text(data: bytes) -> str:
    text = _as_text(data[:4096])
    if text is None:
        return "cannot be read as audio; give a FLAC or WAV file"
    text = text.lstrip().lower()
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "is a web page, not audio, and cannot be read as audio; download the recording again"
    if text.startswith("<"):
        return "is an XML file and cannot be read as audio; give a FLAC or WAV file"
    if text.startswith(("{", "[")):
        return "is a JSON or other text file and cannot be read as audio; give a FLAC or WAV file"
    return "is a text file and cannot be read as audio; give a FLAC or WAV file"


def _as_text(data: bytes) -> str | None:
    """Return the beginning of a text file, or None if it is not text."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = data.decode(encoding, errors="ignore")
    if len(text.encode(encoding, errors="ignore")) < len(data) - 4:  # four bytes may be a character that the limit cut
        text = data.decode("latin-1")
    text = text.removeprefix("\ufeff")
    controls = sum(not each.isprintable() and not each.isspace() for each in text)
    return None if controls or not text else text

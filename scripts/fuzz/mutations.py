"""Change valid files: bytes, texts, and trees of plain values. Every choice comes from one source of random numbers."""

import codecs
import copy
import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

# Numbers at the limits of the types that formats and languages have.
EDGES = (0, 1, -1, 2, 7, 8, 9, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**53)
HUGE = (*EDGES, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**18, 10**40)
FLOATS = (0.0, -0.0, 0.5, 1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan)
NAMES = (
    "",
    ".",
    "..",
    "../x",
    "../../../../tmp/fuzzed",
    "/",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "~",
    "x" * 300,
    "CON",
    "-o",
    "$(x)",
    "\u202ex",
)
TEXTS = (
    *NAMES,
    " ",
    "\x00",
    "a\x00b",
    "\n",
    "\x1b[2J",
    "\ud800",
    "\udcff",
    "\ufeff",
    "é",
    "e\u0301",
    "\u00b2",
    "\u0661",
    "\u2028",
    "😀",
    "[bold]",
    "[/]",
    "{0}",
    "%s",
    "NaN",
    "null",
    "-1",
    "1e999",
    "x" * 5000,
    "1" * 5000,
)
ENDS = (b"", b"\0", b"\n", b"\r\n", b"\xff", b"\x80", b"\xed\xa0\x80", codecs.BOM_UTF8, codecs.BOM_UTF16_LE)
DEEP = 3000  # levels; Python's parsers end at about 1000


def mutated_bytes(rng: Random, data: bytes, *, most: int = 3) -> bytes:
    """Change a file in one or a few places."""
    for _ in range(rng.randint(1, most)):
        data = rng.choice(_BYTES)(rng, data)
    return data


def _place(rng: Random, data: bytes) -> int:
    """Return an offset; headers, at the beginning, are preferred."""
    return rng.randint(0, min(len(data), 128) if rng.random() < 0.5 else len(data))


def _flip(rng: Random, data: bytes) -> bytes:
    if not data:
        return b"\x01"
    changed, place = bytearray(data), rng.randrange(len(data)) if rng.random() < 0.5 else min(_place(rng, data), len(data) - 1)
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: Random, data: bytes) -> bytes:
    place, content = _place(rng, data), rng.randbytes(rng.choice((1, 1, 2, 4, 8)))
    return data[:place] + content + data[place + len(content) :]


def _number(rng: Random, data: bytes) -> bytes:
    place, size = _place(rng, data), rng.choice((1, 2, 3, 4, 8))
    content = (rng.choice(HUGE) % 256**size).to_bytes(size, rng.choice(("little", "big")))
    return data[:place] + content + data[place + size :]


def _float(rng: Random, data: bytes) -> bytes:
    place, content = _place(rng, data), struct.pack("<f", rng.choice((math.nan, math.inf, 3e38, -0.0)))
    return data[:place] + content + data[place + 4 :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _remove(rng: Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + rng.choice((1, 1, 2, 4, 16, 256)) :]


def _repeat(rng: Random, data: bytes) -> bytes:
    first, place = _place(rng, data), _place(rng, data)
    part = data[first : first + rng.choice((1, 4, 16, 64, 1024))]
    return data[:place] + part * rng.choice((1, 1, 2, 50)) + data[place:]


def _fill(rng: Random, data: bytes) -> bytes:
    place, size = _place(rng, data), rng.choice((1, 4, 16, 256))
    return data[:place] + rng.choice((b"\0", b"\xff", b" ", b"[", b"\x80"))[:1] * size + data[place + size :]


def _append(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((rng.choice(ENDS), rng.randbytes(rng.choice((1, 8, 100))), b"\0" * 5000))


def _prepend(rng: Random, data: bytes) -> bytes:
    return rng.choice((rng.choice(ENDS), rng.randbytes(rng.choice((1, 8, 100))))) + data


_BYTES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flip,
    _flip,
    _set,
    _number,
    _number,
    _float,
    _cut,
    _remove,
    _repeat,
    _fill,
    _append,
    _prepend,
)


def mutated_value(rng: Random, value: Any, *, most: int = 3) -> Any:
    """Change a tree of plain values, such as the content of a JSON file, in one or a few places. The original stays as it is."""
    try:
        holder = [copy.deepcopy(value)]
    except RecursionError:  # earlier changes have nested it
        return None
    for _ in range(rng.randint(1, most)):
        parents = _parents(holder)
        # Half of the time near the root, where the few fields of a header are.
        parent = parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]
        _change(rng, parent)
    return holder[0] if holder else None


def _parents(value: Any) -> list[Any]:
    """Return the non-empty lists and objects of a tree, those near the root first."""
    found = [value]
    for each in found:
        children = each.values() if isinstance(each, dict) else each
        found += [child for child in children if isinstance(child, dict | list) and child][:200]
    return found


def _change(rng: Random, parent: Any) -> None:
    keys = list(parent) if isinstance(parent, dict) else range(len(parent))
    if not keys:
        return
    key, action = rng.choice(keys), rng.randrange(10)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = parent[key]
    elif action == 1:
        parent.insert(rng.choice(keys), copy.deepcopy(parent[key]))
    elif action == 2 and isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = parent.pop(key)
    elif action == 3:
        parent[key] = parent[rng.choice(keys)]
    elif action == 4:
        parent[key] = _near(rng, parent[key])
    elif action == 5 and isinstance(parent[key], list) and len(parent[key]) < 500:
        parent[key] = parent[key] * rng.choice((0, 2, 40))
    else:
        parent[key] = hostile_value(rng)


def _near(rng: Random, value: Any) -> Any:
    """Return a value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, rng.choice(HUGE)))
    if isinstance(value, float):
        return rng.choice((-value, value * 2, rng.choice(FLOATS)))
    if isinstance(value, str):
        return rng.choice((value + rng.choice(TEXTS), value[:-1], value.upper(), value[::-1], rng.choice(TEXTS)))
    return rng.choice(([], {}, [value], {"": value}))


def hostile_value(rng: Random) -> Any:
    """Return a value that readers may not expect."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice((None, True, False)),
        lambda: rng.choice(HUGE),
        lambda: rng.choice(FLOATS),
        lambda: rng.choice(TEXTS),
        lambda: rng.choice(([], {}, [[]], [{}], {"": None}, [None] * 3, [0] * 3000, {"a": {"a": {}}})),
        lambda: _nested(rng.choice((50, 150))),
    )
    return rng.choice(kinds)()


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def json_bytes(rng: Random, value: Any) -> bytes:
    """Write a value as JSON, now and then as JSON that is not strict: NaN, lone surrogates, keys that occur twice, another encoding."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7, indent=rng.choice((None, None, 2)))
    action = rng.randrange(24)
    if action == 0 and text.startswith("{") and len(text) > 2:  # keys that occur twice
        text = text[:-1] + "," + text[1:]
    elif action == 1:
        text = text.replace(":", ":" + "[" * DEEP, 1)
    elif action == 2:
        text = "[" * DEEP + text + "]" * DEEP
    elif action == 3:
        text = text.replace("0", "9" * 5000, 1)
    elif action == 4:
        text += rng.choice(("\n", "}", "\0", text, "//"))
    elif action == 5:
        return encoded(rng, text)
    elif action == 6:
        return mutated_bytes(rng, text.encode("utf-8", "surrogatepass"))
    return text.encode("utf-8", "surrogatepass")


def encoded(rng: Random, text: str) -> bytes:
    """Encode a text as programs on other systems do."""
    how = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"))
    return text.encode(how, "replace")


LITERALS = (
    *(
        "0",
        "-1",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "true",
        "1e999",
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 40,
        '""',
        '"x"',
        "'''\n'''",
        "[]",
        "{}",
        "[1, 'a']",
    ),
    *(
        "1979-05-27",
        "0001-01-01T00:00:00Z",
        '"\\u0000"',
        '"\\ud800"',
        '"../../x"',
        '"/etc/passwd"',
        "[" * DEEP,
        "{a=" * DEEP,
        '"' + "x" * 5000 + '"',
    ),
    *(
        "[" * 50 + "]" * 50,
        "{a = {a = {a = 1}}}",
        "[{}]",
        "[0, 0]",
        "1_000",
        "+1",
        "[[1, 2], [3]]",
        '["", ""]',
        "0.1",
        "1e-30",
        "2147483648",
    ),
)


def mutated_toml(rng: Random, text: str) -> bytes:
    """Change lines of a TOML file."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        line, action = lines[place], rng.randrange(9)
        if action == 0:
            del lines[place]
            lines = lines or [""]
        elif action == 1:
            lines.insert(rng.randint(0, len(lines)), line)
        elif action == 2:
            lines.insert(place, f"{rng.choice(('x', 'name', 'a.b', '[[a]]', '[a.b]', 'a.' * DEEP + 'a'))} = {rng.choice(LITERALS)}")
        elif action == 3:
            lines[place] = rng.choice(
                (line[: len(line) // 2], line + " #\x00", line.replace("=", "==", 1), "[" + line, line + "\r", "\x7f")
            )
        elif "=" in line:
            lines[place] = f"{line.split('=')[0]}= {rng.choice(LITERALS)}"
    result = "\n".join(lines)
    action = rng.randrange(12)
    if action == 0:
        return encoded(rng, result)
    if action == 1:
        return mutated_bytes(rng, result.encode())
    return result.encode()


def mutated_lines(rng: Random, data: bytes, change: Callable[[Random, bytes], bytes]) -> bytes:
    """Change lines of a text, such as one of JSON lines, or the text itself."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        place, action = rng.randrange(len(lines)), rng.randrange(8)
        if action == 0:
            lines.insert(rng.randint(0, len(lines)), lines[place])
        elif action == 1 and len(lines) > 1:
            del lines[place]
        elif action == 2:
            lines.insert(place, rng.choice((b"", b" ", b"\0", b"[]", b"{}", b"null", b"\xff", b"\xef\xbb\xbf", b"[" * DEEP)))
        elif action == 3:
            lines[place] += rng.choice((b"\r", b"\0", b"\x0c", b"\x85", lines[0]))
        elif lines[place]:
            lines[place] = change(rng, lines[place])
    result = b"\n".join(lines)
    return mutated_bytes(rng, result) if rng.randrange(10) == 0 else result

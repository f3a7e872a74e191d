"""Faults in the transport, on demand or at random from a seed, with counts of each kind."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

KINDS = ("drop", "truncate", "corrupt", "delay", "close")
RANDOM_DELAY = 0.05  # seconds
FRAMING = 16  # bytes at both ends of a payload that are never corrupted, because they contain the lengths of its content


class Faults:
    """Decides what happens to each message. Thread-safe.

    - drop: The connection ends before the message.
    - truncate: The connection ends in the middle of the payload.
    - corrupt: One byte in the middle of the payload is changed.
    - delay: The message is delayed by ``RANDOM_DELAY``.
    - close: The message's stream is closed instead.
    """

    def __init__(self) -> None:
        self._delay, self._hurry = 0.0, threading.Event()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._bytes_left: int | None = None
        self._messages_left: int | None = None
        self._random, self._probability, self._kinds = random.Random(0), 0.0, KINDS  # type: tuple[random.Random, float, Sequence[str]]

    def slow(self, seconds: float) -> None:
        """Delay every message from now on, and release the messages that are waiting already."""
        with self._lock:
            self._delay, hurry, self._hurry = seconds, self._hurry, threading.Event()
        hurry.set()

    def pause(self) -> None:
        """Wait for the delay set by ``slow``."""
        with self._lock:
            delay, hurry = self._delay, self._hurry
        if delay:
            hurry.wait(delay)

    def at_random(self, seed: int, probability: float, kinds: Sequence[str] = KINDS) -> None:
        """From now on, inject one of ``kinds`` into each message with ``probability``; 0 ends it."""
        with self._lock:
            self._random, self._probability, self._kinds = random.Random(seed), probability, kinds

    def drop_after_bytes(self, count: int) -> None:
        """Drop the connection within a message, after ``count`` more bytes in both directions together."""
        with self._lock:
            self._bytes_left = count

    def drop_at_message(self, number: int) -> None:
        """Drop the connection instead of the ``number``-th message from now on in both directions together, where 1 is the next."""
        with self._lock:
            self._messages_left = number

    def next(self, size: int, *, stream: bool, opened: bool) -> str | None:
        """Return the fault for the next message, or None.

        Args:
            size: Size of the message in bytes.
            stream: Whether the message carries data of a stream.
            opened: Whether the message comes after the connection's greeting.
        """
        with self._lock:
            fault = self._on_demand(size, stream)
            if fault is None and opened and self._random.random() < self._probability:
                fault = self._random.choice(self._kinds)
                if fault in ("truncate", "corrupt") and (not stream or size < 24 + 2 * FRAMING + 1):
                    fault = None
            if fault is not None:
                self.counts[fault] += 1
        if fault == "delay":
            time.sleep(RANDOM_DELAY)
            return None
        return fault

    def corrupted(self, payload: bytes) -> bytes:
        with self._lock:
            place = self._random.randrange(FRAMING, len(payload) - FRAMING)
            changed = payload[place] ^ self._random.randrange(1, 256)
        return payload[:place] + bytes([changed]) + payload[place + 1 :]

    def _on_demand(self, size: int, stream: bool) -> str | None:
        if self._messages_left is not None:
            self._messages_left -= 1
            if self._messages_left <= 0:
                self._messages_left = None
                return "drop"
        if self._bytes_left is not None:
            self._bytes_left -= size
            if self._bytes_left <= 0:
                self._bytes_left = None
                return "truncate" if stream else "drop"
        return None

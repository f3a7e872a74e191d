"""The device side of adb's protocol: messages over TCP, streams within a connection, and one WRTE in flight per stream."""

import contextlib
import itertools
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tests.device_runner.phone.emulated_device.faults import Faults

HEADER = struct.Struct("<4s5I")  # command, two arguments, payload length, checksum (0: none), complement of the command
VERSION = 0x01000001  # no checksums
MOST = 1 << 20  # largest payload in bytes
AUTH_TOKEN = 1


class Message(NamedTuple):
    command: bytes
    first: int
    second: int
    payload: bytes

    def packed(self) -> bytes:
        magic = int.from_bytes(self.command, "little") ^ 0xFFFFFFFF
        return HEADER.pack(self.command, self.first, self.second, len(self.payload), 0, magic) + self.payload


class Stream:
    """One service of a connection. ``read`` returns payloads, or ``b""`` at the end. ``write`` raises BrokenPipeError after the end."""

    def __init__(self, connection: "Connection", local: int, remote: int) -> None:
        self._connection, self.local, self.remote = connection, local, remote
        self._arrived: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._may_write, self.closed = True, False
        self.known = False  # whether the host knows the stream's number
        self._rest = b""

    def read(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self.closed)
            if not self._arrived:
                return b""
            payload = self._arrived.popleft()
        if not self.closed:
            self._connection.send(Message(b"OKAY", self.local, self.remote, b""))
        return payload

    def read_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes. Raise EOFError if the stream ends earlier."""
        parts, have = [self._rest], len(self._rest)
        while have < size:
            part = self.read()
            if not part:
                raise EOFError
            parts.append(part)
            have += len(part)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    def write(self, data: bytes) -> None:
        with self._writing:
            for start in range(0, len(data), self._connection.most):
                with self._changed:
                    self._changed.wait_for(lambda: self._may_write or self.closed)
                    if self.closed:
                        raise BrokenPipeError
                    self._may_write = False
                self._connection.send(Message(b"WRTE", self.local, self.remote, data[start : start + self._connection.most]))

    def close(self) -> None:
        if not self.closed:
            self._connection.send(Message(b"CLSE", self.local, self.remote, b""))
        self.ended()

    def arrived(self, payload: bytes) -> None:
        with self._changed:
            self._arrived.append(payload)
            self._changed.notify_all()

    def acknowledged(self) -> None:
        with self._changed:
            self._may_write = True
            self._changed.notify_all()

    def ended(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self._connection.forget(self)


class Connection:
    """Connection to one host. ``serve`` reads its messages in the calling thread, and each service runs in a separate thread.

    Args:
        peer: Socket of the connection.
        banner: Description of the device for the host.
        trusts: Function that tells whether the host is authorised. It is called once; otherwise the connection waits for ``welcome``.
        services: Function that returns the handler of a service (``shell:…``, ``sync:``), or None if there is none.
        faults: Faults to inject.
    """

    def __init__(
        self,
        peer: socket.socket,
        banner: bytes,
        trusts: Callable[[], bool],
        services: Callable[[str], Callable[[Stream], None] | None],
        faults: Faults,
    ) -> None:
        self._peer, self._banner, self._trusts, self._services, self._faults = peer, banner, trusts, services, faults
        self._sending, self._known = threading.Lock(), threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self.most = MOST
        self.authorised = self.gone = False
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self) -> None:
        try:
            while True:
                command, first, second, size, _, magic = HEADER.unpack(self._receive(HEADER.size))
                if magic != int.from_bytes(command, "little") ^ 0xFFFFFFFF or size > MOST:
                    return
                message = self._troubled(Message(command, first, second, self._receive(size)), sent=False)
                if message is not None:
                    self._handle(message)
        except (OSError, EOFError):
            pass
        finally:
            self.drop()

    def drop(self) -> None:
        """End the connection without a message."""
        self.gone = True
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()
        with self._known:
            streams = list(self._streams.values())
        for each in streams:
            each.ended()

    def send(self, message: Message) -> None:
        """Send a message. A message on a dropped connection is lost, because its streams end by other means."""
        with self._sending, contextlib.suppress(OSError):
            changed = self._troubled(message, sent=True)
            if changed is not None:
                self._peer.sendall(changed.packed())

    def forget(self, stream: Stream) -> None:
        with self._known:
            self._streams.pop(stream.local, None)

    def welcome(self) -> None:
        """Tell the host that it is connected."""
        self.authorised = True
        self.send(Message(b"CNXN", VERSION, MOST, self._banner))

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            more = self._peer.recv_into(view[have:])
            if not more:
                raise EOFError
            have += more
        return bytes(data)

    def _handle(self, message: Message) -> None:
        command, first, second, payload = message
        if command == b"CNXN":
            self.most = min(MOST, second)
            if self._trusts():
                self.welcome()
            else:
                self.send(Message(b"AUTH", AUTH_TOKEN, 0, os.urandom(20)))
        elif command == b"AUTH":  # answer a signature of an unknown key with another token, and an offered key with silence
            if first != 3:
                self.send(Message(b"AUTH", AUTH_TOKEN, 0, os.urandom(20)))
        elif not self.authorised:
            raise EOFError
        elif command == b"OPEN":
            self._open(first, payload.rstrip(b"\0").decode(errors="surrogateescape"))
        else:
            with self._known:
                stream = self._streams.get(second)
            if stream is None:
                return
            if command == b"WRTE":
                stream.arrived(payload)
            elif command == b"OKAY":
                stream.acknowledged()
            elif command == b"CLSE":
                stream.ended()

    def _open(self, remote: int, name: str) -> None:
        service = self._services(name)
        if service is None:
            return self.send(Message(b"CLSE", 0, remote, b""))
        stream = Stream(self, next(self._numbers), remote)
        with self._known:
            self._streams[stream.local] = stream
        self.send(Message(b"OKAY", stream.local, remote, b""))
        stream.known = True

        def run() -> None:
            with contextlib.suppress(BrokenPipeError, EOFError):
                service(stream)
            stream.close()

        threading.Thread(target=run, daemon=True).start()

    def _troubled(self, message: Message, *, sent: bool) -> Message | None:
        """Return the message after a possible fault, or None if it is lost. Raise OSError if the connection ends."""
        size = HEADER.size + len(message.payload)
        fault = self._faults.next(size, stream=message.command == b"WRTE", opened=self.authorised and message.command != b"CNXN")
        self._faults.pause()
        if fault in ("drop", "truncate"):
            with contextlib.suppress(OSError):
                if sent and fault == "truncate":  # the announced length is longer than what is sent
                    self._peer.sendall(message.packed()[: HEADER.size + len(message.payload) // 2])
                self._peer.shutdown(socket.SHUT_RDWR)
            raise OSError("told to drop the connection")
        if fault == "corrupt":
            return message._replace(payload=self._faults.corrupted(message.payload))
        if fault == "close":
            number = message.first if sent else message.second
            with self._known:
                stream = self._streams.get(number)
            if stream is not None:
                opening = sent and message.command == b"OKAY" and not stream.known  # the host does not know our number yet
                self._peer.sendall(Message(b"CLSE", 0 if opening else stream.local, stream.remote, b"").packed())
                stream.ended()
                return None
        return message

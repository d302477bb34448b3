"""The sockets under a secure link: datagrams, and TCP connections with a 2-byte length in front of each message. It
knows nothing of what a message says but the length of an INIT and the first byte of a RESP."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, Optional

from secure_end import Path
from securelink import Refused, Role, Type

PATIENCE = 15.0
UNAUTHENTICATED_FOR = 5.0
INCOMING = 65536
Address = tuple[str, int]


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def parse_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def format_address(address: tuple) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def bound(kind: socket.SocketKind, address: Address) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(*address, type=kind)[0]
    opened = socket.socket(family, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(where)
    return opened


class Udp:
    """Datagrams; a path is the address of the other end."""

    reliable = False

    def __init__(self, role: Role, address: Address, own: Optional[Address], peer: Optional[Address]) -> None:
        wildcard = "::" if ":" in address[0] else "0.0.0.0"
        self.peer = address if role is Role.CONNECT else peer
        self._socket = bound(socket.SOCK_DGRAM, address if role is Role.LISTEN else own or (wildcard, 0))

    def address(self) -> Address:
        return self._socket.getsockname()[:2]

    def sockets(self) -> list[socket.socket]:
        return [self._socket]

    def rebind(self, address: Optional[Address]) -> None:
        own = self.address()
        self._socket.close()
        self._socket = bound(socket.SOCK_DGRAM, address or (own[0], 0))

    def connect(self) -> Path:
        if self.peer is None:
            raise Refused("no-peer-address")
        return self.peer

    def send(self, path: Path, message: bytes) -> None:
        self._socket.sendto(message, path)

    def take(self, ready: socket.socket) -> list[tuple[Path, bytes]]:
        message, source = ready.recvfrom(INCOMING, socket.MSG_DONTWAIT)
        return [(source[:2], message)]


class Connection:
    """One TCP connection: its path and what was received of a message that is not whole yet."""

    def __init__(self, opened: socket.socket, path: Path) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(PATIENCE)
        self.socket, self.path, self.rest = opened, path, b""
        self.since = now()
        # Only frames of this length are read as long as it is set.
        self.only: Optional[int] = None

    def frames(self) -> list[bytes]:
        """Reads what there is. Raises `Refused` at the end of the connection or for a frame that is not to be read."""
        try:
            data = self.socket.recv(INCOMING, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Refused("connection-reset") from error
        if not data:
            raise Refused("connection-ended")
        self.rest += data
        frames = []
        while len(self.rest) >= 2:
            (length,) = struct.unpack(">H", self.rest[:2])
            if self.only is not None and length != self.only:
                raise Refused("frame-length")
            if len(self.rest) < 2 + length:
                break
            frames.append(self.rest[2:2 + length])
            self.rest = self.rest[2 + length:]
        return frames


class Tcp:
    """Connections; a path is the address of the other end and a number that is never used twice."""

    reliable = True

    def __init__(self, role: Role, address: Address, own: Optional[Address], init_length: int) -> None:
        self._to, self._from, self._init_length = address, own, init_length
        self._serial = 0
        self.connections: dict[Path, Connection] = {}
        self._listener: Optional[socket.socket] = None
        self.events: list[dict[str, Any]] = []
        if role is Role.LISTEN:
            self._listener = bound(socket.SOCK_STREAM, address)
            self._listener.listen()

    def address(self) -> Address:
        if self._listener is not None:
            return self._listener.getsockname()[:2]
        for connection in self.connections.values():
            return connection.socket.getsockname()[:2]
        return ("", 0)

    def sockets(self) -> list[socket.socket]:
        listener = [] if self._listener is None else [self._listener]
        return listener + [connection.socket for connection in self.connections.values()]

    def _add(self, opened: socket.socket, peer: tuple) -> Connection:
        self._serial += 1
        connection = Connection(opened, (peer[0], peer[1], self._serial))
        self.connections[connection.path] = connection
        self.events.append({"event": "connected", "path": str(connection.path)})
        return connection

    def connect(self) -> Path:
        """The newest connection, or a new one."""
        if self.connections:
            return list(self.connections)[-1]
        if self._listener is not None:
            raise Refused("not-connected")
        try:
            opened = socket.create_connection(self._to, PATIENCE, self._from)
        except OSError as error:
            raise Refused(f"connect: {error}") from error
        return self._add(opened, self._to).path

    def send(self, path: Path, message: bytes) -> None:
        self.send_bytes(path, struct.pack(">H", len(message)) + message)
        if message[:1] == bytes([Type.RESP]) and path in self.connections:
            self.connections[path].only = None

    def send_bytes(self, path: Path, data: bytes) -> None:
        connection = self.connections.get(path)
        if connection is None:
            return
        try:
            connection.socket.sendall(data)
        except OSError:
            # Reading finds the end of the connection, too, and what came in before it.
            return

    def take(self, ready: socket.socket) -> list[tuple[Path, bytes]]:
        if ready is self._listener:
            opened, peer = ready.accept()
            self._add(opened, peer).only = self._init_length
            return []
        for connection in list(self.connections.values()):
            if connection.socket is ready:
                try:
                    return [(connection.path, frame) for frame in connection.frames()]
                except Refused as refused:
                    self.close(connection.path, refused.reason)
        return []

    def close(self, path: Path, reason: str) -> None:
        connection = self.connections.pop(path, None)
        if connection is not None:
            connection.socket.close()
            self.events.append({"event": "disconnected", "path": str(path), "reason": reason, "_path": path})

    def give_up_deadline(self) -> float:
        """When a connection that was never answered has had its time."""
        return min((c.since + UNAUTHENTICATED_FOR for c in self.connections.values() if c.only is not None),
                   default=float("inf"))

    def give_up(self) -> None:
        for connection in list(self.connections.values()):
            if connection.only is not None and now() >= connection.since + UNAUTHENTICATED_FOR:
                self.close(connection.path, "no-handshake")

#!/usr/bin/env python3
"""One end of a secure link for tests: it has no device, and does what it is told, one JSON object a line.

    secure.py --role connect|listen --transport tcp|udp --address HOST:PORT
              (--secret-file F... | --private-key-file F --peer-public-key K... [--psk-file F])
              [--kind tun|tap] [--aead-hardware yes|no] [--aead auto|aes|chacha] [--timers yes|no]
              [--mtu N] [--down-after SECONDS] [--peer HOST:PORT] [--bind HOST:PORT] [--script FILE|-]

Files hold keys in their text form. `--address` is what is connected to or listened on (port 0: a free one, named in the
first answer). A listening end over UDP can begin a handshake itself if it was given `--peer`. With `--timers no` it
sends nothing by itself but answers and the repetitions of an INIT.

The first line of output is {"ok": true, "ready": true, "address": "HOST:PORT"}. Then each command draws one line:
{"ok": true, ...} or {"ok": false, "error": "..."}. Packets, messages and keys are hex, times seconds. Messages that
come in between are handled: handshakes and pings are answered, packets and events kept until they are asked for. When
the input ends, the commands that were read are finished, and then the program ends.

    {"do": "connect"}                    TCP: connect without a handshake; UDP: nothing to do
    {"do": "handshake", "timeout": s}    (connects and) begins a handshake, waits for the session. A refusal is an error
                                         with "status" and "payload"
    {"do": "rekey", "timeout": s}        the same, while there is a session
    {"do": "session", "timeout": s}      waits until there is a session: for the listening end
    {"do": "init"}                       sends one INIT and does not wait: for what draws no answer
    {"do": "send", "packet": hex}        or "packets": [hex, ...]
    {"do": "super", "plaintext": hex}    a virtio header and a super-packet
    {"do": "receive", "count": n, "timeout": s}     the next n packets, super-packets cut; on failure what there was
    {"do": "ping", "length": n, "timeout": s}       waits for the pong
    {"do": "close", "reason": n}
    {"do": "disconnect"}                 TCP: closes the connection without a word
    {"do": "rebind", "address": "HOST:PORT"}        UDP: goes on from another socket
    {"do": "raw", "message": hex}        sends bytes as one message; TCP with "framing": false without their length
    {"do": "seal", "type": n, "plaintext": hex, "lane": n, "counter": n, "receiver_index": n, "send": true|false}
                                         a message sealed by the current session; answers with it
    {"do": "last"}                       the last raw message of each type that was "sent" and "received", and of "any"
    {"do": "tamper", "p1": {...}, "p2": {...}, "timestamp": {"seconds": n, "nanoseconds": n}, "timestamp_offset": s,
     "answer_handshakes": bool, "answer_pings": bool, "confirm": bool}
                                         what the next handshakes carry instead of the truth: fields of P1 (kind, mtu,
                                         features, lanes, instance, tunnel_id, down_after_ms) and of P2 (status, aead,
                                         kind, mtu, features, lanes, instance); what is not given is left as it is,
                                         and {} or null takes it back. "confirm" false: no EMPTY after a handshake
    {"do": "await", "event": name, "timeout": s}    the next event of that name that was not taken yet: session, init,
                                         resp, refused, ping, pong, empty, close, super, down, dropped, connected,
                                         disconnected, replaced
    {"do": "silence", "seconds": s}      an error if anything comes in from the network in that time
    {"do": "status"}                     everything countable, "dropped" by reason
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import time
from collections import deque
from typing import Any, Callable, Optional

from secure_end import End, Path, Settings, describe_session
from secure_net import INCOMING, Tcp, Udp, format_address, now, parse_address
from securelink import (PRIVATE_KEY, PUBLIC_KEY, SHARED_SECRET, NO_PSK, Aead, Credential, KeyPairs, Kind, Refused, Role,
                        SharedSecret, Timestamp, Type, key_from_text)

PATIENCE = 15.0


class CommandFailed(Exception):
    """An answer with "ok": false; the second argument is what it says beside the error."""


class Peer:
    """Carries out commands while the network is served."""

    def __init__(self, end: End, network: Udp | Tcp, script: int) -> None:
        self.end, self.network = end, network
        self._script = script
        self._script_rest = b""
        self._script_ended = False
        self._commands: deque[bytes] = deque()
        self._events: list[dict[str, Any]] = []
        self._received = 0
        self._last: dict[str, dict[str, str]] = {"sent": {}, "received": {}}

    def run(self) -> None:
        self._say({"ok": True, "ready": True, "address": format_address(self.network.address())})
        while True:
            self._pump(lambda: bool(self._commands) or self._script_ended, float("inf"))
            if not self._commands:
                return
            self._say(self._answer(self._commands.popleft()))

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command = json.loads(line)
            method = getattr(self, "_do_" + str(command.pop("do")), None)
            if method is None:
                return {"ok": False, "error": "no such command"}
            answer = method(**command) or {}
            self._flush()
            return {"ok": True, **answer}
        except CommandFailed as failed:
            return {"ok": False, "error": failed.args[0], **(failed.args[1] if len(failed.args) > 1 else {})}
        except Refused as refused:
            return {"ok": False, "error": refused.reason}
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    @staticmethod
    def _say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), flush=True)

    # --- The network -------------------------------------------------------------------------------------------------

    def _pump(self, done: Callable[[], bool], timeout: float) -> bool:
        """Serves network and script until `done` or the time is over; whether it was done."""
        end_of_wait = now() + timeout
        while True:
            self.end.tick(now())
            if isinstance(self.network, Tcp):
                self.network.give_up()
            self._flush()
            if done():
                return True
            moment = now()
            if moment >= end_of_wait:
                return False
            deadline = min(end_of_wait, self.end.deadline(moment) or float("inf"))
            if isinstance(self.network, Tcp):
                deadline = min(deadline, self.network.give_up_deadline())
            self._wait(None if deadline == float("inf") else max(0.0, deadline - moment))

    def _wait(self, timeout: Optional[float]) -> None:
        with selectors.DefaultSelector() as selector:
            for opened in self.network.sockets():
                selector.register(opened, selectors.EVENT_READ)
            if not self._script_ended:
                try:
                    selector.register(self._script, selectors.EVENT_READ)
                except PermissionError:
                    # A regular file is always ready.
                    self._read_script()
                    return
            ready = [key.fileobj for key, _ in selector.select(timeout)]
        for source in ready:
            if source == self._script:
                self._read_script()
            else:
                self._take(source)

    def _read_script(self) -> None:
        data = os.read(self._script, INCOMING)
        self._script_ended = not data
        *lines, self._script_rest = (self._script_rest + data).split(b"\n")
        if self._script_ended:
            lines.append(self._script_rest)
        self._commands.extend(line for line in lines if line.strip())

    def _take(self, source: Any) -> None:
        try:
            messages = self.network.take(source)
        except BlockingIOError:
            return
        for path, message in messages:
            if isinstance(self.network, Tcp) and path not in self.network.connections:
                # What stood before it closed the connection.
                return
            self._received += 1
            self._note("received", message)
            try:
                self.end.receive(message, path, now())
            except Refused as refused:
                self._events.append({"event": "dropped", "reason": refused.reason, "path": str(path)})
                if isinstance(self.network, Tcp):
                    self.network.close(path, refused.reason)
            self._flush()

    def _flush(self) -> None:
        """Sends what the end has to send, and collects what happened."""
        while self.end.outbox:
            path, message = self.end.outbox.popleft()
            self._note("sent", message)
            self.network.send(path, message)
        for event in self.end.events:
            if event["event"] == "replaced" and isinstance(self.network, Tcp):
                self.network.close(event["path"], "replaced")
                event["path"] = str(event["path"])
            self._events.append(event)
        self.end.events.clear()
        if isinstance(self.network, Tcp):
            for event in self.network.events:
                path = event.pop("_path", None)
                if path is not None:
                    self.end.path_ended(path)
                self._events.append(event)
            self.network.events.clear()

    def _note(self, direction: str, message: bytes) -> None:
        name = Type(message[0]).name if message and message[0] in list(Type) else "OTHER"
        self._last[direction][name] = self._last[direction]["any"] = message.hex()

    def _path(self) -> Path:
        """By which raw messages go: that of the session, or the one that a handshake would take."""
        session = self.end.current
        if session is None:
            return self.network.connect()
        return session.path if self.network.reliable or self.end.endpoint is None else self.end.endpoint

    def _find_event(self, names: tuple[str, ...], first: int) -> Optional[dict[str, Any]]:
        """The first event of these names from `first` on that was not taken; it is then."""
        for event in self._events[first:]:
            if event["event"] in names and not event.get("_taken"):
                event["_taken"] = True
                return event
        return None

    def _await_event(self, names: tuple[str, ...], first: int, timeout: float) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def done() -> bool:
            event = self._find_event(names, first)
            if event is not None:
                found.append(event)
            return bool(found)

        if not self._pump(done, timeout):
            raise CommandFailed(f"no {' or '.join(names)} within {timeout} s")
        return {key: value for key, value in found[0].items() if key != "_taken"}

    # --- Commands ----------------------------------------------------------------------------------------------------

    def _do_connect(self) -> dict[str, Any]:
        self.network.connect()
        return {"address": format_address(self.network.address())}

    def _do_handshake(self, timeout: float = PATIENCE) -> dict[str, Any]:
        path = self._path()
        # Of the path the loop has to know before anything on it can end.
        self._flush()
        first = len(self._events)
        self.end.begin_handshake(path, now())
        try:
            event = self._await_event(("session", "refused", "disconnected"), first, timeout)
        except CommandFailed:
            self.end.attempt = None
            raise
        if event["event"] == "session":
            return {"session": event, "peer": self.end.peer}
        self.end.attempt = None
        name = event.pop("event")
        raise CommandFailed(name, event)

    def _do_rekey(self, timeout: float = PATIENCE) -> dict[str, Any]:
        if self.end.current is None:
            raise Refused("no-session")
        return self._do_handshake(timeout)

    def _do_session(self, timeout: float = PATIENCE) -> dict[str, Any]:
        self._pump(lambda: self.end.current is not None, timeout)
        if self.end.current is None:
            raise CommandFailed(f"no session within {timeout} s")
        return {"session": describe_session(self.end.current), "peer": self.end.peer}

    def _do_init(self) -> None:
        path = self._path()
        self._flush()
        self.end.begin_handshake_once(path, now())

    def _do_send(self, packet: Optional[str] = None, packets: Optional[list[str]] = None) -> dict[str, Any]:
        every = ([] if packet is None else [packet]) + (packets or [])
        for one in every:
            self.end.send_packet(bytes.fromhex(one), now())
            self._flush()
        return {"sent": len(every)}

    def _do_super(self, plaintext: str) -> None:
        self.end.send_super(bytes.fromhex(plaintext), now())

    def _do_receive(self, count: int = 1, timeout: float = PATIENCE) -> dict[str, Any]:
        packets = self.end.packets
        complete = self._pump(lambda: len(packets) >= count, timeout)
        taken = [packets.popleft().hex() for _ in range(min(count, len(packets)))]
        if not complete:
            raise CommandFailed(f"{len(taken)} of {count} packets within {timeout} s", {"packets": taken})
        return {"packets": taken}

    def _do_ping(self, length: int = 11, timeout: float = PATIENCE) -> dict[str, Any]:
        first = len(self._events)
        token = self.end.send_ping(now(), length)
        while True:
            event = self._await_event(("pong",), first, timeout)
            if event["token"] == token:
                return event

    def _do_close(self, reason: int = 0) -> None:
        self.end.send_close(reason, now())

    def _do_disconnect(self) -> None:
        if isinstance(self.network, Tcp):
            for path in list(self.network.connections):
                self.network.close(path, "asked")

    def _do_rebind(self, address: Optional[str] = None) -> dict[str, Any]:
        if not isinstance(self.network, Udp):
            raise CommandFailed("UDP only")
        self.network.rebind(None if address is None else parse_address(address))
        return {"address": format_address(self.network.address())}

    def _do_raw(self, message: str, framing: bool = True) -> None:
        path = self._path()
        data = bytes.fromhex(message)
        if isinstance(self.network, Tcp) and not framing:
            self.network.send_bytes(path, data)
        else:
            self.network.send(path, data)

    def _do_seal(self, type: int, plaintext: str = "", lane: int = 0, counter: Optional[int] = None,
                 receiver_index: Optional[int] = None, send: bool = True) -> dict[str, Any]:
        message = self.end.seal(type, bytes.fromhex(plaintext), lane, counter, receiver_index)
        if send:
            self._note("sent", message)
            self.network.send(self._path(), message)
        return {"message": message.hex()}

    def _do_last(self) -> dict[str, Any]:
        return self._last

    def _do_tamper(self, **knobs: Any) -> None:
        tampering = self.end.tampering
        for name, value in knobs.items():
            if name in ("p1", "p2"):
                value = {field: bytes.fromhex(one) if isinstance(one, str) else one
                         for field, one in (value or {}).items()}
            elif name == "timestamp" and value is not None:
                value = Timestamp(**value)
            elif not hasattr(tampering, name):
                raise CommandFailed(f"nothing to tamper with is called {name}")
            setattr(tampering, name, value)

    def _do_await(self, event: str, timeout: float = PATIENCE) -> dict[str, Any]:
        return self._await_event((event,), 0, timeout)

    def _do_silence(self, seconds: float) -> None:
        before = self._received
        if self._pump(lambda: self._received > before, seconds):
            raise CommandFailed("something came in", {"message": self._last["received"]["any"]})

    def _do_status(self) -> dict[str, Any]:
        end = self.end
        return {
            "session": None if end.current is None else describe_session(end.current),
            "next": None if end.next is None else describe_session(end.next),
            "previous": [describe_session(session) for session in end.previous],
            "endpoint": None if end.endpoint is None else format_address(end.endpoint),
            "peer": end.peer, "round_trip": end.round_trip, "dropped": dict(end.counts),
            "packets_waiting": len(end.packets), "messages_received": self._received,
            "address": format_address(self.network.address()),
        }


def read_key(prefix: str, path: str) -> bytes:
    with open(path, encoding="ascii") as file:
        return key_from_text(prefix, file.read().strip())


def credentials_of(options: argparse.Namespace) -> list[Credential]:
    if options.secret_file:
        return [SharedSecret(read_key(SHARED_SECRET, path)) for path in options.secret_file]
    if not options.private_key_file or not options.peer_public_key:
        raise SystemExit("secure.py: --secret-file, or --private-key-file and --peer-public-key, is wanted")
    private = read_key(PRIVATE_KEY, options.private_key_file)
    psk = read_key(SHARED_SECRET, options.psk_file) if options.psk_file else NO_PSK
    return [KeyPairs(private, key_from_text(PUBLIC_KEY, text), psk) for text in options.peer_public_key]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One end of a secure link, driven by JSON lines.")
    parser.add_argument("--role", choices=["connect", "listen"], required=True)
    parser.add_argument("--transport", choices=["tcp", "udp"], required=True)
    parser.add_argument("--address", type=parse_address, required=True)
    parser.add_argument("--bind", type=parse_address)
    parser.add_argument("--peer", type=parse_address)
    parser.add_argument("--secret-file", action="append")
    parser.add_argument("--private-key-file")
    parser.add_argument("--peer-public-key", action="append")
    parser.add_argument("--psk-file")
    parser.add_argument("--kind", choices=["tun", "tap"], default="tun")
    parser.add_argument("--aead-hardware", choices=["yes", "no"], default="yes")
    parser.add_argument("--aead", choices=["auto", "aes", "chacha"], default="auto")
    parser.add_argument("--timers", choices=["yes", "no"], default="yes")
    parser.add_argument("--mtu", type=int, default=0)
    parser.add_argument("--down-after", type=float, default=10.0)
    parser.add_argument("--script", default="-")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    role = Role[options.role.upper()]
    try:
        credentials = credentials_of(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"secure.py: {error}") from error
    network: Udp | Tcp
    if options.transport == "udp":
        network = Udp(role, options.address, options.bind, options.peer)
    else:
        network = Tcp(role, options.address, options.bind, credentials[0].suite.init_length)
    aead = {"auto": None, "aes": Aead.AES_256_GCM, "chacha": Aead.CHACHA20_POLY1305}[options.aead]
    settings = Settings(role, credentials, Kind[options.kind.upper()], network.reliable,
                        options.aead_hardware == "yes", aead, options.mtu, options.down_after)
    end = End(settings, time.time(), now(), options.timers == "yes")
    script = 0 if options.script == "-" else os.open(options.script, os.O_RDONLY)
    Peer(end, network, script).run()


if __name__ == "__main__":
    main()

"""One end of a secure link as a state machine: handshakes in both roles, sessions, rekeying and liveness, as
`docs/PROTOCOL.md` says. It knows no socket and no clock: messages come in with the path they came by and the time,
messages to send collect in `outbox`, what happened in `events`, packets for the device in `packets`.

A path is a tuple that begins with the peer's host: its address over UDP, address and number of the connection over
TCP. Times are seconds of a clock that only goes forward.
"""

from __future__ import annotations

import os
import random
import secrets
import struct
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from securelink import (HEADER_LENGTH, PING_LENGTH, SUPER_FEATURES, Aead, Credential, DirectionKeys, Feature, Header,
                        Kind, Offer, Operation, P1, P2, RawKeys, Received, Refused, ReplayWindow, Role, Status,
                        Timestamp, Type, check_init_form, check_resp_form, close, empty, find_credential,
                        mac1_is_right, ping, pong, resp_receiver_index)
from superpacket import SuperPacket

Path = tuple[Any, ...]

INIT_MEMORY = 4096
OFFERS_REMEMBERED = 3
REPEAT_FIRST, REPEAT_MOST = 0.25, 1.0
REPEAT_REKEY_RELIABLE = 5.0
REFUSED_AGAIN = 5.0
OWN_ATTEMPT_WINS = 1.0
REKEY_INITIATOR, REKEY_RESPONDER = 120.0, 140.0
SESSION_END = 180.0
REKEY_BYTES, REKEY_MESSAGES = 1 << 37, 1 << 28
REPLACED_FOR = 60.0
# The longest packet that is sent in one message over UDP; and of those that come in parts, how many and how long.
LONGEST = 1400
MOST_PARTS = 64
INCOMPLETE_PACKETS, INCOMPLETE_BYTES, PARTS_AWAITED = 32, 256 * 1024, 1.0


@dataclass
class Settings:
    """What an end is told. `aead` forces one; otherwise `aes_hardware` decides what is wished."""

    role: Role
    credentials: list[Credential]
    kind: Kind
    reliable: bool
    aes_hardware: bool = True
    aead: Optional[Aead] = None
    mtu: int = 0
    down_after: float = 10.0
    keepalive: float = 3.0
    instance: bytes = field(default_factory=lambda: os.urandom(16))

    @property
    def features(self) -> int:
        wants_aes = self.aes_hardware if self.aead is None else self.aead is Aead.AES_256_GCM
        return int((Feature.AES if wants_aes else 0) | (SUPER_FEATURES if self.reliable else Feature.FRAG))


@dataclass
class Session:
    own_index: int
    peer_index: int
    initiator: bool
    aead: Aead
    features: int
    sealing: DirectionKeys
    opening: DirectionKeys
    path: Path
    created: float
    # What P1 or P2 said about the peer.
    peer: dict[str, Any]
    next_counter: int = 0
    window: ReplayWindow = field(default_factory=ReplayWindow)
    # Of the messages that were accepted: their number, whatever their counters, and the bytes in both directions.
    accepted: int = 0
    bytes_moved: int = 0

    def is_used_up(self, now: float, factor: float, seconds: float) -> bool:
        return (now - self.created >= seconds or self.bytes_moved >= REKEY_BYTES * factor
                or max(self.next_counter, self.accepted) >= REKEY_MESSAGES * factor)

    def header(self, message_type: int, lane: int = 0) -> Header:
        header = Header(message_type, lane, self.peer_index, self.next_counter)
        self.next_counter += 1
        return header


@dataclass
class Incomplete:
    """A packet that comes in parts: what there is of it, by the place where it begins."""

    total: int
    until: float
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Attempt:
    """A handshake that this end has begun: its offers, newest last."""

    path: Path
    first_sent: float
    repeat_at: float
    interval: float
    offers: list[tuple[Offer, float]] = field(default_factory=list)


@dataclass
class Tampering:
    """Fields to send instead of the right ones, by their names in P1 and P2, and what not to do."""

    p1: dict[str, Any] = field(default_factory=dict)
    p2: dict[str, Any] = field(default_factory=dict)
    timestamp: Optional[Timestamp] = None
    timestamp_offset: int = 0
    answer_handshakes: bool = True
    answer_pings: bool = True
    confirm: bool = True


class Bucket:
    """A token bucket; `rate` tokens a second, at most `rate` of them."""

    def __init__(self, rate: float) -> None:
        self._rate, self._tokens, self._at = rate, rate, 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class End:
    def __init__(self, settings: Settings, wall_clock: float, now: float, timers: bool = True) -> None:
        """`timers` off: nothing is sent that was not asked for or is no answer, but INIT is still repeated."""
        self.settings = settings
        self.timers = timers
        self.tampering = Tampering()
        self.outbox: deque[tuple[Path, bytes]] = deque()
        self.packets: deque[bytes] = deque()
        self._incomplete: dict[tuple[int, int], Incomplete] = {}
        self._packets_in_parts = 0
        self.events: deque[dict[str, Any]] = deque()
        self.counts: Counter[str] = Counter()
        self.endpoint: Optional[Path] = None
        self.current: Optional[Session] = None
        self.next: Optional[Session] = None
        self.previous: list[Session] = []
        self.attempt: Optional[Attempt] = None
        self.peer: dict[str, Any] = {}
        self.round_trip: Optional[float] = None
        self._wall_offset = wall_clock - now
        self._last_timestamp = Timestamp(0)
        self._greatest: dict[Credential, Timestamp] = {}
        self._init_memory: deque[bytes] = deque(maxlen=INIT_MEMORY)
        self._bucket, self._peer_bucket = Bucket(50), Bucket(10)
        self._authenticated: Optional[Path] = None
        self._answered_at: dict[Status, float] = {}
        self._replaced: dict[str, float] = {}
        self._heard = now
        self._sent_unheard: Optional[float] = None
        self._probes = 0
        self._pings: dict[int, float] = {}
        self._peer_down_after = settings.down_after
        self._credential_turn = 0
        self._last_keepalive = float("-inf")
        self._rekey_jitter = random.uniform(0, 0.333)

    # --- What the program asks for -----------------------------------------------------------------------------------

    def begin_handshake(self, path: Path, now: float) -> None:
        self.attempt = Attempt(path, now, now, REPEAT_FIRST)
        self._send_init(now)

    def begin_handshake_once(self, path: Path, now: float) -> None:
        """As `begin_handshake`, without repetitions."""
        attempt = self.attempt = Attempt(path, now, now, REPEAT_FIRST)
        self._send_init(now)
        attempt.repeat_at = float("inf")

    def send_packet(self, packet: bytes, now: float) -> None:
        agreed = self.current is not None and self.current.features & Feature.FRAG
        if not agreed or self.settings.reliable or len(packet) <= LONGEST:
            self._send(Type.DATA, packet, now)
            return
        count = -(-len(packet) // LONGEST)
        if count > MOST_PARTS or len(packet) > 0xFFFF:
            raise Refused("too-long")
        length = -(-len(packet) // count)
        self._packets_in_parts = (self._packets_in_parts + 1) & 0xFFFFFFFF
        for offset in range(0, len(packet), length):
            head = struct.pack(">IHH", self._packets_in_parts, offset, len(packet))
            self._send(Type.FRAG, head + packet[offset:offset + length], now)
        self.counts["split"] += 1

    def send_super(self, plaintext: bytes, now: float) -> None:
        self._send(Type.SUPER, plaintext, now)

    def send_ping(self, now: float, length: int = PING_LENGTH) -> int:
        token = secrets.randbits(64)
        self._pings[token] = now
        self._send(Type.CTRL, ping(token, length), now)
        return token

    def send_close(self, reason: int, now: float) -> None:
        if self.current is not None:
            self._send(Type.CTRL, close(reason), now)
        self.end_sessions()

    def seal(self, message_type: int, plaintext: bytes, lane: int = 0, counter: Optional[int] = None,
             receiver_index: Optional[int] = None, session: Optional[Session] = None) -> bytes:
        """A message of the session (the current one), or one that breaks the rules. A counter that is given is not
        kept: the next message takes the number that it would have taken anyway."""
        session = session or self.current
        if session is None:
            raise Refused("no-session")
        header = session.header(message_type, lane) if counter is None else Header(
            message_type, lane, session.peer_index, counter)
        if receiver_index is not None:
            header = replace(header, receiver_index=receiver_index)
        session.bytes_moved += len(plaintext)
        return session.sealing.seal(header, plaintext)

    def end_sessions(self) -> None:
        self.current, self.next, self.previous, self.attempt = None, None, [], None

    def path_ended(self, path: Path) -> None:
        """A connection is gone, and with it the sessions that belong to it."""
        if self.current is not None and self.current.path == path:
            self.current = None
        if self.next is not None and self.next.path == path:
            self.next = None
        self.previous = [session for session in self.previous if session.path != path]
        if self.attempt is not None and self.attempt.path == path:
            self.attempt = None
        if self.endpoint == path:
            self.endpoint = None

    # --- What the network brings -------------------------------------------------------------------------------------

    def receive(self, message: bytes, path: Path, now: float) -> None:
        """Takes one message. `Refused` is raised for one that is dropped; the connection it came by has to be closed
        then."""
        try:
            first = message[0] if message else None
            if first == Type.INIT:
                self._receive_init(message, path, now)
            elif first == Type.RESP:
                self._receive_resp(message, path, now)
            elif first in (Type.DATA, Type.SUPER, Type.CTRL, Type.FRAG):
                self._receive_sealed(message, path, now)
            else:
                raise Refused("unknown-type")
        except Refused as refused:
            self.counts[refused.reason] += 1
            raise

    def _receive_init(self, message: bytes, path: Path, now: float) -> None:
        suite = self.settings.credentials[0].suite
        role = self.settings.role
        check_init_form(message, suite)
        credential = find_credential(message, self.settings.credentials, role)
        code = message[-16:]
        if code in self._init_memory:
            raise Refused("init-replay")
        self._init_memory.append(code)
        known = self._authenticated is not None and path[0] == self._authenticated[0]
        if not (self._bucket.take(now) or (known and self._peer_bucket.take(now))):
            raise Refused("init-rate")
        received = Received.read(message, credential, role)
        offer = received.payload
        self.events.append({"event": "init", "payload": describe_p1(offer), "path": str(path)})
        if not self.tampering.answer_handshakes:
            return
        if (role is Role.CONNECT and self.attempt is not None
                and now - self.attempt.first_sent < OWN_ATTEMPT_WINS):
            self.counts["init-own-wins"] += 1
            return

        greatest = self._greatest.get(credential)
        if greatest is not None and not greatest < offer.timestamp:
            self._refuse(received, Status.STALE, path, now)
            return
        self._greatest[credential] = offer.timestamp
        status, aead = self._judge(offer, now)
        if status is not Status.OK:
            self._refuse(received, status, path, now)
            return

        features = offer.features & self.settings.features
        # The other end's handshake is the one that counts now.
        self.attempt = None
        payload = self._p2(status, aead, features)
        index = self._new_index()
        response, keys = received.answer(index, payload)
        self.next = self._session(index, received.peer_index, False, payload, keys, path, now, describe_p1(offer))
        self._queue(path, response)

    def _judge(self, offer: P1, now: float) -> tuple[Status, Aead]:
        settings = self.settings
        both_aes = offer.features & settings.features & Feature.AES
        aead = Aead.AES_256_GCM if both_aes else Aead.CHACHA20_POLY1305
        if offer.kind != settings.kind:
            return Status.KIND, aead
        if any(offer.tunnel_id) or (settings.aead is not None and settings.aead is not aead):
            return Status.FEATURE, aead
        replaced = self._replaced.get(offer.instance.hex())
        if (replaced is not None and now - replaced < REPLACED_FOR
                and self.current is not None and now - self._heard < settings.down_after):
            return Status.BUSY, aead
        return Status.OK, aead

    def _refuse(self, received: Received, status: Status, path: Path, now: float) -> None:
        self.counts[f"init-{status.name.lower()}"] += 1
        if now - self._answered_at.get(status, float("-inf")) < 1:
            return
        self._answered_at[status] = now
        _, aead = self._judge(received.payload, now)
        payload = self._p2(status, aead, 0)
        if status is Status.STALE:
            payload = replace(payload, greatest=self._greatest[received.credential])
        response, _ = received.answer(self._new_index(), payload)
        self._queue(path, response)

    def _receive_resp(self, message: bytes, path: Path, now: float) -> None:
        check_resp_form(message, self.settings.credentials[0].suite)
        receiver = resp_receiver_index(message)
        offers = self.attempt.offers if self.attempt is not None else []
        found = [(offer, sent) for offer, sent in offers if offer.index == receiver]
        if not found:
            if any(mac1_is_right(credential.mac1_key(self.settings.role, self.settings.role), message)
                   for credential in self.settings.credentials):
                # A late answer to an offer that was given up is nothing to hold against the peer.
                self.counts["resp-late"] += 1
                return
            raise Refused("resp-index")
        offer, sent = found[0]
        sender, answer, keys = offer.read_answer(message)
        self._heard_at(now, path)
        self._take_round_trip(now - sent)
        status = answer.status
        self.events.append({"event": "resp", "payload": describe_p2(answer), "path": str(path)})
        if status == Status.OK and not self._acceptable(answer):
            status = Status.FEATURE
        if status == Status.STALE:
            if self._last_timestamp < answer.greatest:
                self._last_timestamp = answer.greatest
            self._send_init(now)
            return
        if status != Status.OK:
            self.events.append({"event": "refused", "status": int(answer.status), "payload": describe_p2(answer)})
            assert self.attempt is not None
            self.attempt.repeat_at = now + REFUSED_AGAIN
            return
        # The credential that was answered comes first from now on.
        credentials = self.settings.credentials
        credentials.remove(offer.credential)
        credentials.insert(0, offer.credential)
        self._credential_turn = 0
        self.attempt = None
        session = self._session(offer.index, sender, True, answer, keys, path, now, describe_p2(answer))
        self._make_current(session, path, now)
        if self.tampering.confirm:
            self._send(Type.CTRL, empty(), now)

    def _acceptable(self, answer: P2) -> bool:
        """Whether the AEAD is one that was offered and this end can be content with."""
        if answer.aead == Aead.AES_256_GCM:
            return bool(self._offered_features() & Feature.AES)
        return answer.aead == Aead.CHACHA20_POLY1305 and self.settings.aead is not Aead.AES_256_GCM

    def _receive_sealed(self, message: bytes, path: Path, now: float) -> None:
        header = Header.decode(message)
        session = self._session_of(header.receiver_index, now)
        if session is None:
            raise Refused("index")
        if self.settings.reliable and session.path != path:
            raise Refused("path")
        if header.lane != 0:
            raise Refused("lane")
        session.window.check(header.counter)
        plaintext = session.opening.open(message)
        moves = header.counter > session.window.greatest
        session.window.accept(header.counter)
        session.accepted += 1
        session.bytes_moved += len(message) - HEADER_LENGTH
        if session is self.next:
            self.next = None
            self._make_current(session, path, now)
        elif session is self.current and moves:
            self.endpoint = path
        self._heard_at(now, path)
        if header.type == Type.DATA:
            self._take_packet(plaintext)
        elif header.type == Type.SUPER:
            self._take_super(plaintext)
        elif header.type == Type.FRAG:
            if session.features & Feature.FRAG and not self.settings.reliable:
                self._take_part(session.own_index, plaintext, now)
            else:
                self.counts["invalid-part"] += 1
        else:
            self._take_control(plaintext, now)

    def _take_packet(self, packet: bytes) -> None:
        least = 14 if self.settings.kind == Kind.TAP else 20
        if len(packet) < least or (self.settings.kind == Kind.TUN and packet[0] >> 4 not in (4, 6)):
            self.counts["invalid-packet"] += 1
            return
        self.packets.append(packet)

    def _take_part(self, index: int, plaintext: bytes, now: float) -> None:
        """Puts packets together; the oldest that lacks parts gives way to a new one."""
        for key in [key for key, packet in self._incomplete.items() if now >= packet.until]:
            self._give_up(key)
        if len(plaintext) < 9:
            self.counts["invalid-part"] += 1
            return
        number, offset, total = struct.unpack(">IHH", plaintext[:8])
        part, key = plaintext[8:], (index, number)
        if offset + len(part) > total:
            self.counts["invalid-part"] += 1
            return
        if key not in self._incomplete:
            held = lambda: sum(packet.total for packet in self._incomplete.values())
            while self._incomplete and (len(self._incomplete) >= INCOMPLETE_PACKETS
                                        or held() + total > INCOMPLETE_BYTES):
                self._give_up(next(iter(self._incomplete)))
            self._incomplete[key] = Incomplete(total, now + PARTS_AWAITED)
        packet = self._incomplete[key]
        overlaps = any(offset < start + len(other) and start < offset + len(part)
                       for start, other in packet.parts.items())
        if total != packet.total or overlaps or len(packet.parts) >= MOST_PARTS:
            self._give_up(key)
            self.counts["invalid-part"] += 1
            return
        packet.parts[offset] = part
        if sum(map(len, packet.parts.values())) == total:
            del self._incomplete[key]
            self.counts["joined"] += 1
            self._take_packet(b"".join(packet.parts[start] for start in sorted(packet.parts)))

    def _give_up(self, key: tuple[int, int]) -> None:
        del self._incomplete[key]
        self.counts["incomplete"] += 1

    def _take_super(self, plaintext: bytes) -> None:
        """A super-packet that breaks a rule is dropped, but the message was authentic: nothing else happens."""
        try:
            parts = SuperPacket.decode(plaintext).split(self.settings.kind == Kind.TAP)
        except Refused as refused:
            self.counts[refused.reason] += 1
            return
        self.events.append({"event": "super", "plaintext": plaintext.hex(), "packets": len(parts)})
        self.packets.extend(parts)

    def _take_control(self, plaintext: bytes, now: float) -> None:
        operation = plaintext[0] if plaintext else None
        if operation == Operation.PING and len(plaintext) >= PING_LENGTH:
            self.events.append({"event": "ping", "length": len(plaintext)})
            if self.tampering.answer_pings:
                self._send(Type.CTRL, pong(plaintext), now)
        elif operation == Operation.PONG and len(plaintext) >= PING_LENGTH:
            token, length = struct.unpack(">QH", plaintext[1:11])
            sent = self._pings.pop(token, None)
            if sent is not None:
                self._take_round_trip(now - sent)
                self.events.append({"event": "pong", "token": token, "length": length, "seconds": now - sent})
        elif operation == Operation.CLOSE and len(plaintext) >= 2:
            self.events.append({"event": "close", "reason": plaintext[1]})
            self.end_sessions()
        elif operation == Operation.EMPTY:
            self.events.append({"event": "empty"})
        else:
            self.counts["control-ignored"] += 1

    # --- Time --------------------------------------------------------------------------------------------------------

    def deadline(self, now: float) -> Optional[float]:
        """When `tick` has something to do at the latest."""
        times = []
        if self.attempt is not None:
            times.append(self.attempt.repeat_at)
        if self.timers and self.current is not None:
            times.append(self._heard + self._ping_after())
            times.append(self._heard + self.settings.down_after)
            if self._sent_unheard is not None and self._probes < 2:
                times.append(self._sent_unheard + self._patience() * (self._probes + 1))
            if self.attempt is None:
                times.append(self._rekey_at())
        return max(now, min(times)) if times else None

    def tick(self, now: float) -> None:
        if self.attempt is not None and now >= self.attempt.repeat_at:
            self._send_init(now)
        if not self.timers or self.current is None:
            return
        if now - self._heard >= self.settings.down_after:
            self.events.append({"event": "down"})
            self.end_sessions()
            return
        if self.attempt is None and now >= self._rekey_at():
            self.begin_handshake(self._way_out(), now)
        if self._sent_unheard is not None and self._probes < 2:
            if now >= self._sent_unheard + self._patience() * (self._probes + 1):
                self._probes += 1
                if self._probes == 1:
                    self.send_ping(now)
                elif not self.settings.reliable and self.attempt is None:
                    self.begin_handshake(self._way_out(), now)
        if now >= self._heard + self._ping_after():
            self._last_keepalive = now
            self.send_ping(now)

    def _ping_after(self) -> float:
        """After how long a silence a PING is due; again after as long while there is no answer."""
        period = min(self.settings.keepalive, self._peer_down_after / 2)
        pinged = self._last_keepalive
        return period if pinged < self._heard else pinged - self._heard + period

    def _patience(self) -> float:
        return max(0.3, 3 * (self.round_trip or 0))

    def _rekey_at(self) -> float:
        session = self.current
        assert session is not None
        factor = 1.0 if session.initiator else 9 / 8
        after = REKEY_INITIATOR + self._rekey_jitter if session.initiator else REKEY_RESPONDER
        used_up = session.is_used_up(session.created, factor, after)
        return session.created if used_up else session.created + after

    # --- Parts of the above ------------------------------------------------------------------------------------------

    def _way_out(self) -> Path:
        """The path that messages are sent by now."""
        path = self.current.path if self.settings.reliable and self.current is not None else self.endpoint
        if path is None:
            raise Refused("no-path")
        return path

    def _send(self, message_type: int, plaintext: bytes, now: float) -> None:
        if self.current is None:
            raise Refused("no-session")
        self._queue(self._way_out(), self.seal(message_type, plaintext))
        # PONG, EMPTY and CLOSE ask for nothing: if they counted, two idle ends would ping each other for ever.
        asks = message_type != Type.CTRL or plaintext[0] == Operation.PING
        if asks and self._sent_unheard is None:
            self._sent_unheard = now

    def _queue(self, path: Path, message: bytes) -> None:
        self.outbox.append((path, message))

    def _send_init(self, now: float) -> None:
        attempt = self.attempt
        assert attempt is not None
        timestamp = self._timestamp(now)
        settings = self.settings
        payload = P1(timestamp, settings.kind, settings.mtu, settings.features, settings.instance,
                     round(settings.down_after * 1000))
        payload = replace(payload, **self.tampering.p1)
        credential = settings.credentials[self._credential_turn % len(settings.credentials)]
        self._credential_turn += 1
        offer = Offer(credential, settings.role, self._new_index(), os.urandom(32), payload.encode())
        attempt.offers = (attempt.offers + [(offer, now)])[-OFFERS_REMEMBERED:]
        self._queue(attempt.path, offer.message())
        if settings.reliable:
            attempt.repeat_at = now + REPEAT_REKEY_RELIABLE if self.current is not None else float("inf")
            return
        attempt.repeat_at = now + attempt.interval * random.uniform(0.8, 1.2)
        attempt.interval = min(REPEAT_MOST, attempt.interval * 2)

    def _timestamp(self, now: float) -> Timestamp:
        if self.tampering.timestamp is not None:
            return self.tampering.timestamp
        nanoseconds = int((self._wall_offset + now) * 1_000_000_000)
        timestamp = Timestamp(*divmod(nanoseconds, 1_000_000_000))
        if not self._last_timestamp < timestamp:
            timestamp = self._last_timestamp.next()
        self._last_timestamp = timestamp
        return Timestamp(timestamp.seconds + self.tampering.timestamp_offset, timestamp.nanoseconds)

    def _offered_features(self) -> int:
        return int(self.tampering.p1.get("features", self.settings.features))

    def _p2(self, status: Status, aead: Aead, features: int) -> P2:
        payload = P2(status, aead, self.settings.kind, self.settings.mtu, features, self.settings.instance)
        return replace(payload, **self.tampering.p2)

    def _session(self, own_index: int, peer_index: int, initiator: bool, answer: P2, keys: RawKeys, path: Path,
                 now: float, peer: dict[str, Any]) -> Session:
        aead = Aead(answer.aead)
        outward, inward = keys.initiator_to_responder, keys.responder_to_initiator
        if not initiator:
            outward, inward = inward, outward
        return Session(own_index, peer_index, initiator, aead, answer.features, DirectionKeys(outward, aead),
                       DirectionKeys(inward, aead), path, now, peer)

    def _make_current(self, session: Session, path: Path, now: float) -> None:
        before, instance = self.peer.get("instance"), session.peer["instance"]
        if before is not None and before != instance:
            self._replaced[before] = now
        self._replaced.pop(instance, None)
        self.peer = session.peer
        # Only P1 says when the peer gives up; of a responder it is not known.
        self._peer_down_after = session.peer.get("down_after_ms", self.settings.down_after * 1000) / 1000
        if self.current is not None:
            self.previous = [self.current, *self.previous][:2]
            if self.settings.reliable and self.current.path != path:
                self.events.append({"event": "replaced", "path": self.current.path})
        self.current = session
        self.endpoint = path
        self._sent_unheard, self._probes = None, 0
        self.events.append({"event": "session", **describe_session(session)})

    def _session_of(self, index: int, now: float) -> Optional[Session]:
        sessions = [session for session in (self.current, self.next, *self.previous) if session is not None]
        for session in sessions:
            if session.own_index == index and not session.is_used_up(now, 2, SESSION_END):
                return session
        return None

    def _new_index(self) -> int:
        taken = {session.own_index for session in (self.current, self.next, *self.previous) if session is not None}
        if self.attempt is not None:
            taken |= {offer.index for offer, _ in self.attempt.offers}
        while True:
            index = secrets.randbits(32)
            if index != 0 and index not in taken:
                return index

    def _heard_at(self, now: float, path: Path) -> None:
        self._heard = now
        self._authenticated = path
        self._sent_unheard, self._probes = None, 0

    def _take_round_trip(self, sample: float) -> None:
        self.round_trip = sample if self.round_trip is None else self.round_trip * 7 / 8 + sample / 8


def describe_p1(payload: P1) -> dict[str, Any]:
    return {"seconds": payload.timestamp.seconds, "nanoseconds": payload.timestamp.nanoseconds, "kind": payload.kind,
            "lanes": payload.lanes, "mtu": payload.mtu, "features": payload.features,
            "instance": payload.instance.hex(), "tunnel_id": payload.tunnel_id.hex(),
            "down_after_ms": payload.down_after_ms}


def describe_p2(payload: P2) -> dict[str, Any]:
    return {"status": payload.status, "aead": payload.aead, "kind": payload.kind, "lanes": payload.lanes,
            "mtu": payload.mtu, "features": payload.features, "instance": payload.instance.hex(),
            "greatest_seconds": payload.greatest.seconds, "greatest_nanoseconds": payload.greatest.nanoseconds}


def describe_session(session: Session) -> dict[str, Any]:
    return {"own_index": session.own_index, "peer_index": session.peer_index, "initiator": session.initiator,
            "aead": int(session.aead), "features": session.features}

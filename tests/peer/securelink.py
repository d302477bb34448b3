"""Secure links of simpletun as `docs/PROTOCOL.md` describes them: messages, keys, the handshake and the sealing of
packets. A second implementation, written from that document alone, so that a mistake in the first one does not agree
with itself.

This module turns bytes into values and back. It knows no socket and no clock, and keeps no state of a link: that is
`secure_end.py`. Integers on the wire are big-endian. What the other end did wrong is a `Refused`.
"""

from __future__ import annotations

import base64
import hmac
import struct
import warnings
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from hashlib import blake2s
from typing import Sequence, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection

# The ephemeral key is always given to the library, because an INIT that was sent has to be computed again for each
# answer to it (see `Offer`).
warnings.filterwarnings("ignore", message="One of ephemeral keypairs is already set")

VERSION = 1
PROLOGUE = b"simpletun/1"
MAC1_LABEL = b"simpletun/1 mac1"
KEY_LABEL = b"simpletun/1 key"
IV_LABEL = b"simpletun/1 iv"

KEY_LENGTH = 32
MAC1_LENGTH = 16
TAG_LENGTH = 16
HEADER_LENGTH = 16
RESP_LENGTH = 140
P1_LENGTH = 96
P2_LENGTH = 64
TIMESTAMP_LENGTH = 12
INSTANCE_LENGTH = 16
WINDOW = 16_384
NO_PSK = bytes(KEY_LENGTH)


class Refused(Exception):
    """A message that is dropped, and why, in a word or two with hyphens."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


class Suite(IntEnum):
    KEY_PAIRS = 1
    SHARED_SECRET = 2

    @property
    def noise_name(self) -> bytes:
        pattern = b"IKpsk2" if self is Suite.KEY_PAIRS else b"NNpsk0"
        return b"Noise_" + pattern + b"_25519_ChaChaPoly_BLAKE2s"

    @property
    def init_length(self) -> int:
        return 216 if self is Suite.KEY_PAIRS else 168


class Role(IntEnum):
    CONNECT = 1
    LISTEN = 2

    @property
    def other(self) -> Role:
        return Role.LISTEN if self is Role.CONNECT else Role.CONNECT


class Type(IntEnum):
    """The first byte of a message."""

    INIT = 0xF0
    RESP = 0xF1
    DATA = 0xF4
    SUPER = 0xF5
    CTRL = 0xF6
    FRAG = 0xF7


class Kind(IntEnum):
    TUN = 1
    TAP = 2


class Aead(IntEnum):
    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Status(IntEnum):
    OK = 0
    STALE = 1
    KIND = 2
    FEATURE = 3
    BUSY = 4


class Feature(IntFlag):
    AES = 1 << 0
    SUPER_TCP4 = 1 << 1
    SUPER_TCP6 = 1 << 2
    SUPER_UDP = 1 << 3
    FRAG = 1 << 4
    LANES = 1 << 5


SUPER_FEATURES = Feature.SUPER_TCP4 | Feature.SUPER_TCP6 | Feature.SUPER_UDP


class Operation(IntEnum):
    """The first byte of the plaintext of CTRL."""

    EMPTY = 0
    PING = 1
    PONG = 2
    CLOSE = 3


# --- Keys and their text form ----------------------------------------------------------------------------------------

PRIVATE_KEY = "st1sk:"
PUBLIC_KEY = "st1pk:"
SHARED_SECRET = "st1psk:"


def key_to_text(prefix: str, key: bytes) -> str:
    check = blake2s(prefix.encode() + key).digest()[:4]
    return prefix + base64.urlsafe_b64encode(key + check).decode()


def key_from_text(prefix: str, text: str) -> bytes:
    """The 32 bytes of a key. Raises `ValueError` that says what is wrong, without the key."""
    if not text.startswith(prefix):
        raise ValueError(f"a key of the form {prefix}… is wanted here")
    encoded = text[len(prefix):]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    if len(encoded) != 48 or any(character not in alphabet for character in encoded):
        raise ValueError(f"48 characters of URL-safe base64 have to follow {prefix}")
    decoded = base64.urlsafe_b64decode(encoded)
    key, check = decoded[:KEY_LENGTH], decoded[KEY_LENGTH:]
    if blake2s(prefix.encode() + key).digest()[:4] != check:
        raise ValueError("the check of the key does not match: a character is wrong")
    return key


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def diffie_hellman(private: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Refused("zero-diffie-hellman") from error


@dataclass(frozen=True)
class KeyPairs:
    """What an end holds with suite 1."""

    private: bytes
    peer_public: bytes
    psk: bytes = NO_PSK

    suite = Suite.KEY_PAIRS

    def mac1_key(self, own_role: Role, receiver: Role) -> bytes:
        shared = diffie_hellman(self.private, self.peer_public)
        receivers_public = public_key(self.private) if receiver is own_role else self.peer_public
        return blake2s(MAC1_LABEL + shared + self.psk + receivers_public + bytes([receiver])).digest()


@dataclass(frozen=True)
class SharedSecret:
    """What an end holds with suite 2."""

    secret: bytes

    suite = Suite.SHARED_SECRET

    def mac1_key(self, own_role: Role, receiver: Role) -> bytes:
        del own_role
        return blake2s(MAC1_LABEL + self.secret + bytes([receiver])).digest()


Credential = Union[KeyPairs, SharedSecret]


def mac1(key: bytes, message: bytes) -> bytes:
    """The code behind `message`, which is everything in front of it."""
    return blake2s(message, digest_size=MAC1_LENGTH, key=key).digest()


def mac1_is_right(key: bytes, whole: bytes) -> bool:
    return hmac.compare_digest(mac1(key, whole[:-MAC1_LENGTH]), whole[-MAC1_LENGTH:])


# --- The payloads of the handshake -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timestamp:
    seconds: int
    nanoseconds: int = 0

    def encode(self) -> bytes:
        return struct.pack(">QI", self.seconds, self.nanoseconds)

    @classmethod
    def decode(cls, data: bytes) -> Timestamp:
        return cls(*struct.unpack(">QI", data))

    def __lt__(self, other: Timestamp) -> bool:
        return (self.seconds, self.nanoseconds) < (other.seconds, other.nanoseconds)

    def next(self) -> Timestamp:
        if self.nanoseconds < 999_999_999:
            return Timestamp(self.seconds, self.nanoseconds + 1)
        return Timestamp(self.seconds + 1)


@dataclass(frozen=True)
class P1:
    """The payload of INIT. The fields are plain numbers, because a test may want to send wrong ones."""

    timestamp: Timestamp
    kind: int
    mtu: int
    features: int
    instance: bytes
    down_after_ms: int
    lanes: int = 1
    tunnel_id: bytes = bytes(16)

    _FORM = struct.Struct(">12sBBHI16s16sI40x")

    def encode(self) -> bytes:
        return self._FORM.pack(self.timestamp.encode(), self.kind, self.lanes, self.mtu, self.features, self.instance,
                               self.tunnel_id, self.down_after_ms)

    @classmethod
    def decode(cls, data: bytes) -> P1:
        timestamp, kind, lanes, mtu, features, instance, tunnel_id, down_after_ms = cls._FORM.unpack(data)
        return cls(Timestamp.decode(timestamp), kind, mtu, features, instance, down_after_ms, lanes, tunnel_id)


@dataclass(frozen=True)
class P2:
    """The payload of RESP."""

    status: int
    aead: int
    kind: int
    mtu: int
    features: int
    instance: bytes
    greatest: Timestamp = Timestamp(0)
    lanes: int = 1

    _FORM = struct.Struct(">BBBBH2xI16s12s24x")

    def encode(self) -> bytes:
        return self._FORM.pack(self.status, self.aead, self.kind, self.lanes, self.mtu, self.features, self.instance,
                               self.greatest.encode())

    @classmethod
    def decode(cls, data: bytes) -> P2:
        status, aead, kind, lanes, mtu, features, instance, greatest = cls._FORM.unpack(data)
        return cls(status, aead, kind, mtu, features, instance, Timestamp.decode(greatest), lanes)


# --- The handshake ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawKeys:
    """What Noise's Split() yields."""

    initiator_to_responder: bytes
    responder_to_initiator: bytes
    handshake_hash: bytes


def prologue(suite: Suite, initiator: Role) -> bytes:
    return PROLOGUE + bytes([suite, initiator])


def _noise(credential: Credential, initiator: Role, ephemeral: bytes | None) -> NoiseConnection:
    noise = NoiseConnection.from_name(credential.suite.noise_name)
    noise.set_prologue(prologue(credential.suite, initiator))
    if isinstance(credential, KeyPairs):
        noise.set_psks(psks=[credential.psk])
        noise.set_keypair_from_private_bytes(Keypair.STATIC, credential.private)
    else:
        noise.set_psks(psks=[credential.secret])
    if ephemeral is not None:
        noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    return noise


@dataclass(frozen=True)
class Offer:
    """An INIT as its sender remembers it: all that went into it, so that every RESP is read by a state of its own and
    a wrong one spoils nothing."""

    credential: Credential
    role: Role
    index: int
    ephemeral: bytes
    payload: bytes

    def _first(self) -> tuple[NoiseConnection, bytes]:
        noise = _noise(self.credential, self.role, self.ephemeral)
        noise.set_as_initiator()
        if isinstance(self.credential, KeyPairs):
            noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.credential.peer_public)
        noise.start_handshake()
        try:
            return noise, bytes(noise.write_message(self.payload))
        except ValueError as error:
            raise Refused("zero-diffie-hellman") from error

    def message(self) -> bytes:
        """INIT, whole."""
        head = struct.pack(">BBBBI", Type.INIT, VERSION, self.credential.suite, 0, self.index)
        body = head + self._first()[1]
        return body + mac1(self.credential.mac1_key(self.role, self.role.other), body)

    def read_answer(self, message: bytes) -> tuple[int, P2, RawKeys]:
        """RESP: the responder's index, P2 and the keys, whatever the status says."""
        check_resp_form(message, self.credential.suite)
        sender, receiver = struct.unpack(">II", message[4:12])
        if receiver != self.index:
            raise Refused("resp-index")
        if not mac1_is_right(self.credential.mac1_key(self.role, self.role), message):
            raise Refused("resp-mac1")
        noise, _ = self._first()
        # The library forgets the state of the handshake when it is done, but the keys stay.
        try:
            payload = bytes(noise.read_message(message[12:-MAC1_LENGTH]))
        except (InvalidTag, ValueError) as error:
            raise Refused("resp-noise") from error
        protocol = noise.noise_protocol
        keys = RawKeys(protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k, noise.get_handshake_hash())
        return sender, P2.decode(payload), keys


def resp_receiver_index(message: bytes) -> int:
    return struct.unpack(">I", message[8:12])[0]


def check_resp_form(message: bytes, suite: Suite) -> None:
    if len(message) != RESP_LENGTH:
        raise Refused("resp-length")
    if message[1] != VERSION or message[2] != suite:
        raise Refused("resp-version")


def check_init_form(message: bytes, suite: Suite) -> None:
    if len(message) != suite.init_length:
        raise Refused("init-length")
    if message[1] != VERSION or message[2] != suite:
        raise Refused("init-version")


def find_credential(message: bytes, credentials: Sequence[Credential], own_role: Role) -> Credential:
    """The one that mac1 of an INIT was made with."""
    found = [credential for credential in credentials
             if mac1_is_right(credential.mac1_key(own_role, own_role), message)]
    if not found:
        raise Refused("init-mac1")
    return found[0]


@dataclass
class Received:
    """An INIT that was read and can be answered once."""

    credential: Credential
    own_role: Role
    peer_index: int
    payload: P1
    _noise: NoiseConnection

    @classmethod
    def read(cls, message: bytes, credential: Credential, own_role: Role,
             ephemeral: bytes | None = None) -> Received:
        """`ephemeral` is the key that RESP is going to be made with; a random one if it is not given."""
        noise = _noise(credential, own_role.other, ephemeral)
        noise.set_as_responder()
        noise.start_handshake()
        try:
            payload = bytes(noise.read_message(message[8:-MAC1_LENGTH]))
        except (InvalidTag, ValueError) as error:
            raise Refused("init-noise") from error
        if isinstance(credential, KeyPairs):
            sender = noise.noise_protocol.handshake_state.rs.public_bytes
            if not hmac.compare_digest(sender, credential.peer_public):
                raise Refused("init-static-key")
        (index,) = struct.unpack(">I", message[4:8])
        return cls(credential, own_role, index, P1.decode(payload), noise)

    def answer(self, own_index: int, payload: P2) -> tuple[bytes, RawKeys]:
        """RESP, whole, and the keys."""
        try:
            second = bytes(self._noise.write_message(payload.encode()))
        except ValueError as error:
            raise Refused("zero-diffie-hellman") from error
        head = struct.pack(">BBBBII", Type.RESP, VERSION, self.credential.suite, 0, own_index, self.peer_index)
        body = head + second
        message = body + mac1(self.credential.mac1_key(self.own_role, self.own_role.other), body)
        protocol = self._noise.noise_protocol
        keys = RawKeys(protocol.cipher_state_decrypt.k, protocol.cipher_state_encrypt.k,
                       self._noise.get_handshake_hash())
        return message, keys


# --- What follows the handshake --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The clear header of DATA, SUPER, CTRL and FRAG, which is their additional data."""

    type: int
    lane: int
    receiver_index: int
    counter: int

    _FORM = struct.Struct(">BBHIQ")

    def encode(self) -> bytes:
        return self._FORM.pack(self.type, self.lane, 0, self.receiver_index, self.counter)

    @classmethod
    def decode(cls, message: bytes) -> Header:
        if len(message) < HEADER_LENGTH + TAG_LENGTH:
            raise Refused("too-short")
        first, lane, _, receiver_index, counter = cls._FORM.unpack(message[:HEADER_LENGTH])
        return cls(first, lane, receiver_index, counter)


class DirectionKeys:
    """Seals or opens what goes in one direction of a session."""

    def __init__(self, noise_key: bytes, aead: Aead) -> None:
        suffix = bytes([aead])
        self.key = blake2s(KEY_LABEL + suffix, key=noise_key).digest()
        self.iv = blake2s(IV_LABEL + suffix, digest_size=12, key=noise_key).digest()
        self._cipher = AESGCM(self.key) if aead is Aead.AES_256_GCM else ChaCha20Poly1305(self.key)

    def _nonce(self, header: Header) -> bytes:
        number = struct.pack(">3xBQ", header.lane, header.counter)
        return bytes(left ^ right for left, right in zip(self.iv, number))

    def seal(self, header: Header, plaintext: bytes) -> bytes:
        clear = header.encode()
        return clear + self._cipher.encrypt(self._nonce(header), plaintext, clear)

    def open(self, message: bytes) -> bytes:
        header = Header.decode(message)
        try:
            return self._cipher.decrypt(self._nonce(header), message[HEADER_LENGTH:], message[:HEADER_LENGTH])
        except InvalidTag as error:
            raise Refused("aead") from error


class ReplayWindow:
    """Which counters were accepted among the last `WINDOW`."""

    def __init__(self) -> None:
        self.greatest = -1
        # Bit n stands for the counter `greatest - n`.
        self._seen = 0

    def check(self, counter: int) -> None:
        behind = self.greatest - counter
        if behind >= WINDOW:
            raise Refused("replay-old")
        if behind >= 0 and self._seen >> behind & 1:
            raise Refused("replay")

    def accept(self, counter: int) -> None:
        ahead = counter - self.greatest
        if ahead <= 0:
            self._seen |= 1 << -ahead
            return
        self.greatest = counter
        # A leap past the whole window leaves nothing of it; shifting by it would only cost memory.
        self._seen = 1 if ahead >= WINDOW else (self._seen << ahead | 1) & ((1 << WINDOW) - 1)


# --- Control operations ----------------------------------------------------------------------------------------------

PING_LENGTH = 11


def empty() -> bytes:
    return bytes([Operation.EMPTY])


def ping(token: int, length: int = PING_LENGTH) -> bytes:
    """`length` is that of the plaintext; less than 11 makes one that is to be ignored."""
    return struct.pack(">BQ", Operation.PING, token).ljust(length, b"\0")[:length]


def pong(plaintext_of_ping: bytes) -> bytes:
    return bytes([Operation.PONG]) + plaintext_of_ping[1:9] + struct.pack(">H", len(plaintext_of_ping))


def close(reason: int) -> bytes:
    return bytes([Operation.CLOSE, reason])

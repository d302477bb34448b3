#!/usr/bin/env python3
"""Writes `tests/vectors/secure.json`: every byte of secure links from fixed inputs.

    make_vectors.py [FILE]      ("-" is the standard output)

The file is what implementations are checked against. It is the same in every run; `test_secure.py` compares it with
what this program makes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import blake2s
from pathlib import Path
from typing import Any

import superpacket
from securelink import (NO_PSK, PRIVATE_KEY, PUBLIC_KEY, SHARED_SECRET, Aead, Credential, DirectionKeys, Feature,
                        Header, KeyPairs, Kind, Offer, P1, P2, Received, Role, SharedSecret, Status, Suite, Timestamp,
                        Type, close, empty, key_to_text, mac1, ping, pong, prologue, public_key)
from secure_end import describe_p1, describe_p2

FILE = Path(__file__).resolve().parent.parent / "vectors" / "secure.json"

ABOUT = [
    "Golden vectors of simpletun's secure links (docs/PROTOCOL.md), made by tests/peer/make_vectors.py, which is a "
    "second implementation. Byte strings are hex, other numbers are decimal. Counters may be greater than 2^32.",
    "key_texts: keys (hex) and their text form, with the prefix that belongs to what they are. refused_key_texts: "
    "texts that are no key of that prefix, and why.",
    "cases: one for each suite (1 without a pre-shared key, 1 with one, 2), each role of the Noise initiator and each "
    "AEAD. What stands in a case:",
    "suite, aead: the numbers on the wire. prologue: that of the Noise handshake. noise_protocol: its name.",
    "pre_shared_key (suite 1; null: none, which means 32 zero bytes) or secret (suite 2): what both ends hold.",
    "initiator, responder: role is 1 connect, 2 listen. private_key and public_key are the static ones (suite 1). "
    "ephemeral_private is the private ephemeral key as given to X25519, ephemeral_public what is sent of it. index is "
    "the sender index that this end has chosen. payload is P1 of the initiator or P2 of the responder, whole; fields "
    "are its fields. mac1_key is K of messages that this end receives; mac1_key_input is what K is the hash of.",
    "init, resp: the whole messages, with mac1. noise_message_1 and noise_message_2 are parts of them. "
    "static_diffie_hellman (suite 1) is the DH inside K. handshake_hash is Noise's h at the end.",
    "refusals: for each other status the RESP that this responder would send to the same INIT with the same index and "
    "ephemeral key, with its P2. They are alternatives: each goes with a handshake state of its own.",
    "initiator_to_responder, responder_to_initiator: one direction of the session. noise_key is k1 or k2 of Split(), "
    "key and iv are made of it; messages are sealed with them. Of a message: type is its first byte, what says what "
    "it is, header is the clear header (also the additional data), nonce the AEAD's, plaintext what is inside, message "
    "the whole of it.",
    "super.plaintext is a virtio header and a super-packet; packets are what it stands for, each with complete "
    "checksums, in order. The two messages of type 247 are the parts of one IPv4 packet.",
]

RESPONDER_MTU = 1420
COUNTER_FAR = (1 << 40) + 7


def fixed(name: str, length: int = 32) -> bytes:
    """Bytes that stand for random ones, different for each name."""
    return blake2s(b"simpletun test vector " + name.encode(), digest_size=length).digest()


def index_of(name: str) -> int:
    return int.from_bytes(fixed(name, 4), "big")


def ipv4_packet(payload: bytes, protocol: int = 253) -> bytes:
    header = bytearray.fromhex("45000000123400004000000" "0c0a80001c0a80002")
    header[2:4] = (20 + len(payload)).to_bytes(2, "big")
    header[9] = protocol
    header[10:12] = superpacket.checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + payload


def tcp_super_packet() -> superpacket.SuperPacket:
    """Three segments of TCP over IPv4, the last one shorter; the checksum's place holds that of the pseudo-header."""
    tcp = bytearray.fromhex("1f90c001" "00010000" "00020000" "5018" "0400" "0000" "0000")
    payload = bytes(number % 251 for number in range(250))
    packet = bytearray(ipv4_packet(bytes(tcp) + payload, superpacket.TCP))
    pseudo = bytes(packet[12:20]) + (len(packet) - 20).to_bytes(4, "big") + superpacket.TCP.to_bytes(4, "big")
    packet[36:38] = (~superpacket.checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    return superpacket.SuperPacket(superpacket.NEEDS_CSUM, superpacket.TCPV4, 40, 100, 20, 16, bytes(packet))


def frame(packet: bytes) -> bytes:
    """An Ethernet frame around an IPv4 packet."""
    return bytes.fromhex("02000000000202000000000108" "00") + packet


def sealed(keys: DirectionKeys, receiver_index: int) -> list[dict[str, Any]]:
    token = 0x0102030405060708
    the_ping = ping(token, 64)
    super_packet = tcp_super_packet().encode()
    long_packet = ipv4_packet(bytes(number % 251 for number in range(281)))
    number, total = index_of("number of a packet in parts").to_bytes(4, "big"), len(long_packet).to_bytes(2, "big")
    contents = [
        (0, Type.CTRL, "EMPTY", empty()),
        (1, Type.DATA, "a tun packet", ipv4_packet(b"hello, tunnel")),
        (2, Type.SUPER, "a super-packet", super_packet),
        (3, Type.CTRL, "PING with the shortest plaintext", ping(token)),
        (4, Type.CTRL, "PING with a plaintext of 64 bytes", the_ping),
        (5, Type.CTRL, "PONG for the PING of 64 bytes", pong(the_ping)),
        (6, Type.DATA, "a tap frame", frame(ipv4_packet(b"hello, bridge"))),
        (7, Type.DATA, "no bytes at all, which is no packet", b""),
        (8, Type.CTRL, "an unknown operation", bytes([200, 1, 2, 3])),
        (16_390, Type.DATA, "a counter far enough ahead to leave the window behind", ipv4_packet(b"far")),
        (16_391, Type.FRAG, "the first part of a packet", number + bytes(2) + total + long_packet[:151]),
        (16_392, Type.FRAG, "its second part", number + (151).to_bytes(2, "big") + total + long_packet[151:]),
        (COUNTER_FAR, Type.DATA, "a counter of more than 32 bits", ipv4_packet(bytes(100))),
        (COUNTER_FAR + 1, Type.CTRL, "CLOSE: this end stops", close(0)),
        (COUNTER_FAR + 2, Type.CTRL, "CLOSE: this end begins anew", close(1)),
    ]
    messages = []
    for counter, message_type, what, plaintext in contents:
        header = Header(message_type, 0, receiver_index, counter)
        nonce = bytes(left ^ right for left, right in zip(keys.iv, bytes(4) + counter.to_bytes(8, "big")))
        messages.append({
            "what": what, "type": int(message_type), "lane": 0, "receiver_index": receiver_index, "counter": counter,
            "header": header.encode().hex(), "nonce": nonce.hex(), "plaintext": plaintext.hex(),
            "message": keys.seal(header, plaintext).hex(),
        })
    return messages


def ends(suite: Suite, psk: bytes) -> tuple[Credential, Credential, dict[str, Any], dict[str, Any]]:
    """What the initiator and the responder hold, and how the file names it."""
    if suite is Suite.SHARED_SECRET:
        return SharedSecret(psk), SharedSecret(psk), {}, {}
    first, second = fixed("static key of the initiator"), fixed("static key of the responder")
    names = [{"private_key": key.hex(), "public_key": public_key(key).hex()} for key in (first, second)]
    return KeyPairs(first, public_key(second), psk), KeyPairs(second, public_key(first), psk), names[0], names[1]


def mac1_input(credential: Credential, own_role: Role, receiver: Role) -> bytes:
    """What K is the hash of, put together once more from the document."""
    label = b"simpletun/1 mac1"
    if isinstance(credential, SharedSecret):
        return label + credential.secret + bytes([receiver])
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    shared = X25519PrivateKey.from_private_bytes(credential.private).exchange(
        X25519PublicKey.from_public_bytes(credential.peer_public))
    public = public_key(credential.private) if receiver is own_role else credential.peer_public
    return label + shared + credential.psk + public + bytes([receiver])


def make_case(suite: Suite, psk: bytes | None, role: Role, aead: Aead) -> dict[str, Any]:
    name = {Suite.KEY_PAIRS: "key pairs", Suite.SHARED_SECRET: "shared secret"}[suite]
    if suite is Suite.KEY_PAIRS:
        name += " with a pre-shared key" if psk else ""
    name += f", the {role.name.lower()}ing end begins, {aead.name}"
    holds, other_holds, keys_of_initiator, keys_of_responder = ends(suite, psk or NO_PSK)
    features = Feature.SUPER_TCP4 | Feature.SUPER_TCP6 | Feature.SUPER_UDP
    if aead is Aead.AES_256_GCM:
        features |= Feature.AES

    first = P1(Timestamp(1_800_000_000, 123_456_789), Kind.TUN, 1440, int(features), fixed("instance 1", 16), 10_000)
    offer = Offer(holds, role, index_of(name + " initiator"), fixed(name + " ephemeral 1"), first.encode())
    init = offer.message()
    agreed = features & ~Feature.SUPER_UDP
    second = P2(Status.OK, aead, Kind.TUN, RESPONDER_MTU, int(agreed), fixed("instance 2", 16))
    responder_index = index_of(name + " responder")
    responder_ephemeral = fixed(name + " ephemeral 2")

    def answer(payload: P2) -> tuple[bytes, Any]:
        received = Received.read(init, other_holds, role.other, responder_ephemeral)
        assert received.payload == first
        response, keys = received.answer(responder_index, payload)
        index, read, same_keys = offer.read_answer(response)
        assert (index, read, same_keys) == (responder_index, payload, keys), "both ends agree"
        return response, keys

    response, keys = answer(second)
    refusals = []
    for status in (Status.STALE, Status.KIND, Status.FEATURE, Status.BUSY):
        payload = replace(second, status=status, features=0)
        if status is Status.STALE:
            payload = replace(payload, greatest=Timestamp(1_800_000_001, 5))
        refusals.append({"status": int(status), "payload": payload.encode().hex(), "fields": describe_p2(payload),
                         "resp": answer(payload)[0].hex()})

    def direction(noise_key: bytes, receiver_index: int) -> dict[str, Any]:
        made = DirectionKeys(noise_key, aead)
        return {"noise_key": noise_key.hex(), "key": made.key.hex(), "iv": made.iv.hex(),
                "messages": sealed(made, receiver_index)}

    def end(own_role: Role, own: dict[str, Any], index: int, ephemeral: bytes, payload: bytes,
            fields: dict[str, Any]) -> dict[str, Any]:
        text = mac1_input(holds, role, own_role)
        assert blake2s(text).digest() == holds.mac1_key(role, own_role) == other_holds.mac1_key(role.other, own_role)
        return {"role": int(own_role), **own, "index": index, "ephemeral_private": ephemeral.hex(),
                "ephemeral_public": public_key(ephemeral).hex(), "payload": payload.hex(), "fields": fields,
                "mac1_key_input": text.hex(), "mac1_key": blake2s(text).hexdigest()}

    secret: dict[str, Any] = {"secret": psk.hex()} if suite is Suite.SHARED_SECRET and psk else {
        "pre_shared_key": psk.hex() if psk else None,
        "static_diffie_hellman": mac1_input(holds, role, role)[16:48].hex(),
    }
    assert mac1(other_holds.mac1_key(role.other, role.other), init[:-16]) == init[-16:]
    return {
        "name": name, "suite": int(suite), "noise_protocol": suite.noise_name.decode(), "aead": int(aead),
        "prologue": prologue(suite, role).hex(), **secret,
        "initiator": end(role, keys_of_initiator, offer.index, offer.ephemeral, offer.payload, describe_p1(first)),
        "responder": end(role.other, keys_of_responder, responder_index, responder_ephemeral, second.encode(),
                         describe_p2(second)),
        "noise_message_1": init[8:-16].hex(), "init": init.hex(),
        "noise_message_2": response[12:-16].hex(), "resp": response.hex(),
        "handshake_hash": keys.handshake_hash.hex(),
        "refusals": refusals,
        "initiator_to_responder": direction(keys.initiator_to_responder, responder_index),
        "responder_to_initiator": direction(keys.responder_to_initiator, offer.index),
    }


def key_texts() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    texts = []
    for prefix, what in ((PRIVATE_KEY, "private"), (PUBLIC_KEY, "public"), (SHARED_SECRET, "secret")):
        for key in (fixed("text of a key"), b"\xff" * 32, bytes(range(32))):
            texts.append({"what": what, "prefix": prefix, "key": key.hex(), "text": key_to_text(prefix, key)})
    good = key_to_text(PUBLIC_KEY, b"\xff" * 32)
    refused = [
        ("", "empty"),
        (PUBLIC_KEY, "a prefix alone"),
        (good[:-1], "a character is missing"),
        (good + "A", "a character too many"),
        (good + "=", "padding"),
        (good[:20] + ("A" if good[20] != "A" else "B") + good[21:], "a character is another one"),
        (good.upper(), "upper case"),
        (good.replace("_", "/"), "the other alphabet of base64"),
        (key_to_text(PRIVATE_KEY, b"\xff" * 32), "another kind of key"),
        (PUBLIC_KEY + key_to_text(PRIVATE_KEY, b"\xff" * 32)[len(PRIVATE_KEY):], "the check of another kind of key"),
        (" " + good, "a space in front"),
        (good[:20] + " " + good[21:], "a space inside"),
    ]
    return texts, [{"prefix": PUBLIC_KEY, "text": text, "why": why} for text, why in refused]


def make() -> dict[str, Any]:
    secret = fixed("pre-shared key")
    texts, refused = key_texts()
    cases = [make_case(suite, psk, role, aead)
             for suite, psk in ((Suite.KEY_PAIRS, None), (Suite.KEY_PAIRS, secret), (Suite.SHARED_SECRET, secret))
             for role in Role for aead in Aead]
    super_packet = tcp_super_packet()
    return {
        "about": ABOUT, "key_texts": texts, "refused_key_texts": refused, "cases": cases,
        "super": {"plaintext": super_packet.encode().hex(),
                  "packets": [packet.hex() for packet in super_packet.split(tap=False)]},
    }


def text() -> str:
    return json.dumps(make(), indent=1) + "\n"


def main() -> None:
    target = sys.argv[1] if len(sys.argv) > 1 else str(FILE)
    if target == "-":
        sys.stdout.write(text())
    else:
        Path(target).write_text(text(), encoding="ascii")


if __name__ == "__main__":
    main()

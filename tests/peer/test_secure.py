#!/usr/bin/env python3
"""Tests of the second implementation of secure links against itself and against vectors, on loopback sockets.

    test_secure.py [-v] [Class.test]...     with the Python of the environment that requirements.txt describes
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any, Optional
from unittest import TestCase

import make_vectors
import superpacket
from noise.connection import Keypair, NoiseConnection
from secure_end import End, Settings
from securelink import (PRIVATE_KEY, PUBLIC_KEY, SHARED_SECRET, WINDOW, Aead, Credential, DirectionKeys, Header,
                        KeyPairs, Kind, Offer, Received, Refused, ReplayWindow, Role, SharedSecret, Suite, Type,
                        diffie_hellman, key_from_text, key_to_text, mac1_is_right, ping, public_key)

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors"
PATIENCE = 15.0
PACKETS = 200


def packet(number: int, size: int = 64) -> bytes:
    return make_vectors.ipv4_packet(number.to_bytes(4, "big") + bytes(size))


# --- The program, driven as tests of the daemon drive it -------------------------------------------------------------


class Driven:
    """`secure.py` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen([sys.executable, str(HERE / "secure.py"), *arguments], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._watchdog = threading.Timer(60, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()
        self.address: str = self._read()["address"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"secure.py ended with {self._process.wait()}")
        return json.loads(line)

    def begin(self, do: str, **parts: Any) -> None:
        """Sends a command, the answer of which is awaited later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **parts}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        answer = self._read()
        if not answer["ok"]:
            raise AssertionError(answer)
        return answer

    def do(self, do: str, **parts: Any) -> dict[str, Any]:
        self.begin(do, **parts)
        return self.answer()

    def refused(self, do: str, **parts: Any) -> dict[str, Any]:
        self.begin(do, **parts)
        answer = self._read()
        if answer["ok"]:
            raise AssertionError(f"{do} succeeded: {answer}")
        return answer

    def stop(self) -> int:
        """Closes the input, which ends the program."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(PATIENCE)
        self._process.stdout.close()
        self._watchdog.cancel()
        return code


class Pair:
    """Two programs that hold each other's keys; the listening one runs, the connecting one was not told to begin."""

    def __init__(self, case: TestCase, suite: Suite, transport: str, psk: bool = True,
                 listen: tuple[str, ...] = (), connect: tuple[str, ...] = (),
                 listen_secret: Optional[bytes] = None) -> None:
        directory = tempfile.TemporaryDirectory()
        case.addCleanup(directory.cleanup)
        self._directory = Path(directory.name)
        ours, theirs = bytes([1] * 32), bytes([2] * 32)
        secret = bytes(range(32))
        if suite is Suite.SHARED_SECRET:
            held = (self._secret("a", listen_secret or secret), self._secret("b", secret))
        else:
            held = (self._keys("a", ours, theirs, (listen_secret or secret) if psk else None),
                    self._keys("b", theirs, ours, secret if psk else None))
        self.listening = self._start(case, "listen", transport, "127.0.0.1:0", *held[0], *listen)
        self._transport, self._connect_arguments = transport, held[1]
        self.connecting = self._start(case, "connect", transport, self.listening.address, *held[1], *connect)

    def _file(self, name: str, prefix: str, key: bytes) -> str:
        path = self._directory / name
        path.write_text(key_to_text(prefix, key) + "\n", encoding="ascii")
        return str(path)

    def _secret(self, name: str, secret: bytes) -> list[str]:
        return ["--secret-file", self._file(name, SHARED_SECRET, secret)]

    def _keys(self, name: str, private: bytes, peer: bytes, psk: Optional[bytes]) -> list[str]:
        arguments = ["--private-key-file", self._file(name, PRIVATE_KEY, private),
                     "--peer-public-key", key_to_text(PUBLIC_KEY, public_key(peer))]
        if psk is not None:
            arguments += ["--psk-file", self._file(name + "psk", SHARED_SECRET, psk)]
        return arguments

    @staticmethod
    def _start(case: TestCase, role: str, transport: str, address: str, *more: str) -> Driven:
        driven = Driven("--role", role, "--transport", transport, "--address", address, *more)
        case.addCleanup(driven.stop)
        return driven

    def newcomer(self, case: TestCase) -> Driven:
        """Another connecting end with the same keys, whose handshake was answered and not confirmed."""
        newcomer = self._start(case, "connect", self._transport, self.listening.address, *self._connect_arguments,
                               "--timers", "no")
        newcomer.do("tamper", confirm=False)
        newcomer.do("handshake")
        return newcomer

    def link(self) -> None:
        self.connecting.do("handshake")
        self.listening.do("session")

    def carry(self, case: TestCase, count: int = PACKETS) -> None:
        """Packets both ways at once, all of which arrive, over UDP in any order."""
        sent = [packet(number).hex() for number in range(count)]
        both = (self.listening, self.connecting)
        for end in both:
            end.begin("send", packets=sent)
        for end in both:
            end.answer()
            end.begin("receive", count=count)
        for end in both:
            case.assertEqual(sorted(end.answer()["packets"]), sorted(sent))


EVERY_LINK = [(suite, psk, transport) for suite, psk in ((Suite.KEY_PAIRS, False), (Suite.KEY_PAIRS, True),
                                                         (Suite.SHARED_SECRET, True)) for transport in ("tcp", "udp")]


class Links(TestCase):
    def test_every_suite_aead_and_transport_carries_rekeys_pings_and_closes(self) -> None:
        for suite, psk, transport in EVERY_LINK:
            for hardware, aead in (("yes", Aead.AES_256_GCM), ("no", Aead.CHACHA20_POLY1305)):
                with self.subTest(suite=suite, psk=psk, transport=transport, aead=aead):
                    self._whole_life(Pair(self, suite, transport, psk, connect=("--aead-hardware", hardware)), aead)

    def _whole_life(self, pair: Pair, aead: Aead) -> None:
        session = pair.connecting.do("handshake")["session"]
        other = pair.listening.do("session")["session"]
        self.assertEqual(session["aead"], aead)
        self.assertEqual((session["own_index"], session["peer_index"]), (other["peer_index"], other["own_index"]))
        self.assertEqual((session["initiator"], other["initiator"]), (True, False))
        pair.carry(self)

        renewed = pair.connecting.do("rekey")["session"]
        self.assertNotEqual(renewed["own_index"], session["own_index"])
        pair.carry(self)
        # Then the other end is the initiator.
        renewed = pair.listening.do("rekey")["session"]
        self.assertEqual(renewed["initiator"], True)
        pair.carry(self)
        self.assertEqual(pair.connecting.do("status")["session"]["own_index"], renewed["peer_index"])

        self.assertEqual(pair.connecting.do("ping", length=64)["length"], 64)
        pair.listening.do("ping")
        pair.connecting.do("close", reason=1)
        self.assertEqual(pair.listening.do("await", event="close")["reason"], 1)
        self.assertIsNone(pair.listening.do("status")["session"])

    def test_the_listening_end_begins_over_udp_if_it_knows_where_the_peer_is(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "udp")
        beginner = Pair(self, Suite.SHARED_SECRET, "udp", listen=("--peer", self._own_address(pair.connecting)))
        session = beginner.listening.do("handshake")["session"]
        self.assertTrue(session["initiator"])
        self.assertEqual(pair.connecting.do("session")["session"]["own_index"], session["peer_index"])

    @staticmethod
    def _own_address(end: Driven) -> str:
        return end.address.replace("0.0.0.0", "127.0.0.1")

    def test_the_endpoint_follows_the_peer_over_udp(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "udp")
        pair.link()
        before = pair.listening.do("status")["endpoint"]
        pair.connecting.do("rebind")
        pair.connecting.do("ping")
        self.assertNotEqual(pair.listening.do("status")["endpoint"], before)
        pair.carry(self)

    def test_a_message_from_elsewhere_that_is_older_does_not_move_the_endpoint(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "udp", connect=("--timers", "no"), listen=("--timers", "no"))
        pair.link()
        held_back = pair.connecting.do("seal", type=int(Type.DATA), plaintext=packet(1).hex(), send=False)["message"]
        pair.connecting.do("ping")
        before = pair.listening.do("status")["endpoint"]
        pair.connecting.do("rebind")
        pair.connecting.do("raw", message=held_back)
        self.assertEqual(pair.listening.do("receive")["packets"], [packet(1).hex()])
        self.assertEqual(pair.listening.do("status")["endpoint"], before)

    def test_super_packets_arrive_as_their_packets(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "tcp")
        pair.link()
        whole = make_vectors.tcp_super_packet()
        pair.connecting.do("super", plaintext=whole.encode().hex())
        expected = [one.hex() for one in whole.split(tap=False)]
        self.assertEqual(pair.listening.do("receive", count=len(expected))["packets"], expected)
        pair.connecting.do("super", plaintext=whole.encode().replace(b"\x01\x01", b"\x00\x01", 1).hex())
        pair.connecting.do("ping")
        self.assertEqual(pair.listening.do("status")["dropped"], {"super-no-checksum": 1})

    def test_commands_that_are_wrong_are_answered_and_the_end_of_input_ends_the_program(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "tcp")
        self.assertIn("no such command", pair.listening.refused("dance")["error"])
        self.assertIn("TypeError", pair.listening.refused("send", parcel="")["error"])
        self.assertEqual(pair.listening.refused("send", packet="00")["error"], "no-session")
        self.assertEqual(pair.listening.stop(), 0)


class Hostility(TestCase):
    def pair(self, suite: Suite, transport: str) -> Pair:
        return Pair(self, suite, transport, listen=("--timers", "no"), connect=("--timers", "no"))

    def test_a_wrong_secret_draws_nothing(self) -> None:
        for suite, _, transport in EVERY_LINK[2:]:
            with self.subTest(suite=suite, transport=transport):
                pair = Pair(self, suite, transport, listen_secret=bytes(32), connect=("--timers", "no"))
                pair.connecting.do("init")
                self.assertEqual(pair.listening.do("await", event="dropped")["reason"], "init-mac1")
                pair.connecting.do("silence", seconds=0.3)
                if transport == "tcp":
                    pair.connecting.do("await", event="disconnected")
                self.assertNotIn("RESP", pair.listening.do("last")["sent"])

    def test_the_other_suite_draws_nothing(self) -> None:
        pair = Pair(self, Suite.SHARED_SECRET, "udp")
        other = Pair(self, Suite.KEY_PAIRS, "udp")
        other.connecting.do("init")
        pair.connecting.do("raw", message=other.connecting.do("last")["sent"]["INIT"])
        self.assertEqual(pair.listening.do("await", event="dropped")["reason"], "init-length")
        pair.connecting.do("silence", seconds=0.2)

    def test_a_reflected_init_is_nothing(self) -> None:
        for suite in Suite:
            pair = self.pair(suite, "udp")
            pair.connecting.do("init")
            pair.listening.do("await", event="init")
            init = bytes.fromhex(pair.connecting.do("last")["sent"]["INIT"])
            pair.connecting.do("session")
            pair.listening.do("session")
            pair.listening.do("raw", message=init.hex())
            self.assertEqual(pair.connecting.do("await", event="dropped")["reason"], "init-mac1")

    def test_messages_of_a_session_that_were_changed_or_sent_before_are_refused(self) -> None:
        for suite in Suite:
            for transport in ("tcp", "udp"):
                for aead in ("yes", "no"):
                    with self.subTest(suite=suite, transport=transport, aead=aead):
                        self._refusals(suite, transport, aead)

    def _refusals(self, suite: Suite, transport: str, hardware: str) -> None:
        off = ("--timers", "no", "--aead-hardware", hardware)
        pair = Pair(self, suite, transport, listen=off, connect=off)

        def expect(reason: str, message: bytes) -> None:
            pair.connecting.do("raw", message=message.hex())
            self.assertEqual(pair.listening.do("await", event="dropped")["reason"], reason)
            if transport == "tcp":
                pair.connecting.do("await", event="disconnected")
                self.assertIsNone(pair.listening.do("status")["session"])

        def message(**header: int) -> bytes:
            """A message that was not sent, of a session that is there."""
            if pair.connecting.do("status")["session"] is None:
                pair.connecting.do("handshake")
                pair.listening.do("await", event="empty")
            content = {"type": int(Type.DATA), "plaintext": packet(9).hex(), "send": False, **header}
            return bytes.fromhex(pair.connecting.do("seal", **content)["message"])

        for bit in (0, 8, 16, 40, 127, 128, 300, -1):
            whole = bytearray(message())
            whole[bit // 8] ^= 1 << bit % 8
            reason = {0: "aead", 8: "lane", 16: "aead", 40: "index"}.get(bit, "aead")
            if bit == 0:
                # DATA becomes SUPER: a type that exists, under a header that was not sealed.
                self.assertEqual(whole[0], Type.SUPER)
            expect(reason, bytes(whole))
        expect("too-short", message()[:31])
        expect("aead", message()[:-1])
        expect("aead", message() + b"\0")
        expect("lane", message(lane=1))
        expect("index", message(receiver_index=1))
        expect("unknown-type", b"\xf8" + message()[1:])
        expect("unknown-type", message()[:0])

        good = message()
        pair.connecting.do("raw", message=good.hex())
        self.assertEqual(pair.listening.do("receive")["packets"], [packet(9).hex()])
        expect("replay", good)
        old = message()
        far = message(counter=1 << 40)
        for one in (old, far):
            if one is far:
                pair.connecting.do("raw", message=one.hex())
        self.assertEqual(pair.listening.do("receive")["packets"], [packet(9).hex()])
        expect("replay-old", old)

    def test_handshakes_that_were_changed_or_sent_before_draw_nothing(self) -> None:
        for suite in Suite:
            with self.subTest(suite=suite):
                pair = self.pair(suite, "udp")
                pair.link()
                init = bytes.fromhex(pair.connecting.do("last")["sent"]["INIT"])
                resp = bytes.fromhex(pair.connecting.do("last")["received"]["RESP"])
                changed = bytearray(init)
                changed[50] ^= 1
                for reason, message in (("init-replay", init), ("init-mac1", bytes(changed)),
                                        ("init-length", init[:-1]), ("init-length", init + b"\0"),
                                        ("init-version", init[:1] + b"\x02" + init[2:])):
                    pair.connecting.do("raw", message=message.hex())
                    self.assertEqual(pair.listening.do("await", event="dropped")["reason"], reason)
                pair.connecting.do("silence", seconds=0.2)

                for reason, message in (("resp-length", resp[:-1]), ("resp-index", resp[:60] + bytes(80))):
                    pair.listening.do("raw", message=message.hex())
                    self.assertEqual(pair.connecting.do("await", event="dropped")["reason"], reason)
                # Whole and late: nothing to complain about, and nothing that changes anything.
                pair.listening.do("raw", message=resp.hex())
                pair.carry(self, 5)
                self.assertEqual(pair.connecting.do("status")["dropped"]["resp-late"], 1)

    def test_an_older_timestamp_is_answered_and_the_next_one_is_taken(self) -> None:
        for transport in ("tcp", "udp"):
            pair = self.pair(Suite.KEY_PAIRS, transport)
            pair.link()
            pair.connecting.do("tamper", timestamp={"seconds": 1, "nanoseconds": 0})
            pair.connecting.do("init")
            refusal = pair.connecting.do("await", event="resp")["payload"]
            while refusal["status"] == 0:
                refusal = pair.connecting.do("await", event="resp")["payload"]
            self.assertEqual(refusal["status"], 1)
            self.assertGreater(refusal["greatest_seconds"], 1_600_000_000)
            pair.connecting.do("tamper", timestamp=None)
            pair.connecting.do("rekey")
            pair.carry(self, 5)

    def test_an_end_whose_clock_was_set_back_goes_by_the_answer(self) -> None:
        pair = self.pair(Suite.SHARED_SECRET, "udp")
        pair.connecting.do("tamper", timestamp_offset=1000)
        pair.link()
        pair.connecting.do("tamper", timestamp_offset=0)
        pair.connecting.do("rekey")
        resps = [pair.connecting.do("await", event="resp")["payload"]["status"] for _ in range(3)]
        self.assertEqual(resps, [0, 1, 0])

    def test_what_does_not_fit_is_refused_with_its_status(self) -> None:
        for status, tamper in ((2, {"kind": 2}), (2, {"kind": 77}), (3, {"tunnel_id": "00" * 15 + "01"})):
            pair = self.pair(Suite.SHARED_SECRET, "tcp")
            pair.connecting.do("tamper", p1=tamper)
            self.assertEqual(pair.connecting.refused("handshake")["status"], status)
            pair.connecting.do("tamper", p1={})
            pair.link()

    def test_a_demanded_aead_that_the_other_end_has_not_is_refused(self) -> None:
        for aead, hardware in (("aes", "no"),):
            pair = Pair(self, Suite.KEY_PAIRS, "udp", listen=("--aead", aead),
                        connect=("--aead-hardware", hardware))
            self.assertEqual(pair.connecting.refused("handshake")["status"], 3)
            pair = Pair(self, Suite.KEY_PAIRS, "udp", connect=("--aead", aead),
                        listen=("--aead-hardware", hardware))
            self.assertEqual(pair.connecting.refused("handshake")["error"], "refused")
        pair = Pair(self, Suite.KEY_PAIRS, "udp", listen=("--aead", "chacha"))
        self.assertEqual(pair.connecting.do("handshake")["session"]["aead"], Aead.CHACHA20_POLY1305)

    def test_a_ping_that_is_too_short_and_unknown_operations_are_ignored(self) -> None:
        pair = self.pair(Suite.SHARED_SECRET, "tcp")
        pair.link()
        for plaintext in (ping(5, 10), b"\x04\x01", b"", b"\xff", b"\x03"):
            pair.connecting.do("seal", type=int(Type.CTRL), plaintext=plaintext.hex())
        pair.connecting.do("silence", seconds=0.2)
        pair.carry(self, 3)
        self.assertEqual(pair.listening.do("status")["dropped"], {"control-ignored": 5})

    def test_a_session_belongs_to_its_connection(self) -> None:
        pair = self.pair(Suite.SHARED_SECRET, "tcp")
        pair.link()
        stray = pair.connecting.do("seal", type=int(Type.DATA), plaintext=packet(1).hex(), send=False)["message"]
        newcomer = pair.newcomer(self)
        newcomer.do("raw", message=stray)
        self.assertEqual(pair.listening.do("await", event="dropped")["reason"], "path")
        newcomer.do("await", event="disconnected")
        pair.carry(self, 3)

    def test_a_connection_replaces_the_one_before_it_when_its_handshake_is_confirmed(self) -> None:
        pair = self.pair(Suite.SHARED_SECRET, "tcp")
        pair.link()
        newcomer = pair.newcomer(self)
        pair.carry(self, 3)
        newcomer.do("send", packet=packet(7).hex())
        self.assertEqual(pair.listening.do("receive")["packets"], [packet(7).hex()])
        pair.connecting.do("await", event="disconnected")
        pair.listening.do("ping")

    def test_a_connection_reads_nothing_but_an_init_before_the_handshake(self) -> None:
        pair = self.pair(Suite.KEY_PAIRS, "tcp")
        pair.connecting.do("raw", message="ffff", framing=False)
        self.assertEqual(pair.listening.do("await", event="disconnected")["reason"], "frame-length")


# --- The state machine with a clock of its own -----------------------------------------------------------------------


class Virtual:
    """Two ends whose messages are handed over by hand."""

    def __init__(self, reliable: bool = False, timers: bool = True) -> None:
        self.now = 1000.0
        self.ends = {}
        for role in Role:
            settings = Settings(role, [SharedSecret(bytes(32))], Kind.TUN, reliable)
            self.ends[role] = End(settings, 1_800_000_000.0, self.now, timers)
        self.connect, self.listen = self.ends[Role.CONNECT], self.ends[Role.LISTEN]

    def agree(self, case: TestCase) -> None:
        """The connecting end has begun the session that both ends have."""
        ours, theirs = self.connect.current, self.listen.current
        if ours is None or theirs is None:
            raise AssertionError("there is no session")
        case.assertEqual((ours.initiator, ours.own_index), (True, theirs.peer_index))

    def deliver(self) -> int:
        """Hands over everything until there is nothing left; how many messages that were."""
        count = 0
        while self.connect.outbox or self.listen.outbox:
            for end, other, source in ((self.connect, self.listen, ("c", 1)), (self.listen, self.connect, ("l", 1))):
                while end.outbox:
                    _, message = end.outbox.popleft()
                    other.receive(message, source, self.now)
                    count += 1
        return count

    def run(self, seconds: float, deliver: bool = True) -> int:
        """Lets time pass, from deadline to deadline."""
        end_of_run, count = self.now + seconds, 0
        while True:
            for end in self.ends.values():
                end.tick(self.now)
            count += self.deliver() if deliver else 0
            times = [end.deadline(self.now) for end in self.ends.values()]
            following = min((time for time in times if time is not None), default=end_of_run)
            if following >= end_of_run:
                self.now = end_of_run
                return count
            self.now = max(following, self.now + 0.001)


class Timers(TestCase):
    def setUp(self) -> None:
        self.link = Virtual()
        self.link.connect.begin_handshake(("l", 1), self.link.now)
        self.link.deliver()

    def test_idle_ends_ping_each_other_every_three_seconds_and_no_more(self) -> None:
        count = self.link.run(60)
        self.assertIsNotNone(self.link.connect.current)
        self.assertGreater(count, 2 * 15)
        self.assertLess(count, 2 * 45)

    def test_a_link_is_rekeyed_by_its_initiator_after_two_minutes(self) -> None:
        before = self.link.connect.current
        self.link.run(119)
        self.assertIs(self.link.connect.current, before)
        self.link.run(3)
        self.assertIsNot(self.link.connect.current, before)
        self.link.agree(self)

    def test_silence_brings_a_ping_then_a_handshake_then_the_end(self) -> None:
        self.link.connect.send_packet(packet(1), self.link.now)
        self.link.connect.outbox.clear()
        self.link.run(0.35, deliver=False)
        self.assertEqual([message[0] for _, message in self.link.connect.outbox], [Type.CTRL])
        self.link.run(0.35, deliver=False)
        self.assertIn(Type.INIT, [message[0] for _, message in self.link.connect.outbox])
        self.link.run(10, deliver=False)
        self.assertIsNone(self.link.connect.current)

    def test_when_both_begin_the_connecting_end_wins(self) -> None:
        self.link.connect.begin_handshake(("l", 1), self.link.now)
        self.link.listen.begin_handshake(("c", 1), self.link.now)
        self.link.deliver()
        self.link.agree(self)
        self.assertIsNone(self.link.listen.attempt)
        self.link.connect.send_packet(packet(1), self.link.now)
        self.link.listen.send_packet(packet(2), self.link.now)
        self.link.deliver()
        self.assertEqual(list(self.link.listen.packets), [packet(1)])
        self.assertEqual(list(self.link.connect.packets), [packet(2)])

    def test_an_unconfirmed_handshake_changes_nothing_for_the_responder(self) -> None:
        before = self.link.listen.current
        self.link.connect.begin_handshake(("l", 1), self.link.now)
        _, init = self.link.connect.outbox.popleft()
        self.link.listen.receive(init, ("c", 2), self.link.now)
        self.assertIs(self.link.listen.current, before)
        self.assertEqual(self.link.listen.endpoint, ("c", 1))
        self.link.listen.outbox.clear()
        self.link.listen.send_packet(packet(1), self.link.now)
        self.link.deliver()
        self.assertEqual(list(self.link.connect.packets), [packet(1)])

    def test_one_of_the_last_three_inits_may_be_answered_and_an_older_one_not(self) -> None:
        self.link.connect.begin_handshake(("l", 1), self.link.now)
        self.link.run(3, deliver=False)
        inits = [message for _, message in self.link.connect.outbox if message[0] == Type.INIT]
        self.link.connect.outbox.clear()
        before = self.link.connect.current
        self.link.listen.receive(inits[-4], ("c", 1), self.link.now)
        self.link.deliver()
        self.assertIs(self.link.connect.current, before)
        self.assertEqual(self.link.connect.counts["resp-late"], 1)
        self.link.listen.receive(inits[-3], ("c", 1), self.link.now)
        self.link.deliver()
        self.assertIsNot(self.link.connect.current, before)

    def test_a_credential_that_is_exchanged_is_found(self) -> None:
        link = Virtual()
        link.connect.settings.credentials = [SharedSecret(b"\1" * 32), SharedSecret(b"\2" * 32)]
        link.listen.settings.credentials = [SharedSecret(b"\2" * 32)]
        link.connect.begin_handshake(("l", 1), link.now)
        _, wrong = link.connect.outbox.popleft()
        with self.assertRaisesRegex(Refused, "init-mac1"):
            link.listen.receive(wrong, ("c", 1), link.now)
        link.run(1)
        self.assertIsNotNone(link.connect.current)
        self.assertEqual(link.connect.settings.credentials[0], SharedSecret(b"\2" * 32))

    def test_an_instance_that_was_replaced_is_busy(self) -> None:
        link = Virtual(timers=False)
        rival = End(Settings(Role.CONNECT, [SharedSecret(bytes(32))], Kind.TUN, False), 1_800_000_000.5, link.now)
        link.connect.begin_handshake(("l", 1), link.now)
        link.deliver()
        rival.begin_handshake(("l", 1), link.now)
        for _ in range(2):
            while rival.outbox:
                link.listen.receive(rival.outbox.popleft()[1], ("r", 1), link.now)
            while link.listen.outbox:
                rival.receive(link.listen.outbox.popleft()[1], ("l", 1), link.now)
        self.assertIsNotNone(rival.current)
        link.now += 1
        link.connect.begin_handshake(("l", 1), link.now)
        link.deliver()
        self.assertEqual(link.listen.counts["init-busy"], 1)


class Window(TestCase):
    def test_each_counter_is_taken_once_and_none_too_old(self) -> None:
        window = ReplayWindow()
        for counter in (0, 2, 1, 100, 100 + WINDOW - 1):
            window.check(counter)
            window.accept(counter)
        for counter in (100, 100 + WINDOW - 1):
            with self.assertRaisesRegex(Refused, "^replay$"):
                window.check(counter)
        window.check(101)
        for counter in (0, 99):
            with self.assertRaisesRegex(Refused, "replay-old"):
                window.check(counter)
        window.accept(1 << 60)
        window.check((1 << 60) - WINDOW + 1)
        with self.assertRaisesRegex(Refused, "replay-old"):
            window.check((1 << 60) - WINDOW)


# --- Vectors ---------------------------------------------------------------------------------------------------------


class Vectors(TestCase):
    golden: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        cls.golden = json.loads((VECTORS / "secure.json").read_text(encoding="ascii"))

    def test_the_file_is_what_the_program_makes(self) -> None:
        self.assertEqual((VECTORS / "secure.json").read_text(encoding="ascii"), make_vectors.text(),
                         "run tests/peer/make_vectors.py")

    def test_key_texts_hold(self) -> None:
        for one in self.golden["key_texts"]:
            self.assertEqual(key_to_text(one["prefix"], bytes.fromhex(one["key"])), one["text"])
            self.assertEqual(key_from_text(one["prefix"], one["text"]).hex(), one["key"])
        for one in self.golden["refused_key_texts"]:
            with self.assertRaises(ValueError, msg=one["why"]):
                key_from_text(one["prefix"], one["text"])

    def test_every_handshake_and_session_of_the_file_is_read_by_both_ends(self) -> None:
        self.assertEqual(len(self.golden["cases"]), 12)
        for case in self.golden["cases"]:
            with self.subTest(case["name"]):
                self._check(case)

    def _check(self, case: dict[str, Any]) -> None:
        def blob(text: str) -> bytes:
            return bytes.fromhex(text)

        first, second = case["initiator"], case["responder"]
        role = Role(first["role"])
        ours: Credential
        theirs: Credential
        if case["suite"] == 1:
            psk = blob(case["pre_shared_key"] or "00" * 32)
            ours = KeyPairs(blob(first["private_key"]), blob(second["public_key"]), psk)
            theirs = KeyPairs(blob(second["private_key"]), blob(first["public_key"]), psk)
            self.assertEqual(diffie_hellman(ours.private, ours.peer_public).hex(), case["static_diffie_hellman"])
        else:
            ours = theirs = SharedSecret(blob(case["secret"]))
        init, resp = blob(case["init"]), blob(case["resp"])
        self.assertTrue(mac1_is_right(blob(second["mac1_key"]), init))
        self.assertTrue(mac1_is_right(blob(first["mac1_key"]), resp))
        offer = Offer(ours, role, first["index"], blob(first["ephemeral_private"]), blob(first["payload"]))
        self.assertEqual(offer.message(), init)
        received = Received.read(init, theirs, role.other, blob(second["ephemeral_private"]))
        self.assertEqual((received.payload.encode().hex(), received.peer_index), (first["payload"], first["index"]))
        index, answer, keys = offer.read_answer(resp)
        self.assertEqual((answer.encode().hex(), index), (second["payload"], second["index"]))
        self.assertEqual(received.answer(index, answer), (resp, keys))
        for refusal in case["refusals"]:
            self.assertEqual(offer.read_answer(blob(refusal["resp"]))[1].status, refusal["status"])
        for name, noise_key in (("initiator_to_responder", keys.initiator_to_responder),
                                ("responder_to_initiator", keys.responder_to_initiator)):
            direction = case[name]
            made = DirectionKeys(noise_key, Aead(case["aead"]))
            self.assertEqual((noise_key.hex(), made.key.hex(), made.iv.hex()),
                             (direction["noise_key"], direction["key"], direction["iv"]))
            for message in direction["messages"]:
                self.assertEqual(made.open(blob(message["message"])).hex(), message["plaintext"])
                header = Header.decode(blob(message["message"]))
                self.assertEqual((header.type, header.counter, header.receiver_index),
                                 (message["type"], message["counter"], message["receiver_index"]))

    def test_the_super_packet_of_the_file_is_cut_as_it_says(self) -> None:
        whole = superpacket.SuperPacket.decode(bytes.fromhex(self.golden["super"]["plaintext"]))
        parts = whole.split(tap=False)
        self.assertEqual([part.hex() for part in parts], self.golden["super"]["packets"])
        self.assertEqual([len(part) for part in parts], [140, 140, 90])
        for part in parts:
            pseudo = part[12:20] + (len(part) - 20).to_bytes(4, "big") + b"\0\0\0\6"
            self.assertEqual((superpacket.checksum(part[:20]), superpacket.checksum(pseudo + part[20:])), (0, 0))
        self.assertEqual([part[33] for part in parts], [0x10, 0x10, 0x18])

    def test_the_noise_library_holds_to_published_vectors(self) -> None:
        vectors = json.loads((VECTORS / "noise.json").read_text(encoding="ascii"))["vectors"]
        self.assertEqual({one["protocol_name"].encode() for one in vectors}, {suite.noise_name for suite in Suite})
        for one in vectors:
            with self.subTest(one["protocol_name"]):
                ends = [self._noise(one, "init"), self._noise(one, "resp")]
                for number, message in enumerate(one["messages"]):
                    self._pass(ends[number % 2], ends[1 - number % 2], message)
                self.assertEqual(ends[0].get_handshake_hash().hex(), one["handshake_hash"])

    @staticmethod
    def _noise(vector: dict[str, Any], end: str) -> NoiseConnection:
        noise = NoiseConnection.from_name(vector["protocol_name"].encode())
        noise.set_prologue(bytes.fromhex(vector[f"{end}_prologue"]))
        noise.set_psks(psks=[bytes.fromhex(psk) for psk in vector[f"{end}_psks"]])
        for name, keypair in (("static", Keypair.STATIC), ("ephemeral", Keypair.EPHEMERAL)):
            if f"{end}_{name}" in vector:
                noise.set_keypair_from_private_bytes(keypair, bytes.fromhex(vector[f"{end}_{name}"]))
        if f"{end}_remote_static" in vector:
            remote = bytes.fromhex(vector[f"{end}_remote_static"])
            noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
        if end == "init":
            noise.set_as_initiator()
        else:
            noise.set_as_responder()
        noise.start_handshake()
        return noise

    def _pass(self, sender: NoiseConnection, receiver: NoiseConnection, message: dict[str, str]) -> None:
        payload, ciphertext = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        if sender.handshake_finished:
            self.assertEqual(sender.encrypt(payload), ciphertext)
            self.assertEqual(receiver.decrypt(ciphertext), payload)
        else:
            self.assertEqual(bytes(sender.write_message(payload)), ciphertext)
            self.assertEqual(bytes(receiver.read_message(ciphertext)), payload)

    def test_a_diffie_hellman_of_zeros_is_refused(self) -> None:
        with self.assertRaisesRegex(Refused, "zero-diffie-hellman"):
            KeyPairs(bytes([1] * 32), bytes(32)).mac1_key(Role.CONNECT, Role.LISTEN)


if __name__ == "__main__":
    unittest.main(warnings="ignore")

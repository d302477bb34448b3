"""Super-packets: the checks that `docs/PROTOCOL.md` demands of a SUPER message, and cutting one into its packets."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from securelink import Refused

HEADER_LENGTH = 10
NEEDS_CSUM = 1
TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80
TCP, UDP = 6, 17
FIN, PSH, CWR = 0x01, 0x08, 0x80


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class SuperPacket:
    flags: int
    type: int
    header_length: int
    segment: int
    checksum_start: int
    checksum_offset: int
    packet: bytes

    _FORM = struct.Struct("<BBHHHH")

    def encode(self) -> bytes:
        return self._FORM.pack(self.flags, self.type, self.header_length, self.segment, self.checksum_start,
                               self.checksum_offset) + self.packet

    @classmethod
    def decode(cls, plaintext: bytes) -> SuperPacket:
        if len(plaintext) < HEADER_LENGTH:
            raise Refused("super-short")
        flags, kind, header_length, segment, start, offset = cls._FORM.unpack(plaintext[:HEADER_LENGTH])
        return cls(flags, kind, header_length, segment, start, offset, plaintext[HEADER_LENGTH:])

    @property
    def protocol(self) -> int:
        return UDP if self.type & ~ECN == UDP_L4 else TCP

    def ip_start(self, tap: bool) -> int:
        """Where the IP header begins: behind the Ethernet header and its VLAN tags, if there is one."""
        if not tap:
            return 0
        start = 12
        while self.packet[start:start + 2] in (b"\x81\x00", b"\x88\xa8"):
            start += 4
        return start + 2

    def payload_start(self) -> int:
        if self.protocol == UDP:
            return self.checksum_start + 8
        return self.checksum_start + (self.packet[self.checksum_start + 12] >> 4) * 4

    def check(self, tap: bool) -> None:
        if not self.flags & NEEDS_CSUM:
            raise Refused("super-no-checksum")
        kind = self.type & ~ECN
        if kind not in (TCPV4, TCPV6, UDP_L4):
            raise Refused("super-type")
        place = 6 if self.protocol == UDP else 16
        least = 8 if self.protocol == UDP else 20
        if self.checksum_offset != place or self.checksum_start + least > len(self.packet):
            raise Refused("super-checksum-place")
        start = self.ip_start(tap)
        version = self.packet[start] >> 4 if start < self.checksum_start else 0
        if version not in ({TCPV4: (4,), TCPV6: (6,), UDP_L4: (4, 6)}[kind]):
            raise Refused("super-version")
        payload = len(self.packet) - self.payload_start()
        segments = -(-payload // self.segment) if self.segment else 0
        if self.segment < 48 or not 2 <= segments <= (128 if self.protocol == UDP else 2048):
            raise Refused("super-segments")

    def split(self, tap: bool) -> list[bytes]:
        """The packets that it stands for, each with complete checksums."""
        self.check(tap)
        start, body = self.ip_start(tap), self.payload_start()
        headers, payload = self.packet[:body], self.packet[body:]
        parts = [payload[at:at + self.segment] for at in range(0, len(payload), self.segment)]
        return [self._segment(headers, part, number, number + 1 == len(parts), start)
                for number, part in enumerate(parts)]

    def _segment(self, headers: bytes, part: bytes, number: int, last: bool, start: int) -> bytes:
        out = bytearray(headers)
        length = len(headers) + len(part) - start
        transport = self.checksum_start
        if out[start] >> 4 == 4:
            identity = struct.unpack_from(">H", out, start + 4)[0]
            struct.pack_into(">HH", out, start + 2, length, (identity + number) & 0xFFFF)
            struct.pack_into(">H", out, start + 10, 0)
            header_end = start + (out[start] & 15) * 4
            struct.pack_into(">H", out, start + 10, checksum(bytes(out[start:header_end])))
            addresses = bytes(out[start + 12:start + 20])
        else:
            struct.pack_into(">H", out, start + 4, length - 40)
            addresses = bytes(out[start + 8:start + 40])
        transport_length = len(headers) + len(part) - transport
        if self.protocol == UDP:
            struct.pack_into(">H", out, transport + 4, transport_length)
        else:
            sequence = struct.unpack_from(">I", out, transport + 4)[0]
            struct.pack_into(">I", out, transport + 4, (sequence + number * self.segment) & 0xFFFFFFFF)
            if not last:
                out[transport + 13] &= ~(FIN | PSH) & 0xFF
            if number > 0:
                out[transport + 13] &= ~CWR & 0xFF
        place = transport + self.checksum_offset
        struct.pack_into(">H", out, place, 0)
        pseudo = addresses + struct.pack(">II", transport_length, self.protocol)
        value = checksum(pseudo + bytes(out[transport:]) + part)
        # In UDP zero means that there is no checksum.
        struct.pack_into(">H", out, place, value or (0xFFFF if self.protocol == UDP else 0))
        return bytes(out) + part

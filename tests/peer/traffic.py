#!/usr/bin/env python3
"""Traffic that proves by itself that it arrived as it was sent: TCP streams that end with their own SHA-256, and UDP
datagrams whose lengths and contents both ends know beforehand, so that one that is lost, changed, early or twice there
is found.

    traffic.py serve PORT                       answer until killed
    traffic.py check ADDRESS PORT STEP=SIZE...  go through the steps; exit code 0 if all is well
    traffic.py count ADDRESS PORT               send numbered datagrams that come back, until TERM, and count them
    traffic.py stream ADDRESS PORT              send a stream that comes back, until TERM; exit code 0 if all of it did

Steps: tcp-up, tcp-down (bytes), tcp-four (bytes; two streams each way at once), udp-up, udp-down (datagrams),
udp-flows (datagrams; two flows each way at once).
What is served returns UDP datagrams to its own port, too.
"""

import hashlib
import random
import select
import signal
import socket
import struct
import sys
import threading
import time

PATIENCE = 20
DIGEST = hashlib.sha256().digest_size
BLOCK = 1 << 20
# What one call of send takes. The odd ones make short segments with PSH between full ones.
CHUNKS = (BLOCK, 17, 1448, 100_000, 3, 65_536, 1449)
UDP_SEGMENT = 103
# Without a checksum in the datagrams themselves, what the way has altered is not dropped by the kernel but seen.
SO_NO_CHECK = 11
# Numbered datagrams: the distance between two in seconds, and how many make a word.
BEAT = 0.005
WORD = 100
# What an IPv6 packet of 1406 bytes carries, the MTU of a tap device of a secure link over UDP and IPv6.
LARGEST = 1358
# A stream that is returned: what one call sends, with a pause behind it, and how long it may stand still, in seconds.
PACED = 1 << 16
PAUSE = 0.004
STANDSTILL = 60
# The kernel's bound for one send, less headers.
LARGEST_SEND = 60_000


class Failure(Exception):
    pass


def blocks(seed, size):
    """`size` bytes in blocks, no two of which are equal."""
    noise = random.Random(seed).randbytes(BLOCK - 16)
    for number in range((size + BLOCK - 1) // BLOCK):
        block = struct.pack("!QQ", seed, number) + noise
        yield block[: size - number * BLOCK]


def send_stream(connection, seed, size):
    digest = hashlib.sha256()
    chunks = CHUNKS if size <= 16 * BLOCK else (BLOCK,)
    turn = 0
    for block in blocks(seed, size):
        digest.update(block)
        rest = memoryview(block)
        while rest:
            count = chunks[turn % len(chunks)]
            turn += 1
            connection.sendall(rest[:count])
            rest = rest[count:]
    connection.sendall(digest.digest())


def receive_stream(connection, size):
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    left = size
    while left:
        count = connection.recv_into(view[: min(left, BLOCK)])
        if count == 0:
            raise Failure(f"the stream ended {left} bytes early")
        digest.update(view[:count])
        left -= count
    if read_exactly(connection, DIGEST) != digest.digest():
        raise Failure(f"the SHA-256 of {size} bytes differs")


def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise Failure("the other end has left")
        data += part
    return data


def windows(seed, count):
    """Groups of sends, each awaited by the receiver before the next; a send is a list of datagram lengths and whether
    they leave in one system call."""
    choice = random.Random(seed)
    sent = 0
    while sent < count:
        room = min(count - sent, 32)
        kind = choice.choice(("equal", "equal", "odd", "alternating", "one call", "one call"))
        length = choice.choice((1, 2, 100, 511, 512, LARGEST - 1, LARGEST))
        if kind == "equal":
            group = [([length], False)] * (room - 1) + [([choice.randint(1, length)], False)]
        elif kind == "odd":
            group = [([choice.randint(1, LARGEST)], False) for _ in range(room)]
        elif kind == "alternating":
            group = [([LARGEST if i % 2 else 60], False) for i in range(room)]
        else:
            burst = min(room, LARGEST_SEND // length)
            group = [([length] * (burst - 1) + [choice.randint(1, length)], burst > 1)]
        sent += sum(len(lengths) for lengths, _ in group)
        yield group


def contents(seed):
    noise = random.Random(~seed).randbytes(1 << 16)
    position = 0
    while True:
        length = yield noise[position % 60_000 :][:LARGEST]
        position += length


def datagrams(seed, count):
    """The windows of a flow as lists of (datagrams, in one call)."""
    source = contents(seed)
    next_bytes = next(source)
    for group in windows(seed, count):
        window = []
        for lengths, in_one_call in group:
            burst = []
            for length in lengths:
                burst.append(next_bytes[:length])
                next_bytes = source.send(length)
            window.append((burst, in_one_call))
        yield window


def send_datagrams(sender, seed, count):
    for number, window in enumerate(datagrams(seed, count)):
        for burst, in_one_call in window:
            if in_one_call:
                size = struct.pack("@H", len(burst[0]))
                sender.sendmsg([b"".join(burst)], [(socket.SOL_UDP, UDP_SEGMENT, size)])
            else:
                for datagram in burst:
                    sender.send(datagram)
        try:
            answer = sender.recv(8)
        except TimeoutError:
            raise Failure(f"no acknowledgement of window {number}") from None
        if answer != struct.pack("!Q", number):
            raise Failure(f"acknowledgement {answer.hex()} instead of {number}")


def receive_datagrams(receiver, seed, count):
    arrived = 0
    for number, window in enumerate(datagrams(seed, count)):
        for expected in (datagram for burst, _ in window for datagram in burst):
            try:
                datagram, sender = receiver.recvfrom(65_536)
            except TimeoutError:
                raise Failure(f"datagram {arrived} of {len(expected)} bytes is lost") from None
            if datagram != expected:
                raise Failure(f"datagram {arrived}: {len(datagram)} other bytes instead of {len(expected)}")
            arrived += 1
        receiver.sendto(struct.pack("!Q", number), sender)
    if select.select([receiver], [], [], 0.05)[0]:
        raise Failure(f"a datagram more than the {arrived} that were sent")


def udp_socket(port=0):
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.settimeout(3)
    udp.bind(("::", port))
    return udp


def serve_one(connection):
    """A request is a line: step, seed, size and the asker's UDP port. Its answer ends with `ok` or what is wrong."""
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    step, seed, size, port = read_line(connection).split()
    seed, size = int(seed), int(size)
    try:
        if step == "tcp-up":
            receive_stream(connection, size)
        elif step == "tcp-down":
            send_stream(connection, seed, size)
        elif step == "tcp-echo":
            return return_stream(connection)
        elif step == "udp-up":
            with udp_socket() as udp:
                connection.sendall(f"{udp.getsockname()[1]}\n".encode())
                receive_datagrams(udp, seed, size)
        else:
            with udp_socket() as udp:
                udp.connect((connection.getpeername()[0], int(port)))
                send_datagrams(udp, seed, size)
        verdict = "ok"
    except (Failure, OSError) as failure:
        verdict = f"far end: {failure!r}"
    connection.sendall(f"{verdict}\n".encode())


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(connection, 1)
    return line.decode().strip()


def return_stream(connection):
    connection.settimeout(STANDSTILL)
    while data := connection.recv(PACED):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def return_datagrams(port):
    with udp_socket(port) as udp:
        udp.settimeout(None)
        udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        while True:
            try:
                datagram, sender = udp.recvfrom(65_536)
                udp.sendto(datagram, sender)
            except OSError:
                # The way back is gone for now.
                pass


def serve(port):
    threading.Thread(target=return_datagrams, args=(port,), daemon=True).start()
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


def run_step(address, port, step, seed, size):
    with socket.create_connection((address, port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with udp_socket() as udp:
            connection.sendall(f"{step} {seed} {size} {udp.getsockname()[1]}\n".encode())
            if step == "tcp-up":
                send_stream(connection, seed, size)
            elif step == "tcp-down":
                receive_stream(connection, size)
            elif step == "udp-up":
                target = connection.getpeername()[0]
                target = target if ":" in target else f"::ffff:{target}"
                udp.connect((target, int(read_line(connection))))
                send_datagrams(udp, seed, size)
            else:
                receive_datagrams(udp, seed, size)
            verdict = read_line(connection)
    if verdict != "ok":
        raise Failure(verdict)


def check(address, port, plan):
    together = {
        "tcp-four": ("tcp-up", "tcp-down", "tcp-up", "tcp-down"),
        "udp-flows": ("udp-up", "udp-down", "udp-up", "udp-down"),
    }
    failures = []
    seed = 0

    def attempt(step, seed, size):
        try:
            run_step(address, port, step, seed, size)
        except (Failure, OSError) as failure:
            failures.append(f"{step} {size} (seed {seed}): {failure!r}")

    for item in plan:
        name, size = item.split("=")
        start = time.monotonic()
        threads = []
        for step in together.get(name, (name,)):
            seed += 1
            threads.append(threading.Thread(target=attempt, args=(step, seed, int(size))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{item} {time.monotonic() - start:.2f} s")
    if failures:
        sys.exit("\n".join(failures))


def stream(address, port):
    """Says on standard error each time another MiB has come back."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    sent, returned = hashlib.sha256(), hashlib.sha256()
    connection = socket.create_connection((address, port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(STANDSTILL)
    connection.sendall(b"tcp-echo 0 0 0\n")

    def send():
        for block in blocks(1, 1 << 60):
            for start in range(0, BLOCK, PACED):
                piece = block[start : start + PACED]
                sent.update(piece)
                connection.sendall(piece)
                if ending.wait(PAUSE):
                    return connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    count, pause, last = 0, 0.0, time.monotonic()
    while data := connection.recv(PACED):
        returned.update(data)
        now = time.monotonic()
        pause, last = max(pause, now - last), now
        if count // BLOCK < (count + len(data)) // BLOCK:
            print(f"returned {(count + len(data)) // BLOCK} MiB", file=sys.stderr, flush=True)
        count += len(data)
    sender.join()
    print(f"all of {count} bytes, longest pause {pause:.2f} s", file=sys.stderr, flush=True)
    if returned.digest() != sent.digest():
        sys.exit(f"the SHA-256 of the {count} bytes that came back differs")


def numbered(number):
    body = struct.pack("!Q", number) + random.Random(number).randbytes(number * 7919 % 1200)
    return body + hashlib.sha256(body).digest()[:16]


def count(address, port):
    """Says on standard error each time another WORD has come back (`seen`), or has come back without a gap (`row`)."""
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    udp.connect((address, port))
    returned = set()
    sent = twice = altered = swapped = row = 0
    expected, due, end = 0, time.monotonic(), None
    while True:
        now = time.monotonic()
        if ending and end is None:
            end = now + 3
        if end is not None and (now >= end or len(returned) == sent):
            break
        if end is None and now >= due:
            # Without a tunnel there is no way.
            try:
                udp.send(numbered(sent))
            except OSError:
                pass
            sent += 1
            due = max(due + BEAT, now - 1)
        if not select.select([udp], [], [], max(0, due - time.monotonic()) if end is None else 0.05)[0]:
            continue
        try:
            datagram = udp.recv(65_536)
        except OSError:
            continue
        number = struct.unpack("!Q", datagram[:8])[0] if len(datagram) >= 8 else sent
        if number >= sent or datagram != numbered(number):
            altered += 1
            continue
        if number in returned:
            twice += 1
            continue
        returned.add(number)
        swapped += number < expected
        row = row + 1 if number == expected else 0
        expected = max(expected, number + 1)
        if len(returned) % WORD == 0:
            print(f"seen {len(returned)}", file=sys.stderr, flush=True)
        if row and row % WORD == 0:
            print(f"row {row}", file=sys.stderr, flush=True)
    counts = f"sent={sent} returned={len(returned)} twice={twice} altered={altered} swapped={swapped}"
    print(f"counted {counts}", file=sys.stderr, flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
elif sys.argv[1] == "count":
    count(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1] == "stream":
    stream(sys.argv[2], int(sys.argv[3]))
else:
    check(sys.argv[2], int(sys.argv[3]), sys.argv[4:])

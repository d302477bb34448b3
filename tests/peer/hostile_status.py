"""Clients of a control socket that nobody should notice: hostile_status.py SOCKET MANNER."""

import socket
import sys

SOCKET, MANNER = sys.argv[1:]


def connect():
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(SOCKET)
    return client


def is_answered():
    client = connect()
    client.sendall(b"status\n")
    answer = b""
    while part := client.recv(65536):
        answer += part
    return b'"schema":1' in answer


def ends(client):
    """The daemon hangs up by itself."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass


if MANNER == "partial":
    clients = [connect() for _ in range(20)]
    for byte in b"stat":
        for client in clients:
            client.sendall(bytes([byte]))
    assert is_answered()
    for client in clients:
        ends(client)
elif MANNER == "endless":
    for _ in range(5):
        client = connect()
        try:
            client.sendall(b"x" * 10_000_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert is_answered()
elif MANNER == "many":
    clients = []
    for _ in range(1000):
        clients.append(connect())
    assert is_answered()
    for client in clients[:-40]:
        ends(client)
elif MANNER == "never-reads":
    clients = [connect() for _ in range(20)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.sendall(b"watch\n")
    for _ in range(200):
        assert is_answered()
    # Eight may watch; whoever takes nothing is hung up on when its buffer is full, and the others are answered.
    refused = 0
    for client in clients:
        refused += b"Too many" in client.recv(65536)
    assert refused == 12, refused
elif MANNER == "http":
    clients = []
    for number in range(300):
        client = socket.create_connection(("127.0.0.1", 9586), 20)
        client.sendall([b"GET /metrics HTTP/1.1\r\n", b"\0" * 5000, b"", b"GET / HTTP/9"][number % 4])
        clients.append(client)
    client = socket.create_connection(("127.0.0.1", 9586), 20)
    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    answer = b""
    while part := client.recv(65536):
        answer += part
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"# EOF\n"), answer[:200]
else:
    sys.exit(f"no such manner: {MANNER}")
print("done")

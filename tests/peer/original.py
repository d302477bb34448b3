#!/usr/bin/env python3
"""A peer that does what the original simpletun of 2009 does, and nothing else: one TCP connection, 16-bit big-endian
length in front of each packet, packets of up to 2000 bytes, blocking reads and writes between calls of select, and an
end at the first thing it does not expect. Written from the description of the wire, as an independent check.

    original.py -i IFNAME [-s | -c SERVER] [-p PORT] [-u | -a] [-d]
"""

import fcntl
import getopt
import os
import select
import socket
import struct
import sys

BUFFER = 2000
PORT = 55555

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000


def die(text):
    print(f"original: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def attach(name, kind):
    device = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | IFF_NO_PI))
    except OSError as error:
        die(f"cannot attach to {name}: {error}")
    return device


def connect(server, port):
    network = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        network.connect((server, port))
    except OSError as error:
        die(f"cannot connect to {server}: {error}")
    print(f"CLIENT: Connected to server {server}", file=sys.stderr, flush=True)
    return network


def accept(port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("", port))
    listener.listen(5)
    network, (client, _) = listener.accept()
    print(f"SERVER: Client connected from {client}", file=sys.stderr, flush=True)
    return network


def read_exactly(network, count):
    data = b""
    while len(data) < count:
        part = network.recv(count - len(data))
        if not part:
            die("the other end has left")
        data += part
    return data


def relay(device, network, log):
    tap2net = net2tap = 0
    while True:
        ready, _, _ = select.select([device, network], [], [])
        if device in ready:
            packet = os.read(device, BUFFER)
            tap2net += 1
            log(f"TAP2NET {tap2net}: Read {len(packet)} bytes from the tap interface")
            network.sendall(struct.pack("!H", len(packet)))
            network.sendall(packet)
            log(f"TAP2NET {tap2net}: Written {len(packet)} bytes to the network")
        if network in ready:
            (length,) = struct.unpack("!H", read_exactly(network, 2))
            net2tap += 1
            if length == 0:
                die("a frame without a byte")
            if length > BUFFER:
                die(f"a frame of {length} bytes overflows the buffer")
            packet = read_exactly(network, length)
            log(f"NET2TAP {net2tap}: Read {length} bytes from the network")
            try:
                os.write(device, packet)
            except OSError as error:
                die(f"the device refuses {length} bytes beginning with {packet[:4].hex()}: {error}")
            log(f"NET2TAP {net2tap}: Written {length} bytes to the tap interface")


def main():
    try:
        options, surplus = getopt.getopt(sys.argv[1:], "i:sc:p:uad")
    except getopt.GetoptError as error:
        die(error)
    interface, server, listen, port, kind, debug = "", "", None, PORT, IFF_TUN, False
    for option, value in options:
        match option:
            case "-i":
                interface = value
            case "-s":
                listen = True
            case "-c":
                listen, server = False, value
            case "-p":
                port = int(value)
            case "-u":
                kind = IFF_TUN
            case "-a":
                kind = IFF_TAP
            case "-d":
                debug = True
    if surplus:
        die("Too many options!")
    if not interface:
        die("Must specify interface name!")
    if listen is None:
        die("Must specify client or server mode!")
    if not listen and not server:
        die("Must specify server address!")

    def log(text):
        if debug:
            print(text, file=sys.stderr, flush=True)

    device = attach(interface, kind)
    print(f"Successfully connected to interface {interface}", file=sys.stderr, flush=True)
    network = accept(port) if listen else connect(server, port)
    try:
        relay(device, network, log)
    except OSError as error:
        die(error)


main()

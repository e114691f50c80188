#!/usr/bin/env python3
"""Echoes WebSocket messages, and sends them: one small text message at a time on each of many connections.

    websocket.py echo PORT                           answers every message with itself
    websocket.py send PORT CONNECTIONS SECONDS       prints how many were answered and how long that took, as JSON

Both know the one message there is, so that a gateway is busy before they are.
"""

import base64
import hashlib
import json
import select
import socket
import sys
import time

MESSAGE = b'{"device":"thermometer-17","at":"2024-05-01T12:00:00Z","celsius":21.5}'
MASK = bytes.fromhex("37fa213d")
# RFC 6455, 5.2: one whole text message; a client's is masked.
FROM_CLIENT = bytes([0x81, 0x80 | len(MESSAGE)]) + MASK + bytes(
    byte ^ MASK[position % 4] for position, byte in enumerate(MESSAGE))
FROM_SERVER = bytes([0x81, len(MESSAGE)]) + MESSAGE


class Connection:
    def __init__(self, stream):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream, self.open, self.read, self.sent = stream, False, b"", 0.0


def echo(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    poll, connections = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                stream, _ = listener.accept()
                poll.register(stream, select.EPOLLIN)
                connections[stream.fileno()] = Connection(stream)
                continue
            connection = connections[number]
            try:
                data = connection.stream.recv(65536)
                if data == FROM_CLIENT:
                    connection.stream.send(FROM_SERVER)
                    continue
                if data:
                    answer_rest(connection, data)
                    continue
            except OSError:
                pass
            connection.stream.close()
            del connections[number]


def answer_rest(connection, data):
    """Whatever is not just one message: the handshake, a part of a message, several, a close."""
    connection.read += data
    if not connection.open:
        if b"\r\n\r\n" not in connection.read:
            return
        head, connection.read = connection.read.split(b"\r\n\r\n", 1)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"sec-websocket-key" not in fields:
            connection.stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        key = next(line.split(b": ", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        connection.stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                                  b"sec-websocket-accept: " + base64.b64encode(digest) + b"\r\n\r\n")
        connection.open = True
    while connection.read.startswith(FROM_CLIENT):
        connection.read = connection.read[len(FROM_CLIENT):]
        connection.stream.sendall(FROM_SERVER)
    if connection.read[:1] == b"\x88":
        raise ConnectionError("closed")


def send(port, count, seconds):
    connections, poll = {}, select.epoll()
    for _ in range(count):
        stream = socket.create_connection(("127.0.0.1", port), timeout=5)
        shake(stream)
        connections[stream.fileno()] = Connection(stream)
        poll.register(stream, select.EPOLLIN)
    times, wrong = [], 0
    began = time.perf_counter()
    for connection in connections.values():
        connection.sent = time.perf_counter()
        connection.stream.send(FROM_CLIENT)
    ends = began + seconds
    while connections and (now := time.perf_counter()) < ends:
        for number, _ in poll.poll(1):
            connection = connections[number]
            data = connection.stream.recv(65536)
            connection.read += data
            if connection.read == FROM_SERVER:
                now = time.perf_counter()
                times.append(now - connection.sent)
                connection.sent, connection.read = now, b""
                connection.stream.send(FROM_CLIENT)
            elif not data or not FROM_SERVER.startswith(connection.read):
                wrong += 1
                del connections[number]
                connection.stream.close()
    seconds = time.perf_counter() - began
    times.sort()
    print(json.dumps({"requests": len(times), "requests_s": len(times) / seconds, "wrong": wrong,
                      "p50_us": quantile(times, 0.5) * 1e6, "p99_us": quantile(times, 0.99) * 1e6}))


def shake(stream):
    stream.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                   b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = stream.recv(1)
        if not piece:
            break
        head += piece
    if not head.startswith(b"HTTP/1.1 101 ") or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
        sys.exit(f"no WebSocket: {head.decode('latin-1')}")


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    else:
        send(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))

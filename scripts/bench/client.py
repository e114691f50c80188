#!/usr/bin/env python3
"""A client that sees each failure: client.py PORT SEED SECONDS RATE

Sends requests at the times, by the methods and with the service times that the seed says, whatever became of those
before, over kept connections, as many as it needs. Prints what became of each as JSON: its kind and its milliseconds.
The kinds are ok, 5xx (by status, such as "502"), other (a status, such as "404"), reset (the connection ended before the
answer did), refused, timeout (no answer for ten seconds) and garbled.
"""

import asyncio
import json
import random
import sys
import time

PATIENCE_S = 10
POSTS = 0.1


def load(seed, seconds, rate):
    """Of each request when it is due, its method, and its service time in ms."""
    chance = random.Random(seed)
    due, requests = 0.0, []
    while (due := due + chance.expovariate(rate)) < seconds:
        method = "POST" if chance.random() < POSTS else "GET"
        requests.append((due, method, 1 + min(50, int(chance.expovariate(1 / 4)))))
    return requests


async def send_all(port, requests):
    idle, tasks = [], []
    began = time.perf_counter()
    for due, method, wait in requests:
        pause = began + due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(one(port, method, wait, idle)))
    return [(due, method, *ended) for (due, method, _), ended in zip(requests, await asyncio.gather(*tasks))]


async def one(port, method, wait, idle):
    began = time.perf_counter()
    connection = idle.pop() if idle else None
    try:
        async with asyncio.timeout(PATIENCE_S):
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
            kind, keep = await exchange(*connection, method, wait)
    except TimeoutError:
        kind, keep = "timeout", False
    except ConnectionRefusedError:
        kind, keep = "refused", False
    except (OSError, asyncio.IncompleteReadError):
        kind, keep = "reset", False
    except (ValueError, IndexError):
        kind, keep = "garbled", False
    if keep:
        idle.append(connection)
    elif connection:
        connection[1].close()
    return kind, (time.perf_counter() - began) * 1e3


class Unanswered(ConnectionError):
    """The connection ended before anything of a response came."""


async def exchange(reader, writer, method, wait, path="/"):
    """One exchange: what became of it, and whether the connection is kept."""
    body = b"x" * 64 if method == "POST" else b""
    writer.write(f"{method} {path}?ms={wait} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError) as error:
        if getattr(error, "partial", b""):
            raise
        raise Unanswered from error
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split(b" ")[1])
    fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    if b"content-length" in fields:
        answer = await reader.readexactly(int(fields[b"content-length"]))
        keep = fields.get(b"connection") != b"close"
    elif fields.get(b"connection") == b"close":
        answer, keep = await reader.read(), False
    else:
        raise ValueError("an answer of no length")
    if status == 200:
        return ("ok" if answer == b"hello" else "garbled"), keep
    return str(status), keep


if __name__ == "__main__":
    PORT, SEED, SECONDS, RATE = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    json.dump(asyncio.run(send_all(PORT, load(SEED, SECONDS, RATE))), sys.stdout)

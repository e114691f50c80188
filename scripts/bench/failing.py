#!/usr/bin/env python3
"""An endpoint that can be made to fail: failing.py PORT

/healthz answers 200 as long as the process can. Anything else is answered after the milliseconds that `?ms=` asks for,
unless the endpoint is ill: a line on its standard input makes it so.

    500     answers that, at once
    reset   reads a request and resets the connection
    slow    answers 400 ms later
    well    answers again

SIGTERM ends it in order: it takes no more connections, closes idle ones, ends the exchanges in flight.
"""

import asyncio
import signal
import socket
import struct
import sys

SLOWER_S = 0.4


class Endpoint:
    def __init__(self):
        self.illness, self.idle, self.ending = "well", set(), False

    async def serve(self, port):
        server = await asyncio.start_server(self.connection, "127.0.0.1", port, backlog=1024, reuse_address=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, lambda: setattr(self, "illness", sys.stdin.readline().strip() or "well"))
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
        self.ending = True
        server.close()
        for writer in list(self.idle):
            writer.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def connection(self, reader, writer):
        try:
            while not self.ending:
                self.idle.add(writer)
                line = await reader.readline()
                self.idle.discard(writer)
                if not line or not await self.exchange(line, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.idle.discard(writer)
            writer.close()

    async def exchange(self, line, reader, writer):
        """Answers one request; whether another may come on the connection."""
        length = 0
        while (field := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = field.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length:
            await reader.readexactly(length)
        target = line.split(b" ")[1]
        illness = "well" if target == b"/healthz" else self.illness
        if illness == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        _, _, wait = target.partition(b"?ms=")
        if illness != "500":
            await asyncio.sleep((int(wait) / 1e3 if wait else 0) + (SLOWER_S if illness == "slow" else 0))
        status = b"500 Internal Server Error" if illness == "500" else b"200 OK"
        close = b"connection: close\r\n" if self.ending else b""
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-type: text/plain\r\n" + close + b"content-length: 5\r\n\r\nhello")
        await writer.drain()
        return not self.ending


if __name__ == "__main__":
    asyncio.run(Endpoint().serve(int(sys.argv[1])))

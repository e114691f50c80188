"""The load generators: each sends for some seconds and says how many requests were answered, how fast, and what went wrong."""

import json
import os
import re
import subprocess
import sys
import tempfile

WEBSOCKET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "websocket.py")
GRPC_MESSAGE = b"\x0a\x0ffleetgate bench"
# As gRPC frames it: not compressed, its length, the message.
GRPC_BODY = b"\0" + len(GRPC_MESSAGE).to_bytes(4, "big") + GRPC_MESSAGE


def wrk(port, cores, seconds, connections, tls=False, headers=()):
    """Requests over kept connections of HTTP/1.1, as fast as they are answered."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    output = run(command + [part for header in headers for part in ("-H", header)], cores)
    wrong = re.search(r"Socket errors: .*|Non-2xx.*", output)
    return {
        "requests": int(re.search(r"(\d+) requests in", output).group(1)),
        "requests_s": float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1)),
        "p50_us": microseconds(re.search(r"^\s+50%\s+(\S+)", output, re.M).group(1)),
        "p99_us": microseconds(re.search(r"^\s+99%\s+(\S+)", output, re.M).group(1)),
        "wrong": wrong and wrong.group(0),
    }


def h2load(port, cores, seconds, connections, tls=False, grpc=False):
    """As many requests at once over HTTP/2, eight on a connection."""
    streams = min(8, connections)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory(prefix="fleetgate-bench-") as folder:
        log = os.path.join(folder, "log")
        command = ["h2load", "-t1", f"-c{connections // streams}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}"]
        if grpc:
            message = os.path.join(folder, "message")
            with open(message, "wb") as file:
                file.write(GRPC_BODY)
            command += ["-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers"]
        output = run(command + [url], cores)
        # Of each request when it was sent, its status, how long it took.
        times = []
        with open(log, encoding="ascii") as file:
            for entry in file:
                _, status, time = entry.split("\t")
                if status == "200":
                    times.append(int(time))
    times.sort()
    done, failed, errored, timed_out = (int(re.search(rf"(\d+) {what}", output).group(1))
                                        for what in ("done", "failed", "errored", "timeout"))
    wrong = f"{failed} failed, {errored} errored, {timed_out} timed out" if failed or not done else None
    return {
        "requests": done,
        "requests_s": float(re.search(r"finished in .*?, ([\d.]+) req/s", output).group(1)),
        "p50_us": times[len(times) // 2] if times else 0,
        "p99_us": times[int(len(times) * 0.99)] if times else 0,
        "wrong": wrong,
    }


def websocket(port, cores, seconds, connections):
    """Messages over WebSocket, one at a time on each connection."""
    answered = json.loads(run([sys.executable, WEBSOCKET, "send", str(port), str(connections), str(seconds)], cores))
    wrong = answered.pop("wrong")
    return {**answered, "wrong": f"{wrong} connections broke" if wrong else None}


def run(command, cores):
    ran = subprocess.run(["taskset", "-c", cores] + command, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{command[0]}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def microseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]

"""What all benches share: the machine, its tools and cores, and the processes on it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICK = os.sysconf("SC_CLK_TCK")
# /usr/sbin is where Debian puts haproxy and nginx; it is not on every user's PATH.
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
DEADLINE_S = 15


def build():
    say("building fleetgate in release mode ...")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "fleetgate"], cwd=ROOT, check=True)
    output = subprocess.run(["cargo", "metadata", "--format-version=1", "--no-deps"],
                            cwd=ROOT, check=True, capture_output=True).stdout
    return os.path.join(json.loads(output)["target_directory"], "release", "fleetgate")


def require(**packages):
    """Ends unless these commands are there; each is given with Debian's package of it."""
    missing = {package for tool, package in packages.items() if not shutil.which(tool, path=PATH)}
    if missing:
        names = " ".join(sorted(missing))
        sys.exit(f"missing: {names} (as root: apt-get install --no-install-recommends {names})")


def cores():
    """A core for what is measured, and the others for what it is measured with, as taskset takes them."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the origin")
    return str(usable[0]), ",".join(map(str, usable[1:]))


def cache(*names):
    """A folder of what the benches fetch, where scripts/fetch-registries has its own."""
    home = os.environ.get("FLEETGATE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fleetgate")
    return os.path.join(home, *names)


def start(command, pinned, processes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
    process = subprocess.Popen(["taskset", "-c", pinned] + command, env={**os.environ, "PATH": PATH},
                               stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    processes.append(process)
    return process


def stop(processes):
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime: of all threads
    return ticks / TICK


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def warn_if_busy():
    def read():
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
        return sum(fields), fields[3] + fields[4]  # idle and waiting for a disk
    total, idle = read()
    time.sleep(1)
    later_total, later_idle = read()
    busy = 1 - (later_idle - idle) / max(later_total - total, 1)
    if busy > 0.1:
        say(f"WARNING: something else keeps {busy:.0%} of the processors busy: ratios will be wrong")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port, process, errors):
    """Waits until the process listens there; ends with what it wrote to the file `errors` when it does not."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(errors, encoding="utf-8", errors="replace") as file:
                    sys.exit(f"{' '.join(process.args[3:5])}: nothing on port {port}: {error}\n{file.read()}")
            time.sleep(0.05)


def say(text):
    print(text, file=sys.stderr, flush=True)

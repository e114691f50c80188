"""Measures a gateway before many services: start to ready, memory, what one change costs, how long it takes in a storm.

Each fleet has services of ten endpoints, in Consul over HTTPS (HTTP/2) or in etcd, an upstream and a route for each in
the gateway. "ready" is from the start of the process; "CPU" and "bytes" are the gateway's own for one change of one
endpoint, by its process's time and its metric fleetgate_discovery_received_bytes_total; "in" is from the moment a
registration is sent to the first answer of the new instance, while a hundred other endpoints a second come and go.
"""

import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from registries import (Traffic, call, consul_agent, consul_ready, encoded, etcd_one, place, sample_service, say,
                        start_gateway, until)

ENDPOINTS = 10
CHANGES = 200
STORM_A_SECOND = 100


def main(registries, binary, arguments):
    rows = []
    for name in chosen(arguments):
        for services in (100, 1000):
            with fleet(name, services, registries) as (registry, folder, processes):
                rows.append({"registry": name, "services": services,
                             **measure(registry, services, binary, folder, processes, arguments.rounds)})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"services of {ENDPOINTS} endpoints; {CHANGES} single changes, then {arguments.rounds} while "
          f"{STORM_A_SECOND} endpoints a second come and go")
    print(f"{'':8}  services  ready s  memory MiB  CPU ms/change  bytes/change  in: median ms     p99  failed")
    for row in rows:
        print(f"{row['registry']:8}  {row['services']:8}  {row['ready_s']:7.2f}  {row['memory_mib']:10.0f}  "
              f"{row['cpu_ms']:13.2f}  {row['bytes']:12.0f}  {row['in_median_ms']:13.1f}  {row['in_p99_ms']:6.1f}  "
              f"{row['failed']:6}")


def chosen(arguments):
    return arguments.only.split(",") if arguments.only else ["consul", "etcd"]


@contextlib.contextmanager
def fleet(name, services, registries):
    """A registry with so many services in it, a folder and a list of processes that end with it; the registry's is first."""
    with tempfile.TemporaryDirectory(prefix="fleetgate-bench-") as folder:
        processes = []
        try:
            registry = {"consul": ConsulFleet, "etcd": EtcdFleet}[name](registries, folder, processes)
            say(f"{registry.name}: registering {services} services of {ENDPOINTS} endpoints")
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda of: registry.put(*of), ((f"s{number}", endpoint) for number in range(services)
                                                             for endpoint in range(ENDPOINTS))))
            yield registry, folder, processes
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def measure(registry, services, binary, folder, processes, rounds):
    first, second = (sample_service(binary, version, folder, processes) for version in ("v1", "v2"))
    registry.put("users", 0, first)
    names = [f"s{number}" for number in range(services)]
    config = registry.config + "".join(f"""
[upstreams.{name}]
{registry.source(name)}
[routes.{name}]
match = {{ path = "/{name}" }}
upstream = "{name}"
""" for name in names) + f"[upstreams.users]\n{registry.source('users')}\n"
    began = time.monotonic()
    gateway, admin, process = start_gateway(binary, config, folder, processes)
    result = {"ready_s": time.monotonic() - began, "memory_mib": memory(process.pid)}
    traffic = Traffic(gateway)
    until("the first instance", lambda: traffic.version() == "v1")

    time.sleep(2)
    before = cpu(process.pid), received(admin)
    for change in range(CHANGES):
        registry.put(random.choice(names), 0, ("10.9.0.1", 1 + change))
        time.sleep(0.05)
    time.sleep(1)
    after = cpu(process.pid), received(admin)
    result["cpu_ms"] = (after[0] - before[0]) / CHANGES * 1e3
    result["bytes"] = (after[1] - before[1]) / CHANGES

    over = threading.Event()
    storm = [threading.Thread(target=flap, args=(registry, names, over)) for _ in range(4)]
    for thread in storm:
        thread.start()
    times = []
    for _ in range(rounds):
        wait_until = time.monotonic() + 0.2
        while time.monotonic() < wait_until:
            traffic.version()
        sent = time.monotonic()
        registry.put("users", 1, second)
        while traffic.version() != "v2":
            if time.monotonic() - sent > 60:
                sys.exit("a registered instance got no traffic for 60 s")
        times.append((time.monotonic() - sent) * 1e3)
        registry.remove("users", 1)
        others = 0
        while others < 30:
            others = 0 if traffic.version() == "v2" else others + 1
    over.set()
    for thread in storm:
        thread.join()
    ordered = sorted(times)
    result.update(in_median_ms=statistics.median(ordered), in_p99_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
                  failed=traffic.failures)
    return result


def flap(registry, names, over):
    """A quarter of the storm."""
    due = time.monotonic()
    while not over.is_set():
        name, endpoint = random.choice(names), random.randrange(ENDPOINTS, ENDPOINTS + 5)
        registry.put(name, endpoint)
        registry.remove(name, endpoint)
        due += 2 * 4 / STORM_A_SECOND
        time.sleep(max(0, due - time.monotonic()))


class ConsulFleet:
    name = "consul"

    def __init__(self, registries, folder, processes):
        consul = os.path.join(registries, "consul")
        for arguments in (["ca", "create"], ["cert", "create", "-server", "-dc", "dc1"]):
            subprocess.run([consul, "tls", *arguments], cwd=folder, check=True, capture_output=True)
        where = place(4)
        https = self.port = place(1)[1][0]
        ca = os.path.join(folder, "consul-agent-ca.pem")
        self.url, _ = consul_agent(registries, folder, processes, {
            "server": True, "bootstrap_expect": 1, "ca_file": ca,
            # All clients have one address here, and are one to it.
            "limits": {"http_max_conns_per_client": 10_000},
            "cert_file": os.path.join(folder, "dc1-server-consul-0.pem"),
            "key_file": os.path.join(folder, "dc1-server-consul-0-key.pem"),
        }, where, {"https": https})
        consul_ready(self.url)
        self.config = f"""
[discovery]
state_dir = "off"
damping = false
[discovery.consul]
address = "https://{where[0]}:{https}"
tls = {{ ca = "{ca}", server_name = "server.dc1.consul" }}
"""

    @staticmethod
    def source(name):
        return f'consul = {{ service = "{name}" }}'

    def put(self, service, endpoint, address=None):
        host, port = address or (f"10.0.{endpoint}.1", 8080)
        call("PUT", f"{self.url}/v1/catalog/register", {
            "Node": f"n{endpoint}", "Address": f"10.0.{endpoint}.1", "SkipNodeUpdate": True,
            "Service": {"ID": service, "Service": service, "Address": host, "Port": port}})

    def remove(self, service, endpoint):
        call("PUT", f"{self.url}/v1/catalog/deregister", {"Node": f"n{endpoint}", "ServiceID": service})


class EtcdFleet:
    name = "etcd"

    def __init__(self, registries, folder, processes):
        etcd = etcd_one(registries, folder, processes)
        self.url, self.port = etcd.url, int(etcd.url.rsplit(":", 1)[1])
        self.config = f'[discovery]\nstate_dir = "off"\ndamping = false\n[discovery.etcd]\nendpoints = ["{etcd.url}"]\n'

    @staticmethod
    def source(_):
        return "etcd = {}"

    def put(self, service, endpoint, address=None):
        value = "%s:%d" % (address or (f"10.0.{endpoint}.1", 8080))
        call("POST", f"{self.url}/v3/kv/put", {"key": self.key(service, endpoint), "value": encoded(value)})

    def remove(self, service, endpoint):
        call("POST", f"{self.url}/v3/kv/deleterange", {"key": self.key(service, endpoint)})

    @staticmethod
    def key(service, endpoint):
        return encoded(f"/fleetgate/endpoints/{service}/{endpoint}")


def memory(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.M).group(1)) / 1024


def cpu(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def received(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(r"^fleetgate_discovery_received_bytes_total{.*} (\S+)$", text, re.M))

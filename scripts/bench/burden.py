"""Measures what gateways cost the registry they follow: its memory, its CPU while nothing changes and for one change,
its connections, and the bytes each gateway reads.

One Consul server over HTTPS (HTTP/2) and one etcd member each hold a thousand services of ten endpoints; none, one and
then --gateways gateways follow all of them. In a fleet each gateway asks the Consul agent beside it; here all ask the
server itself, which is what the servers of such a fleet bear.
"""

import json
import random
import time

from fleet import ENDPOINTS, chosen, cpu, fleet, memory, received
from registries import sample_service, say, start_gateway

SERVICES = 1000
# A blocking query of Consul waits for a minute and up to a sixteenth more: one round of them.
WINDOW_S = 63
CHANGES = 500


def main(registries, binary, arguments):
    rows = []
    for name in chosen(arguments):
        with fleet(name, SERVICES, registries) as (registry, folder, processes):
            rows += measure(registry, binary, folder, processes, arguments.gateways)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{SERVICES} services of {ENDPOINTS} endpoints; nothing changes for {WINDOW_S} s, then {CHANGES} endpoints do, one by one")
    print(f"{'':8}  gateways  registry: memory MiB  CPU idle %  CPU ms/change  connections  "
          f"a gateway: idle bytes/s  bytes/change")
    for row in rows:
        print(f"{row['registry']:8}  {row['gateways']:8}  {row['memory_mib']:20.0f}  {row['idle_cpu']:10.1f}  "
              f"{row['cpu_ms']:13.2f}  {row['connections']:11}  {row['idle_bytes']:23.0f}  {row['bytes']:12.0f}")


def measure(registry, binary, folder, processes, gateways):
    server, names = processes[0], [f"s{number}" for number in range(SERVICES)]
    registry.put("users", 0, sample_service(binary, "v1", folder, processes))
    config = "[runtime]\nworkers = 1\n" + registry.config + "".join(
        f"[upstreams.{name}]\n{registry.source(name)}\n" for name in names) + f"[upstreams.users]\n{registry.source('users')}\n"
    rows, admins = [], []
    for count in (0, 1, gateways):
        while len(admins) < count:
            admins.append(start_gateway(binary, config, folder, processes)[1])
        say(f"{registry.name}: {count} gateways follow it")
        rows.append({"registry": registry.name, "gateways": count, **burden(registry, server, names, admins)})
    return rows


def burden(registry, server, names, admins):
    # What the start itself cost is over by then.
    time.sleep(10)
    idle_cpu, idle_bytes = window(server, admins, lambda: time.sleep(WINDOW_S))
    cpu_s, read = window(server, admins, lambda: changes(registry, names))
    of_each = max(1, len(admins))
    return {"memory_mib": memory(server.pid), "idle_cpu": idle_cpu / WINDOW_S * 100,
            "cpu_ms": (cpu_s - idle_cpu) / CHANGES * 1e3, "connections": connections(registry.port),
            "idle_bytes": idle_bytes / WINDOW_S / of_each, "bytes": (read - idle_bytes) / CHANGES / of_each}


def window(server, admins, run):
    """CPU seconds of the registry, and bytes all gateways read, while something runs."""
    before = cpu(server.pid), total(admins)
    run()
    return cpu(server.pid) - before[0], total(admins) - before[1]


def changes(registry, names):
    """As long as nothing changed before, so that the difference is what changes cost."""
    began = time.monotonic()
    for change in range(CHANGES):
        registry.put(random.choice(names), 0, ("10.9.0.1", 1 + change))
        time.sleep(max(0, began + (change + 1) * WINDOW_S / CHANGES - time.monotonic()))


def total(admins):
    return sum(received(admin) for admin in admins)


def connections(port):
    """Established connections of this port, as its server has them."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        lines = [line.split() for line in file.readlines()[1:]]
    return sum(fields[3] == "01" and int(fields[1].rsplit(":", 1)[1], 16) == port for fields in lines)

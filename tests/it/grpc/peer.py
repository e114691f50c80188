"""gRPC's own server and client, as Google makes them, without generated code: messages are bytes.

    peer.py serve                  says `port N`, and what becomes of calls, a line each
    peer.py call ADDRESS NAME...   makes the calls of these names, and says a JSON object of what came of each
        --ca FILE --name HOST      over TLS, with who must be HOST
"""

import argparse
import json
import sys
import threading
import time
from concurrent import futures

import grpc

ECHO = "fleetgate.test.Echo"
# A call that hangs fails, and not the test run.
PATIENCE = 30


def say(text):
    print(text, flush=True)


class Echo(grpc.GenericRpcHandler):
    """Calls of each kind."""

    def __init__(self):
        self.serving = True

    def service(self, details):
        service, _, method = details.method.lstrip("/").partition("/")
        if service == "grpc.health.v1.Health" and method == "Check":
            return grpc.unary_unary_rpc_method_handler(self.check)
        if service != ECHO:
            return None
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Wait": grpc.unary_stream_rpc_method_handler(self.wait),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Serving": grpc.unary_unary_rpc_method_handler(self.set_serving),
        }.get(method)

    def unary(self, message, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", "1"),))
        context.set_trailing_metadata((("x-trailing", seen.get("x-sent", "none")), ("x-bytes-bin", b"\x00\xff")))
        return message

    def server_stream(self, message, context):
        for number in range(int(message)):
            yield str(number).encode()

    def client_stream(self, messages, context):
        return b",".join(messages)

    def both(self, messages, context):
        for message in messages:
            yield b"re: " + message

    def wait(self, message, context):
        """Says one word, and nothing more until its client goes."""
        left = context.time_remaining()
        over = threading.Event()

        # Told here: a call that ends while its word is on its way goes no further in this method.
        def ended():
            say(f"ended {message.decode()}")
            over.set()

        context.add_callback(ended)
        say(f"waits {'without' if left is None or left > 10**6 else 'with'} a deadline")
        yield b"waits"
        over.wait(PATIENCE)

    def fail(self, message, context):
        context.set_trailing_metadata((("x-trailing", "fails"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "zu voll: ü%")

    def check(self, message, context):
        return bytes([0x08, 1 if self.serving else 2])

    def set_serving(self, message, context):
        self.serving = message == b"yes"
        return b""


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), handlers=(Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"port {port}")
    server.wait_for_termination()


class Calls:
    """What a client does."""

    def __init__(self, channel):
        self.channel = channel

    def method(self, kind, name):
        return getattr(self.channel, kind)(f"/{ECHO}/{name}")

    def unary(self):
        answer, call = self.method("unary_unary", "Unary").with_call(
            b"hello", timeout=PATIENCE, metadata=(("x-sent", "seen"),)
        )
        return {
            "answer": answer.decode(),
            "initial": dict(call.initial_metadata()).get("x-initial"),
            "trailing": dict(call.trailing_metadata()).get("x-trailing"),
            "binary": dict(call.trailing_metadata()).get("x-bytes-bin", b"").hex(),
        }

    def large(self):
        message = bytes(range(256)) * 12_000
        options = self.method("unary_unary", "Unary")
        return {"same": options(message, timeout=PATIENCE) == message}

    def many(self):
        calls = [self.method("unary_unary", "Unary").future(str(n).encode(), timeout=PATIENCE) for n in range(200)]
        return {"right": sum(call.result() == str(n).encode() for n, call in enumerate(calls))}

    def server_stream(self):
        answers = self.method("unary_stream", "ServerStream")(b"1000", timeout=PATIENCE)
        return {"right": [message.decode() for message in answers] == [str(n) for n in range(1000)]}

    def client_stream(self):
        messages = (str(n).encode() for n in range(5))
        return {"answer": self.method("stream_unary", "ClientStream")(messages, timeout=PATIENCE).decode()}

    def both(self):
        """Each message is sent when the answer to the one before has come."""
        said, heard = threading.Semaphore(1), []

        def messages():
            for word in ("one", "two", "three"):
                said.acquire()
                yield word.encode()

        for answer in self.method("stream_stream", "Both")(messages(), timeout=PATIENCE):
            heard.append(answer.decode())
            said.release()
        return {"heard": heard}

    def fail(self):
        return self.method("unary_unary", "Fail")(b"", timeout=PATIENCE)

    def unknown(self):
        return self.method("unary_unary", "Unknown")(b"", timeout=PATIENCE)

    def simple(self):
        return {"answer": self.method("unary_unary", "Unary")(b"x", timeout=PATIENCE).decode()}

    def deadline(self):
        """The server says a word, and then nothing."""
        began = time.monotonic()
        answers = self.method("unary_stream", "Wait")(b"deadline", timeout=1)
        heard = next(answers).decode()
        try:
            next(answers)
        except grpc.RpcError as error:
            return {"heard": heard, "code": error.code().name, "late": time.monotonic() - began > 20}
        return {"heard": heard}

    def cancel(self):
        answers = self.method("unary_stream", "Wait")(b"cancel", timeout=PATIENCE)
        heard = next(answers).decode()
        answers.cancel()
        return {"heard": heard, "code": answers.code().name}

    def not_serving(self):
        self.method("unary_unary", "Serving")(b"no", timeout=PATIENCE)
        return {}


def call(arguments):
    # Its own word on what a deadline is: the gateway's must not hide behind the client's retries.
    options = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))
    if arguments.ca:
        with open(arguments.ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        options += (("grpc.ssl_target_name_override", arguments.name), ("grpc.default_authority", arguments.name))
        channel = grpc.secure_channel(arguments.address, credentials, options)
    else:
        channel = grpc.insecure_channel(arguments.address, options)
    calls, found = Calls(channel), {}
    for name in arguments.names:
        try:
            found[name] = getattr(calls, name)()
        except grpc.RpcError as error:
            found[name] = {
                "code": error.code().name,
                "details": error.details(),
                "trailing": dict(error.trailing_metadata() or ()).get("x-trailing"),
            }
    say(json.dumps(found))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    calling = commands.add_parser("call")
    calling.add_argument("address")
    calling.add_argument("names", nargs="+")
    calling.add_argument("--ca")
    calling.add_argument("--name")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        serve()
    else:
        call(arguments)


if __name__ == "__main__":
    sys.exit(main())

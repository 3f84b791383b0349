#!/usr/bin/env python3
"""Mixed load on a running `mini_engine serve`: good requests and malformed ones, documents, clients that vanish or read
slowly, and more of them than there is memory for.

    soak.py --server PATH/mini_engine --model MODEL.gguf --seconds 120

Fails when the server dies, answers something that it must not, reports a sanitizer's finding, leaks pages or memory, or
does not stop cleanly. Memory counts as flat when its peak in the last third of the run is at most 5 % and 32 MiB above
that of the middle third: allocators round up, and the largest batch may come late. Exit status 77: skipped.
"""
import argparse
import collections
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

PAGES = 220
PAGE_SIZE = 16
CLIENTS = 12
WORDS = "the of and to in is river stone light measure north winter paper engine quiet seven copper garden".split()
DOCUMENTS = [" ".join(random.Random(i).choices(WORDS, k=60 + 15 * i)) for i in range(8)]


class Failure(Exception):
    pass


class Server:
    """The process, its address, and what it wrote to standard error."""

    def __init__(self, path, model, log_path):
        environment = dict(os.environ)
        # A small quarantine: freed memory that the sanitizer keeps is not a leak of the server's.
        environment["ASAN_OPTIONS"] = "detect_leaks=1:exitcode=99:quarantine_size_mb=16"
        environment["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1:exitcode=98"
        self.log_path = log_path
        command = [path, "serve", "--model", model, "--model-id", "m", "--port", "0", "--pages", str(PAGES),
                   "--page-size", str(PAGE_SIZE), "--max-queue", "6", "--max-running", "4", "--prefill-rows", "96",
                   "--max-body-kib", "64", "--reuse", "chunks", "--store-mib", "48", "--grace", "20"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                                        stderr=open(log_path, "wb"))
        self.port = self.wait_for_port()

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def wait_for_port(self):
        deadline = time.time() + 180
        while time.time() < deadline:
            found = re.search(r"on http://[^:]+:(\d+)", self.log())
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                raise Failure("the server did not start:\n" + self.log())
            time.sleep(0.2)
        raise Failure("the server says no port")

    def resident_mib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


class Client:
    """One thread's requests; each returns what it counts as, and raises Failure for an answer that must not be."""

    def __init__(self, port, seed):
        self.port = port
        self.random = random.Random(seed)

    def ask(self, method, path, body=None, timeout=180):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def body(self, **fields):
        request = {"model": "m", "max_tokens": self.random.randint(1, 12),
                   "temperature": self.random.choice([0, 0, 0.7]), "seed": self.random.randint(0, 1000),
                   "messages": [{"role": "user", "content": " ".join(self.random.choices(WORDS, k=8)) + "?"}]}
        if self.random.random() < 0.5:
            request["documents"] = self.random.sample(DOCUMENTS, self.random.randint(1, 4))
        request.update(fields)
        return request

    def check_error(self, status, answer, allowed):
        if status not in allowed:
            raise Failure(f"status {status}, not of {sorted(allowed)}: {answer[:300]!r}")
        if not json.loads(answer)["error"]["message"]:
            raise Failure(f"status {status} without a reason")

    def whole(self):
        status, answer = self.ask("POST", "/v1/chat/completions", json.dumps(self.body()))
        if status != 200:
            self.check_error(status, answer, {429, 503})
            return "refused"
        choice = json.loads(answer)["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise Failure(f"finish_reason {choice['finish_reason']}")
        return "answered"

    def stream(self):
        status, answer = self.ask("POST", "/v1/chat/completions", json.dumps(self.body(stream=True)))
        if status != 200:
            self.check_error(status, answer, {429, 503})
            return "refused"
        events = [line[6:] for line in answer.decode().split("\n") if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            raise Failure(f"a stream without an end: {events[-2:]}")
        if json.loads(events[-2])["choices"][0]["finish_reason"] not in ("stop", "length"):
            raise Failure(f"a stream without a reason: {events[-2]}")
        return "streamed"

    def raw(self, payload, read_bytes, pause=0.0):
        with socket.create_connection(("127.0.0.1", self.port), timeout=180) as connection:
            connection.sendall(payload)
            for _ in range(read_bytes):
                if not connection.recv(1):
                    break
                time.sleep(pause)

    def request_bytes(self, body):
        text = json.dumps(body).encode()
        return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                + str(len(text)).encode() + b"\r\n\r\n" + text)

    def vanish(self):
        self.raw(self.request_bytes(self.body(stream=True, max_tokens=60)), self.random.choice([0, 1, 200]))
        return "vanished"

    def send_half(self):
        payload = self.request_bytes(self.body())
        self.raw(payload[:self.random.randrange(1, len(payload))], 0)
        return "vanished"

    def read_slowly(self):
        self.raw(self.request_bytes(self.body(stream=True, max_tokens=8)), 300, 0.005)
        return "read slowly"

    def malformed(self):
        wrong = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model":"m"}', b'{"model":"m","messages":[]}',
                 json.dumps(self.body(max_tokens=0)).encode(), json.dumps(self.body(max_tokens="many")).encode(),
                 json.dumps(self.body(temperature=-1)).encode(), json.dumps(self.body(top_p=7)).encode(),
                 json.dumps(self.body(messages=[{"role": "user", "content": 5}])).encode(),
                 json.dumps(self.body(documents=[""])).encode(), json.dumps(self.body(documents={})).encode(),
                 json.dumps(self.body(model="another")).encode(), json.dumps(self.body(unknown_field=1)).encode(),
                 json.dumps(self.body(messages=[{"role": "user", "content": "a b " * 8000}])).encode(),
                 b"[" * 30000, json.dumps(self.body(stop=["x"] * 9)).encode()]
        status, answer = self.ask("POST", "/v1/chat/completions", self.random.choice(wrong))
        self.check_error(status, answer, set(range(400, 500)))
        return "malformed"

    def too_large(self):
        body = json.dumps(self.body(messages=[{"role": "user", "content": "x" * (80 << 10)}]))
        try:
            status, answer = self.ask("POST", "/v1/chat/completions", body)
        except (ConnectionError, http.client.HTTPException):
            return "too large"  # closed before all was read, as it may be
        self.check_error(status, answer, {413})
        return "too large"

    def not_http(self):
        self.raw(bytes(self.random.randrange(256) for _ in range(self.random.randrange(1, 400))) + b"\r\n\r\n", 1)
        return "not HTTP"

    def other_paths(self):
        for method, path, allowed in (("GET", "/health", {200}), ("GET", "/metrics", {200}), ("GET", "/nothing", {404}),
                                      ("GET", "/v1/chat/completions", {405})):
            status, _ = self.ask(method, path)
            if status not in allowed:
                raise Failure(f"{method} {path}: {status}")
        return "other paths"

    def step(self):
        kinds = ((self.whole, 6), (self.stream, 6), (self.vanish, 3), (self.send_half, 1), (self.read_slowly, 1),
                 (self.malformed, 4), (self.too_large, 1), (self.not_http, 1), (self.other_paths, 1))
        return self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]()


def run_clients(server, seconds, seed):
    """Counts of what was done, and (seconds, MiB) samples."""
    counts = collections.Counter()
    failures = []
    deadline = time.time() + seconds

    def work(index):
        client = Client(server.port, seed * 1000 + index)
        while time.time() < deadline and not failures:
            try:
                counts[client.step()] += 1
            except (ConnectionError, socket.timeout, http.client.HTTPException) as error:
                if server.process.poll() is not None:
                    failures.append("the server died")
                    return
                failures.append(f"no answer: {error!r}")
            except Exception as error:  # whatever else is a finding
                failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(CLIENTS)]
    begin = time.time()
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        if server.process.poll() is None:
            memory.append((time.time() - begin, server.resident_mib()))
        time.sleep(1)
    if failures:
        raise Failure("; ".join(failures[:3]))
    return counts, memory


def check_memory(memory, seconds):
    middle = max(mib for at, mib in memory if seconds / 3 <= at < 2 * seconds / 3)
    last = max(mib for at, mib in memory if at >= 2 * seconds / 3)
    print(f"memory: at most {middle:.0f} MiB in the middle third, {last:.0f} MiB in the last")
    if last > 1.05 * middle + 32:
        raise Failure("memory grows")


def check_idle(server):
    """Everything was answered or refused, and all pages are back."""
    client = Client(server.port, 0)
    deadline = time.time() + 120
    while True:
        page = client.ask("GET", "/metrics")[1].decode()
        value = {line.split()[0]: float(line.split()[1]) for line in page.split("\n") if line and line[0] != "#"}
        if value["mini_engine_running_requests"] == 0 and value["mini_engine_queued_requests"] == 0:
            break
        if time.time() > deadline:
            raise Failure("requests are still under way without anybody waiting for them")
        time.sleep(0.5)
    if value["mini_engine_free_pages"] != PAGES:
        raise Failure(f"{PAGES - value['mini_engine_free_pages']:.0f} pages are lost")
    failed = sum(count for name, count in value.items() if "mini_engine_requests_total" in name and '"failed"' in name)
    if failed:
        raise Failure(f"{failed:.0f} accepted requests failed")
    print("placed tokens:", {name.split('"')[1]: int(count) for name, count in value.items() if "placed_tokens" in name})


def stop(server):
    server.process.send_signal(signal.SIGTERM)
    status = server.process.wait(timeout=120)
    log = server.log()
    for word in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:"):
        if word in log:
            raise Failure("a sanitizer's finding:\n" + log[log.index(word):][:3000])
    if status != 0:
        raise Failure(f"exit status {status}:\n" + log[-2000:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the mini_engine program")
    parser.add_argument("--model", default=os.environ.get("PIKV_SMOLLM2"), help="GGUF file")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", default="soak_server.log")
    arguments = parser.parse_args()
    if not arguments.model:
        print("SKIPPED: no model; give --model or PIKV_SMOLLM2")
        return 77
    server = Server(arguments.server, arguments.model, arguments.log)
    try:
        counts, memory = run_clients(server, arguments.seconds, arguments.seed)
        check_idle(server)
        stop(server)
        check_memory(memory, arguments.seconds)
        print(f"{arguments.seconds:.0f} s:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
        for wanted in ("answered", "streamed", "vanished", "malformed"):
            if not counts[wanted]:
                raise Failure(f"no request was {wanted}")
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        print(server.log()[-2000:], file=sys.stderr)
        return 1
    finally:
        if server.process.poll() is None:
            server.process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())

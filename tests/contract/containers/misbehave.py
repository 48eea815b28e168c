"""A function that misbehaves as its query string says: the image of the tests of endings.

Where there is a PORT it is an http function, and speaks HTTP by hand, since it must be able to speak it badly;
otherwise it is a job. What it should do before it listens stands in the variable START.
"""

# ruff: noqa: T201, PTH123 - it writes because functions write, and imports only what it must

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import parse_qs

HTTP = b"HTTP/1.1 "


def die_by(name: str) -> None:
    signal.signal(getattr(signal, name), signal.SIG_DFL) if name != "SIGKILL" else None
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def use_up_memory() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(4096)) * 1024)


def read_request(connection: socket.socket) -> tuple[str, list[tuple[str, str]], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return "", [], b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    size = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    while len(body) < size:
        body += connection.recv(65536)
    return first.split(" ")[1], headers, body


def answer(connection: socket.socket, body: bytes, status: str = "200 OK", headers: str = "") -> None:
    connection.sendall(HTTP + f"{status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def handle(connection: socket.socket) -> None:  # noqa: C901, PLR0912 - one line for each way to misbehave
    target, headers, body = read_request(connection)
    if not target:
        return
    query = parse_qs(target.partition("?")[2], keep_blank_values=True)
    what, value = query.get("do", ["echo"])[0], query.get("value", [""])[0]
    match what:
        case "echo":
            seen = {"target": target, "headers": headers, "body": body.decode("latin-1"), "pid": os.getpid()}
            answer(connection, json.dumps(seen).encode(), headers="Set-Cookie: a=1\r\nX-Odd: y\r\nSet-Cookie: b=2\r\n")
        case "status":
            answer(connection, b"" if value == "204" else b"as you wish", f"{value} Whatever")
        case "exit":
            os._exit(int(value))
        case "signal":
            die_by(value)
        case "exit-during":
            connection.sendall(HTTP + b"200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            os._exit(int(value))
        case "exit-during-open-ended":
            connection.sendall(HTTP + b"200 OK\r\n\r\nsome")
            os._exit(int(value))
        case "memory":
            use_up_memory()
        case "memory-in-child":
            if os.fork() == 0:
                use_up_memory()
            os.wait()
        case "cut":
            connection.sendall(HTTP + b"200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        case "garbage":
            connection.sendall(b"\x00\x01garbage\r\n\r\n")
        case "close":
            pass
        case "large":
            answer(connection, b"x" * int(value))
        case "chunked":
            connection.sendall(HTTP + b"200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")
            connection.sendall(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        case "early-hints":
            connection.sendall(HTTP + b"103 Early Hints\r\nLink: </a>\r\n\r\n")
            answer(connection, b"after the hints")
        case "switch":
            connection.sendall(HTTP + b"101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        case "redirect":
            answer(connection, b"", "302 Found", "Location: http://127.0.0.1:8080/?do=status&value=418\r\n")
        case "sleep":
            print("about to sleep", flush=True)
            time.sleep(float(value))
            answer(connection, b"slept")
        case "spin":
            print("about to spin", flush=True)
            end = time.process_time() + float(value)
            while time.process_time() < end:
                pass
            answer(connection, b"spun")
        case "print":
            print(f"::progress::{value} on the way\nplain words", flush=True)
            print("::progress::101\nto stderr", file=sys.stderr, flush=True)
            answer(connection, b"printed")
        case "flood":
            os.write(1, b"first line\n")
            for _ in range(int(value)):
                os.write(1, b"x" * 1_000_000)
            os.write(1, b"\nlast line\n")
            answer(connection, b"flooded")
        case "shut-streams":
            for stream in (0, 1, 2):
                os.close(stream)
            answer(connection, b"silent from now on")
        case "die-later":
            answer(connection, b"goodbye")
            connection.close()
            time.sleep(float(value))
            os._exit(0)
        case "connect":
            host, _, port = value.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=0.6).close()
                answer(connection, b"connected")
            except OSError as error:
                answer(connection, f"refused: {error}".encode())
        case "read":
            with open(value, errors="replace") as file:
                answer(connection, file.read().encode())
        case "look":
            answer(connection, json.dumps(look()).encode())
        case _:
            answer(connection, b"what?", "400 Bad Request")


def handle_and_close(connection: socket.socket) -> None:
    with connection:
        handle(connection)


def look() -> dict[str, object]:
    """Tell what the walls around us look like from within."""
    seen: dict[str, object] = {"uid": os.getuid(), "gid": os.getgid(), "env": dict(os.environ)}
    for path in ("/etc/x", "/x", "/tmp/x", "/data/x"):
        try:
            with open(path, "wb") as file:
                file.write(b"#!/bin/sh\n")
            seen[path] = "written"
        except OSError as error:
            seen[path] = error.strerror
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    seen["capabilities"] = int(status["CapEff"], 16) | int(status["CapBnd"], 16)
    seen["no_new_privileges"] = status["NoNewPrivs"]
    seen["seccomp"] = status["Seccomp"]
    seen["interfaces"] = [name for _, name in socket.if_nameindex()]
    with open("/proc/1/comm") as file:
        seen["init"] = file.read().strip()
    return seen


def serve() -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", int(os.environ["PORT"])))
    listener.listen(16)
    while True:
        connection, _ = listener.accept()
        if os.environ.get("THREADS"):
            threading.Thread(target=handle_and_close, args=(connection,)).start()
        else:
            handle_and_close(connection)


def start_server() -> None:
    what, _, value = os.environ.get("START", "").partition(":")
    match what:
        case "exit":
            print("leaving at once", flush=True)
            os._exit(int(value))
        case "signal":
            die_by(value)
        case "never":
            time.sleep(600)
        case "late":
            time.sleep(float(value))
    # A server in a container must see to SIGTERM itself where no init process does it.
    signal.signal(signal.SIGTERM, lambda *_: told_to_end())
    serve()


def told_to_end() -> None:
    os.write(1, b"told to end\n")
    if not os.environ.get("STUBBORN"):
        os._exit(0)


def job() -> None:  # noqa: C901, PLR0912 - one line for each way to misbehave
    query = parse_qs(os.environ["QUERY_STRING"], keep_blank_values=True)
    what, value = query.get("do", ["echo"])[0], query.get("value", [""])[0]
    print("::progress::10 begun\nhello from the log", file=sys.stderr, flush=True)
    print("::progress::99", flush=True)  # on standard output of a job this is output like any other
    match what:
        case "echo":
            text = sys.stdin.buffer.read()
            print(json.dumps({"input": text.decode("latin-1"), "task": os.environ["TASK_ID"]}))
        case "count":
            print(len(sys.stdin.buffer.read()))
        case "exit":
            print("leaving", flush=True)
            sys.exit(int(value))
        case "signal":
            die_by(value)
        case "memory":
            use_up_memory()
        case "hold":
            held = b"x" * (int(value) * 1024 * 1024)
            print(len(held))
        case "sleep":
            time.sleep(float(value))
        case "large":
            for _ in range(int(value)):
                os.write(1, b"x" * 1_000_000)
        case "slowly":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            size = len(sys.stdin.buffer.read())
            os.write(1, b"first\n\x00\xff\r\n")
            print(f"begun with {size} bytes", file=sys.stderr, flush=True)
            signal.sigtimedwait({signal.SIGUSR1}, float(value))
            os.write(1, b"\n" + b"long" * 10_000 + b"\nlast, without newline")
            sys.exit(int(query.get("exit", ["0"])[0]))
        case "stubborn":
            signal.signal(signal.SIGTERM, lambda *_: print("told to end", file=sys.stderr, flush=True))
            print("ready", file=sys.stderr, flush=True)
            for _ in range(600):
                time.sleep(0.1)
        case "no-stdin":
            os.close(0)
            time.sleep(0.3)
            print("did not read")


if __name__ == "__main__":
    if "PORT" in os.environ:
        start_server()
    else:
        job()

"""A program of a few hundred bytes, as an image of one layer: what probes and the canary run.

Without an argument it ends with exit code 0. With one it is an HTTP server on port 8080, one request at a time, that
answers with the request itself: so whoever asks can tell that it arrived. It is made here, in memory, since no image
can be counted on to be present and no registry to answer.
"""

from __future__ import annotations

import io
import struct
import tarfile

PATH = "/probe"

_LOAD_AT = 0x400000
_HEADERS = 64 + 56

# Each is position-independent machine code, then the address to bind (AF_INET, port 8080, any), then the answer's head.
_ANSWER = "02001f90000000000000000000000000" + b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".hex()
_X86_64 = bytes.fromhex(
    "48833c2401 7f09"  # cmpq $1, (%rsp)    argc; jg listen
    "31ff b83c000000 0f05"  # exit(0)
    "bf02000000 be01000000 31d2 b829000000 0f05"  # listen: socket(AF_INET, SOCK_STREAM, 0)
    "89c3 89c7 488d3582000000 ba10000000 b831000000 0f05"  # bind(fd, address, 16)
    "89df be10000000 b832000000 0f05"  # listen(fd, 16)
    "4881ec00100000"  # 4096 bytes of stack
    "89df 31f6 31d2 b82b000000 0f05"  # for ever: accept(fd, 0, 0)
    "89c5 89c7 4889e6 ba00100000 4531d2 4531c0 4531c9 b82d000000 0f05 4989c4"  # recvfrom(connection, stack, 4096, 0)
    "89ef 488d353c000000 ba26000000 41ba00400000 b82c000000 0f05"  # sendto(…, head, 38, MSG_NOSIGNAL)
    "89ef 4889e6 4c89e2 b82c000000 0f05"  # sendto(…, stack, what was read, MSG_NOSIGNAL)
    "89ef b803000000 0f05 eb9f" + _ANSWER  # close(connection)
)
_AARCH64 = bytes.fromhex(
    "e90340f9 3f0500f1 8c000054"  # ldr x9, [sp]; cmp x9, #1; b.gt listen
    "000080d2 a80b80d2 010000d4"  # exit(0)
    "400080d2 210080d2 020080d2 c81880d2 010000d4"  # listen: socket(AF_INET, SOCK_STREAM, 0)
    "f30300aa c1040010 020280d2 081980d2 010000d4"  # bind(fd, address, 16)
    "e00313aa 010280d2 281980d2 010000d4"  # listen(fd, 16)
    "ff0740d1"  # 4096 bytes of stack
    "e00313aa 010080d2 020080d2 481980d2 010000d4"  # for ever: accept(fd, 0, 0)
    "f40300aa e1030091 020082d2 030080d2 040080d2 050080d2 e81980d2 010000d4 f50300aa"  # recvfrom(…, stack, 4096, 0)
    "e00314aa 41020010 c20480d2 030088d2 c81980d2 010000d4"  # sendto(…, head, 38, MSG_NOSIGNAL)
    "e00314aa e1030091 e20315aa c81980d2 010000d4"  # sendto(…, stack, what was read, MSG_NOSIGNAL)
    "e00314aa 280780d2 010000d4 e4ffff17" + _ANSWER  # close(connection)
)
_MACHINES = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}


def layer(arch: str) -> bytes | None:
    """Make the image's layer, a tar archive; None for an architecture that there is no program for."""
    if arch not in _MACHINES:
        return None
    program = _elf(*_MACHINES[arch])
    entry = tarfile.TarInfo(PATH.lstrip("/"))
    entry.size = len(program)
    entry.mode = 0o755
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(program))
    return archive.getvalue()


def _elf(machine: int, code: bytes) -> bytes:
    """Wrap code as a static executable with one segment that holds the whole file."""
    size = _HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little endian, version 1
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, _LOAD_AT + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_AT, _LOAD_AT, size, size, 0x10000)  # read and execute
    return identity + header + segment + code

"""What the demo holds the functions' answers against. Nothing here shares code with the functions."""

from __future__ import annotations

import itertools
import struct
import zlib

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel, by PNG colour type."""


class Wrong(Exception):
    """Something is not as it should be; the text says what."""


def expect(condition: object, otherwise: str) -> None:
    """Go on only if a condition holds.

    Raises:
        Wrong: It does not.
    """
    if not condition:
        raise Wrong(otherwise)


def png_size(content: bytes) -> tuple[int, int]:
    """Decode a PNG as far as needed to know that it is whole, and give its width and height.

    Raises:
        Wrong: A checksum does not match, pixels are missing, or it is no PNG at all.
    """
    expect(content.startswith(PNG_SIGNATURE), "the answer is no PNG")
    chunks, position = dict[bytes, bytes](), len(PNG_SIGNATURE)
    while position < len(content):
        (length,) = struct.unpack_from(">I", content, position)
        body = content[position + 4 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        expect(zlib.crc32(body) == checksum, f"the PNG's {body[:4]!r} is damaged")
        chunks[body[:4]] = chunks.get(body[:4], b"") + body[4:]
        position += length + 12
    expect(b"IEND" in chunks, "the PNG is cut off")
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    line = 1 + (width * depth * PNG_CHANNELS[colour] + 7) // 8  # each begins with the number of its filter
    expect(len(zlib.decompress(chunks[b"IDAT"])) == line * height, "the PNG has not all of its pixels")
    return width, height


def png_bomb() -> bytes:
    """Make a small PNG that says of itself that it has 3.6 billion pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(100_000))
    parts = (struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in (header, pixels))
    return PNG_SIGNATURE + b"".join(parts)


def words(text: str) -> list[str]:
    """Take a text apart, letter by letter: a word is letters and digits, with single apostrophes and hyphens inside."""
    found, word = list[str](), ""
    for letter, following in itertools.pairwise([*text.lower(), " "]):
        if letter.isalnum() or (word and letter in "'\u2019-" and following.isalnum()):
            word += letter
        elif word:
            found.append(word)
            word = ""
    return [*found, word] if word else found

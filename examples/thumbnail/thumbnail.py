"""Makes a small PNG of a picture: an HTTP function with Pillow.

The picture is the request's body, in any of `FORMATS`. `?size=` is the longest side of the answer in
pixels, 1 to `LARGEST`; 256 where it is not given. Whatever is wrong with either is answered with 400.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
LARGEST = 2048

# A few kilobytes can unpack to gigabytes. So many pixels, of up to 4 bytes and copied twice, fit into 256 MiB.
Image.MAX_IMAGE_PIXELS = 13_000_000
warnings.simplefilter("error", Image.DecompressionBombWarning)

# What Pillow's decoders raise for input that is no picture, or is a broken one.
BAD_PICTURE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


class Refused(Exception):
    """The request cannot be answered; the text says why."""


def size_of(query: str) -> int:
    """Read the size that was asked for.

    Raises:
        Refused: It is not a whole number from 1 to `LARGEST`.
    """
    text = parse_qs(query, keep_blank_values=True).get("size", ["256"])[0]
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= LARGEST):
        raise Refused(f"size must be a whole number from 1 to {LARGEST}")
    return int(text)


def thumbnail(picture: bytes, size: int) -> bytes:
    """Make a PNG that fits into a square of so many pixels.

    Raises:
        Refused: The bytes are no picture, a broken one, or one with too many pixels.
    """
    report(5, "reading the picture")
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            report(20, f"decoding {image.width} x {image.height} pixels of {image.format}")
            image.draft("RGB", (size, size))  # lets a JPEG be decoded at a fraction of its size
            image.load()
            report(60, f"scaling to {size}")
            smooth = image if image.mode in {"L", "RGB", "RGBA"} else image.convert("RGBA")
            smooth.thumbnail((size, size))
            upright = ImageOps.exif_transpose(smooth)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except BAD_PICTURE as error:
        raise Refused("the body is not a picture that can be read: " + ", ".join(FORMATS)) from error
    report(90, "writing the PNG")
    answer = io.BytesIO()
    upright.save(answer, "PNG")
    return answer.getvalue()


def report(percent: int, message: str) -> None:
    """Say how far we are: a line of this form becomes the task's progress."""
    print(f"::progress::{percent} {message}", file=sys.stderr, flush=True)


class Thumbnail(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a picture with its thumbnail."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            picture = thumbnail(body, size_of(urlsplit(self.path).query))
        except Refused as refusal:
            self._answer(400, "text/plain; charset=utf-8", f"{refusal}\n".encode())
        else:
            self._answer(200, "image/png", picture)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Thumbnail).serve_forever()

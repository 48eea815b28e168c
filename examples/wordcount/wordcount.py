"""Counts the words of a text: a job, so the text comes on stdin and the answer goes to stdout.

A word is a run of letters and digits, with apostrophes and hyphens allowed inside; upper and lower
case are the same. `?top=` says how many of the most frequent words to list, 0 to 1000; 10 where it
is not given.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from urllib.parse import parse_qs

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def top_of(query: str) -> int:
    """Read how many words to list; ends the job where that is no such number."""
    text = parse_qs(query, keep_blank_values=True).get("top", ["10"])[0]
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text) <= 1000):
        sys.exit("top must be a whole number from 0 to 1000")
    return int(text)


def count(text: str, top: int) -> dict[str, object]:
    """Count, and report the progress after each tenth of the lines."""
    lines = text.splitlines()
    words: Counter[str] = Counter()
    tenth = max(1, len(lines) // 10)
    for number, line in enumerate(lines, 1):
        words.update(word.lower() for word in WORD.findall(line))
        if number % tenth == 0:
            print(
                f"::progress::{100 * number // len(lines)} {number} of {len(lines)} lines", file=sys.stderr, flush=True
            )
    # By count, then by alphabet, so that equal counts have one order.
    ranking = sorted(words.items(), key=lambda entry: (-entry[1], entry[0]))
    return {
        "characters": len(text),
        "lines": len(lines),
        "words": words.total(),
        "distinct": len(words),
        "top": [{"word": word, "count": times} for word, times in ranking[:top]],
    }


if __name__ == "__main__":
    wanted = top_of(os.environ.get("QUERY_STRING", ""))
    given = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    print(json.dumps(count(given, wanted), ensure_ascii=False))

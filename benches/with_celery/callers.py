"""Calls the Celery task from several threads, each again as soon as it has its answer: prints the seconds of each call.

python callers.py IMAGE BODY CALLERS SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from function import run


def main() -> None:
    """Call."""
    image, body, callers, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    begun = time.perf_counter()

    def call() -> list[float]:
        taken = []
        while (sent := time.perf_counter()) - begun < seconds:
            if run.delay(image, body).get(timeout=120) != body:
                raise RuntimeError("the answer is not what was sent")
            taken.append(time.perf_counter() - sent)
        return taken

    with ThreadPoolExecutor(callers) as threads:
        latencies = [each for taken in threads.map(lambda _: call(), range(callers)) for each in taken]
    print(json.dumps({"latencies": latencies, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()

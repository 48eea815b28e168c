"""What a user without fernd writes: a Celery task that starts the function's container, calls it, and removes it."""

from __future__ import annotations

import os
import time

import docker
import requests
from celery import Celery

app = Celery("function", broker=os.environ["BENCH_REDIS"], backend=os.environ["BENCH_REDIS"])
app.conf.task_serializer = app.conf.result_serializer = "json"

engine = docker.from_env()


@app.task
def run(image: str, body: str) -> str:
    """Run the function once, within the limits that fernd sets."""
    container = engine.containers.run(
        image, detach=True, labels={"fernd.bench": "celery"}, nano_cpus=10**9, mem_limit="256m", memswap_limit="256m"
    )
    try:
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        while True:
            try:
                return requests.post(f"http://{network['IPAddress']}:8080/", data=body, timeout=10).text
            except requests.ConnectionError:
                time.sleep(0.005)
    finally:
        container.remove(force=True, v=True)

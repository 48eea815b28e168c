"""An attempt of an http function: a warm container or a cold start, one request, one answer."""

from __future__ import annotations

import asyncio

from agent.containers.answer import AnswerTooLarge
from agent.containers.connection import Connections
from agent.containers.container import Container, Sink
from agent.containers.engine import EngineUnavailable
from agent.containers.evidence import UNREACHABLE_SECONDS, death_of
from agent.containers.execution import ConnectionLost, Execution, Ran
from agent.containers.http_call import Answer, Broken, NotHttp, NotSent, post, request_headers
from agent.containers.output import Stream
from agent.containers.readiness import until_ready
from agent.containers.spec import PORT, server_environment
from agent.protocol import Headers

PATIENCE_SECONDS = 0.5
"""After a connection broke, the end of the container is waited for so long; then it counts as alive."""

LAST_WORDS_SECONDS = 1.0
"""So long an answer may still arrive from a container that has ended."""


async def serve(execution: Execution) -> Ran:
    """Run an attempt in a warm container where there is one, else in a new one."""
    sink = _sink(execution)
    if execution.revision.reuse:
        warm = await execution.host.pool.take(execution.revision.key, execution.revision.sharing)
        if warm is not None:
            try:
                return await _serve_in(execution, warm, sink)
            except NotSent:
                # It died while it was idle. The request never left us, so it may be sent elsewhere.
                execution.container = None
    image = await execution.image()
    begun = execution.monotonic()
    container = await execution.start_container(image, server_environment(), sink)
    return await _serve_in(execution, container, sink, begun)


async def _serve_in(execution: Execution, container: Container, sink: Sink, start_begun: float | None = None) -> Ran:
    """Send the request to a container that is lent to us, and see to it that it is kept or removed.

    Args:
        sink: Where its output goes meanwhile.
        start_begun: When the container's start began; None for a warm one.

    Raises:
        NotSent: A warm container cannot be connected to.
    """
    pool = execution.host.pool
    execution.container = container
    container.send_output(sink)
    keep = False
    try:
        if start_begun is not None:
            not_ready = await _until_ready(execution, container)
            if not_ready is not None:
                return not_ready
            pool.waiting.cold_starts.note(execution.revision.key, execution.monotonic() - start_begun)
        container.ready = True
        execution.enter("running")
        frozen, begun = execution.host.freezer.seconds, execution.monotonic()
        container.begin_call()
        answer = await _answer_or_ending(execution, container)
        if isinstance(answer, Ran):
            return answer
        if execution.host.freezer.seconds == frozen:
            pool.waiting.services.note(execution.revision.key, execution.monotonic() - begun)
        await container.settle()
        keep = execution.revision.reuse
        return await execution.answered(answer.status, answer.headers)
    finally:
        container.stop_output(sink)
        if keep:
            pool.give_back(container)
        else:
            pool.retire(container)


async def _until_ready(execution: Execution, container: Container) -> Ran | None:
    """Wait until the server can take a request; otherwise give the ending."""
    limit, path = execution.host.config.start_timeout, execution.revision.ready_path
    outcome = await until_ready(container, path, limit, execution.host.freezer)
    if outcome == "ready":
        return None
    if outcome == "late":
        what = f"answer {path} with 2xx" if path else "listen"
        return execution.ended("never_ready", f"the function did not {what} on port {PORT} within {limit:g} s")
    death = await death_of(execution.host.engine, container, UNREACHABLE_SECONDS)
    if death is None:
        raise EngineUnavailable("the container runs and cannot be reached")
    return execution.died(death, " before it was ready")


async def _answer_or_ending(execution: Execution, container: Container) -> Answer | Ran:
    """Send the request. The timeout counts from here."""
    limit = execution.revision.timeout
    try:
        async with execution.host.freezer.timeout(limit):
            answer = await _request(execution, container)
    except TimeoutError:
        return await execution.timed_out(f"the function did not complete its answer within {limit} s")
    except NotSent as error:
        execution.started = False
        if not execution.cold:
            raise
        return await _broken(execution, container, str(error))
    except Broken as error:
        return await _broken(execution, container, str(error), unseen=error.unseen)
    except NotHttp as error:
        return execution.ended("bad_response", str(error))
    except AnswerTooLarge:
        return execution.ended("result_too_large", f"the answer is over {execution.answer.limit} bytes")
    if answer.open_ended and not await _still_there(container):
        # Only the end of the connection said that the answer was complete, and a crash ends it too.
        death = await death_of(execution.host.engine, container, PATIENCE_SECONDS)
        if death is not None and death.exit_code != 0:
            return execution.died(death, " during its answer")
    return answer


async def _broken(execution: Execution, container: Container, detail: str, *, unseen: bool = False) -> Ran:
    """Give the ending after a connection broke: the container ended, or it lives and answers badly.

    Args:
        unseen: The server may have closed the connection before it saw the request.
    """
    death = await death_of(execution.host.engine, container, PATIENCE_SECONDS)
    if death is None and unseen:
        raise ConnectionLost(detail)
    if death is None:
        return execution.ended("bad_response", detail)
    return execution.died(death, " during its answer" if execution.answer.size else " before it answered")


async def _still_there(container: Container) -> bool:
    return not container.ended.is_set() and container.door is not None and await container.door.accepts()


async def _request(execution: Execution, container: Container) -> Answer:
    """Send the request, and stop waiting for the answer soon after the container has ended."""
    if container.door is None:
        raise NotSent("the container has no door")
    if container.connections is None:
        container.connections = Connections(container.door)
    execution.started = True
    if not execution.cold and container.borrowers == 1:
        container.oom.forget()
    # What must not run twice gets a connection of its own, where a request that broke off has surely been seen.
    fresh = execution.revision.retries == 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as patience:

            def last_words() -> None:
                patience.reschedule(loop.time() + LAST_WORDS_SECONDS)

            container.when_over.add(last_words)
            if container.ended.is_set():
                last_words()
            try:
                return await post(
                    container.connections,
                    execution.offer.query,
                    _headers(execution),
                    execution.input,
                    execution.answer,
                    fresh=fresh,
                )
            finally:
                container.when_over.discard(last_words)
    except TimeoutError:
        raise Broken("the container ended") from None


def _headers(execution: Execution) -> Headers:
    deadline = execution.wall() + execution.revision.timeout
    ours = {
        "X-Task-Id": execution.lease.task,
        "X-Function-Id": execution.revision.function,
        "X-Attempt": str(execution.lease.attempt),
        "X-Deadline": str(int(deadline * 1000)),
    }
    return request_headers(execution.offer.headers, ours)


def _sink(execution: Execution) -> Sink:
    async def take(stream: Stream, piece: bytes) -> None:
        execution.capture.feed(stream, piece)

    return take

"""An attempt of a job: input on its standard input, result on its standard output, exit code at its end."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from pathlib import Path

import msgspec

from agent.containers.answer import AnswerBody, AnswerTooLarge
from agent.containers.container import Container
from agent.containers.engine import Attachment, EngineUnavailable
from agent.containers.evidence import death_of
from agent.containers.execution import Execution, Ran
from agent.containers.output import Capture, Stream
from agent.containers.spec import job_environment
from agent.containers.task_input import pieces_of


async def run_job(execution: Execution) -> Ran:
    """Run an attempt of a job in a container of its own."""
    image = await execution.image()
    output = JobOutput(execution.answer, execution.capture)
    # A job reads its input when it likes, and may do its work without.
    execution.started = True
    container = await execution.start_container(
        image, job_environment(execution.offer.query, execution.lease.task), output.take
    )
    try:
        execution.enter("running")
        return await _ending(execution, container, output)
    finally:
        execution.host.pool.discard(container)


async def _ending(execution: Execution, container: Container, output: JobOutput) -> Ran:
    begun = execution.monotonic()
    limit = execution.revision.timeout
    writing = asyncio.create_task(write_input(container.attachment, execution.input))
    ended = asyncio.create_task(container.ended.wait())
    too_large = asyncio.create_task(output.too_large.wait())
    try:
        await asyncio.wait({ended, too_large}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (writing, ended, too_large):
            task.cancel()
        await asyncio.gather(writing, ended, too_large, return_exceptions=True)
    if output.too_large.is_set():
        return execution.ended("result_too_large", f"the result is over {execution.answer.limit} bytes")
    if not container.ended.is_set():
        return execution.ended("timeout", f"the job did not end within {limit} s")
    execution.host.pool.services.note(execution.revision.key, execution.monotonic() - begun)
    return await _ended(execution, container, output)


async def _ended(execution: Execution, container: Container, output: JobOutput) -> Ran:
    if container.disturbed:
        raise EngineUnavailable("the engine was away while the job ran, and output may be missing")
    code = container.last.exit_code if container.last is not None else None
    if code != 0:
        death = await death_of(execution.host.engine, container, patience=0)
        if death is not None and (death.ending != "crash" or death.signal or code is None):
            return execution.died(death)
    headers = [("Content-Type", output.content_type()), ("X-Exit-Code", str(code))]
    if code == 0:
        return await execution.answered(200, headers, exit_code=0)
    return await execution.answered(500, headers, exit_code=code, detail=f"the job exited with code {code}")


class JobOutput:
    """Sorts what a job writes: standard output is the result, standard error the log.

    Attributes:
        too_large: Set when the result is over the limit.
    """

    def __init__(self, body: AnswerBody, capture: Capture) -> None:
        self.too_large = asyncio.Event()
        self._body = body
        self._capture = capture
        self._text: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()

    async def take(self, stream: Stream, piece: bytes) -> None:
        """Take what the job wrote."""
        if stream == "stderr":
            self._capture.feed(stream, piece)
            return
        if self.too_large.is_set():
            return
        self._look_for_text(piece)
        try:
            await self._body.add(piece)
        except AnswerTooLarge:
            self.too_large.set()

    def content_type(self) -> str:
        """Say what the complete result is: JSON, text, or bytes. A large one is not tried as JSON."""
        if self._text is None or self._text.getstate()[0]:
            return "application/octet-stream"
        body = self._body.in_memory()
        if body is not None and body.lstrip()[:1] in {b"{", b"["}:
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                msgspec.json.decode(body)
                return "application/json"
        return "text/plain; charset=utf-8"

    def _look_for_text(self, piece: bytes) -> None:
        if self._text is not None:
            try:
                self._text.decode(piece)
            except UnicodeDecodeError:
                self._text = None


async def write_input(attachment: Attachment | None, body: bytes | Path) -> None:
    """Write a job's input and close it. A job that does not read it all is free to do so."""
    if attachment is None:
        return
    try:
        async for piece in pieces_of(body):
            attachment.writer.write(piece)
            await attachment.writer.drain()
        attachment.writer.write_eof()
    except OSError:
        return

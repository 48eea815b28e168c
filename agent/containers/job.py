"""An attempt of a job: input on its standard input, result on its standard output, exit code at its end."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from pathlib import Path

import msgspec

from agent.containers.adoption import FED_BYTES
from agent.containers.answer import AnswerBody, AnswerNotKept, AnswerTooLarge
from agent.containers.container import Container
from agent.containers.engine import Attachment
from agent.containers.evidence import certain_of, death_of
from agent.containers.execution import Execution, Ran
from agent.containers.output import Capture, Stream
from agent.containers.spec import job_environment
from agent.containers.task_input import pieces_of, size_of

LOG_SECONDS = 60.0
"""For the log of a job that has ended to be read."""


async def run_job(execution: Execution) -> Ran:
    """Run an attempt of a job in a container of its own."""
    image = await execution.image()
    output = JobOutput(execution.answer, execution.capture)
    # A job reads its input when it likes, and may do its work without.
    execution.started = True
    container = await execution.start_container(
        image, job_environment(execution.offer.query, execution.lease.task), output.take
    )
    container.send_output(output.take, output.start_over)
    execution.enter("running")
    return await _ending(execution, container, output, execution.revision.timeout)


async def readopt_job(execution: Execution) -> Ran:
    """Go on with a job that an earlier run of the agent began. What it wrote is read from the engine's log.

    Its timeout goes on too. What passed meanwhile only the engine's clock tells. Where the job stood still, nothing
    says for how long, and its timeout begins anew.

    Raises:
        EngineUnavailable: It is gone after all, or the engine does not answer.
    """
    execution.started = execution.cold = True
    output = JobOutput(execution.answer, execution.capture)
    left = await execution.host.claimed(execution.offer)
    container = execution.container = execution.host.pool.hold(left, output.take)
    container.fed = execution.offer.body_size <= FED_BYTES
    container.send_output(output.take, output.start_over)
    execution.enter("running")
    try:
        until = left.started if left.paused else left.finished or await execution.host.engine.now()
        ran = max(0.0, until - left.started)
    except BaseException:
        execution.host.pool.discard(container)
        raise
    execution.add_to_phase(ran)
    limit = execution.revision.timeout - ran
    return await _ending(execution, container, output, LOG_SECONDS if left.finished and limit >= 0 else max(0.0, limit))


async def _ending(execution: Execution, container: Container, output: JobOutput, limit: float) -> Ran:
    """Wait for the end of the job, at most so many seconds, and see to it that its container is removed."""
    try:
        return await _until_ended(execution, container, output, limit)
    finally:
        execution.host.pool.discard(container)


async def _until_ended(execution: Execution, container: Container, output: JobOutput, limit: float) -> Ran:
    writing = asyncio.create_task(_feed(execution, container))
    ended = asyncio.create_task(container.ended.wait())
    unwanted = asyncio.create_task(output.unwanted.wait())
    try:
        with contextlib.suppress(TimeoutError):
            async with execution.host.freezer.timeout(limit):
                await asyncio.wait({ended, unwanted}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (writing, ended, unwanted):
            task.cancel()
        await asyncio.gather(writing, ended, unwanted, return_exceptions=True)
    execution.answer.check()
    if output.unwanted.is_set():
        return execution.ended("result_too_large", f"the result is over {execution.answer.limit} bytes")
    if not container.ended.is_set():
        return await execution.timed_out(f"the job did not end within {execution.revision.timeout} s")
    return await _ended(execution, container, output)


async def _ended(execution: Execution, container: Container, output: JobOutput) -> Ran:
    await certain_of(execution.host.engine, container)
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
        unwanted: Set when no more can be taken: the result is over the limit, or cannot be kept.
    """

    def __init__(self, body: AnswerBody, capture: Capture) -> None:
        self.unwanted = asyncio.Event()
        self._body = body
        self._capture = capture
        self._text: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()

    async def take(self, stream: Stream, piece: bytes) -> None:
        """Take what the job wrote."""
        if stream == "stderr":
            self._capture.feed(stream, piece)
            return
        if self.unwanted.is_set():
            return
        self._look_for_text(piece)
        try:
            await self._body.add(piece)
        except (AnswerTooLarge, AnswerNotKept):
            self.unwanted.set()

    async def start_over(self) -> None:
        """Forget what was taken, since all of it comes again."""
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._capture.start_over()
        await self._body.start_over()

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


async def _feed(execution: Execution, container: Container) -> None:
    """Write a job's input, and keep in mind that it has it all: then it needs neither us nor the engine."""
    if container.attachment is not None and await write_input(container.attachment, execution.input):
        container.fed = await size_of(execution.input) <= FED_BYTES
        execution.host.marks.mark(container.name)


async def write_input(attachment: Attachment, body: bytes | Path) -> bool:
    """Write a job's input and close it. A job that does not read it all is free to do so.

    Returns:
        Whether the engine has it all.
    """
    # A drain then waits for everything, so that nothing of the input is left on our side.
    attachment.writer.transport.set_write_buffer_limits(high=0)
    try:
        async for piece in pieces_of(body):
            attachment.writer.write(piece)
            await attachment.writer.drain()
        attachment.writer.write_eof()
    except OSError:
        return False
    return True

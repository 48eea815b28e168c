"""How the outcome of one attempt gets to the dispatcher: into the journal, its body uploaded, and sent.

As in `agent.attempt`, nothing here decides what happens next: each step ends in an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from agent import task_state as ts
from agent.bodies import Upload
from agent.journal import JournalError
from agent.protocol import Outcome
from agent.workplace import Workplace


class Delivery:
    """An outcome on its way.

    Args:
        body_path: The outcome's body, where it is too large for a message.
        tell: Takes the events.
    """

    def __init__(
        self, outcome: Outcome, body_path: Path | None, workplace: Workplace, tell: Callable[[ts.Event], None]
    ) -> None:
        self._outcome = outcome
        self._body_path = body_path
        self._workplace = workplace
        self._tell = tell
        self._uploading: asyncio.Task[Upload] | None = None
        self._upload_began = 0.0

    @property
    def _log(self) -> FilteringBoundLogger:
        lease = self._outcome.lease
        bound: FilteringBoundLogger = structlog.get_logger().bind(task=lease.task, attempt=lease.attempt)
        return bound

    async def spool(self) -> None:
        """Write the outcome to the journal."""
        try:
            await self._workplace.journal.finish(self._outcome, self._body_path)
        except JournalError as error:
            # It is sent all the same, and the journal writes it when it can.
            self._log.error("outcome is not on disk yet", problem=str(error))
        self._tell(ts.Spooled())

    def start_upload(self) -> None:
        """Upload the body."""
        assert self._body_path is not None  # noqa: S101 - `Life.upload` says so
        self._upload_began = self._workplace.monotonic()
        outcome = self._outcome
        upload = self._workplace.bodies.upload(outcome.lease, self._body_path, outcome.body_size, outcome.body_sha256)
        self._uploading = self._workplace.spawn(upload, f"upload {outcome.lease.task}")
        self._uploading.add_done_callback(self._upload_ended)

    def cancel_upload(self) -> None:
        """End an upload; the outcome stays in the journal."""
        if self._uploading is not None:
            self._uploading.cancel()

    def send(self) -> bool:
        """Send the outcome, if there is a session."""
        return self._workplace.send(msgspec.structs.replace(self._outcome, credit=self._workplace.credit()))

    async def remove_body(self) -> None:
        """Remove the file of the body."""
        if self._body_path is not None:
            await asyncio.to_thread(self._body_path.unlink, missing_ok=True)

    def _upload_ended(self, task: asyncio.Task[Upload]) -> None:
        self._uploading = None
        if task.cancelled():
            self._tell(ts.UploadPostponed())
            return
        if (error := task.exception()) is not None:
            # An error of our own says nothing about the result: the next session tries again.
            self._log.error("upload failed in the agent", exc_info=error)
            self._tell(ts.UploadPostponed())
            return
        match task.result():
            case Upload.TAKEN:
                self._note_upload()
                self._tell(ts.Uploaded())
            case Upload.TOO_LARGE:
                self._outcome = _too_large(self._outcome)
                self._tell(ts.Uploaded())
            case Upload.STALE:
                self._log.warning("result refused, it is dropped")
                self._tell(ts.UploadRefused())
            case Upload.NOT_NOW:
                self._tell(ts.UploadPostponed())
            case Upload.LOST:
                self._log.error("result lost on this node's disk")
                self._tell(ts.BodyLost())

    def _note_upload(self) -> None:
        took = (self._workplace.monotonic() - self._upload_began) * 1000
        self._workplace.metrics.attempts.spent("uploading", took)
        spans = self._outcome.spans
        spans = msgspec.structs.replace(spans, uploading=round(spans.uploading + took, 3))
        self._outcome = msgspec.structs.replace(self._outcome, spans=spans)


def _too_large(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(
        outcome,
        ending="result_too_large",
        status=0,
        headers=[],
        body=b"",
        body_size=0,
        body_sha256="",
        detail=f"the answer of {outcome.body_size} bytes is over the dispatcher's limit",
    )

"""How the ending of an attempt becomes the end of a task. Pure.

The codes and their statuses are those of `agent.codes`. A task that has an `error` has no body of its
own: the API renders the problem document from the code and the sentence.
"""

from __future__ import annotations

from agent.codes import TASKS
from agent.protocol import Ending, Log, Outcome, Progress
from dispatcher.store.body_keys import result_key
from dispatcher.store.records import Ended, State

CODE: dict[Ending, str] = {
    "timeout": "TIMEOUT",
    "oom": "OOM_KILLED",
    "crash": "CRASHED",
    "external_kill": "CRASHED",
    "never_ready": "NEVER_READY",
    "bad_response": "BAD_RESPONSE",
    "result_too_large": "RESULT_TOO_LARGE",
    "image_unavailable": "IMAGE_UNAVAILABLE",
    "cancelled": "CANCELLED",
}


NOTHING_WRITTEN = Log()


def without_answer(code: str, detail: str, now_ms: int, log: Log = NOTHING_WRITTEN) -> Ended:
    """End a task with an error code and a sentence.

    Args:
        log: What is known of what it wrote.
    """
    state = State.CANCELLED if code == "CANCELLED" else State.FINISHED
    return Ended(
        now_ms, TASKS[code].status, [], b"", 0, state=state, error=code, detail=detail, ending=code.lower(), log=log
    )


def node_lost(attempt: int, node: str, reason: str, now_ms: int, log: Log = NOTHING_WRITTEN) -> Ended:
    """End a task whose last attempt was lost."""
    return without_answer(
        "NODE_LOST", f"attempt {attempt} on node {node} was lost: {reason}; no attempts are left", now_ms, log
    )


def of_outcome(outcome: Outcome, last: Progress | None, now_ms: int) -> Ended:
    """End a task as the node reports it; ``last`` is the progress that the store does not know yet."""
    # A node that reports an answer without an HTTP status of one understood its function wrongly.
    answered = outcome.ending == "answered" and outcome.status >= 200
    code = None if answered else CODE.get(outcome.ending, "BAD_RESPONSE")
    uploaded = answered and outcome.body is None
    return Ended(
        finished_ms=now_ms,
        status=outcome.status if code is None else TASKS[code].status,
        headers=outcome.headers if answered else [],
        body=outcome.body if answered else b"",
        body_size=outcome.body_size if uploaded else len(outcome.body or b"") if answered else 0,
        body_key=result_key(outcome.lease) if uploaded else None,
        state=State.CANCELLED if code == "CANCELLED" else State.FINISHED,
        error=code,
        detail=outcome.detail,
        ending=outcome.ending,
        spans=outcome.spans,
        cold=outcome.cold,
        log=outcome.log,
        phase=last.phase if last is not None else None,
        percent=last.percent if last is not None else None,
    )

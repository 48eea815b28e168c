"""A node and a dispatcher over a real WebSocket: what each may count on from the other.

The node is the real one, with its journal and its link. Only the function is played here, so that a
test decides when it ends.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

import agent.session
from agent import engine_watch
from agent.config import AccountsConfig, ContainersConfig
from agent.invocation import GaveBack, Ran
from agent.journal import Journal
from agent.node import Phase
from agent.protocol import (
    INLINE_LIMIT,
    Abandon,
    Accept,
    Begin,
    Credit,
    CreditNotice,
    Decline,
    DispatcherGoodbye,
    GiveBack,
    Log,
    NodeGoodbye,
    NodeHeartbeat,
    Offer,
    Outcome,
    OutcomeAck,
    Prewarm,
    Progress,
    Revision,
)
from agent.status import CanaryReport
from tests.contract.dispatcher_side import Dispatcher, Session
from tests.contract.node_side import (
    REVISION,
    Containers,
    Running,
    StartNode,
    answered,
    large,
    lease,
    left_in_journal,
    ready,
)

# The session


async def test_a_node_says_what_it_is_and_measures_the_way(dispatcher: Dispatcher, start: StartNode) -> None:
    """Hello names capabilities and credit; heartbeats at once measure the round trip and say it."""
    running = start()
    session = await dispatcher.session()
    assert session.hello.capabilities.cpu_count == 2
    assert session.hello.capabilities.mem_size == 512
    assert session.hello.images == ["hello:latest"]
    await session.welcome()
    heartbeat = await session.expect(NodeHeartbeat)
    assert heartbeat.available
    assert heartbeat.credit == Credit(2, 512, 3, 0)
    assert heartbeat.images is None
    heartbeat = await session.expect(NodeHeartbeat)
    assert heartbeat.capabilities.network_latency is not None
    assert 0 < heartbeat.capabilities.network_latency < 1000
    running.containers.present.append("other:latest")
    running.containers.problem = "gone"
    running.node._engine.attempt_given_back("engine_lost")
    heartbeat = await session.expect(NodeHeartbeat, lambda message: not message.available)
    assert heartbeat.credit.slots == 0
    assert heartbeat.images == ["hello:latest", "other:latest"]


async def test_offer_accept_outcome_acknowledged(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """A task goes through, its credit goes down and up, its progress is told, and nothing of it stays behind."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION, query="a=b", body=b"input", body_size=5))
    accept = await session.expect(Accept)
    assert (accept.lease, accept.credit) == (of, Credit(1.5, 412, 2, 1))
    function = await running.function()
    assert function.input == b"input"
    assert function.offer.query == "a=b"
    function.report.phase("running")
    function.report.percent(40, "almost")
    progress = await session.expect(Progress)
    assert (progress.phase, progress.percent, progress.message) == ("running", 40, "almost")
    function.report.percent(90, "there")
    function.end(answered(of))
    outcome = await session.expect(Outcome)
    assert (outcome.lease, outcome.body, outcome.status) == (of, b"hello", 200)
    assert outcome.credit == Credit(2, 512, 3, 1)
    assert [message.percent for message in session.seen(Progress)] == [90]
    await session.send(OutcomeAck(of, recorded=True))
    running.node.stop()
    await session.expect(NodeGoodbye)
    await running.ended()
    assert await left_in_journal(tmp_path) == 0


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        (Revision("f" * 24, 1, "hello", cpu_count=3), "no permit"),
        (Revision("f" * 24, 1, "hello", mem_size=513), "no permit"),
        (Revision("f" * 24, 1, "bello"), "the image is not allowed"),
        (Revision("f" * 24, 1, "hello", privileged=True), "privileged is not allowed"),
        (Revision("f" * 24, 1, "hello", network="internet"), "internet is not allowed"),
    ],
)
async def test_an_offer_that_cannot_be_taken_is_declined(
    dispatcher: Dispatcher, start: StartNode, revision: Revision, reason: str
) -> None:
    """The node says why, does nothing for it, and its credit is whole."""
    start(containers_config=ContainersConfig(allowed_images=["hello*"]))
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(), revision))
    decline = await session.expect(Decline)
    assert (decline.reason, decline.credit) == (reason, Credit(2, 512, 3, 1))


@pytest.mark.parametrize(
    ("accounts", "reason"),
    [
        (AccountsConfig(allowed=["other"]), "the account is not allowed"),
        (AccountsConfig(slots=1), "the account has its share"),
        (AccountsConfig(cpu=0.7), "the account has its share"),
        (AccountsConfig(memory=150), "the account has its share"),
    ],
)
async def test_the_operator_says_for_whom_the_node_works(
    dispatcher: Dispatcher, start: StartNode, accounts: AccountsConfig, reason: str
) -> None:
    """What is beyond an account's part is declined, for the whole account; another account's task is taken."""
    start(accounts=accounts)
    session = await ready(dispatcher)
    await session.send(*(Offer(number, lease(number), REVISION, account="one") for number in (1, 2)))
    decline = await session.expect(Decline)
    assert (decline.reason, decline.account) == (reason, True)
    other = lease(3)
    await session.send(Offer(3, other, REVISION, account="other"))
    await session.expect(Accept, lambda accept: accept.lease == other)


async def test_what_is_kept_ready(dispatcher: Dispatcher, start: StartNode) -> None:
    """The node keeps ready what was asked for last in its session, and nothing once it drains."""
    running = start()
    session = await ready(dispatcher)
    first, second = (msgspec.structs.replace(REVISION, number=number, warm=1) for number in (1, 2))
    for revisions in ([first, second], [second]):
        await session.send(Prewarm(revisions))
        await _until(lambda: running.containers.kept_ready, [each.key for each in revisions])
    await session.send(DispatcherGoodbye("elsewhere"))
    session = await dispatcher.session()
    await session.welcome()
    await _until(lambda: running.containers.kept_ready, [])
    await session.send(Prewarm([second]))
    await _until(lambda: running.containers.kept_ready, [second.key])
    running.node.drain()
    assert running.containers.kept_ready == []


async def _until(look: Callable[[], object], holds: object) -> None:
    async with asyncio.timeout(10):
        while look() != holds:
            await asyncio.sleep(0.01)


async def test_a_task_does_not_run_twice_beside_itself(dispatcher: Dispatcher, start: StartNode) -> None:
    """The same offer again is no second task, and another lease of a running task is declined."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION), Offer(2, of, REVISION), Offer(3, lease(), REVISION))
    assert (await session.expect(Decline)).reason == "duplicate"
    await session.expect(Accept)
    await running.function()
    assert running.functions.empty()
    assert session.seen(Accept) == []


async def test_a_held_offer_waits_for_begin(dispatcher: Dispatcher, start: StartNode) -> None:
    """Nothing begins before `Begin`; an abandoned one never does."""
    running = start()
    session = await ready(dispatcher)
    first, second = lease(1), lease(2)
    await session.send(Offer(1, first, REVISION, hold=True), Offer(2, second, REVISION, hold=True))
    await session.expect(Accept)
    await session.expect(Accept)
    await session.send(Abandon(first, "stale"), Begin(second), Begin(first))
    function = await running.function()
    assert function.offer.lease == second
    assert running.functions.empty()
    assert (await session.expect(CreditNotice)).credit.slots == 2


async def test_a_held_offer_outlives_its_session(dispatcher: Dispatcher, start: StartNode) -> None:
    """The next hello names it, and it begins when it is told to, not before."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION, hold=True))
    await session.expect(Accept)
    await session.ws.close()
    session = await dispatcher.welcomed()
    assert [(held.lease, held.finished) for held in session.hello.held] == [(of, False)]
    await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.leases == [of])
    assert running.functions.empty()
    await session.send(Begin(of))
    assert (await running.function()).offer.lease == of


async def test_what_the_dispatcher_does_not_answer_is_said_again(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outcome without an acknowledgement is repeated in the session; a held offer that never begins goes back."""
    monkeypatch.setattr("agent.assignments.OVERDUE_SECONDS", 0.2)
    monkeypatch.setattr("agent.node.LOOK_SECONDS", 0.05)
    running = start()
    session = await ready(dispatcher)
    of, held = lease(1), lease(2)
    await session.send(Offer(1, of, REVISION), Offer(2, held, REVISION, hold=True))
    (await running.function()).end(answered(of))
    first, second = await session.expect(Outcome), await session.expect(Outcome)
    assert first.lease == second.lease == of
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started) == (held, False)


async def test_nothing_is_accepted_that_is_not_on_disk(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal cannot be written, offers are declined and the node takes no work; later it does again."""
    monkeypatch.setattr("agent.journal_watch.LOOK_SECONDS", 0.05)
    running = start()
    running.node._journal._writer._file._busy_seconds = 0.05
    session = await ready(dispatcher)
    blocker = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    await session.send(Offer(1, lease(), REVISION, hold=True))
    decline = await session.expect(Decline)
    assert "the journal cannot be written" in decline.reason
    await session.expect(NodeHeartbeat, lambda heartbeat: not heartbeat.available)
    blocker.execute("ROLLBACK")
    blocker.close()
    await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.available and heartbeat.credit.slots == 3)
    assert running.functions.empty()


async def test_work_that_cannot_be_accepted_is_given_back(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """A short call begins before its accept is on disk. Where the journal fails meanwhile, it ends and counts."""
    running = start()
    running.node._journal._writer._file._busy_seconds = 0.05
    session = await ready(dispatcher)
    blocker = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    await session.send(Offer(1, lease(), REVISION))
    function = await running.function()
    assert (await session.expect(GiveBack)).started
    assert function.stopped == "drained"
    assert session.seen(Accept) == []
    blocker.close()


async def test_a_short_call_never_meets_the_journal(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """What is acknowledged at once is not written; what is not, soon is."""
    running = start()
    session = await ready(dispatcher)
    first, second = lease(1), lease(2)
    await session.send(Offer(1, first, REVISION))
    (await running.function()).end(answered(first))
    await session.expect(Outcome)
    await session.send(OutcomeAck(first, recorded=True))
    await session.send(Offer(2, second, REVISION))
    (await running.function()).end(answered(second))
    await session.expect(Outcome)
    while running.node._journal.count == 0:
        await asyncio.sleep(0.01)
    assert session.seen(Accept) == []
    running.task.cancel()
    await asyncio.wait([running.task])
    assert await left_in_journal(tmp_path) == 1


async def test_abandoned_work_is_stopped_and_says_nothing(dispatcher: Dispatcher, start: StartNode) -> None:
    """The function hears why, the credit comes back, and no outcome follows."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    await session.send(Abandon(of, "stale"))
    notice = await session.expect(CreditNotice)
    assert notice.credit.slots == 3
    assert function.stopped == "stale"
    assert session.seen(Outcome) == []
    assert session.seen(GiveBack) == []


async def test_of_cancelled_work_the_log_is_sent_until_it_is_acknowledged(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """The function is stopped at once; what it wrote goes the way of every outcome, over a lost session too."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    function.obeys = False
    await session.send(Abandon(of, "cancelled"))
    async with asyncio.timeout(5):
        while function.stopped is None:
            await asyncio.sleep(0.01)
    assert function.stopped == "cancelled"
    function.end(Ran(Outcome(of, "cancelled", log=Log(b"until then"))))
    outcome = await session.expect(Outcome)
    assert (outcome.ending, outcome.log) == ("cancelled", Log(b"until then"))
    assert outcome.credit == Credit(2, 512, 3, 1)
    await session.ws.close()
    session = await dispatcher.welcomed()
    assert [(held.lease, held.finished) for held in session.hello.held] == [(of, True)]
    await session.send(Abandon(of, "cancelled"))
    assert (await session.expect(Outcome)).log == Log(b"until then")
    await session.send(OutcomeAck(of, recorded=True))
    running.node.stop()
    await session.expect(NodeGoodbye)
    await running.ended()
    assert await left_in_journal(tmp_path) == 0


async def test_a_cancelled_result_is_not_uploaded(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """Nobody wants its body any more: the outcome comes at once, for its log."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    dispatcher.result_statuses += [503] * 100
    function.end(large(of, b"x" * (INLINE_LIMIT + 1), tmp_path / "body"))
    async with asyncio.timeout(5):
        while not dispatcher.uploads:
            await asyncio.sleep(0.01)
    await session.send(Abandon(of, "cancelled"))
    assert (await session.expect(Outcome)).body is None
    await session.send(OutcomeAck(of, recorded=True))
    running.node.stop()
    await running.ended()
    assert not (tmp_path / "body").exists()


async def test_work_goes_on_over_a_lost_session(dispatcher: Dispatcher, start: StartNode) -> None:
    """The next hello names the lease, and an outcome is repeated until it is acknowledged."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    await session.ws.close()
    session = await dispatcher.welcomed()
    assert [(held.lease, held.finished) for held in session.hello.held] == [(of, False)]
    assert session.hello.credit == Credit(1.5, 412, 2, 0)
    function.end(answered(of))
    outcome = await session.expect(Outcome)
    await session.ws.close()
    session = await dispatcher.welcomed()
    assert [(held.lease, held.finished) for held in session.hello.held] == [(of, True)]
    assert await session.expect(Outcome) == outcome
    await session.ws.close()
    session = await dispatcher.welcomed(abandon=[of])
    heartbeat = await session.expect(NodeHeartbeat)
    assert heartbeat.leases == []
    assert session.seen(Outcome) == []


async def test_the_failure_of_one_attempt_touches_no_other(dispatcher: Dispatcher, start: StartNode) -> None:
    """An error of the agent's own in one attempt gives that one back; the other runs on, and so does the node."""
    running = start()
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(1), REVISION), Offer(2, lease(2), REVISION))
    first, second = await running.function(), await running.function()
    first.end(RuntimeError("a bug"))
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started) == (first.offer.lease, True)
    second.end(answered(second.offer.lease))
    assert (await session.expect(Outcome)).lease == second.offer.lease


# Bodies beside the session


async def test_large_bodies_travel_beside_the_session(dispatcher: Dispatcher, start: StartNode, tmp_path: Path) -> None:
    """The input is fetched, the result uploaded through an outage, and only then is the outcome told."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    dispatcher.inputs[of.task] = os.urandom(INLINE_LIMIT * 3)
    dispatcher.result_statuses = [503]
    await session.send(Offer(1, of, REVISION, body=None, body_size=INLINE_LIMIT * 3))
    await session.expect(Accept)
    function = await running.function()
    assert function.input == dispatcher.inputs[of.task]
    file = tmp_path / "bodies" / "result"
    result = os.urandom(INLINE_LIMIT * 2)
    function.end(large(of, result, file))
    outcome = await session.expect(Outcome)
    assert dispatcher.results == {of.header(): result}
    assert outcome.body is None
    assert outcome.spans.uploading > 0
    await session.send(OutcomeAck(of, recorded=True))
    running.node.stop()
    await running.ended()
    assert list((tmp_path / "bodies").iterdir()) == []


@pytest.mark.parametrize("body", [None, b"too short"], ids=["refused", "of another size"])
async def test_an_input_that_cannot_be_had_gives_the_task_back(
    dispatcher: Dispatcher, start: StartNode, body: bytes | None
) -> None:
    """The attempt does not count: the function never saw a request."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    if body is not None:
        dispatcher.inputs[of.task] = body
    await session.send(Offer(1, of, REVISION, body=None, body_size=INLINE_LIMIT + 1))
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started) == (of, False)
    assert given_back.credit.slots == 3
    assert running.functions.empty()


@pytest.mark.parametrize(("status", "ending"), [(409, None), (413, "result_too_large")])
async def test_a_result_that_is_refused_is_not_uploaded_again(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path, status: int, ending: str | None
) -> None:
    """A stale one is dropped without a word; one over the limit ends as what it is."""
    running = start()
    session = await ready(dispatcher)
    of = lease()
    dispatcher.result_statuses = [status]
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    file = tmp_path / "bodies" / "result"
    function.end(large(of, bytes(INLINE_LIMIT + 1), file))
    if ending is None:
        await session.expect(CreditNotice)
        await session.expect(CreditNotice)
        assert session.seen(Outcome) == []
    else:
        outcome = await session.expect(Outcome)
        assert (outcome.ending, outcome.body, outcome.status) == (ending, b"", 0)
    assert dispatcher.results == {}


# Restart


async def test_a_restarted_agent_delivers_what_it_had_and_gives_back_what_died(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """Outcomes in the journal are sent again, interrupted work goes back, abandoned ones are dropped."""
    journal = Journal(tmp_path)
    await journal.open()
    finished, interrupted, stale = lease(1), lease(2), lease(3)
    for of in (finished, interrupted, stale):
        await journal.accept(Offer(1, of, REVISION))
    await journal.finish(Outcome(finished, "answered", 200, body=b"kept", body_size=4), None)
    await journal.close()
    running = start()
    session = await dispatcher.welcomed(abandon=[stale])
    assert {(held.lease, held.finished) for held in session.hello.held} == {
        (finished, True),
        (interrupted, False),
        (stale, False),
    }
    assert (await session.expect(Outcome)).body == b"kept"
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.started) == (interrupted, True)
    await session.send(OutcomeAck(finished, recorded=True))
    running.node.stop()
    await session.expect(NodeGoodbye)
    await running.ended()
    assert session.seen(GiveBack) == []
    assert await left_in_journal(tmp_path) == 0


# A dispatcher that misbehaves


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\xc1garbage", 1002), (b"\x91" * 5000, 1002), (bytes(4 * 1024 * 1024 + 1), 1009), ("text", 1002)],
    ids=["garbage", "nested", "oversized", "text"],
)
async def test_a_frame_that_is_none_ends_the_session_and_not_the_node(
    dispatcher: Dispatcher, start: StartNode, frame: bytes | str, code: int
) -> None:
    """The node closes with the code that fits, and comes back."""
    start()
    session = await ready(dispatcher)
    await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.capabilities.network_latency is not None)
    with suppress(ConnectionError):  # the node does not read an oversized frame to its end
        await (session.ws.send_str(frame) if isinstance(frame, str) else session.ws.send_bytes(frame))
    # A connection that is closed on unread bytes is reset, which can overtake the close frame.
    assert await session.over() in ({code, 1006} if code == 1009 else {code})
    await ready(dispatcher)


async def test_a_first_message_that_is_no_hello_ends_the_session(dispatcher: Dispatcher, start: StartNode) -> None:
    """Nothing is taken from a dispatcher that did not greet."""
    running = start()
    session = await dispatcher.session()
    await session.send(Offer(1, lease(), REVISION))
    assert await session.over() == 1002
    assert running.functions.empty()


async def test_a_silent_dispatcher_is_left(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is open and says nothing is not waited on for ever."""
    monkeypatch.setattr(agent.session, "SILENCE_SECONDS", 0.3)
    start()
    session = await dispatcher.session()
    session.answers_heartbeats = False
    await session.welcome()
    await session.over()
    await dispatcher.session()


async def test_memory_goes_back_after_work_alone(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work makes the node give back what it needed; one that has nothing to do lets things be."""
    given, looked = 0, asyncio.Event()

    def give_back() -> None:
        nonlocal given
        given += 1

    def beat(loop: str, due: float = 0.0) -> None:
        if loop == "memory":
            looked.set()

    monkeypatch.setattr("agent.heap.give_back", give_back)
    monkeypatch.setattr("agent.node.GIVE_BACK_SECONDS", 0.02)
    running = start()
    monkeypatch.setattr(running.node.vitals, "beat", beat)
    session = await ready(dispatcher)
    for work in (False, True, False):
        before = given
        if work:
            of = lease()
            await session.send(Offer(1, of, REVISION))
            (await running.function()).end(answered(of))
        for _ in range(3):
            looked.clear()
            await looked.wait()
        assert given - before == work


async def test_heartbeats_keep_a_session_without_work(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the dispatcher answers, the session lives beyond the limit of silence."""
    monkeypatch.setattr(agent.session, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(agent.session, "HEARTBEAT_SECONDS", 0.1)
    start()
    session = await ready(dispatcher)
    for _ in range(10):
        await session.expect(NodeHeartbeat)
    assert len(dispatcher.asked) == 1


async def test_retry_after_is_honoured(dispatcher: Dispatcher, start: StartNode) -> None:
    """A dispatcher that is overloaded is left alone for as long as it says: in an answer, and in a goodbye."""
    dispatcher.refusals.append(web.Response(status=503, headers={"Retry-After": "1"}))
    start()
    session = await ready(dispatcher)
    await session.send(DispatcherGoodbye("restart", retry_after=1.2))
    await ready(dispatcher)
    first, second, third = dispatcher.asked
    assert second - first >= 1
    assert third - second >= 1.2


async def test_a_node_that_is_refused_goes_on_trying(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential that is not known is no reason to end for good, nor to wait longer than after any failure."""
    monkeypatch.setattr("agent.link.full_jitter", lambda _failures, _random: 0.01)
    dispatcher.refusals += [web.Response(status=401), web.Response(status=403), web.Response(status=404)]
    start()
    await ready(dispatcher)
    assert len(dispatcher.asked) == 4


async def test_the_next_dispatcher_is_tried(dispatcher: Dispatcher, start: StartNode) -> None:
    """One that is not there does not keep a node from another."""
    start(urls=["http://127.0.0.1:1", dispatcher.url])
    await ready(dispatcher)


# Stopping


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """No credit, no pull waited for, no new work, the outcome acknowledged, a goodbye, and no container left."""
    running = start()
    session = await ready(dispatcher)
    of, pulling, held, late = (lease(number) for number in range(1, 5))
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    function.report.phase("running")
    await session.send(Offer(2, pulling, REVISION), Offer(3, held, REVISION, hold=True))
    pull = await running.function()
    pull.report.phase("pulling")
    pull.started = False
    await session.expect(Accept, lambda accept: accept.lease == held)
    running.node.stop()
    assert (await session.expect(CreditNotice)).credit.slots == 0
    given_back = [await session.expect(GiveBack), await session.expect(GiveBack)]
    assert {(each.lease, each.reason, each.started) for each in given_back} == {
        (held, "drained", False),
        (pulling, "drained", False),
    }
    assert pull.stopped == "drained"
    await session.send(Offer(4, late, REVISION))
    assert (await session.expect(Decline)).reason == "draining"
    assert running.phase() is Phase.DRAINING
    function.end(answered(of))
    assert (await session.expect(Outcome)).lease == of
    assert session.seen(NodeGoodbye) == []
    await session.send(OutcomeAck(of, recorded=True))
    await session.expect(NodeGoodbye)
    await running.ended()
    assert await session.over() == 1000
    assert running.containers.removed
    assert function.stopped is None
    assert running.phase() is Phase.STOPPED
    assert await left_in_journal(tmp_path) == 0


async def by_second_signal(running: Running, session: Session) -> None:
    running.node.stop()
    await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.reason == "draining")
    running.node.stop()


async def by_grace_period(running: Running, session: Session) -> None:
    running.node.stop()


@pytest.mark.parametrize(("ask", "grace"), [(by_second_signal, 60.0), (by_grace_period, 0.2)])
async def test_an_abort_gives_back_what_runs(
    dispatcher: Dispatcher,
    start: StartNode,
    ask: Callable[[Running, Session], Awaitable[None]],
    grace: float,
) -> None:
    """At the grace period, or at a second signal, work is stopped with "drained" and goes back before the goodbye."""
    running = start(grace=grace)
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(), REVISION))
    function = await running.function()
    function.report.phase("running")
    await ask(running, session)
    given_back = await session.expect(GiveBack)
    assert (given_back.lease, given_back.reason, given_back.started) == (function.offer.lease, "drained", True)
    await session.expect(NodeGoodbye)
    await running.ended()
    assert function.stopped == "drained"
    assert running.containers.removed


async def test_a_drain_takes_the_time_that_its_work_needs(dispatcher: Dispatcher, start: StartNode) -> None:
    """The node says so, and no longer waits for it when it has ended; without a deadline the grace period holds."""
    running = start(grace=600.0)
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    function = await running.function()
    function.report.phase("running")
    assert running.node.stop_seconds is None
    running.node.stop()
    await session.expect(NodeHeartbeat, lambda heartbeat: heartbeat.reason == "draining")
    assert 600 < told(running) < 800
    function.seconds_left = 300.0
    assert 300 < told(running) < 500
    function.end(answered(of))
    await session.expect(Outcome)
    assert told(running) < 200
    await session.send(OutcomeAck(of, recorded=True))
    await running.ended()


def told(running: Running) -> float:
    """The seconds that a node which stops asks for."""
    seconds = running.node.stop_seconds
    assert seconds is not None
    assert running.node.summary().endswith(f", ends within {seconds:.0f} s")
    return seconds


async def test_an_outcome_that_nobody_acknowledged_outlives_the_agent(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """The agent ends in time without a goodbye, which would say that it holds nothing; the next run delivers."""
    running = start(grace=0.3)
    session = await ready(dispatcher)
    of = lease()
    await session.send(Offer(1, of, REVISION))
    (await running.function()).end(answered(of))
    await session.expect(Outcome)
    running.node.stop()
    await running.ended()
    assert session.seen(NodeGoodbye) == []
    start()
    session = await dispatcher.welcomed()
    assert (await session.expect(Outcome)).lease == of


async def test_a_drain_without_a_dispatcher_ends_too(start: StartNode) -> None:
    """A node that is cut off can be stopped."""
    running = start(urls=["http://127.0.0.1:1"])
    running.node.stop()
    await running.ended()
    assert running.phase() is Phase.STOPPED


# The engine


async def test_a_node_without_an_engine_says_so_and_waits(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is connected and not available, and takes work as soon as the engine is there."""
    monkeypatch.setattr("agent.engine_watch.SEARCH_SECONDS", 0.1)
    containers = Containers()
    containers.problem = "the Docker Engine does not answer"
    running = start(containers=containers)
    session = await dispatcher.welcomed()
    assert session.hello.credit.slots == 0
    heartbeat = await session.expect(NodeHeartbeat, lambda message: message.reason == containers.problem)
    assert not heartbeat.available
    await session.send(Offer(1, lease(), REVISION))
    assert (await session.expect(Decline)).reason == containers.problem
    assert running.phase() is Phase.STARTING
    containers.problem = None
    heartbeat = await session.expect(NodeHeartbeat, lambda message: message.available)
    assert heartbeat.credit.slots == 3
    assert heartbeat.capabilities.arch == "x86_64"
    assert running.phase() is Phase.READY


async def test_a_lost_engine_takes_no_more_work_until_it_answers(dispatcher: Dispatcher, start: StartNode) -> None:
    """The give-back that tells of it carries no credit, so that the task does not come back at once."""
    running = start()
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(), REVISION))
    running.containers.problem = "gone"
    (await running.function()).end(GaveBack("engine_lost", started=False))
    assert (await session.expect(GiveBack)).credit.slots == 0
    await session.expect(NodeHeartbeat, lambda message: message.reason == "gone")
    running.containers.problem = None
    running.node._engine.attempt_given_back("engine_lost")
    await session.expect(NodeHeartbeat, lambda message: message.available)


async def test_the_canary_comes_before_any_work(
    dispatcher: Dispatcher, start: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, and after the engine was away, nothing is taken until a canary has come back."""
    monkeypatch.setattr(engine_watch, "AGAIN_SECONDS", 0.05)
    lost = CanaryReport("namespace", {"image": 1.0}, "it does not start", failed="start")
    reason = "the canary failed at 'start': it does not start"
    containers = Containers()
    containers.canaries = [lost, lost]
    running = start(containers=containers)
    session = await dispatcher.welcomed()
    await session.expect(NodeHeartbeat, lambda message: message.reason == reason)
    assert running.phase() is Phase.READY  # what an earlier run left is taken up all the same
    await session.send(Offer(1, lease(), REVISION))
    assert (await session.expect(Decline)).reason == reason
    assert (await session.expect(NodeHeartbeat, lambda message: message.available)).credit.slots == 3

    containers.problem = "gone"
    containers.canaries = [lost]
    running.node._engine.attempt_given_back("engine_lost")
    await session.expect(NodeHeartbeat, lambda message: message.reason == "gone")
    containers.problem = None
    await session.expect(NodeHeartbeat, lambda message: message.reason == reason)
    await session.expect(NodeHeartbeat, lambda message: message.available)


async def test_a_control_loop_that_fails_ends_the_node(
    dispatcher: Dispatcher, start: StartNode, tmp_path: Path
) -> None:
    """Whoever supervises the process starts it again: the error is raised, work is ended and kept for the next run."""
    running = start()
    session = await ready(dispatcher)
    await session.send(Offer(1, lease(), REVISION))
    await running.function()

    async def broken() -> None:
        raise LookupError("a bug")

    running.containers.ask = broken  # type: ignore[method-assign]
    running.node._engine._ask = broken
    running.node._engine._in_doubt.set()
    with pytest.raises(ExceptionGroup):
        await running.ended()
    assert running.containers.removed
    assert await left_in_journal(tmp_path) == 1

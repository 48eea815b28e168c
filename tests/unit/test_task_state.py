"""The life of an attempt, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.task_state import (
    ENDED,
    STOPPING,
    WORKING,
    Abandoned,
    Aborted,
    AcceptNotWritten,
    AcceptWritten,
    Acknowledged,
    Action,
    Begun,
    BodyLost,
    Draining,
    Event,
    Forget,
    GiveBackSent,
    KeepGiveBack,
    Life,
    NotReadopted,
    Overdue,
    PhaseEntered,
    Readopted,
    ReleasePermit,
    SendAccept,
    SendDecline,
    SendGiveBack,
    SendOutcome,
    SessionOpened,
    Spooled,
    SpoolOutcome,
    StartUpload,
    StartWork,
    State,
    StopUpload,
    StopWork,
    Uploaded,
    UploadPostponed,
    UploadRefused,
    WorkGaveBack,
    WorkRan,
    step,
)

ANY_EVENT: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(
        [
            AcceptWritten(),
            AcceptNotWritten("disk full"),
            Begun(),
            Spooled(),
            Uploaded(),
            UploadPostponed(),
            UploadRefused(),
            BodyLost(),
            Readopted(),
            NotReadopted("gone"),
            SessionOpened(),
            GiveBackSent(),
            Overdue(),
            Acknowledged(),
            Draining(),
            Aborted(),
            Aborted("stopped_by_owner"),
        ]
    ),
    st.builds(PhaseEntered, st.sampled_from(["pulling", "starting", "running", "uploading"])),
    st.builds(WorkRan, st.booleans()),
    st.builds(WorkGaveBack, st.just("engine"), st.booleans()),
    st.builds(Abandoned, st.sampled_from(["cancelled", "stale", "drained"])),
)
OFFERED = st.builds(Life, st.just(State.OFFERED), st.booleans())
BEGUN = OFFERED | st.just(Life(State.INTERRUPTED))
"""How a life begins: with an offer, or with what an earlier run of the agent left unfinished."""
EVENTS = st.lists(ANY_EVENT, max_size=30)


def live(life: Life, events: list[Event]) -> tuple[Life, list[tuple[Event, Action]]]:
    """Give the last state, and each action with the event that it followed from."""
    done: list[tuple[Event, Action]] = []
    for event in events:
        life, actions = step(life, event)
        done += [(event, action) for action in actions]
    return life, done


def test_an_attempt_runs_is_spooled_sent_and_forgotten() -> None:
    """The ordinary life does each thing once and in order."""
    events: list[Event] = [
        AcceptWritten(),
        *(PhaseEntered(phase) for phase in ("pulling", "starting", "running")),
        WorkRan(upload=False),
        Spooled(),
        Acknowledged(),
    ]
    life, done = live(Life(), events)
    assert life.state is State.ACKNOWLEDGED
    assert [action for _, action in done] == [
        SendAccept(),
        StartWork(),
        ReleasePermit(),
        SpoolOutcome(),
        SendOutcome(),
        Forget(),
    ]


def test_a_large_result_is_uploaded_before_its_outcome() -> None:
    """The outcome follows the body, and a later session does not upload it again."""
    life, done = live(Life(), [AcceptWritten(), WorkRan(upload=True), Spooled()])
    assert life.state is State.UPLOADING
    assert done[-1][1] == StartUpload()
    life, done = live(life, [SessionOpened(), Uploaded(), SessionOpened()])
    assert [action for _, action in done] == [SendOutcome(), SendOutcome()]


def test_an_upload_that_is_not_let_in_waits_for_the_next_session() -> None:
    """A postponed upload is begun again, and its outcome is not sent without it."""
    life, _ = live(Life(), [AcceptWritten(), WorkRan(upload=True), Spooled(), UploadPostponed()])
    assert life.state is State.SPOOLED
    assert step(life, SessionOpened())[1] == (StartUpload(),)


def test_a_give_back_waits_for_a_session() -> None:
    """It is forgotten only when it was sent."""
    life, done = live(Life(), [AcceptWritten(), WorkGaveBack("engine", started=True)])
    assert life.state is State.GIVING_BACK
    assert Forget() not in [action for _, action in done]
    assert step(life, SessionOpened())[1] == (SendGiveBack(),)
    life, actions = step(life, GiveBackSent())
    assert (life.state, actions) == (State.GIVEN_BACK, (Forget(),))


def test_a_drain_ends_nothing_that_has_a_container_and_begins_nothing_that_has_none() -> None:
    """The grace period belongs to functions that run, not to pulls; a job that ran before the agent did goes on."""
    for phases in ([], [PhaseEntered("pulling")]):
        without, _ = live(Life(), [AcceptWritten(), *phases])
        aborting, actions = step(without, Draining())
        assert (aborting.state, actions) == (State.ABORTING, (StopWork("drained"),))
        given_back, actions = step(aborting, WorkGaveBack("drained", started=False))
        assert given_back.state is State.GIVING_BACK
        assert KeepGiveBack("drained", started=False) in actions
    for phase in ("starting", "running", "uploading"):
        working, _ = live(Life(), [AcceptWritten(), PhaseEntered("pulling"), PhaseEntered(phase)])
        assert step(working, Draining()) == (working, ())
    taken_up, _ = live(Life(State.INTERRUPTED), [Readopted()])
    assert step(taken_up, Draining()) == (taken_up, ())
    held, _ = live(Life(hold=True), [AcceptWritten(), Draining()])
    assert held.state is State.GIVING_BACK
    declined, done = live(Life(), [Draining(), AcceptWritten()])
    assert declined.state is State.DECLINED
    assert [action for _, action in done] == [ReleasePermit(), SendDecline("draining"), Forget()]


def test_an_outcome_that_comes_during_an_abort_counts() -> None:
    """Work that ended by itself while it was told to end is not done twice."""
    life, done = live(Life(), [AcceptWritten(), Aborted(), Aborted(), WorkRan(upload=False)])
    assert life.state is State.SPOOLING
    assert [action for _, action in done].count(StopWork("drained")) == 1


def test_what_the_machines_owner_stops_is_given_back_with_that_reason() -> None:
    """Before it begins it is declined or given back as not begun; later its work is told to end, once."""
    stopped = Aborted("stopped_by_owner")
    declined, done = live(Life(), [stopped, AcceptWritten()])
    assert declined.state is State.DECLINED
    assert SendDecline("stopped_by_owner") in [action for _, action in done]
    held, done = live(Life(hold=True), [AcceptWritten(), stopped])
    assert held.state is State.GIVING_BACK
    assert KeepGiveBack("stopped_by_owner", started=False) in [action for _, action in done]
    interrupted, actions = step(Life(State.INTERRUPTED), stopped)
    assert interrupted.state is State.GIVING_BACK
    assert KeepGiveBack("stopped_by_owner", started=True) in actions
    working, done = live(Life(), [AcceptWritten(), stopped, stopped, Aborted()])
    assert working.state is State.ABORTING
    assert [action for _, action in done if isinstance(action, StopWork)] == [StopWork("stopped_by_owner")]
    delivering, _ = live(Life(), [AcceptWritten(), WorkRan(upload=False), Spooled()])
    assert step(delivering, stopped) == (delivering, ()), "what has ended is delivered"


def test_an_interrupted_job_goes_on_only_if_its_container_is_there() -> None:
    """It works again, or is given back as begun; and what the dispatcher took away does neither."""
    life = Life(State.INTERRUPTED)
    assert step(life, Readopted()) == (Life(State.ACCEPTED, readopted=True), (StartWork(),))
    for event in (NotReadopted("gone"), Aborted()):
        given_back, actions = step(life, event)
        assert given_back.state is State.GIVING_BACK
        assert KeepGiveBack("gone" if isinstance(event, NotReadopted) else "drained", started=True) in actions
    abandoned, done = live(life, [Abandoned("stale"), Readopted(), NotReadopted("gone")])
    assert abandoned.state is State.ABANDONED
    assert [action for _, action in done] == [ReleasePermit(), Forget()]
    assert step(life, Draining()) == (life, ())


def test_a_result_whose_body_is_lost_is_given_back_and_never_sent() -> None:
    """Nobody was told of the outcome yet, so the task can run again."""
    life, done = live(Life(), [AcceptWritten(), WorkRan(upload=True), Spooled(), BodyLost(), SessionOpened()])
    assert life.state is State.GIVING_BACK
    actions = [action for _, action in done]
    assert SendOutcome() not in actions
    assert actions.count(ReleasePermit()) == 1
    assert actions[-1] == SendGiveBack()


@given(BEGUN, EVENTS)
def test_an_outcome_that_was_sent_is_never_given_back(life: Life, events: list[Event]) -> None:
    """Nor the other way round, whatever is lost."""
    _, done = live(life, events)
    actions = [action for _, action in done]
    assert not (SendOutcome() in actions and SendGiveBack() in actions)


@given(BEGUN, EVENTS)
def test_an_attempt_has_one_ending(life: Life, events: list[Event]) -> None:
    """It is spooled once at most, and never both answered and given back or declined.

    Only where the body is lost it is given back without having been answered, though it was spooled.
    """
    _, done = live(life, [event for event in events if not isinstance(event, BodyLost)])
    actions = [action for _, action in done]
    assert actions.count(SpoolOutcome()) <= 1
    endings = (
        SpoolOutcome() in actions,
        SendGiveBack() in actions,
        any(isinstance(action, SendDecline) for action in actions),
    )
    assert sum(endings) <= 1


@given(BEGUN, EVENTS)
def test_nothing_is_said_after_abandon(life: Life, events: list[Event]) -> None:
    """From `Abandoned` on nothing is started, uploaded or given back; an outcome is sent of a cancelled task alone."""
    abandoned_at = next((i for i, event in enumerate(events) if isinstance(event, Abandoned)), len(events))
    life, _ = live(life, events[:abandoned_at])
    _, done = live(life, events[abandoned_at:])
    allowed: set[type[Action]] = {StopWork, ReleasePermit, Forget, StopUpload}
    if events[abandoned_at : abandoned_at + 1] == [Abandoned("cancelled")]:
        allowed |= {SpoolOutcome, SendOutcome}
    assert {type(action) for _, action in done} <= allowed


def test_of_a_cancelled_task_the_outcome_is_sent_for_its_log() -> None:
    """Work is stopped, what came of it is kept until it is acknowledged, and a body is not uploaded."""
    cancelled = Abandoned("cancelled")
    life, done = live(Life(), [AcceptWritten(), cancelled, Abandoned("stale"), WorkRan(upload=False), Spooled()])
    assert [action for _, action in done[2:]] == [StopWork("cancelled"), ReleasePermit(), SpoolOutcome(), SendOutcome()]
    assert step(life, Acknowledged())[0].state is State.ACKNOWLEDGED
    uploading, _ = live(Life(), [AcceptWritten(), WorkRan(upload=True), Spooled()])
    assert step(uploading, cancelled) == (Life(State.SPOOLED), (StopUpload(), SendOutcome()))
    waiting, _ = live(uploading, [UploadPostponed()])
    assert step(waiting, cancelled) == (Life(State.SPOOLED), (SendOutcome(),))
    gone, done = live(Life(), [AcceptWritten(), cancelled, WorkGaveBack("engine_lost", started=True)])
    assert gone.state is State.ABANDONED
    assert SendGiveBack() not in [action for _, action in done]


@given(EVENTS)
def test_a_held_offer_does_not_begin_before_it_is_told_to(events: list[Event]) -> None:
    """Work starts only after the accept is on disk and `Begun` came after that, and once."""
    life = Life(hold=True)
    written = begun = False
    for event in events:
        before = life.state
        life, actions = step(life, event)
        written = written or isinstance(event, AcceptWritten)
        begun = begun or (written and before is State.HELD and isinstance(event, Begun))
        assert begun or StartWork() not in actions
        assert begun or life.state not in WORKING


@given(BEGUN, EVENTS)
def test_the_permit_is_released_once_and_never_while_something_runs(life: Life, events: list[Event]) -> None:
    """An ended attempt holds no permit; one at work does."""
    releases = 0
    for event in events:
        life, actions = step(life, event)
        releases += actions.count(ReleasePermit())
        assert releases <= 1
        busy = life.state in WORKING | STOPPING | {State.OFFERED, State.HELD}
        busy = busy or life.state is State.INTERRUPTED
        assert releases == (0 if busy else 1)


@given(BEGUN, EVENTS)
def test_what_is_on_disk_is_forgotten_once_and_last(life: Life, events: list[Event]) -> None:
    """No attempt stays in the journal after its end, and none leaves it before."""
    forgotten = False
    for event in events:
        was_ended = life.state in ENDED
        life, actions = step(life, event)
        assert not (was_ended and actions)
        if Forget() in actions:
            assert life.state in ENDED
            assert actions[-1] == Forget()
            forgotten = True
    if life.state in ENDED and life.state is not State.DECLINED:
        assert forgotten


@given(BEGUN, EVENTS)
def test_every_life_comes_to_an_end(life: Life, events: list[Event]) -> None:
    """Whatever came before, a few ordinary events end it: no state is a trap."""
    life, _ = live(life, events)
    closing: list[Event] = [
        AcceptWritten(),
        Readopted(),
        Begun(),
        WorkRan(upload=False),
        Spooled(),
        Uploaded(),
        SessionOpened(),
        Uploaded(),
        Acknowledged(),
        GiveBackSent(),
    ]
    life, _ = live(life, closing)
    assert life.state in ENDED

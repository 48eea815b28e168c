"""The life of one attempt on this node, as a pure function: (life, event) -> (life, actions).

    OFFERED ──> HELD ──> ACCEPTED ──> PULLING ──> STARTING ──> RUNNING ──> SPOOLING ──> UPLOADING ──> SPOOLED
       │          │          └────────────┴─── working ┴───────────┘                                     │
    DECLINED  GIVING_BACK ──> GIVEN_BACK                                                           ACKNOWLEDGED

An attempt that is likely to be short (see `Offer.short`) begins as ACCEPTED, and the journal hears of it
only when it lasts: `Lasting` comes a moment after the offer. One whose outcome is acknowledged before that
is never written.

What an earlier run of the agent left begins as SPOOLED, as INTERRUPTED, from where it goes on as
ACCEPTED if its container is still there, or as GIVING_BACK.

What may be relied upon:

- nothing but a short attempt begins before the accept is on disk, and where the offer is held, nothing
  before `Begun`; an accept is sent only when it is on disk;
- an attempt has one ending: an outcome, a give-back, a decline or nothing (abandoned); only where
  the body of an outcome is lost before it could be uploaded, the attempt is given back after all;
- after `Abandoned` work that still runs is stopped first, and no outcome is sent; of a cancelled task
  one is, for its log, but no body is uploaded;
- the permits are released once, when the work is over.

An event that means nothing in a state is ignored: messages and disk writes cross each other, and
none of those crossings is an error.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from agent.protocol import Phase

StopReason: TypeAlias = Literal["cancelled", "stale", "drained", "stopped_by_owner"]


class State(StrEnum):
    """Where an attempt is."""

    OFFERED = "offered"
    """Its accept is being written to the journal."""
    HELD = "held"
    """Accepted, but it must not begin yet."""
    ACCEPTED = "accepted"
    """Its input is fetched and its container looked for."""
    INTERRUPTED = "interrupted"
    """It ran when an earlier run of the agent ended, and may go on if the engine still has its container."""
    PULLING = "pulling"
    STARTING = "starting"
    RUNNING = "running"
    ABORTING = "aborting"
    """The node stops, or its owner wants the task gone: its work was told to end; an answer that comes still counts."""
    ABANDONING = "abandoning"
    """The dispatcher took it away: its work was told to end, and what comes of it does not count."""
    CANCELLING = "cancelling"
    """Its owner cancelled it: its work was told to end, and of what comes of it the log is still wanted."""
    SPOOLING = "spooling"
    """Its outcome is being written to the journal."""
    UPLOADING = "uploading"
    """The body of its outcome is being uploaded beside the session."""
    SPOOLED = "spooled"
    """Its outcome is on disk, and is repeated until it is acknowledged."""
    GIVING_BACK = "giving_back"
    """It is to be given back as soon as there is a session."""

    ACKNOWLEDGED = "acknowledged"
    ABANDONED = "abandoned"
    GIVEN_BACK = "given_back"
    DECLINED = "declined"


WORKING = frozenset({State.ACCEPTED, State.PULLING, State.STARTING, State.RUNNING})
"""Something runs for the attempt, and its end is awaited as `WorkRan` or `WorkGaveBack`."""

STOPPING = frozenset({State.ABORTING, State.ABANDONING, State.CANCELLING})
"""Something still runs, and was told to end."""

BEGINNING = frozenset({State.OFFERED, State.HELD, State.INTERRUPTED})
"""Nothing runs for the attempt, and something may soon."""

ENDED = frozenset({State.ACKNOWLEDGED, State.ABANDONED, State.GIVEN_BACK, State.DECLINED})


class Life(Struct, frozen=True):
    """All that decides what happens next.

    Attributes:
        hold: The offer says not to begin before `Begun`.
        upload: A body is still to be uploaded before the outcome can be sent.
        unwritten: The journal has not heard of it.
        readopted: Its function has run since an earlier run of the agent, whatever the state says.
    """

    state: State = State.OFFERED
    hold: bool = False
    upload: bool = False
    unwritten: bool = False
    readopted: bool = False


# Events -------------------------------------------------------------------------------------------


class AcceptWritten(Struct, frozen=True):
    """The accept is on disk."""


class AcceptNotWritten(Struct, frozen=True):
    """The journal could not write."""

    reason: str


class Lasting(Struct, frozen=True):
    """A short attempt has not come to its end in a short time."""


class Begun(Struct, frozen=True):
    """The dispatcher has recorded the accept of a held offer."""


class PhaseEntered(Struct, frozen=True):
    """The work got further."""

    phase: Phase


class WorkRan(Struct, frozen=True):
    """The work ended with an outcome; ``upload``: its body is too large for a message."""

    upload: bool


class WorkGaveBack(Struct, frozen=True):
    """The work ended without an outcome, for a reason that is not the function's."""

    reason: str
    started: bool


class Spooled(Struct, frozen=True):
    """The journal is done with the outcome."""


class Uploaded(Struct, frozen=True):
    """The dispatcher has the body."""


class UploadPostponed(Struct, frozen=True):
    """The upload cannot go on before there is another session."""


class UploadRefused(Struct, frozen=True):
    """The dispatcher will not take the body: the lease is stale."""


class BodyLost(Struct, frozen=True):
    """The file with the body of the outcome is gone, or is damaged."""


class Readopted(Struct, frozen=True):
    """The container of an interrupted attempt is there: it goes on."""


class NotReadopted(Struct, frozen=True):
    """An interrupted attempt cannot go on."""

    reason: str


class SessionOpened(Struct, frozen=True):
    """There is a session again, and the dispatcher did not take the attempt away."""


class GiveBackSent(Struct, frozen=True):
    """The give-back is on its way."""


class Overdue(Struct, frozen=True):
    """The dispatcher's next word is missing for too long."""


class Acknowledged(Struct, frozen=True):
    """The dispatcher has the outcome, or refused it for good."""


class Abandoned(Struct, frozen=True):
    """The attempt is not this node's any more."""

    reason: StopReason


class Draining(Struct, frozen=True):
    """The node begins nothing new: what has no container yet is another node's to do, sooner than a pull ends here."""


class Aborted(Struct, frozen=True):
    """The node ends what runs, to give it back."""

    reason: StopReason = "drained"


Event: TypeAlias = (
    AcceptWritten
    | AcceptNotWritten
    | Lasting
    | Begun
    | PhaseEntered
    | WorkRan
    | WorkGaveBack
    | Spooled
    | Uploaded
    | UploadPostponed
    | UploadRefused
    | BodyLost
    | Readopted
    | NotReadopted
    | SessionOpened
    | GiveBackSent
    | Overdue
    | Acknowledged
    | Abandoned
    | Draining
    | Aborted
)

# Actions ------------------------------------------------------------------------------------------


class WriteAccept(Struct, frozen=True):
    """Write the accept of what runs already to the journal."""


class SendAccept(Struct, frozen=True):
    """Tell the dispatcher that the offer is taken."""


class SendDecline(Struct, frozen=True):
    """Tell the dispatcher that the offer is not taken."""

    reason: str


class StartWork(Struct, frozen=True):
    """Fetch the input and run the function."""


class StopWork(Struct, frozen=True):
    """End what runs for the attempt; its end is reported as ever."""

    reason: StopReason


class ReleasePermit(Struct, frozen=True):
    """The attempt uses no cpu, memory or slot any more."""


class SpoolOutcome(Struct, frozen=True):
    """Write the outcome to the journal."""


class StartUpload(Struct, frozen=True):
    """Upload the outcome's body."""


class StopUpload(Struct, frozen=True):
    """End the upload; nothing is reported."""


class SendOutcome(Struct, frozen=True):
    """Tell the dispatcher how the attempt ended."""


class KeepGiveBack(Struct, frozen=True):
    """Remember why the attempt is given back."""

    reason: str
    started: bool


class SendGiveBack(Struct, frozen=True):
    """Tell the dispatcher, as soon as there is a session; `GiveBackSent` follows when it is told."""


class Forget(Struct, frozen=True):
    """Remove the attempt from the journal, with its files."""


Action: TypeAlias = (
    WriteAccept
    | SendAccept
    | SendDecline
    | StartWork
    | StopWork
    | ReleasePermit
    | SpoolOutcome
    | StartUpload
    | StopUpload
    | SendOutcome
    | KeepGiveBack
    | SendGiveBack
    | Forget
)
Step: TypeAlias = tuple[Life, tuple[Action, ...]]

_PHASES = {"pulling": State.PULLING, "starting": State.STARTING, "running": State.RUNNING, "uploading": State.RUNNING}


def step(life: Life, event: Event) -> Step:
    """Say what becomes of an attempt, and what is to be done, in this order."""
    match life.state:
        case State.OFFERED:
            return _offered(life, event)
        case State.HELD:
            return _held(life, event)
        case State.INTERRUPTED:
            return _interrupted(life, event)
        case State.ACCEPTED | State.PULLING | State.STARTING | State.RUNNING | State.ABORTING:
            return _working(life, event)
        case State.ABANDONING | State.CANCELLING:
            return _abandoning(life, event)
        case State.SPOOLING | State.UPLOADING | State.SPOOLED:
            return _delivering(life, event)
        case State.GIVING_BACK:
            return _giving_back(life, event)
        case _:
            return life, ()


def _offered(life: Life, event: Event) -> Step:
    match event:
        case AcceptWritten() if life.hold:
            return _to(life, State.HELD, SendAccept())
        case AcceptWritten():
            return _to(life, State.ACCEPTED, SendAccept(), StartWork())
        case AcceptNotWritten(reason):
            return _to(life, State.DECLINED, ReleasePermit(), SendDecline(reason))
        case Abandoned():
            return _to(life, State.ABANDONED, ReleasePermit(), Forget())
        case Draining():
            return _to(life, State.DECLINED, ReleasePermit(), SendDecline("draining"), Forget())
        case Aborted(reason):
            return _to(life, State.DECLINED, ReleasePermit(), SendDecline(reason), Forget())
        case _:
            return life, ()


def _held(life: Life, event: Event) -> Step:
    match event:
        case Begun():
            return _to(life, State.ACCEPTED, StartWork())
        case Abandoned():
            return _to(life, State.ABANDONED, ReleasePermit(), Forget())
        case Draining():
            return _give_back(life, "drained", started=False)
        case Aborted(reason):
            return _give_back(life, reason, started=False)
        case Overdue():
            return _give_back(life, "was not told to begin", started=False)
        case _:
            return life, ()


def _interrupted(life: Life, event: Event) -> Step:
    match event:
        case Readopted():
            return _to(replace(life, readopted=True), State.ACCEPTED, StartWork())
        case NotReadopted(reason):
            return _give_back(life, reason, started=True)
        case Aborted(reason):
            return _give_back(life, reason, started=True)
        case Abandoned():
            return _to(life, State.ABANDONED, ReleasePermit(), Forget())
        case _:
            return life, ()


def _working(life: Life, event: Event) -> Step:
    match event:
        case PhaseEntered(phase) if life.state is not State.ABORTING:
            return _to(life, _PHASES[phase])
        case Lasting() if life.unwritten:
            return replace(life, unwritten=False), (WriteAccept(),)
        case AcceptWritten():
            return life, (SendAccept(),)
        case WorkRan(upload=False) if life.unwritten:
            return _to(life, State.SPOOLED, ReleasePermit(), SendOutcome())
        case WorkRan(upload):
            life = replace(life, unwritten=False)
            return _to(replace(life, upload=upload), State.SPOOLING, ReleasePermit(), SpoolOutcome())
        case WorkGaveBack(reason, started):
            return _give_back(life, reason, started=started)
        case Abandoned(reason):
            return _to(life, State.CANCELLING if reason == "cancelled" else State.ABANDONING, StopWork(reason))
        case Aborted() | AcceptNotWritten() | Draining() if (why := _why_to_stop(life, event)) is not None:
            return _to(life, State.ABORTING, StopWork(why))
        case _:
            return life, ()


def _why_to_stop(life: Life, event: Event) -> StopReason | None:
    """Say why work is told to end, for its task to be given back; None where it goes on, or was told already."""
    match event:
        case _ if life.state is State.ABORTING:
            return None
        case Aborted(reason):
            return reason
        case AcceptNotWritten():
            return "drained"
        case Draining() if life.state in {State.ACCEPTED, State.PULLING} and not life.readopted:
            return "drained"
        case _:
            return None


def _abandoning(life: Life, event: Event) -> Step:
    match event:
        case WorkRan() if life.state is State.CANCELLING:
            life = replace(life, unwritten=False)
            return _to(life, State.SPOOLING, ReleasePermit(), SpoolOutcome())
        case WorkRan() | WorkGaveBack():
            return _to(life, State.ABANDONED, ReleasePermit(), Forget())
        case _:
            return life, ()


def _delivering(life: Life, event: Event) -> Step:
    if event == Abandoned("cancelled"):
        return _cancelled_while_delivering(life)
    if isinstance(event, Abandoned | UploadRefused):
        stop = (StopUpload(),) if life.state is State.UPLOADING else ()
        return _to(life, State.ABANDONED, *stop, Forget())
    match life.state, event:
        case State.SPOOLING, Spooled():
            return _deliver(life)
        case State.UPLOADING, Uploaded():
            return _deliver(replace(life, upload=False))
        case State.UPLOADING, UploadPostponed():
            return _to(life, State.SPOOLED)
        case State.UPLOADING, BodyLost():
            lost = KeepGiveBack("the result was lost on the node's disk", started=True)
            return _to(life, State.GIVING_BACK, lost, SendGiveBack())
        case State.SPOOLED, SessionOpened() | Overdue():
            return _deliver(life)
        case State.SPOOLED, Acknowledged():
            return _to(life, State.ACKNOWLEDGED, Forget())
        case State.SPOOLED, Lasting() if life.unwritten:
            return replace(life, unwritten=False), (SpoolOutcome(),)
        case _:
            return life, ()


def _cancelled_while_delivering(life: Life) -> Step:
    """Send the outcome for its log, without its body."""
    without_body = replace(life, upload=False)
    match life.state:
        case State.UPLOADING:
            return _to(without_body, State.SPOOLED, StopUpload(), SendOutcome())
        case State.SPOOLED if life.upload:
            return without_body, (SendOutcome(),)
        case _:
            return without_body, ()


def _giving_back(life: Life, event: Event) -> Step:
    match event:
        case SessionOpened():
            return life, (SendGiveBack(),)
        case GiveBackSent():
            return _to(life, State.GIVEN_BACK, Forget())
        case Abandoned():
            return _to(life, State.ABANDONED, Forget())
        case _:
            return life, ()


def _deliver(life: Life) -> Step:
    if life.upload:
        return _to(life, State.UPLOADING, StartUpload())
    return _to(life, State.SPOOLED, SendOutcome())


def _give_back(life: Life, reason: str, *, started: bool) -> Step:
    return _to(life, State.GIVING_BACK, ReleasePermit(), KeepGiveBack(reason, started), SendGiveBack())


def _to(life: Life, state: State, *actions: Action) -> Step:
    return replace(life, state=state), actions

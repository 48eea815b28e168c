from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import LEASE_SECONDS, OFFER_SECONDS, Lease, Revision
from dispatcher.leases import LeaseTable, Stage

TASK = "6405942c9956fae80d7e0e91"
ACCOUNT = "account"
REVISION = Revision("6404b3da46551827c611ffe5", 1, "image")


def lease(number: int = 1, task: str = TASK) -> Lease:
    return Lease(task, 1, number.to_bytes(16))


def test_an_offer_without_an_answer_is_due_after_its_time() -> None:
    """The answer to an offer is waited for just so long."""
    table = LeaseTable()
    table.grant(lease(), ACCOUNT, "n", REVISION, now=100)
    assert table.due(100 + OFFER_SECONDS - 0.01) == []
    assert [holding.stage for holding in table.due(100 + OFFER_SECONDS)] == [Stage.OFFERED]
    assert len(table) == 0


def test_renewals_keep_a_lease_and_silence_ends_it() -> None:
    """An accepted lease lives as long as it is renewed, and a period longer."""
    table = LeaseTable()
    table.accepted(table.grant(lease(), ACCOUNT, "n", REVISION, now=0), now=1)
    for now in range(10, 200, 10):
        assert table.due(now) == []
        assert table.renew(lease(), "n", now)
    assert table.due(190 + LEASE_SECONDS - 0.01) == []
    assert len(table.due(190 + LEASE_SECONDS)) == 1


def test_only_the_very_lease_of_the_very_node_counts() -> None:
    """Another node, another token, another attempt: none of them finds or renews a lease."""
    table = LeaseTable()
    table.grant(lease(), ACCOUNT, "n", REVISION, now=0)
    assert table.find(lease(), "other") is None
    assert table.find(lease(2), "n") is None
    assert table.find(Lease(TASK, 2, lease().token), "n") is None
    assert not table.renew(lease(), "other", 0)
    assert table.find(lease(), "n") is not None


def test_a_new_lease_of_a_task_ends_the_earlier_one() -> None:
    """A task is in the hands of one node at a time."""
    table = LeaseTable()
    table.grant(lease(1), ACCOUNT, "a", REVISION, now=0)
    table.grant(lease(2), ACCOUNT, "b", REVISION, now=0)
    assert table.find(lease(1), "a") is None
    assert table.of_node("a") == []
    assert [holding.node for holding in table.due(1000)] == ["b"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["grant", "accept", "renew", "drop", "due"]), st.integers(0, 5), st.integers(0, 40)),
        max_size=60,
    )
)
def test_the_table_agrees_with_a_plain_model(steps: list[tuple[str, int, int]]) -> None:
    """In any order of calls, exactly the leases past their deadline become due, each once."""
    table, model, now = LeaseTable(), {}, 0.0
    for step, which, passed in steps:
        now += passed
        subject, node = lease(which + 1, f"{which:024x}"), f"node{which % 2}"
        if step == "grant" and subject.token not in model:
            table.grant(subject, ACCOUNT, node, REVISION, now=now)
            model[subject.token] = (now + OFFER_SECONDS, False)
        elif step == "accept" and (holding := table.find(subject, node)):
            table.accepted(holding, now)
            model[subject.token] = (now + LEASE_SECONDS, True)
        elif step == "renew" and table.renew(subject, node, now) and model[subject.token][1]:
            model[subject.token] = (now + LEASE_SECONDS, True)
        elif step == "drop":
            assert (table.drop(subject) is not None) == (model.pop(subject.token, None) is not None)
        elif step == "due":
            expected = {token for token, (deadline, _) in model.items() if deadline <= now}
            assert {holding.lease.token for holding in table.due(now)} == expected
            for token in expected:
                del model[token]
        assert len(table) == len(model)

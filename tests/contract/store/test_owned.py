"""Functions and nodes."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from dispatcher.store.base import Store
from dispatcher.store.errors import NameTaken, NodeDisabled, NodeTaken
from dispatcher.store.records import Verdict
from tests.contract.store.cases import (
    ACCOUNT,
    ANSWER,
    NODE,
    OTHER_NODE,
    claim_one,
    new_function,
    new_task,
    task_id,
)


async def test_a_function_is_found_by_its_owner_alone(store: Store) -> None:
    """A function is found by id and by name, whole; for another account it does not exist."""
    function = new_function(description="words")
    await store.add_function(function)
    assert await store.function(ACCOUNT, function.id) == function
    assert await store.function_named(ACCOUNT, function.name) == function
    assert await store.function("other", function.id) is None
    assert await store.function_named("other", function.name) is None
    assert await store.function_named(ACCOUNT, f"{function.name}\0") is None
    assert await store.function(ACCOUNT, task_id(99)) is None
    assert not await store.remove_function("other", function.id)
    assert not await store.change_function(replace(function, account="other"), 1)
    assert await store.function(ACCOUNT, function.id) == function


async def test_function_names_are_taken_within_an_account(store: Store) -> None:
    """Two functions of an account never share a name, however they come by it; two accounts may."""
    first, second = new_function(1), new_function(2)
    await store.add_function(first)
    with pytest.raises(NameTaken):
        await store.add_function(replace(second, name=first.name))
    await store.add_function(second)
    with pytest.raises(NameTaken):
        await store.change_function(replace(second, name=first.name), 1)
    assert await store.function(ACCOUNT, second.id) == second
    await store.add_function(new_function(3, account="other", name=first.name))
    assert await store.remove_function(ACCOUNT, first.id)
    assert await store.change_function(replace(second, name=first.name), 1)


async def test_functions_that_want_warm_containers(store: Store) -> None:
    """They are found with their newest revision, of every account, newest first; others are not."""
    functions = [new_function(number, account=f"account {number}") for number in range(1, 5)]
    wanted = [replace(each, revision=replace(each.revision, warm=2)) for each in functions[1:]]
    for each in (functions[0], *wanted):
        await store.add_function(each)
    changed = replace(wanted[1], revision=replace(wanted[1].revision, number=2, warm=0))
    assert await store.change_function(changed, 1)
    found = await store.warm_revisions(10)
    assert found == [wanted[2].revision, wanted[0].revision]
    assert await store.warm_revisions(1) == [wanted[2].revision]
    assert await store.remove_function(wanted[2].account, wanted[2].id)
    assert await store.warm_revisions(10) == [wanted[0].revision]


async def test_functions_are_listed_newest_first(store: Store) -> None:
    """Pages follow each other without gap or overlap, and hold no other account's functions."""
    functions = [new_function(number) for number in range(1, 6)]
    for function in functions:
        await store.add_function(function)
    await store.add_function(new_function(9, account="other"))
    newest_first = functions[::-1]
    assert await store.functions(ACCOUNT, 10, None) == newest_first
    assert await store.functions(ACCOUNT, 2, None) == newest_first[:2]
    assert await store.functions(ACCOUNT, 2, newest_first[1].id) == newest_first[2:4]
    assert await store.functions(ACCOUNT, 2, newest_first[-1].id) == []


async def test_of_changes_at_the_same_time_one_wins(store: Store) -> None:
    """Callers that all saw revision 1 and each make a revision 2: one is stored, the others are told."""
    function = new_function()
    await store.add_function(function)
    changes = [
        replace(function, description=str(number), revision=replace(function.revision, number=2, image=f"i{number}"))
        for number in range(8)
    ]
    won = await asyncio.gather(*(store.change_function(change, 1) for change in changes))
    assert sum(won) == 1
    assert await store.function(ACCOUNT, function.id) == changes[won.index(True)]
    assert not await store.change_function(function, 1)


async def test_a_change_without_a_new_revision(store: Store) -> None:
    """A description changes and the revision stays."""
    function = new_function()
    await store.add_function(function)
    changed = replace(function, description="other words", name="renamed")
    assert await store.change_function(changed, 1)
    assert await store.function(ACCOUNT, function.id) == changed


async def test_tasks_outlive_their_function(store: Store) -> None:
    """A task keeps the revision that it was made with: through changes, and after the function is removed."""
    function = new_function()
    await store.add_function(function)
    await store.create_task(new_task(1, function.revision))
    second = replace(function.revision, number=2, image="newer")
    await store.change_function(replace(function, revision=second), 1)
    assert await store.remove_function(ACCOUNT, function.id)
    assert not await store.remove_function(ACCOUNT, function.id)
    assert await store.function(ACCOUNT, function.id) is None
    assert await store.queued() == [(function.revision, ACCOUNT, 1)]
    claim = await claim_one(store, revision=function.revision)
    assert claim.revision == function.revision
    assert await store.finish(claim.lease, NODE, ANSWER) is Verdict.RECORDED
    assert await store.remove_finished(10_000, 10) == 1
    await store.create_task(new_task(2, second))
    assert await store.queued() == [(second, ACCOUNT, 1)]


async def test_a_node_joins_and_joins_again(store: Store) -> None:
    """Joining again gives a new credential and ends the old one; what the node said of itself stays."""
    await store.join_node(NODE, ACCOUNT, "first", b"old", 1_000)
    node = await store.node_of_credential(NODE, b"old")
    assert node is not None
    assert (node.id, node.account, node.description, node.disabled) == (NODE, ACCOUNT, "first", False)
    assert (node.joined_ms, node.seen_ms, node.version, node.capabilities_json) == (1_000, None, "", b"")
    await store.node_seen(NODE, 1_500, "1.2.3", b'{"cpuCount":4}')
    await store.join_node(NODE, ACCOUNT, "second", b"new", 2_000)
    assert await store.node_of_credential(NODE, b"old") is None
    assert await store.node_of_credential(OTHER_NODE, b"new") is None
    node = await store.node_of_credential(NODE, b"new")
    assert node is not None
    assert node == await store.node(ACCOUNT, NODE)
    assert (node.description, node.joined_ms, node.seen_ms) == ("second", 2_000, 1_500)
    assert (node.version, node.capabilities_json) == ("1.2.3", b'{"cpuCount":4}')


async def test_a_node_belongs_to_one_account(store: Store) -> None:
    """Another account can neither join a node's id, nor see the node, nor remove it."""
    await store.join_node(NODE, ACCOUNT, "", b"mine", 1)
    with pytest.raises(NodeTaken):
        await store.join_node(NODE, "other", "", b"theirs", 2)
    assert await store.node_of_credential(NODE, b"theirs") is None
    assert await store.node("other", NODE) is None
    assert await store.nodes("other", 10, None) == []
    assert not await store.set_node_disabled("other", NODE, disabled=True)
    assert await store.node_of_credential(NODE, b"mine") is not None


async def test_a_removed_node_must_be_restored_first(store: Store) -> None:
    """A removed node is still known by its credential, as disabled, and cannot join until it is restored."""
    await store.join_node(NODE, ACCOUNT, "", b"c", 1)
    assert await store.set_node_disabled(ACCOUNT, NODE, disabled=True)
    node = await store.node_of_credential(NODE, b"c")
    assert node is not None
    assert node.disabled
    with pytest.raises(NodeDisabled):
        await store.join_node(NODE, ACCOUNT, "", b"d", 2)
    assert await store.set_node_disabled(ACCOUNT, NODE, disabled=False)
    await store.join_node(NODE, ACCOUNT, "", b"d", 3)
    assert not await store.set_node_disabled(ACCOUNT, OTHER_NODE, disabled=True)


async def test_nodes_are_listed_by_id(store: Store) -> None:
    """Pages follow each other by id. A node that nobody knows is not made by being seen."""
    ids = [f"3f0d2f8e-0000-4000-8000-{number:012}" for number in range(5)]
    for node_id in reversed(ids):
        await store.join_node(node_id, ACCOUNT, "", b"c", 1)
    await store.node_seen("unknown", 1, "1", b"{}")
    assert [node.id for node in await store.nodes(ACCOUNT, 10, None)] == ids
    assert [node.id for node in await store.nodes(ACCOUNT, 2, ids[1])] == ids[2:4]
    assert await store.nodes(ACCOUNT, 2, ids[-1]) == []

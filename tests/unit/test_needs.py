from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.protocol import Capabilities
from dispatcher.needs import Lack, Need

needs = st.builds(
    Need,
    cpu_count=st.sampled_from([0, 4]),
    mem_size=st.sampled_from([0, 1024]),
    network_latency=st.sampled_from([0, 5]),
    privileged=st.booleans(),
    internet=st.booleans(),
    sharing=st.just(1),
)
nodes = st.lists(
    st.builds(
        Capabilities,
        cpu_count=st.sampled_from([1, 8]),
        mem_size=st.sampled_from([512, 2048]),
        network_latency=st.sampled_from([None, 1.0, 9.0]),
        privileged=st.booleans(),
        internet=st.booleans(),
    ),
    max_size=4,
)


@given(needs, nodes, nodes)
def test_what_several_say_of_their_nodes_is_what_one_would_say_of_all(
    need: Need, here: list[Capabilities], there: list[Capabilities]
) -> None:
    """What is missing here and not there is not missing, however the nodes are divided among dispatchers."""
    one, other = Lack.of(need, here), Lack.of(need, there)
    together = Lack.of(need, [*here, *there])
    if one is None or other is None:
        assert together is None
    else:
        assert one.with_others(other) == other.with_others(one) == together


@given(needs, nodes)
def test_a_lack_is_said_only_where_no_node_would_do(need: Need, here: list[Capabilities]) -> None:
    """The sentence agrees with the test that matching makes for each node."""
    would_do = any(need.is_met(capabilities) and need.is_near(capabilities) for capabilities in here)
    assert (Lack.of(need, here) is None) == would_do


def test_the_sentence_names_what_is_missing() -> None:
    """Each requirement that nobody meets is named; where each is met by somebody, that is said."""
    need = Need(4, 1024, 0, privileged=False, internet=True, sharing=1)
    for nodes, said in (
        ([], "no node is connected"),
        ([Capabilities(1, 2048)], "no node offers cpuCount 4 and network internet"),
        ([Capabilities(8, 512), Capabilities(1, 2048, internet=True)], "no node meets all requirements at once"),
    ):
        assert str(Lack.of(need, nodes)) == said

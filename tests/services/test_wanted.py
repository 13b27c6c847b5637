"""What a caller asks of the routing of its calls, and which calls that holds for."""

import asyncio
import threading
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services import routed
from llmwire.services.wanted import NOTHING, Wanted, both, routing, wanted, wanting, words_of

some_demand = st.none() | st.frozensets(st.sampled_from(["local", "eu", "vendor"]))


def labels(*names):
    return frozenset(names)


def test_outside_of_every_block_nothing_is_asked():
    assert wanted() is NOTHING
    assert (NOTHING.tags, NOTHING.trust, NOTHING.is_for_routing) == (frozenset(), None, False)


class TestRouted:
    def test_a_block_asks_for_tags_and_trust(self):
        with routed(tags="cheap", trust="eu"):
            assert wanted() == Wanted(tags=labels("cheap"), trust=labels("eu"))

    @pytest.mark.parametrize(
        "written",
        ["eu, cheap", ["eu", "cheap"], {"cheap", "eu"}, (" eu ", "cheap", " ")],
        ids=["text", "list", "set", "tuple"],
    )
    def test_words_are_a_list_or_a_text_with_commas(self, written):
        with routed(tags=written, trust=written):
            assert wanted() == Wanted(tags=labels("eu", "cheap"), trust=labels("eu", "cheap"))

    def test_a_block_without_trust_demands_nothing(self):
        with routed(tags="cheap"):
            assert wanted().trust is None

    @pytest.mark.parametrize("trust", ["", " , ", [], [" "]], ids=str)
    def test_a_demand_that_names_no_label_is_refused(self, trust):
        with pytest.raises(ValueError, match="trust names no label: name one"), routed(trust=trust):
            pass

        assert wanted() is NOTHING

    def test_a_block_within_a_block_adds_its_tags(self):
        with routed(tags="eu"), routed(tags="cheap"):
            assert wanted().tags == {"eu", "cheap"}

    def test_every_demand_of_blocks_within_each_other_must_hold(self):
        with routed(trust="local,eu"), routed(trust="eu,vendor"):
            assert wanted().trust == {"eu"}

    def test_demands_that_exclude_each_other_leave_nobody(self):
        with routed(trust="local"), routed(trust="vendor"):
            assert wanted().trust == frozenset()

    def test_a_block_within_a_block_without_a_demand_keeps_that_of_the_outer_one(self):
        with routed(trust="local"), routed(tags="cheap"):
            assert wanted().trust == {"local"}

    def test_after_a_block_the_outer_one_holds_again(self):
        with routed(tags="outer"):
            with routed(tags="inner", trust="eu"):
                pass

            assert wanted() == Wanted(tags=labels("outer"))

    def test_a_block_that_raises_asks_for_nothing_any_more(self):
        with pytest.raises(KeyError), routed(tags="eu"):
            raise KeyError

        assert wanted() is NOTHING


class TestWhere:
    def test_tasks_that_are_started_inside_ask_for_the_same_and_others_do_not(self):
        async def what_is_asked():
            await asyncio.sleep(0)
            return wanted().tags

        async def main():
            before = asyncio.create_task(what_is_asked())
            with routed(tags="eu"):
                inside = asyncio.create_task(what_is_asked())
            return await before, await inside

        assert asyncio.run(main()) == (frozenset(), {"eu"})

    def test_a_task_does_not_change_what_its_parent_asks(self):
        async def child():
            with routed(tags="child"):
                await asyncio.sleep(0)

        async def main():
            with routed(tags="parent"):
                await asyncio.create_task(child())
                return wanted().tags

        assert asyncio.run(main()) == {"parent"}

    def test_another_thread_asks_for_nothing_unless_it_is_given_the_context(self):
        asked = []
        with routed(tags="eu"):
            given = copy_context()
            threads = [
                threading.Thread(target=lambda: asked.append(wanted().tags)),
                threading.Thread(target=lambda: asked.append(given.run(wanted).tags)),
            ]
            for thread in threads:
                thread.start()
                thread.join()

        assert asked == [frozenset(), {"eu"}]


class TestOnBehalf:
    def test_what_a_caller_asked_elsewhere_is_asked_here_and_nothing_else(self):
        theirs = Wanted(tags=labels("theirs"), trust=labels("eu"))

        with routed(tags="ours", trust="local"):
            with wanting(theirs):
                assert wanted() is theirs

            assert wanted().tags == {"ours"}

    @pytest.mark.parametrize("trust", [None, frozenset(), labels("eu")], ids=str)
    def test_a_call_made_for_routing_is_marked_and_demands_what_its_request_does_and_no_more(self, trust):
        with routed(tags="eu", trust="local"), routing(trust):
            assert wanted() == Wanted(trust=trust, is_for_routing=True)

    def test_the_mark_of_routing_outlives_a_block_inside_it(self):
        with routing(None), routed(tags="eu"):
            assert wanted().is_for_routing


def test_headers_of_one_call_add_to_what_its_block_asks():
    asked = Wanted(tags=labels("a"), trust=labels("local", "eu"), is_for_routing=True)

    assert asked.and_also(labels("b"), labels("eu")) == Wanted(
        tags=labels("a", "b"), trust=labels("eu"), is_for_routing=True
    )
    assert asked.and_also(frozenset(), None) == asked


@given(one=some_demand, other=some_demand, label=st.sampled_from(["local", "eu", "vendor", "elsewhere"]))
def test_a_label_meets_two_demands_where_it_meets_each(one, other, label):
    def meets(demand):
        return demand is None or label in demand

    assert meets(both(one, other)) is (meets(one) and meets(other))
    assert both(one, other) == both(other, one)


def test_no_demand_and_no_demand_is_no_demand():
    assert both(None, None) is None


@pytest.mark.parametrize(
    ("written", "words"),
    [("", []), (" , ,", []), ("a", ["a"]), (" a , b,a", ["a", "b"]), ([], []), (["a b", ""], ["a b"])],
    ids=str,
)
def test_words_are_without_blanks_around_and_each_is_one(written, words):
    assert words_of(written) == set(words)

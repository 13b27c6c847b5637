"""What a bulk run does next, played without threads: time and results are moved by hand."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwire.services.bulk.batches import BatchSpec
from llmwire.services.bulk.plan import HOPELESS, BulkSpec, Plan
from llmwire.services.bulk.results import Answer, key_of
from llmwire.services.bulk.trouble import Kind, Trouble

NEVER = object()  #: a fate: the limit never lets it go


class Drawn:
    """Randomness that always gives the same."""

    def __init__(self, number):
        self._number = number

    def random(self):
        return self._number


def _vectors(texts):
    return np.array([[len(text), sum(map(ord, text))] for text in texts], dtype=np.float32)


def _trouble(kind, retry_after_s=None):
    return Trouble(kind=kind, error=RuntimeError(f"it is {kind}"), retry_after_s=retry_after_s)


class Game:
    """A plan, its texts, a cache of vectors, and a clock."""

    def __init__(self, texts, *, inputs=2, cache=None, jitter=0.5, **spec):
        spec = BulkSpec(batches=BatchSpec(max_inputs=inputs), **spec)
        self.plan = Plan(spec, Drawn(jitter))
        self.now_s, self.cache = 0.0, cache
        self.taken, self._texts = 0, iter(texts)
        self.under_way, self.blocks = [], []

    def fill(self):
        """Take and send as much as the plan wants. Returns the texts of each new request."""
        before = len(self.under_way)
        while True:
            while (request := self.plan.next(self.now_s)) is not None:
                self.under_way.append(request)
            if not (count := self.plan.wants_texts()):
                return [request.texts for request in self.under_way[before:]]
            texts = list(itertools.islice(self._texts, count))
            self.taken += len(texts)
            if len(texts) < count:
                self.plan.exhausted()
            keys = self.plan.add(texts)
            self.plan.found({key: self.cache[key] for key in keys if key in self.cache} if self.cache else {})

    def answer(self, index=0):
        """The request under way with this index is served."""
        request = self.under_way.pop(index)
        answer = Answer(vectors=_vectors(request.texts), tokens=len(request))
        if self.cache is not None:
            self.cache.update(zip(request.keys, answer.vectors, strict=True))
        self.plan.answered(request, answer)
        self._take_blocks()

    def fail(self, kind, index=0, **trouble):
        """It meets trouble."""
        self.plan.failed(self.under_way.pop(index), _trouble(kind, **trouble), self.now_s)
        self._take_blocks()

    def rest(self):
        """Let the time pass until the plan wants to send. Returns how long that is."""
        wait_s = self.plan.wait_s(self.now_s)
        assert wait_s is not None
        self.now_s += wait_s
        return wait_s

    def play(self, fate=lambda texts: None):
        """To the end: each request meets what `fate` says of its texts, None is an answer, NEVER the limit's."""
        while not self.plan.is_done:
            self.fill()
            if self._take_blocks():
                continue
            if self.under_way:
                self._meet(fate(self.under_way[0].texts))
            elif not self.plan.is_done:
                self.rest()
        return self

    def _meet(self, kind):
        if kind is None:
            self.answer()
        elif kind is NEVER:
            self.plan.never_goes(self.under_way.pop(0))
            self._take_blocks()
        else:
            self.fail(kind)

    def _take_blocks(self):
        before = len(self.blocks)
        while (block := self.plan.block()) is not None:
            self.blocks.append(block)
        return len(self.blocks) > before

    @property
    def refused(self):
        return {refused.position: refused.reason for block in self.blocks for refused in block.refused}


def test_texts_are_taken_only_as_far_as_they_are_sent():
    game = Game(map(str, itertools.count()), parallel=3, inputs=2)

    assert game.fill() == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert game.taken == 6


def test_blocks_come_in_the_order_of_the_texts_whatever_is_served_first():
    game = Game("abcdef", parallel=3)
    game.fill()

    game.answer(2)
    game.answer(1)
    assert game.blocks == []
    game.answer(0)

    assert [block.start for block in game.blocks] == [0, 2, 4]
    assert np.array_equal(np.concatenate([block.vectors for block in game.blocks]), _vectors("abcdef"))


def test_requests_run_ahead_of_the_first_missing_text_by_the_window_only():
    game = Game(map(str, itertools.count()), parallel=2, window=8)

    for _ in range(20):
        game.fill()
        if len(game.under_way) > 1:
            game.answer(1)

    assert game.taken == 8


def test_a_text_that_repeats_is_sent_once_and_stands_everywhere():
    game = Game("aabab", inputs=5)

    assert game.fill() == [["a", "b"]]
    game.answer()

    assert np.array_equal(game.blocks[0].vectors, _vectors("aabab"))
    assert (game.plan.summary.embedded, game.plan.summary.repeated, game.plan.summary.texts) == (2, 3, 5)


def test_what_the_cache_has_is_not_sent():
    game = Game("abc", inputs=3, cache={key_of("b"): _vectors("b")[0]})

    assert game.fill() == [["a", "c"]]
    game.answer()

    assert np.array_equal(game.blocks[0].vectors, _vectors("abc"))
    assert (game.plan.summary.embedded, game.plan.summary.cached) == (2, 1)


def test_what_is_all_cached_is_taken_a_block_at_a_time():
    texts = [str(number) for number in range(100)]
    cache = {key_of(text): _vectors([text])[0] for text in texts}
    game = Game(texts, inputs=2, cache=cache)

    game.fill()

    assert game.taken == 2


def test_a_cached_vector_of_another_width_is_embedded_again():
    game = Game("ab", cache={key_of("b"): np.ones(7, dtype=np.float32)}, parallel=1, inputs=1)
    game.fill()
    game.answer()

    assert game.fill() == [["b"]]


def test_a_text_that_no_server_can_take_is_not_sent():
    game = Game(["a", "", 7, "\ud800", "b"], inputs=5)

    assert game.fill() == [["a", "b"]]
    game.answer()

    (block,) = game.blocks
    assert [refused.position for refused in block.refused] == [1, 2, 3]
    assert "empty" in game.refused[1]
    assert "int" in game.refused[2]
    assert "encoded" in game.refused[3]
    assert np.isnan(block.vectors[1:4]).all()
    assert np.array_equal(block.vectors[[0, 4]], _vectors("ab"))


def test_a_block_that_is_refused_whole_is_as_wide_as_the_others():
    game = Game(["", "", "a", "b"], inputs=2).play()

    assert [block.vectors.shape for block in game.blocks] == [(2, 2), (2, 2)]


def test_without_any_vector_a_block_has_no_columns():
    game = Game(["", ""]).play()

    assert [block.vectors.shape for block in game.blocks] == [(2, 0)]


def test_refused_texts_do_not_fill_the_window_for_ever():
    game = Game([""] * 10 + ["a"], inputs=2, parallel=1, window=4).play()

    assert list(game.refused) == list(range(10))
    assert game.plan.summary.embedded == 1


def test_a_refused_batch_is_cut_in_halves_that_go_first_until_the_text_is_found():
    game = Game("abcdefgh", inputs=4, parallel=1)
    game.fill()

    game.fail(Kind.REFUSED)

    assert game.fill() == [["a", "b"]]
    game.answer()
    assert game.fill() == [["c", "d"]]
    game.fail(Kind.REFUSED)
    assert game.fill() == [["c"]]
    game.fail(Kind.REFUSED)
    assert game.fill() == [["d"]]
    game.answer()
    assert game.fill() == [["e", "f", "g", "h"]]
    assert game.refused == {2: "it is refused"}


def test_the_duplicates_of_a_refused_text_are_refused_each_at_its_position():
    game = Game("axbxcdefgx", parallel=1).play(lambda texts: Kind.REFUSED if "x" in texts else None)

    assert sorted(game.refused) == [1, 3, 9]


def test_a_text_that_was_refused_is_not_sent_again_in_the_same_run():
    game = Game("xaxbxcxd", inputs=1, parallel=1, window=1)
    sent = []

    game.play(lambda texts: sent.append(texts[0]) or (Kind.REFUSED if "x" in texts else None))

    assert sent == ["x", "a", "b", "c", "d"]


def test_where_all_are_refused_it_is_the_request_that_is_wrong():
    game = Game(map(str, itertools.count()), inputs=8)

    with pytest.raises(RuntimeError, match="it is refused") as caught:
        game.play(lambda texts: Kind.REFUSED)

    assert f"{HOPELESS} texts were refused, and none embedded" in caught.value.__notes__[0]


def test_where_the_cache_has_some_the_others_may_all_be_refused():
    good, bad = [f"good {number}" for number in range(4)], [f"bad {number}" for number in range(HOPELESS + 1)]
    cache = {key_of(text): np.ones(2, dtype=np.float32) for text in good}

    game = Game([*good, *bad], cache=cache).play(lambda texts: Kind.REFUSED)

    assert len(game.refused) == len(bad)


def test_texts_that_are_never_sent_say_nothing_of_the_request():
    never_sent = ["", "word " * 9000] * HOPELESS

    game = Game([*never_sent, "x"], inputs=8).play(lambda texts: Kind.REFUSED)

    assert len(game.refused) == len(never_sent) + 1


def test_of_the_refused_texts_only_the_latest_are_remembered(monkeypatch):
    monkeypatch.setattr("llmwire.services.bulk.plan.REMEMBERED", 2)
    game = Game("xyzzyx", inputs=1, parallel=1, window=1)
    sent = []

    game.play(lambda texts: sent.append(texts[0]) or Kind.REFUSED)

    assert sent == ["x", "y", "z", "x"]
    assert sorted(game.refused) == [0, 1, 2, 3, 4, 5]


def test_a_refused_text_that_is_held_again_stays_remembered(monkeypatch):
    monkeypatch.setattr("llmwire.services.bulk.plan.REMEMBERED", 1)
    game = Game("axyxbx", inputs=1, parallel=2)  # the second x is held when y is one too many
    sent = []

    game.play(lambda texts: sent.append(texts[0]) or (Kind.REFUSED if texts[0] in "xy" else None))

    assert sent == ["a", "x", "y", "b"]


def test_busy_servers_are_asked_less_and_the_batch_is_never_cut():
    game = Game(map(str, itertools.count()), parallel=4)
    sent = game.fill()

    for _ in range(4):
        game.fail(Kind.BUSY, retry_after_s=3.0)

    assert game.fill() == []
    assert game.rest() == 3.0
    again = game.fill()
    assert len(again) == 2
    assert all(texts in sent for texts in again)


def test_a_batch_that_meets_busy_servers_a_hundred_times_stays_whole():
    game = Game("ab", parallel=1)

    for _ in range(100):
        assert game.fill() == [["a", "b"]]
        game.fail(Kind.BUSY, retry_after_s=1.0)
        game.rest()

    game.fill()
    game.answer()
    assert game.refused == {}


def test_without_a_hint_the_rests_double_up_to_half_a_minute():
    game = Game("a", jitter=1.0)
    rests = []

    for _ in range(7):
        game.fill()
        game.fail(Kind.DOWN)
        rests.append(game.rest())

    assert rests == [1, 2, 4, 8, 16, 30, 30]


def test_rests_are_spread_over_their_whole_length():
    game = Game("a", jitter=0.25)
    game.fill()

    game.fail(Kind.DOWN)

    assert game.rest() == 0.25


def test_a_batch_that_failed_alone_three_times_while_others_were_served_is_cut():
    game = Game("abcd", parallel=2)
    game.fill()
    game.fail(Kind.DOWN)
    game.answer()

    for _ in range(2):
        game.rest()
        assert game.fill() == [["a", "b"]]
        game.fail(Kind.DOWN)

    assert game.fill() == [["a"], ["b"]]


def test_a_batch_that_fails_as_all_others_do_stays_whole():
    game = Game("abcdefgh", parallel=4)

    for _ in range(2):
        sent = game.fill()
        for _ in sent:
            game.fail(Kind.DOWN)
        game.rest()
        game.now_s += 30

    assert sorted(game.fill()) == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]]


def test_the_last_batch_is_cut_where_nothing_else_can_show_that_the_servers_are_well():
    game = Game("ab")

    game.play(lambda texts: Kind.DOWN if "b" in texts else None)

    assert game.refused == {1: "no server could embed it: it is down"}


def test_two_texts_of_one_batch_that_bring_servers_down_are_both_found():
    game = Game("abcdefgh", inputs=8).play(lambda texts: Kind.DOWN if {"b", "g"} & set(texts) else None)

    assert sorted(game.refused) == [1, 6]


def test_such_texts_are_found_where_the_window_stands_still_at_them():
    texts = ["x", *map(str, range(40)), "y", *map(str, range(100, 140))]
    game = Game(texts, inputs=4, parallel=2, window=10).play(lambda sent: Kind.DOWN if {"x", "y"} & set(sent) else None)

    assert sorted(game.refused) == [0, 41]


def test_an_outage_of_all_servers_refuses_no_text():
    game, number = Game(map(str, range(64)), inputs=8, parallel=4), itertools.count()

    game.play(lambda texts: Kind.DOWN if 3 <= next(number) < 60 else None)

    assert game.refused == {}
    assert game.plan.summary.embedded == 64


@pytest.mark.parametrize(("inputs", "texts"), [(1, 600), (8, 1200)])
def test_a_long_brown_out_that_spares_one_request_in_ten_refuses_hardly_a_text(inputs, texts):
    chance, begun = random.Random(3), itertools.count()
    game = Game(map(str, range(texts)), inputs=inputs, parallel=8, window=texts, patience_s=1e9)

    game.play(lambda sent: Kind.DOWN if 20 <= next(begun) < 5000 and chance.random() < 0.9 else None)

    assert len(game.refused) < texts / 100  # of which half would be, if a few answers proved the servers well


def test_a_single_text_that_fails_while_nothing_is_served_is_never_refused():
    game = Game("a", patience_s=1000)

    with pytest.raises(RuntimeError, match="down"):
        game.play(lambda texts: Kind.DOWN)

    assert game.refused == {}


@pytest.mark.parametrize("kind", [Kind.DOWN, Kind.BUSY])
def test_patience_ends_and_the_error_says_what_is_missing(kind):
    game = Game("abc", patience_s=60, jitter=1.0)

    with pytest.raises(RuntimeError, match=f"it is {kind}") as caught:
        game.play(lambda texts: kind)

    assert 60 <= game.now_s < 120
    assert "missing are the texts at 0, 1, 2" in caught.value.__notes__[0]


def test_each_answer_makes_patience_new():
    game = Game("abcd", inputs=1, parallel=1, patience_s=10)

    for _ in range(3):
        game.fill()
        game.fail(Kind.DOWN)
        game.now_s += 9
        game.fill()
        game.answer()

    assert game.plan.summary.embedded == 3


def test_a_server_that_asks_for_more_time_than_there_is_patience_is_asked_once_more():
    game = Game("a", patience_s=60)
    game.fill()

    game.fail(Kind.BUSY, retry_after_s=1e9)

    assert game.rest() == 60
    assert game.fill() == [["a"]]


def test_texts_that_wait_for_company_go_alone_where_nothing_else_is_under_way():
    game = Game("abcd", parallel=2, inputs=2, window=3)
    assert game.fill() == [["a", "b"]]

    game.fail(Kind.DOWN)

    assert game.fill() == [["c"]]


def test_fatal_trouble_is_raised_as_it_is():
    game = Game("a")
    game.fill()

    with pytest.raises(RuntimeError, match="it is fatal") as caught:
        game.fail(Kind.FATAL)

    assert not hasattr(caught.value, "__notes__")


def test_what_is_postponed_goes_first_and_holds_up_the_rest():
    game = Game("abcd", parallel=2)
    game.fill()

    game.plan.postpone(game.under_way.pop(0), 2.0)

    assert game.fill() == []
    assert game.rest() == 2.0
    assert game.fill() == [["a", "b"]]


def test_a_group_that_is_too_many_tokens_goes_in_two_requests():
    spec = BulkSpec(batches=BatchSpec(max_request_tokens=10, count_tokens=len), parallel=2)
    plan = Plan(spec, Drawn(0.5))
    plan.exhausted()
    plan.add(["aaaaaa", "bbbb", "c"])
    plan.found({})

    first, second = plan.next(0.0), plan.next(0.0)

    assert (first.texts, first.tokens) == (["aaaaaa", "bbbb"], 10)
    assert (second.texts, second.tokens) == (["c"], 1)


def test_what_the_limit_never_lets_go_is_cut_and_a_single_text_of_it_refused():
    game, sent = Game("abcd", inputs=4), []

    game.play(lambda texts: NEVER if "b" in texts else sent.append(texts))

    assert sorted(sent) == [["a"], ["c", "d"]]
    assert game.refused == {1: "may have 1 tokens, more than the limit ever lets go: split it, or raise that"}


def test_texts_that_the_limit_never_lets_go_say_nothing_of_the_request():
    game = Game([*map(str, range(2 * HOPELESS)), "x"], inputs=8)

    game.play(lambda texts: Kind.REFUSED if "x" in texts else NEVER)

    assert len(game.refused) == 2 * HOPELESS + 1


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"window": 0}, {"patience_s": -1}, {"patience_s": float("nan")}])
def test_numbers_that_no_run_can_have_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BulkSpec(**wrong)


TEXTS = st.lists(st.sampled_from(["", *"abcdefghijklmnopqrst"]), max_size=60)


@settings(max_examples=150)
@given(
    texts=TEXTS,
    poison=st.sets(st.sampled_from("abcdefghijklmnopqrst"), max_size=4),
    cached=st.sets(st.sampled_from("abcdefghijklmnopqrst"), max_size=6),
    inputs=st.integers(1, 7),
    parallel=st.integers(1, 5),
    window=st.integers(1, 25),
    random=st.randoms(use_true_random=False),
    faults=st.integers(0, 40),
)
def test_every_text_is_handed_on_once_in_order_with_its_vector_or_refused(
    texts, poison, cached, inputs, parallel, window, random, faults
):
    poison = poison - cached
    cache = {key_of(text): _vectors([text])[0] for text in cached} or {b"": None}
    game = Game(texts, inputs=inputs, parallel=parallel, window=window, cache=cache, patience_s=1e9)
    sent = 0

    while not game.plan.is_done:
        assert game.plan.pace.under_way == len(game.under_way)
        for batch in game.fill():
            sent += 1
            assert not any(key_of(text) in game.cache for text in batch)
            assert len(batch) <= inputs
        all_under_way = [text for request in game.under_way for text in request.texts]
        assert len(all_under_way) == len(set(all_under_way))
        assert len(game.under_way) <= parallel
        assert game.taken - game.plan.summary.texts <= window
        if game._take_blocks():
            continue
        if game.under_way:
            index = random.randrange(len(game.under_way))
            request = game.under_way[index]
            if faults and random.random() < 0.5:
                faults -= 1
                # A third failure may be taken for the text's own.
                kind = random.choice([Kind.BUSY, Kind.DOWN]) if request.failures < 2 else Kind.BUSY
                allowed = game.plan.pace.allowed
                game.fail(kind, index, retry_after_s=random.choice([None, 2.0]))
                assert game.plan.pace.allowed in (allowed, max(1, allowed // 2))
                assert kind is Kind.BUSY or game.plan.pace.allowed == allowed
            elif poison & set(request.texts):
                game.fail(Kind.REFUSED, index)
            else:
                game.answer(index)
        elif not game.plan.is_done:
            game.rest()
        assert sent < 1000

    place = 0
    for block in game.blocks:
        assert block.start == place
        missing = {refused.position for refused in block.refused}
        for row in block.vectors:
            if place in missing:
                assert texts[place] in poison or not texts[place]
                assert np.isnan(row).all()
            else:
                assert np.array_equal(row, _vectors([texts[place]])[0])
            place += 1
    assert place == len(texts)
    summary = game.plan.summary
    assert summary.texts == len(texts) == summary.embedded + summary.cached + summary.repeated + summary.refused


@given(texts=TEXTS, parallel=st.integers(1, 5), random=st.randoms(use_true_random=False))
def test_what_is_sent_never_exceeds_the_pace(texts, parallel, random):
    game = Game(texts, inputs=1, parallel=parallel, patience_s=1e9)
    left = 30

    while not game.plan.is_done:
        before = len(game.under_way)
        new = game.fill()
        assert not new or before + len(new) <= game.plan.pace.allowed
        if game._take_blocks():
            continue
        if game.under_way:
            index = random.randrange(len(game.under_way))
            is_busy = left > 0 and random.random() < 0.4
            left -= is_busy
            game.fail(Kind.BUSY, index) if is_busy else game.answer(index)
        elif not game.plan.is_done:
            game.rest()

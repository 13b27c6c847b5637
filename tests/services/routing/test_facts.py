"""What rules look at in a request, and what is counted for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.facts import (
    BYTES_A_TOKEN,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    SAMPLE_CHARS,
    Facts,
    estimated_tokens,
    script_of,
    size_bytes,
)
from llmwire.services.wanted import NOTHING, Wanted


def facts_of(**said):
    return Facts(**{"function": "completion", **said})


class Counted:
    """Counts words, and how often it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, text):
        self.asked.append(text)
        return len(text.split())


def test_what_nobody_said_is_nothing():
    facts = facts_of()

    assert (facts.model, facts.system, facts.user, facts.texts) == (None, "", "", ())
    assert (facts.images, facts.audio, facts.files, facts.messages, facts.inputs) == (0, 0, 0, 0, 0)
    assert (facts.tokens, facts.longest_input, facts.language, facts.script) == (0, 0, None, None)
    assert (facts.tags, facts.wanted, facts.body) == (frozenset(), NOTHING, {})


def test_its_tags_are_those_that_its_caller_wants():
    assert facts_of(wanted=Wanted(tags=frozenset({"eu"}))).tags == {"eu"}


class TestEstimate:
    @pytest.mark.parametrize(
        ("text", "tokens"),
        [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("a" * 4000, 1000), ("你好", 2), ("é" * 4, 2), ("🙂", 1)],
    )
    def test_it_is_a_quarter_of_the_bytes_and_never_less_than_one_of_a_text(self, text, tokens):
        assert estimated_tokens(text) == tokens

    @given(st.text(alphabet=st.characters()))
    def test_a_text_never_has_more_tokens_than_bytes(self, text):
        assert 0 <= estimated_tokens(text) <= size_bytes(text) == len(text.encode("utf-8", "surrogatepass"))

    def test_half_a_surrogate_pair_is_counted_too(self):
        assert estimated_tokens("\ud83d") == 1


class TestTokens:
    def test_they_are_those_of_all_texts_and_of_what_stands_beside_them(self):
        facts = facts_of(
            texts=["a b", "c"],
            count_tokens=Counted(),
            messages=2,
            images=3,
            given_tokens=10,
            extra_bytes=4 * BYTES_A_TOKEN + 1,
        )

        assert facts.tokens == 3 + 2 * MESSAGE_TOKENS + 3 * IMAGE_TOKENS + 10 + 5

    def test_of_audio_and_files_nobody_knows(self):
        assert facts_of(audio=2, files=3).tokens == 0

    def test_without_a_tokenizer_they_are_estimated(self):
        assert facts_of(texts=["a" * 400, "b" * 40]).tokens == 110

    def test_they_are_counted_once_and_only_when_somebody_asks(self):
        count = Counted()
        facts = facts_of(texts=["a b", "c"], count_tokens=count)
        assert count.asked == []

        assert (facts.tokens, facts.tokens) == (3, 3)

        assert count.asked == ["a b", "c"]

    def test_an_answer_is_none_of_them(self):
        assert facts_of(max_output_tokens=500).tokens == 0


class TestReaches:
    def test_a_text_of_fewer_bytes_is_not_counted(self):
        count = Counted()

        assert not facts_of(texts=["a b c"], count_tokens=count).reaches(6)

        assert count.asked == []

    def test_a_text_of_as_many_bytes_is(self):
        count = Counted()

        assert not facts_of(texts=["a b c"], count_tokens=count).reaches(5)

        assert count.asked == ["a b c"]

    def test_what_was_counted_already_is_not_measured_again(self):
        count = Counted()
        facts = facts_of(texts=["a b c"], count_tokens=count)

        assert [facts.reaches(number) for number in (3, 4, 3)] == [True, False, True]

        assert count.asked == ["a b c"]

    def test_what_stands_beside_the_texts_counts(self):
        facts = facts_of(images=1, messages=1)

        assert facts.reaches(IMAGE_TOKENS + MESSAGE_TOKENS)
        assert not facts.reaches(IMAGE_TOKENS + MESSAGE_TOKENS + 1)

    def test_everything_has_at_least_no_tokens(self):
        assert facts_of().reaches(0)
        assert not facts_of().reaches(1)

    @given(
        texts=st.lists(st.text(max_size=40), max_size=4),
        beside=st.fixed_dictionaries(
            {
                "messages": st.integers(0, 3),
                "images": st.integers(0, 2),
                "given_tokens": st.integers(0, 50),
                "extra_bytes": st.integers(0, 50),
            }
        ),
        least=st.integers(0, 120),
    )
    def test_it_says_what_counting_says(self, texts, beside, least):
        assert facts_of(texts=texts, **beside).reaches(least) is (facts_of(texts=texts, **beside).tokens >= least)


class TestLongestInput:
    def test_it_is_that_of_the_longest_text_and_not_of_all(self):
        assert facts_of(texts=["a b", "a b c", "a"], inputs=3, count_tokens=Counted()).longest_input == 3

    @pytest.mark.parametrize(("given", "longest"), [(1, 3), (9, 9)])
    def test_inputs_that_come_as_tokens_count_as_they_are(self, given, longest):
        facts = facts_of(texts=["a b c"], inputs=2, longest_given=given, count_tokens=Counted())

        assert facts.longest_input == longest

    def test_it_is_counted_once(self):
        count = Counted()
        facts = facts_of(texts=["a b"], inputs=1, count_tokens=count)

        assert (facts.longest_input, facts.longest_input) == (2, 2)

        assert count.asked == ["a b"]


class TestLanguage:
    def test_it_is_what_is_detected_in_the_beginning_of_the_users_text(self):
        seen = []

        def detect(text):
            seen.append(text)
            return "de"

        facts = facts_of(system="English words", user="ä" * (SAMPLE_CHARS + 1), detect_language=detect)

        assert (facts.language, facts.language) == ("de", "de")
        assert seen == ["ä" * SAMPLE_CHARS]

    def test_where_none_is_found_nobody_asks_twice(self):
        asked = []

        facts = facts_of(user="?", detect_language=asked.append)

        assert (facts.language, facts.language) == (None, None)
        assert asked == ["?"]

    def test_without_a_detector_there_is_none(self):
        assert facts_of(user="Guten Morgen").language is None


class TestScript:
    @pytest.mark.parametrize(
        ("text", "script"),
        [
            ("good morning", "Latin"),
            ("Grüße aus Köln", "Latin"),
            ("доброе утро", "Cyrillic"),
            ("καλημέρα", "Greek"),
            ("早上好", "Han"),
            ("おはよう", "Hiragana"),
            ("カタカナ", "Katakana"),
            ("좋은 아침", "Hangul"),
            ("صباح الخير", "Arabic"),
            ("בוקר טוב", "Hebrew"),
            ("सुप्रभात", "Devanagari"),
            ("สวัสดี", "Thai"),
            ("", None),
            ("12 + 30 = 42", None),
            ("42 €, 🙂", None),
        ],
    )
    def test_it_is_that_of_the_letters_by_the_name_that_unicode_gives_it(self, text, script):
        assert script_of(text) == script

    def test_it_is_that_of_most_letters(self):
        assert script_of("переведи слово fork на русский") == "Cyrillic"
        assert script_of("translate the word вилка for me") == "Latin"

    def test_it_is_that_of_the_users_text_and_of_its_beginning(self):
        facts = facts_of(system="system", user="ж" * SAMPLE_CHARS + "z" * 9 * SAMPLE_CHARS)

        assert facts.script == "Cyrillic"

    @given(st.text())
    def test_of_any_text_there_is_one_or_none(self, text):
        assert script_of(text) != ""


class TestLowered:
    @pytest.mark.parametrize(
        ("written", "lowered"), [("ÄPFEL", "äpfel"), ("Straße", "strasse"), ("ΣΊΣΥΦΟΣ", "σίσυφοσ")]
    )
    def test_texts_are_compared_in_one_case(self, written, lowered):
        facts = facts_of(user=written, system=f"{written}!")

        assert (facts.lowered_user, facts.lowered_system) == (lowered, f"{lowered}!")
        assert facts.lowered_user is facts.lowered_user


class TestWhole:
    def test_it_is_every_text_and_no_two_of_them_are_one(self):
        facts = facts_of(texts=["Top", "Secret"], user="none of it", system="nor of it")

        assert facts.whole == "Top\nSecret"
        assert facts.lowered == "top\nsecret"
        assert facts.whole is facts.whole
        assert facts.lowered is facts.lowered


class TestBody:
    def test_it_is_read_once_and_only_when_somebody_asks(self):
        read = []

        def body():
            read.append(1)
            return {"user": "u1"}

        facts = facts_of(read_body=body)
        assert read == []

        assert facts.body["user"] == facts.body["user"] == "u1"

        assert read == [1]

    def test_one_that_cannot_be_read_is_an_error_of_who_looks(self):
        def body():
            raise ValueError("no JSON")

        with pytest.raises(ValueError, match="no JSON"):
            facts_of(read_body=body).body  # noqa: B018  # to look at it is the act


def test_whether_the_longest_input_reaches_a_size_is_found_out_by_counting_none_that_is_shorter():
    counted = []

    def count(text):
        counted.append(text)
        return 7

    facts = Facts(function="embedding", texts=["short", "x" * 40], inputs=2, count_tokens=count)

    assert facts.longest_reaches(7)
    assert not facts.longest_reaches(8)
    assert "short" not in counted

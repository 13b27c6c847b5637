"""Answers are quoted from the prompt, with their source, or honestly not given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwire.services.testing.extracting import NOTHING_FOUND, answer

PROMPT = """You are a careful assistant. Answer from these passages only.

[1] Opening hours
The warehouse opens at 9 am and closes at 6 pm. Visitors ring the bell.
[2] Goods can be returned within 30 days. Customers
pay the postage.
[handbook.md] Delivery to Norway costs 12 euros. Delivery to Chile is not possible.

Question: {}
Answer:"""


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("When does the warehouse open?", "The warehouse opens at 9 am and closes at 6 pm. [1]"),
        ("How long can customers return goods?", "Goods can be returned within 30 days. [2]"),
        ("Who pays for postage?", "Customers pay the postage. [2]"),
        ("What does delivery to Norway cost?", "Delivery to Norway costs 12 euros. [handbook.md]"),
    ],
)
def test_an_answer_is_the_sentence_that_fits_with_its_marker(question, said):
    assert answer(user(PROMPT.format(question))) == said


def test_an_answer_from_two_passages_has_both_markers():
    passages = "[1] Tea is grown in Assam.\n[2] Tea is grown in Kenya.\n[3] Coffee is grown in Peru.\n\n"

    assert answer(user(passages + "Question: Where is tea grown?")) == (
        "Tea is grown in Assam. [1] Tea is grown in Kenya. [2]"
    )


def test_nothing_found_is_said_honestly():
    assert answer(user(PROMPT.format("Who is the president of Peru?"))) == NOTHING_FOUND


def test_without_passages_it_says_what_it_is_and_what_it_heard():
    system: Any = {"role": "system", "content": "You are a helpful assistant."}

    said = answer([system, *user("Why is the sky blue?")])

    assert "no language model" in said
    assert "Why is the sky blue?" in said


@pytest.mark.parametrize(
    "messages",
    [
        user(
            "Context information is below.\n-----\nThe shop is in Bergen.\n-----\nQuery: Where is the shop?\nAnswer: "
        ),
        user("Use this context.\nQuestion: Where is the shop? \nContext: The shop is in Bergen. It rains. \nAnswer:"),
        user("<context>\nThe shop is in Bergen. It rains.\n</context>\n<question>Where is the shop?</question>"),
        user("The shop is in Bergen. It rains there. Where is the shop?"),
        user("# Documents\n- The shop is in Bergen.\n- It rains there.\n\nWhere is the shop?"),
        [{"role": "system", "content": "Context: The shop is in Bergen. It rains."}, *user("Where is the shop?")],
        [*user("The shop is in Bergen. It rains."), *user("Where is the shop?")],
        [*user("Where is the shop?"), {"role": "tool", "content": "The shop is in Bergen. It rains."}],
        [{"role": "user", "content": [{"type": "text", "text": "The shop is in Bergen. Where is the shop?"}]}],
    ],
)
def test_the_usual_prompts_are_understood(messages):
    assert answer(messages) == "The shop is in Bergen."


def test_earlier_answers_are_not_quoted():
    earlier = {"role": "assistant", "content": "The shop is on the moon."}

    assert "moon" not in answer([*user("Hello"), earlier, *user("Where is the shop?")])


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "user", "content": [{"type": "image_url"}]}]])
def test_messages_without_text_are_answered_too(messages):
    assert "no language model" in answer(messages)


@given(text=st.text(alphabet="ab [1]?.:\n-#Question<>", max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_prompt_is_answered(text):
    assert answer(user(text))

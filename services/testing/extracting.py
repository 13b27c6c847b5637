"""Answers by extraction: the sentences of a prompt that fit its question best. Knows prompts; invents nothing.

Understands the usual prompts of retrieval: a question in the last message, passages before, after or in it, with or
without source markers such as [1] at the start of a line.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .reading import text_of
from .words import terms

NOTHING_FOUND = "I found nothing about that in the passages that I was given."

_MAX_SENTENCES = 3  #: an answer, not a digest
_NEAR_BEST = 0.75  #: a further sentence must be this good, beside the best
_MIN_COVERAGE = 0.15  #: of the question's weight; below, a sentence shares a common word with it and no more
_PASSAGE_WEIGHT = 0.3  #: what a sentence gains from standing in a passage that is all about the question
_QUOTED = 200  #: characters of a question that is echoed

_QUESTION = re.compile(r"(?im)^[ \t]*(?:#+[ \t]*)?(?:user[ \t]+)?(?:question|query|q)[ \t]*:\s*")
_TAGGED_QUESTION = re.compile(r"(?is)<(question|query)>(.*?)</\1>")
_QUESTION_END = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:\w+[ \t]+){0,2}\w+[ \t]*:)")
_CUE = re.compile(r"(?i)(?:\w+[ \t]+){0,2}(?:answer|response|a)[ \t]*:")  # the "Answer:" at a prompt's end
_HEADING = re.compile(
    r"(?im)^.*\b(?:context|documents?|excerpts?|information|passages?|snippets?|sources?)\b[^:\n.!?]*:[ \t]*"
)
_MARKER = re.compile(r"(?m)^[ \t]*(\[[^\]\n]{1,80}\])[ \t:]*")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]*>")
_RULE = re.compile(r"(?m)^[ \t]*(?:[-=*_]{3,}|`{3,}.*|\"{3})[ \t]*$")
_BULLET = re.compile(r"^(?:[-*+>\N{BULLET}]|\d+[.)])[ \t]+")
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
# A line ends where its paragraph does, before a bullet or a heading, and after a short line, unless that goes on in
# lower case: such lines are titles and items, longer ones are wrapped.
_NEW_LINE = re.compile(
    r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*+|#>\N{BULLET}]|\d+[.)][ \t]))|(?<![^\n]{60})(?<![,;\-])\n(?=[ \t]*[^a-z\s])"
)
_SENTENCE = re.compile(
    r"(?<=[.!?])[\"')\N{RIGHT DOUBLE QUOTATION MARK}]*\s+(?=[^a-z\s])"
    r"|(?<=[\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}])\s*"
)
_TITLE_WORDS = 8  #: a short line without a full stop, with more below it, is a title


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    marker: str
    terms: frozenset[str]
    passage_terms: frozenset[str]


def answer(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the messages themselves say to their last question, each sentence with the marker of its passage.

    Says so where no sentence fits, and where there was nothing to answer from.
    """
    question, texts, has_context = _parted(messages)
    sentences = _sentences(texts)
    chosen = _best(frozenset(terms(question)), sentences)
    if chosen:
        return _joined(chosen)
    return NOTHING_FOUND if has_context and sentences else _echo(question)


def _parted(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[str], bool]:
    """The question, the texts to answer from, and whether these are more than instructions."""
    # An answer must not quote an earlier answer.
    told = [(message.get("role"), text_of(message.get("content"))) for message in messages]
    told = [(role, text) for role, text in told if role != "assistant" and text.strip()]
    if not told:
        return "", [], False
    asked = max((at for at, (role, _) in enumerate(told) if role == "user"), default=len(told) - 1)
    question, rest = _split(told[asked][1])
    before = [text for _, text in told[:asked]] + [text for _, text in told[asked + 1 :]]
    others = [text for role, text in told if role not in ("system", "developer")]
    texts = [text for text in (*before, rest) if text.strip()]
    is_given = bool(rest.strip()) or len(others) > 1 or any(_HEADING.search(text) for text in texts)
    return question, texts, is_given


def _split(text: str) -> tuple[str, str]:
    """The question in a prompt, and what else the prompt says."""
    if tagged := _TAGGED_QUESTION.search(text):
        return tagged[2].strip(), text[: tagged.start()] + text[tagged.end() :]
    text = _without_cue(text)
    if named := list(_QUESTION.finditer(text)):
        question, *rest = _QUESTION_END.split(text[named[-1].end() :], maxsplit=1)
        return question.strip(), "\n\n".join([text[: named[-1].start()], *rest])
    *paragraphs, last = [part for part in _PARAGRAPH.split(text) if part.strip()] or [""]
    before, question = _last_question(last.strip())
    return question, "\n\n".join([*paragraphs, before])


def _without_cue(text: str) -> str:
    text = text.rstrip()
    lines, _, last = text.rpartition("\n")
    return lines if _CUE.fullmatch(last.strip()) else text


def _last_question(paragraph: str) -> tuple[str, str]:
    """What comes before its closing question, and the question: all of it where it does not close with one."""
    if not paragraph.endswith("?"):
        return "", paragraph
    start = max(paragraph.rfind(end, 0, -1) for end in (".", "!", "?", "\n")) + 1
    return paragraph[:start], paragraph[start:].strip()


def _sentences(texts: Sequence[str]) -> list[_Sentence]:
    """The sentences that may be answers: of the marked passages only, where there are such."""
    passages = [passage for text in texts for passage in _passages(text)]
    if any(marker for marker, _ in passages):
        passages = [(marker, text) for marker, text in passages if marker]
    found = (
        _Sentence(sentence, marker, frozenset(terms(sentence)), frozenset(terms(text)))
        for marker, text in passages
        for sentence in _split_sentences(text)
    )
    return list({sentence.text: sentence for sentence in found}.values())


def _passages(text: str) -> list[tuple[str, str]]:
    """Marker and text of each passage; the marker is empty where there is none."""
    unmarked, *marked = _MARKER.split(_RULE.sub("\n", text))
    passages = [("", _HEADING.sub("\n\n", unmarked)), *zip(marked[::2], marked[1::2], strict=True)]
    return [(marker, _TAG.sub("\n\n", passage)) for marker, passage in passages]


def _split_sentences(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in _NEW_LINE.split(text) if line.strip()]
    told = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if not _is_title(line, below)]
    parts = (part for line in told for part in _SENTENCE.split(_BULLET.sub("", line)))
    # A question is no answer.
    return [part for part in parts if part and not part.endswith(("?", ":"))]


def _is_title(line: str, below: str) -> bool:
    if line.startswith("#"):
        return True
    is_short = len(line.split()) <= _TITLE_WORDS and not _BULLET.match(line)
    return bool(below) and is_short and not line.endswith((".", "!", "?")) and ":" not in line


def _best(wanted: frozenset[str], sentences: Sequence[_Sentence]) -> list[_Sentence]:
    """The sentences that cover most of the question's weight, in the order in which they were read."""
    found_in = Counter(term for sentence in sentences for term in sentence.terms & wanted)
    weights = {term: math.log1p(len(sentences) / (found_in[term] + 0.5)) for term in wanted}
    total = sum(weights.values())
    scores = [_score(sentence, weights, total) for sentence in sentences]
    best = max(scores, default=0.0)
    ranked = sorted((at for at, score in enumerate(scores) if score > 0), key=lambda at: (-scores[at], at))
    near = [at for at in ranked if scores[at] >= _NEAR_BEST * best]
    return [sentences[at] for at in sorted(near[:_MAX_SENTENCES])]


def _score(sentence: _Sentence, weights: Mapping[str, float], total: float) -> float:
    own = sum(weights[term] for term in sorted(sentence.terms & weights.keys()))
    if own == 0 or own < _MIN_COVERAGE * total:
        return 0.0
    around = sum(weights[term] for term in sorted(sentence.passage_terms & weights.keys()))
    return (own + _PASSAGE_WEIGHT * around) / total


def _joined(sentences: Sequence[_Sentence]) -> str:
    """Sentences of one passage share its marker."""
    said: list[str] = []
    for sentence, following in zip(sentences, [*sentences[1:], None], strict=True):
        said.append(sentence.text)
        if sentence.marker and (following is None or following.marker != sentence.marker):
            said.append(sentence.marker)
    return " ".join(said)


def _echo(question: str) -> str:
    quoted = question if len(question) <= _QUOTED else question[:_QUOTED] + "..."
    heard = f' I was asked: "{quoted}"' if quoted else ""
    return f"I am a stand-in and no language model; I answer only from passages in the prompt, and found none.{heard}"

"""A language is told where it is certain, for short texts too; a wrong one is not guessed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.transport.languages import detecting

#: What the thresholds were chosen by, in short: what opens a conversation, and what is asked in one.
SAID = {
    "en": ["How are you?", "What is the weather today?", "Where is the station?", "Write a poem about spring"],
    "de": ["Wie geht es dir?", "Wie ist das Wetter heute?", "Wo ist der Bahnhof?", "Hallo zusammen"],
    "fr": ["Bonjour, ça va?", "Comment allez-vous?", "Où est la gare?", "Merci beaucoup"],
    "es": ["Hola, ¿dónde está?", "¿Cómo estás?", "¿Qué tiempo hace hoy?", "¿Dónde está la estación?"],
    "it": ["Ciao a tutti", "Buongiorno", "Dov'è la stazione?", "Scrivi una poesia sulla primavera"],
    "pl": ["Jak się masz?", "Dzień dobry", "Gdzie jest dworzec?", "Dziękuję bardzo"],
    "ru": ["Привет всем", "Большое спасибо", "Какая сегодня погода?", "Помогите мне, пожалуйста"],
    "zh": ["你好吗", "早上好，大家", "今天天气怎么样？", "车站在哪里？"],  # noqa: RUF001
    "ja": ["こんにちは", "お元気ですか", "駅はどこですか？", "はい"],  # noqa: RUF001
    "ko": ["안녕하세요", "오늘 날씨가 어때요?"],
}
#: Which are too short, or as much of a neighbour: rather none than the wrong one.
OPEN = {
    "en": ["Hello!", "Hi there"],
    "de": ["Guten Morgen"],
    "fr": ["Salut"],
    "es": ["Resume este correo", "Hola amigo"],
    "it": ["Come stai?", "Buonasera"],
    "pt": ["Bom dia", "Quero cancelar o meu contrato"],
    "ru": ["Как дела?", "Напиши стихотворение о весне", "Хочу расторгнуть договор"],  # noqa: RUF001
    "uk": ["Перекажи цей лист"],
    "bg": ["Здравей, как си?", "Много благодаря"],
    "sv": ["Hej, hur mår du?"],
    "cs": ["Napiš báseň o jaru"],
}


def pairs(said):
    return [(language, text) for language, texts in said.items() for text in texts]


@pytest.mark.parametrize(("language", "text"), pairs(SAID))
def test_the_language_of_a_greeting_or_a_short_question_is_told(language, text):
    assert detecting()(text) == language


@pytest.mark.parametrize(("language", "text"), pairs(OPEN))
def test_a_language_that_is_not_certain_is_not_guessed(language, text):
    assert detecting()(text) in (None, language)


@pytest.mark.parametrize("text", ["ok", "no", "OK OK", "yes", "si", "ja", "da", "lol", "hi", "Paris"])
def test_a_word_of_many_languages_is_of_none(text):
    assert detecting()(text) is None


@pytest.mark.parametrize("text", ["", " ", "1234", "+49 30 123456", "😀😀😀", "?!", "\n\t"])
def test_a_text_without_letters_has_no_language(text):
    assert detecting()(text) is None


@pytest.mark.parametrize(
    "text",
    ["def f(x): return x+1", "SELECT * FROM users WHERE id=1", "import numpy as np", "asdfgh qwerty", "xxxxxxxx"],
)
def test_code_and_nonsense_are_of_no_language(text):
    assert detecting()(text) is None


def test_a_paragraph_is_of_its_language_beside_names_and_numbers():
    text = (
        "Sehr geehrte Frau Müller, bitte senden Sie mir die Rechnung Nr. 4711 von OpenAI bis Freitag zu. Vielen Dank."
    )

    assert detecting()(text) == "de"


@given(st.text(max_size=50))
def test_a_language_is_a_code_of_two_letters_or_none(text):
    language = detecting()(text)

    assert language is None or (len(language) == 2 and language.isascii() and language.islower())


@pytest.mark.parametrize("text", ["\ud83d", "Wie ist das Wetter heute? \ud83d"])
def test_half_a_character_breaks_nothing(text):
    assert detecting()(text) in (None, "de")


def test_many_threads_are_told_the_same():
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda _: detecting()("Wie ist das Wetter heute?"), range(100)))

    assert told == ["de"] * 100


def test_the_library_is_imported_when_a_language_is_first_asked_for():
    script = (
        "import sys; from llmwire.services.transport.languages import detecting;"
        "print('py3langid' in sys.modules); detecting(); print('py3langid' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["False", "True"]

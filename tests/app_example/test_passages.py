from __future__ import annotations

import pytest

from app_example.application import EXAMPLES
from app_example.failures import FolderError
from app_example.passages import SIZE, Passage, read_folder, split


def test_a_passage_stands_below_its_headings():
    text = "# Hut\n\nIntro.\n\n## Water\n\nFrom the spring.\n\n### Tank\n\nFull.\n\n## Power\n\nFrom the sun."

    found = list(split(text, is_markdown=True))

    assert found == [
        ("Hut", "Intro."),
        ("Hut > Water", "From the spring."),
        ("Hut > Water > Tank", "Full."),
        ("Hut > Power", "From the sun."),
    ]


def test_a_hash_in_a_code_block_is_no_heading():
    found = list(split("# Use\n\n```\n# a comment\nrun\n```\n", is_markdown=True))

    assert found == [("Use", "```\n# a comment\nrun\n```")]


def test_a_text_file_has_no_headings():
    assert list(split("# not a heading\n\nText.", is_markdown=False)) == [("", "# not a heading\n\nText.")]


def test_short_paragraphs_share_a_passage_and_long_ones_do_not():
    paragraphs = ["a" * 300, "b" * 300, "c" * 300]

    found = [text for _, text in split("\n\n".join(paragraphs), is_markdown=False)]

    assert found == ["\n\n".join(paragraphs[:2]), paragraphs[2]]


@pytest.mark.parametrize(
    "text",
    ["One sentence. " * 200, "word " * 1_000, "x" * 5_000, "x" * SIZE, "x" * (SIZE + 1), f"{'x' * SIZE} y"],
    ids=["sentences", "words", "no-blanks", "just-fits", "one-too-many", "long-word-first"],
)
def test_no_passage_is_too_long_and_nothing_is_lost(text):
    pieces = [piece for _, piece in split(text, is_markdown=False)]

    assert all(0 < len(piece) <= SIZE for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_long_paragraphs_are_cut_between_sentences():
    pieces = [piece for _, piece in split("One sentence. " * 200, is_markdown=False)]

    assert all(piece.endswith(".") for piece in pieces)


def test_headings_without_text_make_no_passage():
    assert list(split("# One\n\n## Two\n\n", is_markdown=True)) == []


def test_a_passage_knows_its_content_by_its_digest():
    def passage(file: str, heading: str, text: str) -> Passage:
        return Passage(folder="/f", file=file, heading=heading, text=text)

    assert passage("a", "H", "t").digest == passage("b", "H", "t").digest
    assert passage("a", "H", "t").digest != passage("a", "H", "u").digest
    assert passage("a", "H", "t").digest != passage("a", "I", "t").digest


def test_a_folder_is_read_with_its_folders_but_without_hidden_ones(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "notes.md").write_text("hidden")
    (folder / "picture.png").write_bytes(b"\x89PNG")

    files = [passage.file for passage in read_folder(folder)]

    assert files == ["cats.md", "cats.md", "dogs.md", "dogs.md", "more/birds.txt"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.md").write_bytes("\ufeff# Title\n\nText.".encode())

    assert [passage.heading for passage in read_folder(tmp_path)] == ["Title"]


def test_a_folder_that_is_none_says_what_to_name(tmp_path):
    with pytest.raises(FolderError, match=r"is not a folder\. Name a folder"):
        read_folder(tmp_path / "absent")


def test_a_folder_without_documents_says_so(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty.md").write_text("\n")

    with pytest.raises(FolderError, match="holds no text"):
        read_folder(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Übung".encode("latin-1"))

    with pytest.raises(FolderError, match=r"latin\.txt is not UTF-8 text\. Convert it"):
        read_folder(tmp_path)


def test_the_shipped_documents_can_be_read():
    passages = read_folder(EXAMPLES)

    assert len({passage.file for passage in passages}) == 8
    assert len({passage.key for passage in passages}) == len(passages) > 30

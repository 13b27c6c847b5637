"""Every text of a file is given once, as it is there, or the line that is wrong is named."""

import csv
import io
import json
import os
import sys
import tracemalloc

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.bulk import documents as module
from llmwire.services.bulk.documents import Document, read
from llmwire.services.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    def made(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return made


def texts(path, **options):
    return [document.text for document in read(path, **options)]


def test_plain_text_has_a_document_a_line_and_blank_lines_keep_their_position(file):
    path = file("a.txt", "one\n\n  two \r\n\nthree")

    documents = read(path)

    assert list(documents) == [Document(text=text) for text in ["one", "", "  two ", "", "three"]]
    assert documents.total() == 5


def test_only_a_newline_ends_a_line_of_plain_text(file):
    path = file("a.md", "one\x0bstill\u2028still\x85\rone\ntwo\n")

    assert texts(path) == ["one\x0bstill\u2028still\x85\rone", "two"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL"])
def test_a_line_of_json_is_an_object_or_a_string(file, name):
    path = file(name, '{"text": "one", "id": "x"}\n\n"two"\n{"id": 3, "more": [], "text": "thr\\u00e9e"}\n\n')

    documents = read(path, id_field="id")

    assert list(documents) == [
        Document(text="one", id="x"),
        Document(text="two"),
        Document(text="thrée", id="3"),
    ]
    assert documents.total() == 3


def test_half_a_surrogate_pair_in_json_is_given_as_it_is(file):
    assert texts(file("a.jsonl", '"a\\ud800"\n"b"')) == ["a\ud800", "b"]


def test_fields_may_have_other_names(file):
    path = file("a.jsonl", '{"body": "one", "key": 1}')

    assert list(read(path, text_field="body", id_field="key")) == [Document(text="one", id="1")]


def test_a_table_has_a_header_and_its_texts_may_hold_separators_quotes_and_lines(file):
    path = file("a.csv", 'id,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n')

    documents = read(path, id_field="id")

    assert list(documents) == [Document(text='a, "b"\nc', id="1"), Document(text="d", id="2")]
    assert documents.total() == 2


def test_tabs_divide_a_tsv(file):
    path = file("a.tsv", "text\tid\na, b\t1\n")

    assert list(read(path, id_field="id")) == [Document(text="a, b", id="1")]


def test_parquet_gives_the_named_columns_of_all_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    table = arrow.table({"n": range(1201), "body": [f"text {n}" for n in range(1201)], "bulk": [b"x"] * 1201})
    parquet.write_table(table, path, row_group_size=700)

    documents = read(path, text_field="body", id_field="n")

    assert list(documents) == [Document(text=f"text {n}", id=str(n)) for n in range(1201)]
    assert documents.total() == 1201


@pytest.mark.parametrize("kind", [arrow.large_string(), arrow.dictionary(arrow.int32(), arrow.string())])
def test_any_kind_of_string_column_is_text(tmp_path, kind):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": arrow.array(["one", None, "one"], kind)}), path)

    assert texts(path) == ["one", "", "one"]


def test_one_column_may_be_text_and_id(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": ["one"]}), path)

    assert list(read(path, id_field="text")) == [Document(text="one", id="one")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": null}\n{}\n"two"'),
        ("a.csv", 'text,more\none,x\n,x\n""\ntwo\n'),
    ],
)
def test_a_row_without_a_text_is_an_empty_text(file, name, content):
    assert texts(file(name, content)) == ["one", "", "", "two"]


def test_a_byte_order_mark_is_no_part_of_the_text(file):
    bom = b"\xef\xbb\xbf"

    assert texts(file("a.txt", bom + b"one\n")) == ["one"]
    assert texts(file("a.jsonl", bom + b'{"text": "one"}')) == ["one"]
    assert texts(file("a.csv", bom + b'"text"\none\n')) == ["one"]


def test_the_kind_that_is_given_beats_the_suffix(file):
    path = file("a.txt", '{"text": "one"}\n')

    assert texts(path, kind="jsonl") == ["one"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_an_empty_file_has_no_documents(file, name):
    assert (texts(file(name, "")), read(file(name, "")).total()) == ([], 0)


def test_a_header_alone_has_no_documents(file):
    path = file("a.csv", "text\n")

    assert (texts(path), read(path).total()) == ([], 0)


@pytest.mark.parametrize(
    ("kind", "content"), [(None, "one\ntwo"), ("jsonl", '"one"\n"two"'), ("csv", "text\none\ntwo")]
)
def test_stdin_is_plain_text_unless_a_kind_is_given(monkeypatch, kind, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))

    documents = read("-", kind=kind)

    assert documents.total() is None
    assert [document.text for document in documents] == ["one", "two"]


def test_counting_does_not_use_up_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    holder = os.open(pipe, os.O_RDWR)  # both ends, so that nobody waits
    os.write(holder, b"one\n")

    documents = read(pipe)

    assert documents.total() is None
    assert next(iter(documents)) == Document(text="one")
    os.close(holder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '"one"\n{"text": \n', r"a\.jsonl: line 2 is no JSON: .*Write one JSON object a line"),
        ("a.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("a.jsonl", '["one"]', "line 1 is neither an object nor a string"),
        (
            "a.jsonl",
            '{"body": "", "n": 1}',
            r"line 1 has no field 'text'. Name one of those that there are: 'body', 'n'",
        ),
        ("a.jsonl", '"one"\n{"text": 5}', "'text' of line 2 is no text, but int"),
        ("a.csv", "body,n\none,1\n", "there is no column 'text'. Name one of those that there are: 'body', 'n'"),
        ("a.csv", "", "there is no column 'text'"),
        ("a.csv", "id,text\n1,one\n2,two, three\n", "line 3 has 3 fields, and the header has 2. Put quotes"),
        ("a.csv", 'text\none\n"two\nthree\n', "line 4 cannot be read: .*Put quotes"),
        ("a.csv", b"text\none\n\xe9\n", r"line 3 is not UTF-8 \(byte 0xe9 at 0\)"),
        ("a.txt", b"one\ntw\xff\n", r"a\.txt: line 2 is not UTF-8 \(byte 0xff at 2\). Unpack it, or convert"),
        ("a.parquet", "no parquet", r"a\.parquet: cannot be read as Parquet: .*Name a Parquet file"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_remedy(file, name, content, message):
    path = file(name, content)

    with pytest.raises(ConfigError, match=message):
        list(read(path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"body": ["one"], "n": [1]}, "there is no column 'text'. Name one of those that there are: 'body', 'n'"),
        ({"text": [None, 1]}, "'text' of row 1 is no text, but int"),
        ({"text": arrow.array([b"\xff"]).view(arrow.string())}, "a text of rows 0 to 0 is not UTF-8"),
    ],
)
def test_what_is_wrong_in_parquet_is_told(tmp_path, table, message):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table(table), path)

    with pytest.raises(ConfigError, match=message):
        list(read(path))


def test_what_comes_before_a_wrong_line_is_given(file):
    documents = iter(read(file("a.jsonl", '"one"\n{')))

    assert next(documents) == Document(text="one")
    with pytest.raises(ConfigError, match="line 2"):
        next(documents)


@pytest.mark.parametrize("value", ["1.5", "true", "[]"])
def test_an_id_is_a_text_or_an_integer(file, value):
    path = file("a.jsonl", f'{{"text": "one", "id": {value}}}')

    with pytest.raises(ConfigError, match="'id' of line 1 is neither a text nor an integer"):
        list(read(path, id_field="id"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing.txt", {}, r"missing\.txt: there is no such file. Name a file"),
        (".", {}, "is a folder"),
        ("a.txt", {"kind": "xml"}, "'xml' is no kind of file. Give one of jsonl, csv"),
        ("a.txt", {"id_field": "id"}, "plain text has no ids"),
        ("-", {"kind": "parquet"}, "Parquet is read from its end"),
        ("data.json", {}, "Give the kind: jsonl where each line is an object, or else text"),
    ],
)
def test_what_cannot_be_read_is_told_at_once(file, monkeypatch, name, options, message):
    monkeypatch.chdir(file("a.txt", "one").parent)

    with pytest.raises(ConfigError, match=message):
        read(name, **options)


def test_parquet_without_pyarrow_says_what_to_install(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigError, match=r"a\.parquet: needs pyarrow. pip install 'llmwire\[parquet\]'"):
        read(file("a.parquet", ""))


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(file, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_BYTES", 2**20)

    with pytest.raises(ConfigError, match="line 2 is longer than 1 MiB"):
        list(read(file("a.txt", b"one\n" + b"x" * 2**21)))


def test_a_long_field_of_a_table_is_read(file):
    long = "x" * 1_000_000  # the csv module's own limit is 131,072

    assert texts(file("a.csv", f"text\n{long}\n")) == [long]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_a_file_is_read_while_it_is_asked_for(tmp_path, name):
    path, line = tmp_path / name, '"' + "x" * 10_000 + '"'
    if name == "a.parquet":
        parquet.write_table(arrow.table({"text": [f"{n} {line}" for n in range(3000)]}), path)
    else:
        path.write_text("".join(f"{each}\n" for each in ['"text"', *[line] * 3000]))

    tracemalloc.start()
    count = sum(1 for _ in read(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count >= 3000
    assert peak_bytes < 15_000_000  # of 30,000,000


def test_a_row_group_of_parquet_is_not_read_whole(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": [os.urandom(500).hex() for _ in range(30_000)]}), path)
    before_bytes = arrow.total_allocated_bytes()

    documents = iter(read(path))
    next(documents)

    assert arrow.total_allocated_bytes() - before_bytes < 12_000_000  # of 30,000,000


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"))))
def test_every_text_comes_back_from_plain_text(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("in") / "a.txt"
    path.write_bytes("".join(f"{text}\r\n" for text in given).encode())
    expected = [given[0].removeprefix("\ufeff"), *given[1:]] if given else []

    assert texts(path) == expected
    assert read(path).total() == len(given)


@given(st.lists(st.tuples(st.text(), st.none() | st.text() | st.integers())), st.booleans())
def test_every_text_comes_back_from_json(tmp_path_factory, given, ascii_only):
    path = tmp_path_factory.mktemp("in") / "a.jsonl"
    lines = [json.dumps({"text": text, "id": name}, ensure_ascii=ascii_only) + "\n" for text, name in given]
    path.write_bytes("".join(lines).encode())

    documents = read(path, id_field="id")

    assert list(documents) == [Document(text=text, id=None if n is None else str(n)) for text, n in given]
    assert documents.total() == len(given)


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("tsv", "\t")])
@given(rows=st.lists(st.tuples(st.text(), st.text())))
def test_every_text_comes_back_from_a_table(tmp_path_factory, kind, separator, rows):
    path = tmp_path_factory.mktemp("in") / f"a.{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("id", "text"), *rows])

    documents = read(path, id_field="id")

    assert list(documents) == [Document(text=text, id=name) for name, text in rows]
    assert documents.total() == len(rows)


@given(st.lists(st.tuples(st.none() | st.text(), st.none() | st.integers(-(2**63), 2**63 - 1))))
def test_every_text_comes_back_from_parquet(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    columns = {
        "text": arrow.array([text for text, _ in rows], arrow.string()),
        "id": arrow.array([name for _, name in rows], arrow.int64()),
    }
    parquet.write_table(arrow.table(columns), path)

    expected = [Document(text=text or "", id=None if name is None else str(name)) for text, name in rows]
    assert list(read(path, id_field="id")) == expected

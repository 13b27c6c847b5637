"""A document is a table of settings, or says why it is none: whatever is in it, and whoever wrote it."""

import json
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.discovery.catalogue import MAX_BYTES, MAX_DEPTH, MAX_INT, MAX_NAME, Snapshot, Unreadable, tree_of

TREE = {"endpoints": {"a": {"base_url": "http://10.0.0.1:8000/v1", "weight": 2}}}
TOML = b'[endpoints.a]\nbase_url = "http://10.0.0.1:8000/v1"\nweight = 2\n'
HIDDEN = "sk-hidden"

names = st.text(min_size=1, max_size=8).filter(str.isprintable)
values = st.recursive(
    st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
trees = st.dictionaries(names, values, min_size=1, max_size=4)


def snapshot(content, **facts):
    return Snapshot(origin="consul://127.0.0.1:8500/a/completion", content=content, version="index 7", **facts)


def read_or_refused(content):
    """Its table, or the reason why it is none; anything else is raised."""
    try:
        return tree_of(content)
    except Unreadable as error:
        return str(error)


@pytest.mark.parametrize("document", [TOML, json.dumps(TREE).encode()], ids=["toml", "json"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \r\n", b"\xef\xbb\xbf\n"])
def test_a_document_is_read_with_and_without_a_byte_order_mark_or_blank_lines_before_it(document, before):
    assert tree_of(before + document) == TREE


@given(tree=trees)
def test_every_json_object_is_read_as_it_was_written(tree):
    assert tree_of(json.dumps(tree).encode()) == tree


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_of_bytes_comes_a_table_with_something_in_it_or_a_reason(content):
    assert read_or_refused(content)


@pytest.mark.parametrize("content", [b"", b" \n\t", b"\xef\xbb\xbf", b"{}", b" { } ", b"# nothing but this\n"])
def test_an_empty_document_is_no_table_of_settings(content):
    with pytest.raises(Unreadable, match="is empty"):
        tree_of(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfea\x00", "is no text in UTF-8"),
        (b'{"a": 1', r"is no JSON: .*line 1 column 8"),
        (b'{"a": 1} and more', "is no JSON: Extra data"),
        (b"[1, 2]", r"is no TOML: .*line 1"),
        (b'"text"', r"is no TOML: "),
        (b"<html><body>502 Bad Gateway", r"is no TOML: Invalid statement \(at line 1, column 1\)"),
        (b"\n\na = 1\nb = \n", r"is no TOML: .*line 4"),
        (b"a = 2026-02-31", "is no TOML: "),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no JSON: "),
        (b"a = " + b"1" * 5000, "is no TOML: "),
    ],
)
def test_what_is_no_document_says_why_and_where(content, reason):
    with pytest.raises(Unreadable, match=reason):
        tree_of(content)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": 1, "b": 2}}',
        '{"a": 1, "\\u0061": 1}',
        "a = 1\na = 2",
        "[a]\n[a]",
        "a = {b = 1, b = 2}",
        "a.b=1\n[a]",
    ],
)
def test_a_name_that_stands_twice_in_one_table_is_refused(text):
    with pytest.raises(Unreadable, match=r"is no (JSON|TOML): "):
        tree_of(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        f"{HIDDEN} = 1\n{HIDDEN} = 2",
        f"[{HIDDEN}]\n[{HIDDEN}]",
        f"['{HIDDEN} (at \"'.b]\n['{HIDDEN} (at \"'.b]",
        f"a = {{{HIDDEN} = 1, {HIDDEN} = 2}}",
        f"{HIDDEN} = [1]\n[[{HIDDEN}]]",
        f"{HIDDEN} = {{b = 1}}\n[{HIDDEN}.c]",
        f"a = {HIDDEN}",
        f'a = "{HIDDEN}',
        f'a = "{HIDDEN}\\q"',
        f'{{"{HIDDEN}": 1, "{HIDDEN}": 2}}',
        f'{{"a": {HIDDEN}}}',
        f'{{"a": "{HIDDEN}',
        f'{{"{HIDDEN}": "\\ud800"}}',
    ],
)
def test_the_reason_and_its_causes_show_nothing_of_the_document(text):
    with pytest.raises(Unreadable) as caught:
        tree_of(text.encode())

    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


def test_a_document_may_have_the_largest_size_and_not_a_byte_more():
    largest = b"a = 1 #".ljust(MAX_BYTES, b".")

    assert tree_of(largest) == {"a": 1}
    with pytest.raises(Unreadable, match="is larger than 1024 KiB"):
        tree_of(largest + b".")


def deep_json(depth):
    return '{"a": ' * depth + "1" + "}" * depth


def deep_lists(depth):
    return '{"a": ' + "[" * (depth - 1) + "1" + "]" * (depth - 1) + "}"


def deep_header(depth):
    return "[" + ".".join("a" * (depth - 1)) + "]"


def deep_key(depth):
    return "x = 1.5\n" + ".".join("a" * depth) + " = 1"


def deep_inline(depth):
    return "a = " + "{a = " * (depth - 1) + "1" + "}" * (depth - 1)


def deep_array(depth):
    return "a = " + "[" * (depth - 1) + "]" * (depth - 1)


@pytest.mark.parametrize("deep", [deep_json, deep_lists, deep_header, deep_key, deep_inline, deep_array])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1_000, 100_000])
def test_tables_in_tables_are_refused_from_one_depth_on(deep, depth):
    assert tree_of(deep(MAX_DEPTH).encode())
    with pytest.raises(Unreadable, match="more than 20 deep"):
        tree_of(deep(depth).encode())


parts = st.sampled_from(["a", '"a"', "'='", '"."', '"\\".\\""', "'#'", '"\\\\"', "a ", ' \t\'"""\'', '"[{"', "1"])
before = st.sampled_from(
    ["", "# '\n", 'x = "#"\n', "x = '''\n'a''\n'''\n", 'x = """\n"" \\""""""\n', "x = [\n1.5, # [\n'''a''''',\n]\n"]
)
#: How a key is written, and how many tables there are around what its parts are.
shapes = st.sampled_from(
    [
        ("{} = 1", 0),
        ("[{}]", 1),
        ("[[{}]]", 2),
        ("y = 0.5\r\n{} = 2026-01-01T00:00:00.5Z", 0),
        ("x1 = {{ {} = 1 }} # .", 1),
        ("x1 = [[ {{ x = 1, {} = '' }} ]]", 3),
    ]
)


@given(parts=st.lists(parts, min_size=1, max_size=2 * MAX_DEPTH), before=before, shape=shapes)
def test_a_key_of_many_parts_is_found_wherever_its_dots_stand(parts, before, shape):
    form, around = shape
    document = (before + form.format(".".join(parts))).encode()

    found = read_or_refused(document)

    if len(parts) + around > MAX_DEPTH:
        assert found == "has tables in tables, more than 20 deep"
    else:
        assert isinstance(found, dict)


SECONDS = 20.0  #: a second is usual; a time that is the square of the size is minutes


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a." * 500_000 + "a = 1", id="dots"),
        pytest.param("'='." * 200_000 + "a = 1", id="quoted"),
        pytest.param("a . " * 200_000 + "a = 1", id="blanks"),
        pytest.param(f"[{'.'.join('a' * MAX_DEPTH)}]\n" + "".join(f"k{n}=1\n" for n in range(100_000)), id="header"),
        pytest.param("." * 30 + '\\"' * 500_000, id="escapes"),
        pytest.param("." * 30 + '"' * 1_000_000, id="double"),
        pytest.param("." * 30 + "'" * 1_000_000, id="single"),
        pytest.param("." * 30 + "\"'''" * 250_000, id="mixed"),
        pytest.param("." * 30 + '"""' + '\\"' * 500_000, id="unended"),
        pytest.param('{"a":' * 200_000, id="braces"),
    ],
)
def test_no_document_takes_long(text):
    begun_s = time.process_time()

    found = read_or_refused(text.encode())

    assert time.process_time() - begun_s < SECONDS
    assert len(found) < 200


@pytest.mark.parametrize("text", [r'{"a": "\ud83d"}', r'{"\uDC00": 1}', r'{"a": [{"b": "x\ude00\ud83d"}]}'])
def test_half_a_character_is_refused_in_json_as_in_toml(text):
    with pytest.raises(Unreadable, match="surrogate"):
        tree_of(text.encode())


def test_both_halves_of_a_character_are_one():
    assert tree_of(rb'{"a": "\ud83d\ude00", "b": "\\ud83d"}') == {"a": "😀", "b": "\\ud83d"}


def test_a_snapshot_reads_its_document():
    assert snapshot(TOML).tree() == TREE


def test_a_snapshot_without_a_document_is_empty():
    with pytest.raises(Unreadable, match="is empty"):
        snapshot(None).tree()


@pytest.mark.parametrize("content", [None, TOML])
def test_a_snapshot_with_a_problem_says_it_instead(content):
    with pytest.raises(Unreadable, match="is larger than 5 tons"):
        snapshot(content, problem="is larger than 5 tons").tree()


def test_a_digest_is_of_what_is_held_and_not_of_the_sources_versions():
    one = Snapshot(origin="file:///a", content=TOML, version="written today", index=4)

    assert one.digest == snapshot(TOML).digest


def test_unlike_contents_and_problems_have_unlike_digests():
    held = [snapshot(None), snapshot(b""), snapshot(TOML), snapshot(None, problem="a"), snapshot(None, problem="b")]

    assert len({each.digest for each in held}) == len(held)


def test_a_snapshots_looks_show_nothing_of_its_content():
    assert "10.0.0.1" not in repr(snapshot(TOML))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (r'{"\u001b]0;x\u0007": 1}', "has a name with a control character in it"),
        (r'"a\nb" = 1', "has a name with a control character in it"),
        (json.dumps({"a": {"n" * (MAX_NAME + 1): 1}}), f"has a name of more than {MAX_NAME} characters"),
        ("a = 0x" + "f" * 5000, "has a number of more than 64 bits"),
        ('{"a": [{"b": [9223372036854775808]}]}', "has a number of more than 64 bits"),
    ],
    ids=["a terminal's command", "a line break", "a long name", "a huge number", "a number that is too large"],
)
def test_what_others_than_its_reader_would_stumble_over_is_no_document(document, reason):
    assert read_or_refused(document.encode()) == reason

"""Reading, overriding and writing configuration files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from scmf.core.config import Config
from scmf.core.config_override import override
from scmf.core.config_read import Document, parse_json, parse_yaml, read_document
from scmf.core.config_write import json_schema, to_json, to_yaml, write_config
from scmf.core.errors import ConfigError


class Inner(Config):
    """An inner section."""

    number: float = 1.0
    """A number: with a colon, # and a hash."""
    where: Path = Path("a")
    """A path."""


class Empty(Config):
    """No keys."""


class Outer(Config):
    """An outer section."""

    text: str
    """Any text."""
    whole: int = 0
    """Any whole number."""
    many: list[str] = Field(default=[])
    """A list."""
    table: dict[str, float] = Field(default={})
    """A table."""
    inner: Inner = Inner()
    empty: Empty = Empty()
    maybe: str | None = None
    """Null or text, with a description that is long enough to need more than one line of comment in the file."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), ("1.0e-05", 1e-5), (".5", 0.5), ("5.", 5.0), ("-2", -2), ("+2", 2), ("0123", 123),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", float("inf")),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("1_000", "1_000"),
        ("0x1f", "0x1f"), ("'1'", "1"), ('"a\\nb"', "a\nb"), ("[1, a]", [1, "a"]), ("{a: 1}", {"a": 1}), ("a b", "a b"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_yaml_1_2(text, value):
    read = parse_yaml(f"key: {text}\nother: 1\n", "f").values["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "this holds nothing", id="empty"),
        pytest.param(b"# only a comment\n", "this holds nothing", id="comment"),
        pytest.param(b"- a\n- b\n", "this holds one list", id="list"),
        pytest.param(b"words", "this holds one str", id="scalar"),
        pytest.param(b"a: 1\nb: [1, 2\n", "line", id="syntax"),
        pytest.param(b"a:\n  b: 1\n  c: 2\n  b: 3\n", "a.b is written twice, first on line 2; keep one", id="twice"),
        pytest.param(b"a: \xff\xfe", "byte 3 is not UTF-8", id="encoding"),
        pytest.param(b"a: b\x00c", "is not allowed", id="control character"),
        pytest.param(b"a: " + b"[" * 50_000, "nested deeper than 32 levels", id="deep"),
        pytest.param(b"a: &x [1]\nb: *x\n", "anchors and aliases are not supported", id="alias"),
        pytest.param(b"a: !!python/object/apply:os.getcwd []\n", "is not supported", id="python tag"),
        pytest.param(b"a: !!python/name:os.system x\n", "is not supported", id="python name"),
        pytest.param(b"1: a\n", "a key must be text", id="number as key"),
        pytest.param(b"? [a]\n: b\n", "a key must be text", id="list as key"),
        pytest.param(b"a: " + b"9" * 5000, "cannot be read", id="endless number"),
        pytest.param(b"a: 1\n---\nb: 2\n", "expected a single document", id="two documents"),
        pytest.param(b"\ta: 1\n", "cannot start any token", id="tab"),
        pytest.param(b"a: 1\n" * 300_000, "too large for a configuration", id="size"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "cfg.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_document(path)
    assert message in f"{error.value.what} {error.value.where}"
    assert str(path) in error.value.where
    assert error.value.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('{"a": 1,}', "line 1", id="syntax"),
        pytest.param('{"a": 1, "a": 2}', "a is written twice", id="twice"),
        pytest.param("[" * 100_000, "cannot be read", id="deep"),
        pytest.param("[1]", "this holds one list", id="list"),
    ],
)
def test_a_json_file_is_held_to_the_same(tmp_path, content, message):
    path = tmp_path / "cfg.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as error:
        read_document(path)
    assert message in f"{error.value.what} {error.value.where}"


def test_missing_files_folders_and_other_suffixes_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="there is no such configuration"):
        read_document(tmp_path / "cfg.yaml")
    (tmp_path / "run.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"this is a folder"):
        read_document(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match=r"says neither"):
        read_document(tmp_path / "cells.h5ad")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "cfg.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).values == {"a": 1}


def test_a_fault_names_the_line_of_its_key(tmp_path):
    document = parse_yaml("text: x\ninner:\n  # comment\n  number: many\n", "cfg.yaml")
    with pytest.raises(ConfigError) as error:
        Outer.parse(document.values, source="cfg.yaml", origins=document.origins)
    assert error.value.where == "cfg.yaml, line 4, inner.number"


@given(st.text(max_size=40))
def test_no_text_ends_in_a_trace(text):
    for parser in (parse_yaml, parse_json):
        try:
            document = parser(text, "f")
        except ConfigError as error:
            document = Document({}, error.where)
        assert document.source.startswith("f")


def test_overrides_set_keys_and_later_ones_win():
    document = parse_yaml("a:\n  b: 1\n  c: 2\n", "f")
    changed = override(document, ["a.b=1e-3", "d.e=[1, x]", "a.b=true", "a.c={k: null}"])
    assert changed.values == {"a": {"b": True, "c": {"k": None}}, "d": {"e": [1, "x"]}}
    assert changed.origins["a", "b"] == "override a.b=true"
    assert document.values == {"a": {"b": 1, "c": 2}}


def test_an_override_begins_a_section_that_is_null():
    assert override(parse_yaml("a: null\n", "f"), ["a.b.c=1"]).values == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        pytest.param("a", "a is no override", id="no value"),
        pytest.param("=1", "=1 is no override", id="no key"),
        pytest.param("a..b=1", "a..b=1 is no override", id="empty part"),
        pytest.param("a =1", "a =1 is no override", id="space"),
        pytest.param("a.b:", "write a.b=VALUE, without a space", id="colon"),
        pytest.param("a.b", "write a.b=VALUE, without a space", id="value in the next word"),
        pytest.param("a.b=", "a.b is given no value", id="empty value"),
        pytest.param("a.b.c=1", "a.b is 1, so it has no key c", id="through a number"),
        pytest.param("l.0=1", "l is a list of 2, so it has no key 0", id="through a list"),
        pytest.param("a.b=[1", "cannot be read", id="not YAML"),
    ],
)
def test_an_override_that_cannot_be_set_is_refused(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(parse_yaml("a:\n  b: 1\nl: [1, 2]\n", "f"), [assignment])
    assert message in (error.value.fix if message.startswith("write") else error.value.what)
    assert error.value.where.startswith("command line")


def test_written_yaml_documents_every_key():
    text = to_yaml(Outer(text="x"), header=["made by a test"])
    assert text.startswith("# made by a test\n\n# Any text.\ntext: x\n")
    assert "  # A number: with a colon, # and a hash.\n  number: 1.0\n" in text
    assert "# An inner section.\ninner:\n" in text  # a section without a string of its own takes its class's
    assert "\nempty: {}\n" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert all(not line.endswith(" ") for line in text.splitlines())


def test_text_of_several_lines_stays_on_the_line_of_its_key():
    one, many = to_yaml(Outer(text="x")), to_yaml(Outer(text="a\n\nb\x85 \u2028"))
    assert len(one.split("\n")) == len(many.split("\n"))


printable_or_not = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    text=printable_or_not,
    whole=st.integers(-(2**70), 2**70),
    many=st.lists(printable_or_not, max_size=3),
    table=st.dictionaries(printable_or_not, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    number=st.floats(allow_nan=False, allow_infinity=False),
    maybe=st.none() | st.sampled_from(["null", "no", "1e3", "1_000", "0o7", "2024-01-01", "~", "#", "a: b", "- a", ""]),
)
def test_whatever_a_config_holds_reads_back_equal(text, whole, many, table, number, maybe):
    config = Outer(text=text, whole=whole, many=many, table=table, inner=Inner(number=number), maybe=maybe)
    for written, parser in ((to_yaml(config, header=["h"]), parse_yaml), (to_json(config), parse_json)):
        assert Outer.parse(parser(written, "f").values, source="f") == config


@given(st.text("0123456789.eExo_:-+ nyulNtfrae~", max_size=6))
def test_text_is_text_to_yaml_1_1_readers_too(text):
    assert yaml.safe_load(to_yaml(Outer(text=text)))["text"] == text


def test_a_file_that_exists_is_kept_unless_asked(tmp_path):
    path = tmp_path / "new" / "cfg.yaml"
    write_config(Outer(text="first"), path)
    with pytest.raises(ConfigError, match="this file exists"):
        write_config(Outer(text="second"), path)
    assert Outer.parse(read_document(path).values, source="f").text == "first"
    write_config(Outer(text="second"), path, overwrite=True)
    assert Outer.parse(read_document(path).values, source="f").text == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "cfg.yaml"
    write_config(Outer(text="first"), path)

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_config(Outer(text="second"), path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert "first" in path.read_text()


def test_the_suffix_says_yaml_or_json(tmp_path):
    write_config(Outer(text="x"), tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["text"] == "x"
    with pytest.raises(ConfigError, match="says neither"):
        write_config(Outer(text="x"), tmp_path / "c.txt")


def test_the_schema_closes_sections_and_describes_keys():
    schema = json_schema(Outer)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["properties"]["text"]["description"] == "Any text."
    assert schema["required"] == ["text"]


def test_a_configuration_that_is_not_there_names_the_one_that_was_meant(tmp_path):
    (tmp_path / "my cfg.yaml").write_text("number: 1\n")
    with pytest.raises(ConfigError, match="there is no such configuration") as error:
        read_document(tmp_path / "my cfg.yml")
    assert error.value.fix.startswith(f"Did you mean '{tmp_path}/my cfg.yaml'? To write one: scmf-recipe --recipe ")
    assert error.value.fix.endswith(f"--dest '{tmp_path}/my cfg.yml'")

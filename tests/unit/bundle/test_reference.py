from __future__ import annotations

import doctest
import pickle
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npu_persist.bundle import reference
from npu_persist.bundle.reference import (
    HubReference,
    PathReference,
    Reference,
    StoreReference,
    parse,
    validate_alias,
    validate_name,
)
from npu_persist.errors import InvalidNameError, NpuPersistError, ReferenceFormatError
from npu_persist.files.filesystem import component_problem

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,20}", fullmatch=True).filter(
    lambda text: not component_problem(text)
)
aliases = names.filter(lambda text: not text.isdigit())
references = st.one_of(
    st.builds(StoreReference, names),
    st.builds(StoreReference, names, version=st.integers(1, 10**18 - 1)),
    st.builds(StoreReference, names, alias=aliases),
    st.builds(StoreReference, names, digest=st.text("0123456789abcdef", min_size=4, max_size=64)),
    st.builds(PathReference, st.text(st.characters(exclude_characters="\0"), min_size=1).map(Path)),
    st.builds(
        HubReference,
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True),
        st.none() | st.from_regex(r"[A-Za-z0-9._/-]+", fullmatch=True),
        st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
)


def test_the_examples_run() -> None:
    assert doctest.testmod(reference).failed == 0


@given(references)
def test_what_is_formatted_parses_to_itself(given_reference: Reference) -> None:
    assert parse(str(given_reference)) == given_reference
    assert parse(given_reference) is given_reference
    assert pickle.loads(pickle.dumps(given_reference)) == given_reference  # noqa: S301 (our own)


@given(st.text() | st.text("unet:@./3prodblake-hf"))
@example("0:0/")
@example("u:./")
def test_any_text_parses_or_gives_our_error(text: str) -> None:
    try:
        parsed = parse(text)
    except NpuPersistError:
        return
    assert parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unet", StoreReference("unet")),
        ("unet:3", StoreReference("unet", version=3)),
        ("unet:prod", StoreReference("unet", alias="prod")),
        ("unet:3rd", StoreReference("unet", alias="3rd")),
        ("unet@3F9a", StoreReference("unet", digest="3f9a")),
        ("unet@blake3:3f9a", StoreReference("unet", digest="3f9a")),
        ("./unet", PathReference(Path("unet"))),
        (".", PathReference(Path())),
        ("bundles/unet/3", PathReference(Path("bundles/unet/3"))),
        ("C:\\bundles\\unet", PathReference(Path("C:\\bundles\\unet"))),
        (Path("unet"), PathReference(Path("unet"))),
        (PurePosixPath("unet"), PathReference(Path("unet"))),
        ("hf://intel/unet", HubReference("intel/unet")),
        ("hf://intel/unet@refs/pr/1", HubReference("intel/unet", "refs/pr/1")),
        ("hf://intel/unet#" + "3F" * 32, HubReference("intel/unet", None, "3f" * 32)),
        ("hf://intel/unet@v3#blake3:" + "3f" * 32, HubReference("intel/unet", "v3", "3f" * 32)),
    ],
)
def test_each_form(text: str | Path, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unet:",
        "unet:0",
        "unet:03",
        "unet:1:2",
        "unet:" + "9" * 30,
        "unet@",
        "unet@abc",
        "unet@xyzw",
        "unet@" + "a" * 65,
        "unet@sha256:abcd",
        "hf://",
        "hf://unet",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/b@v3#",
        "hf://a/b#3f9a",
        "hf://a/b#sha256:" + "3f" * 32,
        "https://example.com/unet",
        "a/b\0",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ReferenceFormatError, match="expected"):
        parse(text)


@pytest.mark.parametrize("thing", [3, None, b"unet"])
def test_what_is_no_text_is_refused(thing: object) -> None:
    with pytest.raises(ReferenceFormatError, match="not a reference"):
        parse(thing)  # type: ignore[arg-type]


def test_a_null_byte_in_a_path_object_is_refused() -> None:
    with pytest.raises(ReferenceFormatError):
        parse(Path("a\0b"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("..", "starts with '.'"),
        (".hidden", "starts with '.'"),
        ("../unet", "contains '/'"),
        ("a/b", "contains '/'"),
        ("a\\b", r"contains '\\\\'"),
        ("C:unet", "contains ':'"),
        ("unet@1", "contains '@'"),
        ("un et", "contains ' '"),
        ("ünet", "contains 'ü'"),
        ("unet\n", "contains"),
        ("unet\0", "contains"),
        ("-unet", "starts with '-'"),
        ("unet.", "ends with '.'"),
        ("CON", "Windows reserves"),
        ("nul", "Windows reserves"),
        ("Com1", "Windows reserves"),
        ("lpt9.tar.gz", "Windows reserves"),
        ("x" * 101, "101 characters"),
    ],
)
def test_bad_names_are_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(InvalidNameError, match=why):
        validate_name(name)
    with pytest.raises(InvalidNameError, match="invalid alias"):
        validate_alias(name)


@pytest.mark.parametrize("text", ["CON:1", "..@abcd".replace("..", "nul"), "unet.:prod", "unet:nul", "a b"])
def test_bad_names_inside_a_reference_are_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        parse(text)


@pytest.mark.parametrize("name", ["unet", "UNet-v1.5+fp16", "_private", "3", "x" * 100, "console", "com10", "null"])
def test_good_names_pass(name: str) -> None:
    assert validate_name(name) == name


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="expected a str, got int"):
        validate_name(3)  # type: ignore[arg-type]


def test_an_alias_does_not_look_like_a_version() -> None:
    assert validate_alias("v3") == "v3"
    with pytest.raises(InvalidNameError, match="would read as a version number"):
        validate_alias("3")

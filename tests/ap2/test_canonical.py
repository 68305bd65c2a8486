"""One document, one form: what is hashed and signed is the same bytes for everybody.

The digests of `VECTORS` were made with another implementation: ECMAScript's `JSON.stringify` of
members sorted by UTF-16, which RFC 8785 is defined by.
"""

import json
import shutil
import subprocess
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.ap2.canonical import CanonicalError, canonical, read_json, sha256_hex

# Document as JSON text -> its canonical form.
VECTORS = {
    "{}": "{}",
    '{"b": 1, "a": {"d": [], "c": null}}': '{"a":{"c":null,"d":[]},"b":1}',
    '{"a": [3, 1, 2]}': '{"a":[3,1,2]}',
    '{"a": [{"y": 1, "x": 2}]}': '{"a":[{"x":2,"y":1}]}',
    '{"1": 1, "10": 2, "2": 3}': '{"1":1,"10":2,"2":3}',
    # By UTF-16 code units, a character above U+FFFF sorts before U+FB33, not after it.
    '{"\\ufb33": 1, "\\ud83d\\ude02": 2, "\\u20ac": 3}': ('{"\u20ac":3,"\U0001f602":2,"\ufb33":1}'),
    '{"a": "\\u00e9"}': '{"a":"\u00e9"}',
    '{"a": "e\\u0301"}': '{"a":"e\u0301"}',
    '{"a": "\\b\\t\\n\\f\\r\\"\\\\\\/\\u0000\\u001f\\u007f\\u2028"}': (
        '{"a":"\\b\\t\\n\\f\\r\\"\\\\/\\u0000\\u001f\x7f\u2028"}'
    ),
    '{"a": 9007199254740991, "b": -9007199254740991}': (
        '{"a":9007199254740991,"b":-9007199254740991}'
    ),
    '{"a": [1.0, 1.50, -0.0, 1e3, 9.007199254740991e15, 1e-6, 1e-7, 0.1, 5e-324]}': (
        '{"a":[1,1.5,0,1000,9007199254740991,0.000001,1e-7,0.1,5e-324]}'
    ),
    '{"a": [true, false, null]}': '{"a":[true,false,null]}',
}
CANONICALIZE = """
const form = v => Array.isArray(v) ? `[${v.map(form).join()}]`
  : v && typeof v === "object"
    ? `{${Object.keys(v).sort().map(k => JSON.stringify(k) + ":" + form(v[k])).join()}}`
    : JSON.stringify(v);
const lines = require("fs").readFileSync(0, "utf8").split("\\n").filter(Boolean);
for (const line of lines) console.log(form(JSON.parse(line)));
"""


@pytest.mark.parametrize(("text", "form"), VECTORS.items())
def test_vector(text: str, form: str) -> None:
    """Members are sorted by UTF-16, arrays are not, text is as it is, numbers are ECMAScript's."""
    assert canonical(read_json(text)).decode("utf-8") == form


def by_node(documents: list[str]) -> list[str]:
    ran = subprocess.run(
        ["node", "-e", CANONICALIZE],
        input="\n".join(documents),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        encoding="utf-8",
    )
    return ran.stdout.removesuffix("\n").split("\n")


@pytest.mark.skipif(shutil.which("node") is None, reason="no second implementation: no node here")
def test_vectors_are_those_of_another_implementation() -> None:
    """ECMAScript itself writes every vector the same way."""
    assert by_node([json.dumps(json.loads(text)) for text in VECTORS]) == list(VECTORS.values())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2.0**53) + 1, 2.0**53 - 1)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=5)


@pytest.mark.skipif(shutil.which("node") is None, reason="no second implementation: no node here")
@settings(max_examples=5, deadline=None)
@given(st.lists(OBJECTS, min_size=1, max_size=60))
def test_any_document_is_the_same_for_another_implementation(documents: list[Any]) -> None:
    """Whatever JSON can say exactly has the form that ECMAScript gives it."""
    ours = [canonical(document).decode("utf-8") for document in documents]
    assert by_node([json.dumps(document) for document in documents]) == ours


@given(OBJECTS)
def test_the_form_means_the_same_and_is_stable(document: dict[str, Any]) -> None:
    """Reading the form again gives the document, and the form of that is the form."""
    form = canonical(document)
    again = read_json(form)
    assert again == document
    assert canonical(again) == form


def test_order_of_members_does_not_count_and_order_of_elements_does() -> None:
    one, other = {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}
    assert sha256_hex(one) == sha256_hex(other) == sha256_hex(MappingProxyType(one))
    assert sha256_hex(one) != sha256_hex({"a": 1, "b": [2, 1]})


def test_the_digest_is_lowercase_hexadecimal_with_its_algorithm() -> None:
    """The digest of `{}` is a well-known one."""
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert sha256_hex({}) == f"sha256:{empty}"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"a": {"amount": 2**53}}, r"a\.amount is 9007199254740992, beyond .*write it as text"),
        ({"a": [-(2**53)]}, r"a\[0\] is -9007199254740992"),
        ({"a": 1e16}, r"a is 1e\+16, beyond"),
        ({"a": float("nan")}, "a is nan, which JSON cannot say"),
        ({"a": [1, float("-inf")]}, r"a\[1\] is -inf"),
        ({"a": "\ud800"}, r"a holds half of a surrogate pair \(U\+D800\)"),
        ({"\udc00": 1}, r"the key \\udc00 holds half of a surrogate pair"),
        ({"a": b"x"}, "a is a bytes, which JSON cannot say"),
        ({"a": {1: 2}}, "a: key 1 is not text"),
    ],
)
def test_what_has_no_form_is_refused_by_name(document: dict[str, Any], said: str) -> None:
    """The message says which member, and what is wrong with it."""
    with pytest.raises(CanonicalError, match=said):
        canonical(document)


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' stands twice"),
        ('{"x": [{"a": 1, "\\u0061": 2}]}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1', "not JSON: .* at line 1, column"),
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        (b"\xff\xfe{}", "not UTF-8: byte 0"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"a": ' + "9" * 5_000 + "}", "not JSON"),
        (" " * 1_048_577, "larger than 1,048,576 bytes"),
        ('{"a":' * 200_000, "nested too deeply"),
    ],
)
def test_a_text_with_two_meanings_is_refused(text: str | bytes, said: str) -> None:
    """Duplicates, cut-off files and numbers that are none never become a document."""
    with pytest.raises(CanonicalError, match=said):
        read_json(text)


def test_depth_is_limited() -> None:
    assert canonical(read_json(nested(100)))
    with pytest.raises(CanonicalError, match="deeper than 100 levels"):
        canonical(read_json(nested(102)))

"""Nothing is forgotten: every code, every worked example and every edge case has its row."""

import re
from pathlib import Path

import bursar.core
from bursar.vocabulary import ErrorCode

HERE = Path(__file__).parent
TESTS = {path.name: path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py")}
TABLES = "\n".join(text for name, text in TESTS.items() if name != "test_table.py")
CORE = "\n".join(
    path.read_text(encoding="utf-8") for path in Path(bursar.core.__path__[0]).rglob("*.py")
)

# Edge cases of the protocol that are not the ledger's, and whose they are.
ELSEWHERE = {
    1: "HTTP: header and body key",
    14: "HTTP: GET and list after the sweep; what is stored is in test_expire",
    17: "HTTP: ownership before state; a core command names its own tenant",
    18: "HTTP: length of an id in a path",
    21: "wire: subject without a standard field",
    43: "wire: unknown fields and malformed JSON",
    49: "HTTP: balances without a filter",
    50: "HTTP: credentials of a list",
    51: "HTTP: admin key on a tenant's operation",
    53: "HTTP: windows of a list",
    54: "storage: finalized_from on rows without a final time",
    55: "HTTP: cursors",
    56: "HTTP: include",
    57: "HTTP: sort_by",
    58: "HTTP: missing credential",
    59: "HTTP: traceparent",
    60: "HTTP: traceparent",
    69: "admin plane: webhooks",
    70: "admin plane: webhooks",
    71: "admin plane: webhooks",
    72: "admin plane: replay of events",
    73: "admin plane: webhooks",
    74: "admin plane: webhooks",
    75: "admin plane: introspection",
    76: "admin plane: bulk actions",
    77: "admin plane: bulk actions",
}


def numbers(word: str) -> set[int]:
    """Return the numbers that tests name after a word: `case 5`, `example 12`."""
    return {int(number) for number in re.findall(rf"\b{word} (\d+)\b", TABLES)}


def test_every_code_of_the_core_is_the_outcome_of_a_row() -> None:
    returned = set(re.findall(r"\bErrorCode\.([A-Z_]+)", CORE))
    outcomes = set(re.findall(r"-> ([A-Z_]+)\b", TABLES))
    assert returned - outcomes == set()
    assert set(ErrorCode.__members__) - returned == {
        "UNAUTHORIZED",  # HTTP
        "INSUFFICIENT_PERMISSIONS",  # HTTP
    }


def test_every_code_of_the_core_has_its_sentence_checked() -> None:
    returned = set(re.findall(r"\bErrorCode\.([A-Z_]+)", CORE))
    written = set(re.findall(r"\bErrorCode\.([A-Z_]+)", TESTS["test_refusals.py"]))
    assert returned == written


def test_every_worked_example_is_a_scenario() -> None:
    assert set(range(1, 17)) == numbers("example")


def test_every_edge_case_is_here_or_belongs_elsewhere() -> None:
    here = numbers("case")
    assert set(range(1, 81)) == here | set(ELSEWHERE)
    assert here & set(ELSEWHERE) == set()

"""Payments on a real chain with random mishaps: what was said of them, and how soon.

The rule that lives here: nothing is counted that the token's logs do not have. The payments
and the judgement are those of `tests/payments/mishaps.py`, so that what is measured is what is
tested. It needs Node.js, which brings the chain; where that is missing it says so.
"""

import argparse
import importlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from bursar.testing import Dollar, LocalChain, ScriptedFacilitator
from bursar.testing.chain import ToolsMissing, install

TESTS = Path(__file__).resolve().parents[1] / "tests"
PAYMENTS, PAYMENTS_MAX = 1_000, 100_000
SEED = 7


def measure(folder: Path, count: int = PAYMENTS, seed: int = SEED) -> dict[str, Any]:
    """Return what became of so many payments; where there is no chain, why."""
    logging.getLogger("bursar").addHandler(logging.NullHandler())  # alerts are counted, not shown
    sys.path.append(str(TESTS))
    mishaps = importlib.import_module("payments.mishaps")
    try:
        install()
    except ToolsMissing as missing:
        return {"missing": str(missing)}
    with LocalChain() as chain, ScriptedFacilitator(chain.url) as facilitator:
        dollar = Dollar(chain)
        chain.finalize()
        found = mishaps.run(count, seed, dollar, facilitator, folder / "payments-e2e.db")
    return {
        "payments": count,
        "seed": seed,
        "with_mishap": count - found.mishaps["none"],
        "verdicts": dict(sorted(found.verdicts.items())),
        "wrong_verdicts": len(found.wrong),
        "paid_twice": len(found.paid_twice),
        "settles_most": found.settles_most,
        "orphans": len(found.orphans),
        "orphans_found": len(found.found & found.orphans),
        "orphans_made_up": len(found.found - found.orphans),
        "orphans_told": found.told,
        "after_finality_s": {
            "p50": found.wait_s(50),
            "p90": found.wait_s(90),
            "max": found.wait_s(100),
        },
        "played_s": round(found.played_s, 1),
        "payments_per_s": round(count / found.played_s, 1),
        "decided_s": round(found.decided_s, 1),
        "decisions_per_s": round(count / found.decided_s, 1),
    }


def aims(found: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Return what is promised of payments, with what was measured."""
    if "missing" in found:
        return []
    missed = found["orphans"] - found["orphans_found"]
    return [
        ("wrong verdicts", found["wrong_verdicts"], "<=", 0),
        ("payments executed twice", found["paid_twice"], "<=", 0),
        ("settle calls for one payment, at most", found["settles_most"], "<=", 1),
        ("orphans missed or made up", missed + found["orphans_made_up"], "<=", 0),
        ("decided after finality, at most in s", found["after_finality_s"]["max"], "<=", 90),
    ]


def show(found: dict[str, Any]) -> None:
    """Print the table; times after finality are the chain's."""
    if "missing" in found:
        print(f"Payments on a chain were not measured: {found['missing']}\n")
        return
    after, verdicts = found["after_finality_s"], found["verdicts"]
    rows = [
        ("payments", f"{found['payments']:,} ({found['with_mishap']:,} with a mishap)"),
        ("what became of them", ", ".join(f"{n:,} {name}" for name, n in verdicts.items())),
        ("wrong verdicts", f"{found['wrong_verdicts']}"),
        ("paid twice", f"{found['paid_twice']}"),
        ("orphans found", f"{found['orphans_found']:,} of {found['orphans']:,}"),
        ("decided after finality", f"p50 {after['p50']:.0f} s, p90 {after['p90']:.0f} s, "
                                   f"max {after['max']:.0f} s"),
        ("made", f"{found['played_s']:.0f} s ({found['payments_per_s']:,.1f} payments/s)"),
        ("decided", f"{found['decided_s']:.0f} s ({found['decisions_per_s']:,.1f} payments/s)"),
    ]  # fmt: skip
    print(f"Payments on a real chain, seed {found['seed']}:")
    print("\n".join(f"  {name:24}{said}" for name, said in rows), end="\n\n")


def main() -> int:
    """Measure and print; return 1 if a promise is broken, 2 if there is no chain."""
    parser = argparse.ArgumentParser(description="Play payments with mishaps on a local chain.")
    parser.add_argument("--payments", type=int, default=PAYMENTS, help=f"how many ({PAYMENTS:,})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"plays the same again ({SEED})")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not 1 <= options.payments <= PAYMENTS_MAX:
        parser.error(f"--payments must be from 1 to {PAYMENTS_MAX:,}; got {options.payments}")
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as folder:
        found = measure(Path(folder), options.payments, options.seed)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if "missing" in found:
        return 2
    return int(any(measured > limit for _, measured, _, limit in aims(found)))


if __name__ == "__main__":
    sys.exit(main())

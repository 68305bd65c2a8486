"""The same ledger inside a Python program: no server, no port, the same rules and errors.

Takes the ledger file as its argument (`budget.db` where there is none) and makes it if it is new.
"""

import sys

from bursar import BudgetExceededError, CyclesClient, cycles

client = CyclesClient.embedded(sys.argv[1] if len(sys.argv) > 1 else "budget.db")
DOLLAR = 100_000_000  # amounts are integers; one US dollar is 10**8 USD_MICROCENTS


@cycles(30 * DOLLAR // 100, actual=25 * DOLLAR // 100, client=client)
def chapter(number: int) -> str:
    """Stand in for a call of a model; it may cost 30 cents and costs 25."""
    return f"Chapter {number}"


def main() -> None:
    client.create_budget("1USD", exist_ok=True)
    try:
        for number in range(1, 100):
            print(chapter(number))
    except BudgetExceededError as denied:
        print("stopped:", denied.details["deny_detail"]["suggested_fix"])
    for balance in client.typed.iter_balances(tenant=client.config.tenant):
        spent, allocated = balance.spent.amount / DOLLAR, balance.allocated.amount / DOLLAR
        print(f"spent ${spent:.2f} of ${allocated:.2f}")
    client.close()


if __name__ == "__main__":
    main()

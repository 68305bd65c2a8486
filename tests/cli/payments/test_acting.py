"""`bursar payments recheck` and `mark-refunded`: real processes, a real chain, a real server."""

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE
from bursar.payments.outcome import Trigger, Work
from bursar.payments.ports import PaymentStore
from bursar.testing.chain import Dollar, LocalChain
from bursar.x402 import evm
from bursar.x402.authorization import Authorization
from cli.copies.running import environment, line
from conftest import serving
from payments.paying import Payer

TRANSFER_CALL = "0xa9059cbb"  # transfer(address,uint256)


def run(*words: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `bursar payments WORDS` in a process of its own."""
    return subprocess.run(
        line("payments", *words),
        env=environment(None, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def on_chain(put: Any, dollar: Dollar, signed: Authorization, **more: Any) -> str:
    """Keep an authorization whose answer was lost, and return the payment's id."""
    kept = put(
        signed.nonce[2:10],
        Trigger.SENDING,
        Trigger.LOST,
        network=f"eip155:{dollar.chain.chain_id}",
        asset=dollar.address,
        payer=signed.payer,
        pay_to=signed.pay_to,
        value=signed.value,
        nonce=signed.nonce,
        valid_before_s=signed.valid_before,
        created_at_ms=dollar.chain.now() * 1000,
        after=more,
    )
    return str(kept.payment_id)


def endpoint(chain: LocalChain, url: str | None = None) -> str:
    return f"eip155:{chain.chain_id}={url or chain.url}"


def test_a_recheck_finds_an_orphan(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, store: PaymentStore
) -> None:
    """Unknown before the block is final, then settled with the transaction that proves it."""
    signed, signature = Payer.rich(dollar).authorize()
    payment_id = on_chain(put, dollar, signed, work=Work.FAILED)
    words = ("recheck", payment_id, "--store", file, "--rpc", endpoint(chain))
    early = run(*words)
    assert early.returncode == EXIT_FAILED, early.stderr
    assert "UNKNOWN" in early.stdout
    transaction = dollar.submit(signed, signature)
    chain.finalize()
    found = run(*words, "--json")
    assert found.returncode == EXIT_OK, found.stderr
    told = json.loads(found.stdout)
    assert (told["money"], told["disposition"]) == ("SETTLED", "ORPHANED")
    assert told["history"][-1]["evidence"]["tx_hash"] == transaction == told["tx_hash"]
    listed = run("list", "--disposition", "ORPHANED", "--store", file)
    assert payment_id in listed.stdout


class Books:
    """A facilitator of the Circle dialect that knows one transaction, and keeps what it got."""

    def __init__(self, transaction: str) -> None:
        self.asked = list[tuple[str, str | None]]()
        books = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                books.asked.append((self.path, self.headers.get("Authorization")))
                body = json.dumps({"status": "completed", "transaction": transaction}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Books":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_recheck_asks_the_facilitator_where_to_look(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, tmp_path: Path
) -> None:
    """By an option, the environment or a profile; with its headers, which nothing shows."""
    signed, signature = Payer.rich(dollar).authorize()
    transaction = dollar.submit(signed, signature)
    more = {"facilitator": "shop", "facilitator_ref": "pay-7"}
    payment_id = on_chain(put, dollar, signed, work=Work.FAILED, **more)
    chain.mine(1)
    headers = json.dumps({"shop": {"Authorization": "Bearer TOPSECRET"}})
    (tmp_path / "headers.json").write_text(headers)
    config = tmp_path / "config.toml"
    words = ("recheck", payment_id, "--store", file, "--json")
    with Books(transaction) as books:
        shop = f"shop:circle={books.url}"
        config.write_text(
            f"[profiles.default]\npayments_rpc = {endpoint(chain)!r}\n"
            f"payments_facilitators = {shop!r}\npayments_finality = '100'\n"
            "payments_facilitator_headers_file = 'headers.json'\n"
        )
        by_file = run(*words, "--config", config)
        by_option = run(
            *(*words, "--rpc", endpoint(chain), "--facilitator", shop, "--finality", "2"),
            BURSAR_PAYMENTS_FACILITATOR_HEADERS=headers,
        )
        by_environment = run(
            *words,
            BURSAR_PAYMENTS_RPC=endpoint(chain),
            BURSAR_PAYMENTS_FACILITATORS=shop,
            BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE=str(tmp_path / "headers.json"),
            BURSAR_PAYMENTS_FINALITY=f"eip155:{chain.chain_id}=1",
        )
    for made, code, money in (
        (by_file, EXIT_FAILED, "UNKNOWN"),
        (by_option, EXIT_FAILED, "PROVISIONAL"),
        (by_environment, EXIT_OK, "SETTLED"),
    ):
        assert made.returncode == code, made.stderr
        assert json.loads(made.stdout)["money"] == money
        assert "TOPSECRET" not in made.stdout + made.stderr
    assert set(books.asked) == {("/x402/status/pay-7", "Bearer TOPSECRET")}


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (("--finality", "soon"), {}, "--finality: final is `finalized`, `safe`, or"),
        (("--finality", "eip155:137=9"), {}, "--finality: eip155:137 has no RPC endpoint"),
        (("--facilitator", "http://f/KEY"), {}, "--facilitator: a facilitator is NAME=URL"),
        ((), {"BURSAR_PAYMENTS_FINALITY": "0"}, "payments_finality: final is"),
        ((), {"BURSAR_PAYMENTS_FACILITATORS": "x"}, "payments_facilitators: a facilitator is"),
        ((), {"BURSAR_PAYMENTS_FACILITATOR_HEADERS": "KEY"}, "facilitator_headers: it is not JSON"),
        (
            (),
            {"BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE": "missing"},
            "missing cannot be read: No such file",
        ),
        (
            (),
            {
                "BURSAR_PAYMENTS_FACILITATOR_HEADERS": "{}",
                "BURSAR_PAYMENTS_FACILITATOR_HEADERS_FILE": "missing",
            },
            "say the same thing; keep one of them",
        ),
    ],
)
def test_wrong_words_about_whom_to_ask(
    words: tuple[str, ...], env: dict[str, str], said: str, put: Any, file: Path
) -> None:
    """One line and the code for usage, before anything is opened or asked."""
    put("1", Trigger.SENDING, Trigger.LOST)
    rpc = ("--rpc", "base=http://127.0.0.1:9")
    made = run("recheck", "pay_1", "--store", file, *rpc, *words, **env)
    assert (made.returncode, made.stdout) == (EXIT_USAGE, "")
    assert made.stderr.count("\n") == 1
    assert said in made.stderr
    assert "KEY" not in made.stderr


def test_finality_is_kept_for_chains_that_are_asked(put: Any, file: Path) -> None:
    """Beside the endpoints it is refused for another chain; --rpc names some of the chains."""
    put("1", Trigger.SENDING, Trigger.LOST)
    words, finality = ("recheck", "pay_1", "--store", file), "eip155:137=9"
    rpc = "base=http://127.0.0.1:9"
    made = run(*words, BURSAR_PAYMENTS_RPC=rpc, BURSAR_PAYMENTS_FINALITY=finality)
    assert (made.returncode, made.stdout) == (EXIT_USAGE, "")
    assert "payments_finality: eip155:137 has no RPC endpoint" in made.stderr
    some = run(*words, "--rpc", rpc, BURSAR_PAYMENTS_FINALITY=finality)
    assert "finality" not in some.stderr


def test_a_refund_is_marked_when_the_chain_shows_it(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, store: PaymentStore
) -> None:
    """Not the payment itself, not before it is final; then once, and again is no change."""
    shop = chain.accounts[6]
    payer = Payer.rich(dollar)
    signed, signature = payer.authorize(to=shop)
    payment_id = on_chain(put, dollar, signed, work=Work.FAILED)
    paid = dollar.submit(signed, signature)
    chain.finalize()
    rpc = ("--store", file, "--rpc", endpoint(chain))
    assert run("recheck", payment_id, *rpc).returncode == EXIT_OK
    wrong = run("mark-refunded", payment_id, paid, *rpc)
    assert (wrong.returncode, wrong.stdout) == (EXIT_REFUSED, "")
    assert wrong.stderr.count("\n") == 1
    assert "check the hash, or wait until it is final" in wrong.stderr
    back = chain.send(dollar.address, evm.call(TRANSFER_CALL, payer.address, signed.value), shop)
    assert run("mark-refunded", payment_id, back, *rpc).returncode == EXIT_REFUSED
    chain.finalize()
    for _ in range(2):
        done = run("mark-refunded", payment_id, back, "--by", "ann", "--json", *rpc)
        assert done.returncode == EXIT_OK, done.stderr
        told = json.loads(done.stdout)
        assert (told["disposition"], told["refund_tx"]) == ("REFUNDED", back)
        assert [one["what"] for one in told["history"]].count("REFUNDED") == 1
        assert told["history"][-1]["evidence"]["source"] == "operator:ann"


def test_two_witnesses_of_which_one_is_silent_prove_no_absence(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, store: PaymentStore
) -> None:
    """That nobody was paid takes both; one that was paid is proved by one."""
    signed, _ = Payer.rich(dollar).authorize(window_s=30)
    payment_id = on_chain(put, dollar, signed)
    chain.mine(4, seconds=30)
    silent = endpoint(chain, "http://127.0.0.1:9")
    both = run(
        *("recheck", payment_id, "--store", file, "--json"),
        *("--rpc", endpoint(chain), "--rpc", silent),
    )
    assert both.returncode == EXIT_FAILED, both.stderr
    assert json.loads(both.stdout)["money"] == "UNKNOWN"
    alone = run("recheck", payment_id, "--store", file, "--json", "--rpc", endpoint(chain))
    assert alone.returncode == EXIT_OK
    assert json.loads(alone.stdout)["money"] == "EXPIRED"


def test_endpoints_come_from_option_environment_or_profile(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, tmp_path: Path, store: PaymentStore
) -> None:
    signed, _ = Payer.rich(dollar).authorize()
    words = ("recheck", on_chain(put, dollar, signed), "--store", file)
    assert run(*words).returncode == EXIT_USAGE
    assert run(*words, BURSAR_PAYMENTS_RPC=endpoint(chain)).returncode == EXIT_FAILED
    kept = tmp_path / "config.toml"
    kept.write_text(f'[profiles.default]\npayments_rpc = "{endpoint(chain)}"\n')
    kept.chmod(0o600)
    asked = run(*words, "--config", kept)
    assert (asked.returncode, asked.stderr) == (EXIT_FAILED, "")
    wrong = run(*words, BURSAR_PAYMENTS_RPC="http://r.example/KEY")
    assert (wrong.returncode, "KEY" in wrong.stderr) == (EXIT_USAGE, False)
    assert wrong.stderr.startswith("bursar: payments_rpc: an RPC endpoint is NETWORK=URL")


def test_nobody_answers(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, store: PaymentStore
) -> None:
    """A recheck notes it; a refund is not noted, and nothing was changed."""
    signed, _ = Payer.rich(dollar).authorize()
    payment_id = on_chain(put, dollar, signed)
    rpc = ("--store", file, "--rpc", endpoint(chain, "http://127.0.0.1:9"))
    asked = run("recheck", payment_id, "--json", *rpc)
    assert asked.returncode == EXIT_FAILED
    last = json.loads(asked.stdout)["history"][-1]
    assert (last["what"], json.loads(asked.stdout)["rpc_failures"]) == ("UNREACHABLE", 0)
    assert "nothing was learned: rpc:127.0.0.1:9: eth_chainId: ConnectError" in asked.stderr
    before = store.get(payment_id)
    refused = run("mark-refunded", payment_id, "0x" + "0" * 64, *rpc)
    assert (refused.returncode, refused.stderr.count("\n")) == (EXIT_UNREACHABLE, 1)
    assert store.get(payment_id) == before


def test_nobody_answers_about_a_final_payment(
    chain: LocalChain, dollar: Dollar, put: Any, file: Path, store: PaymentStore
) -> None:
    """It stays as it is, and the command does not say that it is proved again."""
    signed, signature = Payer.rich(dollar).authorize()
    payment_id = on_chain(put, dollar, signed)
    dollar.submit(signed, signature)
    chain.finalize()
    words = ("recheck", payment_id, "--store", file, "--rpc")
    assert run(*words, endpoint(chain)).returncode == EXIT_OK
    asked = run(*words, endpoint(chain, "http://127.0.0.1:9"))
    assert asked.returncode == EXIT_FAILED
    assert "SETTLED; nothing was learned now" in asked.stdout
    assert asked.stderr.count("\n") == 1


@pytest.mark.parametrize("change", [{"nonce": None}, {"network": "solana:x"}])
def test_what_no_chain_knows_is_refused(put: Any, file: Path, change: dict[str, Any]) -> None:
    """A payment without an authorization has nothing that could be looked for."""
    put("1", Trigger.SENDING, Trigger.LOST, **change)
    ran = run("recheck", "pay_1", "--store", file, "--rpc", "eip155:84532=http://127.0.0.1:9")
    assert ran.returncode == (EXIT_USAGE if "network" in change else EXIT_REFUSED)
    assert ran.stderr.count("\n") == 1


def test_commands_work_beside_a_server(put: Any, file: Path, store: PaymentStore) -> None:
    """The server keeps its claim of the file, and the commands do their work."""
    put("1", Trigger.SENDING, Trigger.LOST, Trigger.SETTLED, after={"work": Work.FAILED})
    store.close()
    with serving(file.parent) as server:
        assert server.url
        words = ("--reason", "gone", "--by", "ann", "--second", "bob", "--store", file)
        done = run("write-off", "pay_1", *words)
        assert done.returncode == EXIT_OK, done.stderr
        assert "WRITTEN_OFF" in run("list", "--store", file).stdout

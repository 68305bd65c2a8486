"""Where the SDK differs from the official Python client, why, and the test that shows it.

The one source of the table on the migration page; `python tests/client/differences.py` writes
it again. The rule that lives here: a difference that no test shows is not listed, and one that
is not listed is a bug.
"""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "migrate_from_runcycles.md"
PART = re.compile(r"(<!-- from the tests: differences -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Difference:
    """One row: what about, how it was, how it is, why, and where it is tested."""

    about: str
    runcycles: str
    bursar: str
    why: str
    test: str  # file::function below tests/client


DIFFERENCES = [
    Difference(
        "switches in the environment",
        'only the word "true" is true, so `CYCLES_RETRY_ENABLED=1` turns retries off',
        "1/0, true/false, yes/no, on/off in any case; anything else is refused; empty is not set",
        "a safety net must not be off because it was spelled in another usual way",
        "test_config.py::test_switches_read_the_usual_spellings",
    ),
    Difference(
        "numbers in the environment",
        "a bad one is a `ValueError` that does not name the variable; no limits",
        "the message names variable, limits and value; durations end at a day",
        "who starts the program reads the message, and may not know its code",
        "test_config.py::test_a_variable_that_cannot_be_read_is_named",
    ),
    Difference(
        "values of `CyclesConfig`",
        "anything is accepted, and fails when it is used",
        "checked at construction and at every assignment; infinite timeouts are refused",
        "a wrong setting shows before money is at stake",
        "test_config.py::test_a_value_that_cannot_work_is_refused",
    ),
    Difference(
        "`repr` of `CyclesConfig`",
        "prints the API key",
        "never shows it, nor does any message",
        "logs are read by many",
        "test_config.py::test_the_key_is_never_shown",
    ),
    Difference(
        "lease and extension checks",
        "text or None is a `TypeError`; a fraction within range passes",
        "the same `ValueError` as for any other bad value",
        "one kind of error for one kind of mistake",
        "test_validation.py::test_what_the_official_client_lets_through",
    ),
    Difference(
        "units and overage policies that do not exist",
        "sent, for the server to refuse",
        "a `ValueError` that names the ones there are, before anything is sent",
        "a typing mistake shows without a server",
        "test_validation.py::test_unknown_words_are_refused_before_anything_is_sent",
    ),
    Difference(
        "reservation ids in paths",
        "inserted as they are: `../../evil` reaches another path",
        "percent-encoded; `.`, `..` and control characters are refused",
        "an id from elsewhere must not choose the operation",
        "test_validation.py::test_an_id_is_exactly_one_segment",
    ),
    Difference(
        "refusals with fields that the client does not know",
        "`get_error_response()` is None: code, request id and details are lost",
        "read; unknown fields are kept, and a broken optional one never hides the code",
        "every current server sends `trace_id` with every refusal",
        "test_response.py::test_an_error_is_read_whatever_else_it_holds",
    ),
    Difference(
        "junk in rate limit headers",
        "`rate_limit_remaining` raises `ValueError`; signs and other digits pass",
        "None unless it is a whole number in ASCII digits",
        "a proxy's header must not break the handling of an answer",
        "test_response.py::test_junk_in_a_rate_limit_header_is_none",
    ),
    Difference(
        "`request_id` of a response",
        "from the header only",
        "from the header, else from the body of a refusal; `trace_id` and `error_code` likewise",
        "support asks for it",
        "test_response.py::test_ids_are_found_in_body_and_headers",
    ),
    Difference(
        "error codes that the client does not know",
        'become "UNKNOWN", which counts as retryable, or stay as they are, depending on the body',
        "stay as they are, with request id, details and trace; not retryable by themselves",
        "the same refusal is the same exception, and a new refusal is not hammered",
        "test_exceptions.py::test_a_future_code_is_kept_with_everything_around_it",
    ),
    Difference(
        "a denial answered with status 200",
        "always `CyclesProtocolError`",
        "the class of its reason (`BudgetExceededError`, ...), and the message says the reason;"
        " `error_code` stays None",
        "handlers for a spent budget are written once",
        "test_exceptions.py::test_a_denial_has_the_class_of_its_reason",
    ),
    Difference(
        "no answer, and 429 without a body",
        "`is_retryable()` is False",
        "True",
        "they are the two things that waiting helps with most",
        "test_exceptions.py::test_two_questions",
    ),
    Difference(
        "`CyclesTransportError`",
        "never raised, and not a `CyclesProtocolError`",
        "raised when there was no answer; a `CyclesProtocolError` with its `cause`",
        "existing handlers still catch it, and new ones can tell",
        "test_exceptions.py::test_no_answer_is_a_transport_error_that_old_handlers_catch",
    ),
    Difference(
        "`retry_after_ms` of an exception",
        "whatever number the body holds, also a negative one or True",
        "a whole number of at least 0 from the body, else the header",
        "it is slept for",
        "test_exceptions.py::test_the_body_knows_better_than_the_header",
    ),
    Difference(
        "answers with unknown fields or values",
        "the model refuses them",
        "kept in `model_extra`; an unknown decision, status or unit stays the text it is, and"
        " an unknown decision is neither allowed nor denied",
        "a newer server must not stop an older client",
        "test_models.py::test_what_only_ours_reads",
    ),
    Difference(
        "an empty `tool_allowlist`",
        "blocks every tool",
        "restricts nothing, as the protocol says",
        "the other SDKs and the servers read it so",
        "test_models.py::test_an_empty_allowlist_restricts_nothing",
    ),
    Difference(
        "a negative `retry_after_ms` in a decision",
        "accepted",
        "refused",
        "the protocol has none",
        "test_models.py::test_what_only_the_official_client_reads",
    ),
    Difference(
        "`str()` of an enum member",
        "`Unit.TOKENS`",
        "`TOKENS`, its spelling on the wire; comparisons with text are the same",
        "what is printed can be pasted into a request",
        "test_helpers.py::test_enums_have_the_official_values",
    ),
    Difference(
        "folder modes of the journal",
        "the folder that you chose is itself made 0700",
        "only the identity's folder in it; files are created 0600",
        "a shared folder stays usable by others",
        "test_journal.py::test_files_are_private_and_folders_above_are_left_alone",
    ),
    Difference(
        "writing the journal",
        "not synced to the disk; failures are logged",
        "file and folder are synced; a failure is an error with place and fix",
        "a record that a power cut removes was never a record",
        "test_journal.py::test_file_and_folder_are_synced_in_order",
    ),
    Difference(
        "deleting a journal record",
        "by reservation id",
        "only while it holds the settlement that is done (same key)",
        "another process may have written it anew",
        "test_journal.py::test_only_the_settlement_that_is_done_is_deleted",
    ),
    Difference(
        "journal records without an idempotency key",
        "sent",
        "set aside as `*.corrupt` and reported",
        "without a key the same spend could be charged twice",
        "test_journal_format.py::test_what_cannot_be_repeated_is_set_aside",
    ),
    Difference(
        "damaged journal records",
        "set aside; a second one of the same name replaces the first",
        "set aside, each one kept",
        "it may be all that is known about money that was spent",
        "test_journal.py::test_damage_is_set_aside_and_the_rest_loads",
    ),
    Difference(
        "`get_cycles_context()` after a nested guarded call",
        "None",
        "the outer reservation, as before the call",
        "nesting must not hide who pays",
        "test_context.py::test_the_outer_reservation_comes_back",
    ),
    Difference(
        "guarded generators",
        "committed when the generator object is made, before its first step",
        "guarded until they are exhausted, closed or fail; chunks can be priced",
        "what is guarded is the whole of the work",
        "test_with_cycles.py::test_a_generator_is_settled_when_it_ends",
    ),
    Difference(
        "a task that is cancelled while it commits or stops its heartbeat",
        "nothing asks again before the next start; or the cancellation is swallowed",
        "the cancellation goes on at once, the commit is finished and asked again",
        "neither the spend nor the cancellation may be lost",
        "test_cancellation.py::test_while_it_commits",
    ),
    Difference(
        "metrics that are no `CyclesMetrics`",
        "`AttributeError` after the work: neither journal nor commit",
        "what does not fit is left out and logged; the commit is sent",
        "the work is done, so its cost must be told",
        "test_decorator.py::test_bad_metrics_never_lose_spend",
    ),
    Difference(
        "a stream that fails after usage was recorded",
        "released, although it was spent",
        "what is known is committed; if no cost follows from the usage, nothing is sent, and the"
        " hold stays until the lease ends",
        "spend is never given back",
        "test_streams_like_runcycles.py::test_a_stream_that_fails_after_it_was_used",
    ),
    Difference(
        "usage of a stream that does not fit, such as negative tokens",
        "pydantic's `ValidationError` at the end of the block: neither journal nor commit",
        "left out of the metrics; the commit is sent",
        "the stream is over, so its cost must be told",
        "test_streams_like_runcycles.py::test_usage_that_does_not_fit",
    ),
    Difference(
        "`commit_metadata` of the context, in a stream",
        "ignored",
        "sent with the stream's `metadata`, and wins",
        "it means the same in every pattern",
        "test_streams_like_runcycles.py::test_metadata_of_the_context",
    ),
    Difference(
        "a stream whose lease had ended before its commit",
        "`settlement_error`; the event that accounts for it is left to the background",
        "the event is sent at once; no error if it is confirmed",
        "the spend is accounted for",
        "test_streams_like_runcycles.py::test_a_lease_that_had_ended",
    ),
    Difference(
        "entering a stream a second time",
        "a second reservation, without a heartbeat",
        "`CyclesError`",
        "one stream is one reservation",
        "test_streams_like_runcycles.py::test_a_stream_that_is_entered_again",
    ),
    Difference(
        "values that JSON cannot say",
        "the encoder's error, which does not name the field",
        "the same kind of error; it says where in the request, and what to do",
        "a request has many fields",
        "test_beside_official.py::test_what_json_cannot_say",
    ),
    Difference(
        "idempotency keys that no header carries",
        "`UnicodeEncodeError`",
        "sent in the body alone, which is what counts",
        "any text of 1 to 256 characters is a key",
        "test_beside_official.py::test_keys_that_no_header_carries",
    ),
    Difference(
        "a caller's key whose reservation is over",
        "the work runs again, and its commit is taken for the first one's",
        "`ReservationFinalizedError`, and nothing runs",
        "what is done a second time must be paid a second time, under another key",
        "test_beside_official.py::test_a_reservation_that_is_over_starts_nothing",
    ),
    Difference(
        "known spend that the server rejects",
        "its record is deleted",
        "its record is set aside as `*.rejected`, and sent no more",
        "only an operator can account for it, who needs to know of it",
        "test_beside_official.py::test_a_rejected_commit_is_kept_for_the_operator",
    ),
    Difference(
        "closing a client with settlements pending",
        "its connections go first, and every retry fails",
        "asks at once, waits up to `retry_flush_timeout`, and then closes",
        "a program that ends well should leave nothing unknown",
        "test_beside_official.py::test_closing_waits_for_what_is_pending",
    ),
    Difference(
        "an outage longer than `retry_max_attempts`",
        "asked again by the next process only",
        "asked again every `retry_sweep_interval` seconds (60) in this one too",
        "servers of agents run for months",
        "test_beside_official.py::test_an_outage_longer_than_five_attempts",
    ),
    Difference(
        "waiting for settlements",
        "at the end of the interpreter only, and for synchronous clients",
        "`client.flush()`, `await client.flush()` and `flush_pending_commits()` at any moment;"
        " a client's own also takes over what an earlier process left in the journal",
        "a job has an end of its own before the interpreter's",
        "test_endings.py::test_exit_asks_again",
    ),
    Difference(
        "the default client",
        "one for functions of both kinds, made by the first call; the other kind fails",
        "one for each kind",
        "most programs have both",
        "test_decorator.py::test_a_default_configuration_makes_one_client_of_each_kind",
    ),
    Difference(
        "heartbeats",
        "a thread for each live guard, and one more for each request",
        "one thread for all, and at most 16 that work",
        "a thousand agents must fit into one process",
        "test_timers.py::test_a_thousand_guards_cost_no_thread_of_their_own",
    ),
    Difference(
        "a failed heartbeat of a server without `remaining_ttl_ms`",
        "asked again after half of what the last extension gained, up to 12 hours",
        "after 30 seconds at most",
        "one lost answer must not cost the lease",
        "test_heartbeat.py::test_a_failure_never_waits_longer_than_30_seconds",
    ),
    Difference(
        "a client that is closed while a reservation is live",
        "its heartbeat goes on until no safe time is left, and every attempt fails",
        "the next beat is the last, and says why: log, callback and policy",
        "what cannot be sent need not be tried",
        "test_guards.py::test_closing_the_client_stops_the_heartbeat",
    ),
    Difference(
        "a server that trickles its answer",
        "an attempt is left running on its thread after its deadline",
        "the attempt itself ends at its deadline",
        "threads that nobody waits for pile up",
        "test_transport.py::test_no_server_outlives_the_deadline",
    ),
    Difference(
        "answers of the programmatic client",
        "dictionaries, which callers read by hand; no pages",
        "the same, and `client.typed`: models or exceptions, and iterators over all pages",
        "a misspelled field shows before it runs",
        "test_typed.py::test_a_success_is_a_model_that_keeps_what_it_does_not_know",
    ),
]


def written(page: str) -> str:
    """Return the page with the table as it should be."""
    rows = [f"| {d.about} | {d.runcycles} | {d.bursar} | {d.why} |" for d in DIFFERENCES]
    table = "\n".join(["| about | runcycles | Bursar | why |", "|---|---|---|---|", *rows])
    return PART.sub(lambda part: f"{part[1]}{table}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

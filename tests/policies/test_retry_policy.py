from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.errors import Failure
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.policies.retry import NoRetry, RetryPolicy

POLICY = RetryPolicy(attempts=4, backoff=Backoff(jitter=0))
REFUSED_CONNECTION = Failure("connect", "upstream", request_sent=False)
RESET = Failure("reset", "upstream", request_sent=True)


def decide(policy: RetryPolicy = POLICY, **outcome: Any) -> float | NoRetry:
    known = {
        "attempt": 1,
        "method": "GET",
        "status": 503,
        "failure": None,
        "retry_after": None,
        "time_left": None,
        "random": 0.5,
    }
    return policy.decide(**{**known, **outcome})


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_retried(status: int):
    assert decide(status=status) == 1.0


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 408, 429, 501, 507])
def test_no_other_status_is(status: int):
    assert decide(status=status) == "outcome"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_idempotent_methods_are_retried(method: str):
    assert decide(method=method) == 1.0


@pytest.mark.parametrize("method", ["POST", "PATCH", "QUERY"])
def test_a_method_that_may_act_twice_is_not(method: str):
    assert decide(method=method) == "method"
    assert decide(method=method, status=502, failure=RESET) == "method"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
@pytest.mark.parametrize("kind", ["connect", "timeout"])
def test_a_request_that_was_never_sent_is_retried_for_any_method(method: str, kind: Any):
    never_sent = Failure(kind, "upstream", request_sent=False)
    assert decide(method=method, status=502, failure=never_sent) == 1.0


def test_a_listed_method_is_retried_whatever_it_is():
    policy = RetryPolicy(backoff=Backoff(jitter=0), methods=frozenset({"POST"}))
    assert decide(policy, method="POST") == 1.0
    assert decide(policy, method="GET") == "method"


@pytest.mark.parametrize(
    "failure",
    [
        Failure("circuit_open", "gateway"),
        Failure("rate_limited", "gateway"),
        Failure("overloaded", "gateway"),
        Failure("client_disconnected", "client"),
    ],
)
def test_what_is_not_the_services_doing_is_never_retried(failure: Failure):
    assert decide(failure=failure) == "not_upstream"


def test_a_failure_is_judged_by_the_status_it_is_answered_with():
    policy = RetryPolicy(statuses=frozenset({503}))
    timed_out = Failure("timeout", "upstream", request_sent=True)
    assert decide(policy, status=504, failure=timed_out) == "outcome"
    assert decide(policy, status=502, failure=REFUSED_CONNECTION) != "outcome"


def test_attempts_count_the_first_one():
    assert [decide(attempt=n) for n in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, "attempts"]


def test_retry_after_is_the_least_that_is_waited():
    assert decide(retry_after=3.0) == 3.0
    assert decide(attempt=3, retry_after=3.0) == 4.0


def test_a_retry_after_beyond_the_cap_ends_it():
    assert decide(retry_after=30.0) == 30.0
    assert decide(retry_after=30.5) == "retry_after"


def test_a_delay_that_would_pass_the_deadline_is_not_taken():
    assert decide(time_left=1.5) == 1.0
    assert decide(time_left=1.0) == "deadline"
    assert decide(time_left=20.0, retry_after=25.0) == "deadline"


@given(
    attempt=st.integers(1, 30),
    status=st.integers(100, 599),
    sent=st.booleans(),
    source=st.sampled_from(["client", "gateway", "upstream", None]),
    retry_after=st.none() | st.floats(0, 100),
    time_left=st.none() | st.floats(-10, 100),
    random=st.floats(0, 1, exclude_max=True),
    method=st.sampled_from(["GET", "POST"]),
)
def test_no_retry_breaks_a_promise(
    attempt: int,
    status: int,
    sent: bool,
    source: Any,
    retry_after: float | None,
    time_left: float | None,
    random: float,
    method: str,
):
    failure = Failure("reset", source, request_sent=sent) if source else None
    decision = decide(
        RetryPolicy(),
        attempt=attempt,
        status=status,
        failure=failure,
        retry_after=retry_after,
        time_left=time_left,
        random=random,
        method=method,
    )
    if isinstance(decision, str):
        return
    assert attempt < 4
    assert source in (None, "upstream")
    assert status >= 500 or (failure is not None and not sent)
    assert method == "GET" or (failure is not None and not sent)
    assert decision >= (retry_after or 0)
    assert time_left is None or decision < time_left


def test_an_idempotency_key_counts_only_where_it_is_allowed_to():
    allowed = RetryPolicy(backoff=Backoff(jitter=0), idempotency_key=True)
    assert decide(allowed, method="POST", keyed=True) == 1.0
    assert decide(allowed, method="POST", keyed=False) == "method"
    assert decide(method="POST", keyed=True) == "method"


def test_a_decorrelated_delay_hangs_on_the_one_before():
    policy = RetryPolicy(backoff=Backoff(kind="decorrelated"))
    assert decide(policy, attempt=2, previous=4.0, random=0.5) == 6.5

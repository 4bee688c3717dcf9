"""What is refused raises the client's own error of that kind, is tried again only where that can help, and says why."""

import asyncio
import time
from decimal import Decimal
from unittest import mock

import openai
from runner import HELLO, KEYS, MODEL, check, counted, raised, run


def chat(client, **options):
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **options})


@check
def an_unknown_key_is_an_authentication_error():
    for key in ["unknown", "mistyped", "foreign"]:
        client, statuses = counted(key)
        error = raised(openai.AuthenticationError, lambda: chat(client))
        assert (error.code, error.type, statuses) == ("invalid_api_key", "invalid_request_error", [401]), (key, statuses)
        assert error.request_id and KEYS[key] not in str(error)


@check
def a_revoked_key_is_an_authentication_error():
    client, statuses = counted("revoked")
    for stream in [False, True]:
        error = raised(openai.AuthenticationError, lambda: chat(client, stream=stream))
        assert error.code == "invalid_api_key" and "revoked" in error.message
    raised(openai.AuthenticationError, client.models.list)
    assert statuses == [401, 401, 401]


@check
def a_model_outside_the_policy_is_a_permission_error():
    client, statuses = counted("narrow")
    error = raised(openai.PermissionDeniedError, lambda: chat(client, model="gpt-4o"))
    assert (error.code, error.param, statuses) == ("model_not_allowed", "model", [403])
    assert chat(client).choices


@check
def a_used_up_quota_says_what_is_left():
    client, statuses = counted("quota")
    assert chat(client).choices
    for stream in [False, True]:
        error = raised(openai.APIStatusError, lambda: chat(client, stream=stream))
        assert (error.status_code, error.type, error.code) == (402, "insufficient_quota", "budget_exceeded")
        body = error.body
        assert (body["dimension"], body["window"], body["limit"]) == ("requests", "month", 1), body
        assert (body["spent"], body["held"]) == (1, 0) and body["reset_at"].endswith("-01T00:00:00Z"), body
    assert statuses == [200, 402, 402]


@check
def a_used_up_budget_says_what_is_left():
    client, statuses = counted("poor")
    error = raised(openai.APIStatusError, lambda: chat(client))
    assert (error.status_code, error.code, statuses) == (402, "budget_exceeded", [402])
    body = error.body
    assert (body["dimension"], body["unit"]) == ("spend", "usd"), body
    limit, spent, held, needed = (Decimal(body[name]) for name in ["limit", "spent", "held", "needed"])
    assert (limit, spent, held) == (Decimal("0.000001"), 0, 0) and needed > limit, body
    assert body["reset_at"].endswith("-01T00:00:00Z"), body


@check
async def what_a_running_request_holds_is_told():
    async with openai.AsyncOpenAI(api_key=KEYS["once"], max_retries=0) as client:
        calls = [client.chat.completions.create(model="slow-to-answer", messages=HELLO) for _ in range(2)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    (error,) = [answer for answer in answers if isinstance(answer, Exception)]
    assert type(error) is openai.RateLimitError and error.code == "limit_settling", repr(error)
    assert (error.body["held"], error.body["spent"], error.body["limit"]) == (1, 0, 1), error.body
    error = raised(openai.APIStatusError, lambda: chat(openai.OpenAI(api_key=KEYS["once"])))
    assert (error.status_code, error.body["held"], error.body["spent"]) == (402, 0, 1), error.body


@check
def a_full_minute_is_a_rate_limit_error():
    client, statuses = counted("slow", max_retries=0)
    assert chat(client).choices and chat(client).choices
    error = raised(openai.RateLimitError, lambda: chat(client))
    assert (error.code, error.type, statuses) == ("rate_limit_exceeded", "rate_limit_error", [200, 200, 429])
    millis = int(error.response.headers["retry-after-ms"])
    assert 0 < millis <= 60_000 and int(error.response.headers["retry-after"]) == -(-millis // 1000)


@check
def a_full_minute_is_waited_for():
    client, statuses = counted("slow")
    with mock.patch("time.sleep") as sleep:
        raised(openai.RateLimitError, lambda: chat(client))
    waits = [call.args[0] for call in sleep.call_args_list]
    # Its own waits are 8 s at most.
    assert statuses == [429, 429, 429] and len(waits) == 2 and all(30 < wait <= 60 for wait in waits), (statuses, waits)


@check
def a_busy_provider_is_waited_for():
    client, statuses = counted("free")
    # One that says that it has no time; for others KeyForge waits itself.
    in_haste = {"model": "busy-every-second-time", "extra_headers": {"x-stainless-timeout": "0.1"}}
    assert chat(client, **in_haste).choices
    started = time.monotonic()
    assert chat(client, **in_haste).choices
    assert statuses == [200, 429, 200] and time.monotonic() - started >= 0.3


@check
def a_request_that_is_too_large_is_not_tried_again():
    client, statuses = counted("free")
    error = raised(openai.RateLimitError, lambda: chat(client, model="too-large"))
    assert error.code == "rate_limit_exceeded" and statuses == [429]
    assert "Request too large" in error.message and "org-" not in error.message


@check
def a_field_that_cannot_be_served_is_named():
    client, statuses = counted("free")
    for field, value in [("max_tokens", -1), ("messages", []), ("n", 0)]:
        error = raised(openai.BadRequestError, lambda: chat(client, **{field: value}))
        assert (error.param, error.code) == (field, "invalid_request"), error
    assert statuses == [400, 400, 400]


@check
def a_cost_without_bound_is_named():
    client, statuses = counted("poor")
    error = raised(openai.BadRequestError, lambda: chat(client, web_search_options={}))
    assert (error.param, error.code, statuses) == ("web_search_options", "cost_unbounded", [400])


@check
def a_field_that_the_provider_refuses_is_named():
    client, statuses = counted("free")
    for stream in [False, True]:
        error = raised(openai.BadRequestError, lambda: chat(client, model="refused-field", stream=stream))
        assert (error.param, error.code, error.type) == ("temperature", "unsupported_value", "invalid_request_error")
        assert "temperature" in error.message
    assert statuses == [400, 400]


@check
def an_unknown_model_is_not_found():
    client, statuses = counted("free")
    error = raised(openai.NotFoundError, lambda: chat(client, model="no-such-model"))
    assert (error.code, error.param, statuses) == ("model_not_found", "model", [404])
    error = raised(openai.NotFoundError, lambda: client.completions.create(model=MODEL, prompt="Hello"))
    assert error.code == "unknown_path"


@check
def a_failing_provider_is_tried_again():
    client, statuses = counted("free")
    with mock.patch("time.sleep"):
        error = raised(openai.InternalServerError, lambda: chat(client, model="always-failing"))
    assert (error.code, statuses) == ("upstream_error", [502, 502, 502])


@check
def an_error_inside_a_stream_is_raised():
    for model, code in [("error-in-stream", "upstream_error"), ("broken-stream", "upstream_broken")]:
        client, statuses = counted("free")
        chunks = []

        def collect():
            for chunk in chat(client, model=model, stream=True):
                chunks.append(chunk)

        error = raised(openai.APIError, collect)
        assert len(chunks) == 3 and statuses == [200], (model, len(chunks), statuses)
        assert error.type == "server_error" and error.code == code and error.message, error.body


@check
async def the_async_client_raises_the_same_errors():
    async def kind(key, **options):
        async with openai.AsyncOpenAI(api_key=KEYS[key], max_retries=0) as client:
            try:
                answer = await client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **options})
                if options.get("stream"):
                    async for _ in answer:
                        pass
            except openai.APIError as error:
                return type(error), getattr(error, "status_code", None)

    assert await kind("unknown") == (openai.AuthenticationError, 401)
    assert await kind("narrow", model="gpt-4o") == (openai.PermissionDeniedError, 403)
    assert await kind("quota") == (openai.APIStatusError, 402)
    assert await kind("slow") == (openai.RateLimitError, 429)
    assert await kind("free", model="no-such-model") == (openai.NotFoundError, 404)
    assert await kind("free", model="broken-stream", stream=True) == (openai.APIError, None)


@check
def a_refused_provider_key_is_not_the_clients_business():
    client, statuses = counted("free")
    error = raised(openai.InternalServerError, lambda: chat(client, model="dead-credential"))
    assert (error.status_code, error.code, statuses) == (502, "upstream_credentials_exhausted", [502])
    assert "sk-" not in str(error.body) and "*" not in str(error.body)


run()

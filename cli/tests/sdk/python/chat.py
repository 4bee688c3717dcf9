"""Chats: buffered and streamed, with and without usage, by the plain and the async client, and the list of models."""

import asyncio
import json
from decimal import Decimal

import openai
from runner import HELLO, KEYS, MODEL, check, raised, run

client = openai.OpenAI()


@check
def a_buffered_chat():
    completion = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert completion.object == "chat.completion" and completion.model.startswith(MODEL)
    choice = completion.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content and choice.message.tool_calls is None
    usage = completion.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@check
def a_streamed_chat_has_no_usage_unless_asked():
    whole = client.chat.completions.create(model=MODEL, messages=HELLO).choices[0].message.content
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices for chunk in chunks) and all(chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


@check
def a_streamed_chat_ends_with_usage_when_asked():
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options=options))
    last = chunks.pop()
    assert last.choices == [] and all(chunk.usage is None for chunk in chunks)
    buffered = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert last.usage.total_tokens == buffered.usage.total_tokens


@check
def the_stream_helper_builds_the_completion():
    with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = "".join(event.delta for event in events if event.type == "content.delta")
    done = [event.content for event in events if event.type == "content.done"]
    assert deltas and done == [deltas] and final.choices[0].message.content == deltas


@check
def a_stream_may_be_left_early():
    with client.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        assert next(iter(stream)).choices
    assert client.chat.completions.create(model=MODEL, messages=HELLO).choices


@check
def several_choices():
    completion = client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    seen = set()
    for chunk in client.chat.completions.create(model=MODEL, messages=HELLO, n=3, stream=True):
        seen.update(choice.index for choice in chunk.choices)
    assert seen == {0, 1, 2}


@check
def an_output_limit_cuts_the_answer():
    completion = client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=3)
    assert completion.choices[0].finish_reason == "length" and completion.usage.completion_tokens == 3


@check
def any_text_arrives_as_it_was_written():
    text = 'é ü 東京 \U0001f600 "quoted" \\ back\nline\ttab \u2028 end'
    messages = [
        {"role": "system", "content": "Answer in JSON."},
        {"role": "user", "content": [{"type": "text", "text": text}]},
    ]
    completion = client.chat.completions.create(
        model=MODEL, messages=messages, response_format={"type": "json_object"}, extra_body={"not_known_here": [1.50]}
    )
    assert json.loads(completion.choices[0].message.content)["echo"] == text


@check
def headers_tell_what_was_done():
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id
    assert raw.headers["x-keyforge-key-id"] == client.api_key[:15]
    assert raw.headers["x-keyforge-provider"] == "openai"
    assert raw.headers["x-keyforge-model"] == MODEL
    assert raw.headers["x-keyforge-attempts"] == "1"
    assert Decimal(raw.headers["x-keyforge-cost-usd"]) > 0
    assert Decimal(raw.headers["x-keyforge-budget-remaining-usd"]) > 0
    with client.chat.completions.with_streaming_response.create(model=MODEL, messages=HELLO, stream=True) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"] != raw.request_id
        lines = list(response.iter_lines())
    assert "data: [DONE]" in lines


@check
def models_are_listed_and_retrieved():
    names = [model.id for model in client.models.list()]
    assert MODEL in names and len(names) == len(set(names))
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "openai")
    raised(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))


@check
def a_key_sees_the_models_of_its_policy():
    narrow = client.with_options(api_key=KEYS["narrow"])
    names = [model.id for model in narrow.models.list()]
    assert names and all(name.startswith(MODEL) for name in names)
    raised(openai.NotFoundError, lambda: narrow.models.retrieve("gpt-4o"))


@check
async def the_async_client_chats_and_streams():
    async with openai.AsyncOpenAI() as client:
        completions = [client.chat.completions.create(model=MODEL, messages=HELLO) for _ in range(8)]
        texts = {completion.choices[0].message.content for completion in await asyncio.gather(*completions)}
        assert len(texts) == 1 and "" not in texts
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) in texts
        assert chunks[-1].usage.completion_tokens > 0
        async with client.chat.completions.stream(model=MODEL, messages=HELLO) as helper:
            final = await helper.get_final_completion()
        assert final.choices[0].message.content in texts
        assert [model async for model in client.models.list()]


run()

"""The same program against three providers: nothing but the name of the model differs."""

import json

import openai
from pydantic import BaseModel
from runner import HELLO, check, run

client = openai.OpenAI()
MODELS = ["gpt-4o-mini", "claude-sonnet-4-5", "claude-3-7-sonnet", "gemini-2.5-flash", "gemini-3-pro-preview"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


class Place(BaseModel):
    name: str
    people: int


def each(function):
    """Runs a check once for each model."""

    def all_models():
        for model in MODELS:
            try:
                function(model)
            except Exception as error:
                raise AssertionError(model) from error

    all_models.__name__ = function.__name__
    return check(all_models)


@each
def whole_and_streamed_answers_agree(model):
    whole = client.chat.completions.create(model=model, messages=HELLO)
    assert whole.model.startswith(model) and whole.choices[0].finish_reason == "stop"
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options=options))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].choices[0].delta.role == "assistant"
    plain = list(client.chat.completions.create(model=model, messages=HELLO, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)


@each
def the_output_limit_is_told(model):
    choice = client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=3).choices[0]
    assert choice.finish_reason == "length"


@each
def calls_and_results_over_turns(model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The weather in Oslo?"}]
    for tools in [[WEATHER], [CLOCK]]:
        first = client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0]
        assert first.finish_reason == "tool_calls", first
        (call,) = first.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.id and (arguments == {} if tools == [CLOCK] else isinstance(arguments["days"], int)), arguments
        messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "21.5"}]
        second = client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0]
        assert second.finish_reason == "stop" and second.message.content
        messages += [second.message, {"role": "user", "content": "Go on."}]


@each
def parallel_calls_stream_by_index(model):
    asked = {"model": model, "messages": HELLO, "tools": [WEATHER, CLOCK], "parallel_tool_calls": True}
    with client.chat.completions.stream(**asked) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "clock"] and len({call.id for call in calls}) == 2
    assert [event.name for event in done] == ["weather", "clock"]
    messages = HELLO + [final.choices[0].message]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": json.dumps({"ok": True})} for call in calls]
    assert client.chat.completions.create(**{**asked, "messages": messages}).choices[0].message.content


@each
def choices_of_tools(model):
    create = lambda **options: client.chat.completions.create(model=model, messages=HELLO, tools=[WEATHER, CLOCK], **options)
    forced = {"type": "function", "function": {"name": "clock"}}
    assert create(tool_choice=forced).choices[0].message.tool_calls[0].function.name == "clock"
    assert create(tool_choice="required").choices[0].message.tool_calls
    assert not create(tool_choice="none").choices[0].message.tool_calls


@each
def answers_are_parsed(model):
    parsed = client.chat.completions.parse(model=model, messages=HELLO, response_format=Place).choices[0].message.parsed
    assert isinstance(parsed, Place)
    with client.chat.completions.stream(model=model, messages=HELLO, response_format=Place) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Place)
    loose = client.chat.completions.create(model=model, messages=HELLO, response_format={"type": "json_object"})
    assert isinstance(json.loads(loose.choices[0].message.content), dict)


@each
def pictures_are_taken(model):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}},
    ]
    assert client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}]).choices


@each
def what_cannot_be_carried_is_named(model):
    if model.startswith("gpt"):
        return
    try:
        client.chat.completions.create(model=model, messages=HELLO, extra_body={"no_such_field": 1})
    except openai.BadRequestError as error:
        assert error.param == "no_such_field", error
    else:
        raise AssertionError("it was carried")


@each
def thoughts_come_back(model):
    if model.startswith("gpt"):
        return
    asked = {"model": model, "tools": [WEATHER], "reasoning_effort": "low", "max_completion_tokens": 4000}
    first = client.chat.completions.create(messages=HELLO, **asked).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "21.5"}
    # As a program keeps it: what the client does not know is kept with the rest.
    kept = first.model_dump(exclude_none=True)
    assert client.chat.completions.create(messages=HELLO + [kept, result], **asked).choices[0].message.content
    # As some programs keep it: only what they know.
    bare = {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"}) for call in first.tool_calls]}
    assert client.chat.completions.create(messages=HELLO + [bare, result], **asked).choices[0].message.content


run()

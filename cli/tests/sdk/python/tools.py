"""Tool calls and answers bound to a schema: buffered, streamed, in parallel, and over several turns."""

import json
from typing import List, Literal, Optional

import openai
from pydantic import BaseModel
from runner import MODEL, check, run

client = openai.OpenAI()
QUESTION = [{"role": "user", "content": "What is the weather in Tokyo, and what time is it there?"}]


def tool(name, properties):
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "strict": True, "parameters": parameters}}


TOOLS = [
    tool("weather", {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}),
    tool("local_time", {"zone": {"type": "string"}, "offsets": {"type": "array", "items": {"type": "integer"}}}),
]


class Place(BaseModel):
    city: str
    kind: Literal["capital", "harbour"]
    people: int
    mayor: Optional[str]


class Trip(BaseModel):
    title: str
    places: List[Place]
    booked: bool


def assembled(chunks):
    """The calls of a stream: name and id come once, arguments in pieces, and only the index tells calls apart."""
    calls, finish = {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": None, "name": None, "arguments": "", "pieces": 0})
                call["id"] = piece.id or call["id"]
                call["name"] = piece.function.name or call["name"]
                call["arguments"] += piece.function.arguments or ""
                call["pieces"] += 1
    assert sorted(calls) == list(range(len(calls)))
    return [calls[index] for index in sorted(calls)], finish


def fits(name, arguments):
    value = json.loads(arguments)
    if name == "weather":
        assert isinstance(value["city"], str) and value["unit"] == "celsius", value
    else:
        assert name == "local_time" and isinstance(value["zone"], str), (name, value)
        assert value["offsets"] and all(isinstance(offset, int) for offset in value["offsets"]), value


@check
def one_call():
    choice = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id
    fits(call.function.name, call.function.arguments)


@check
def one_streamed_call():
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS, stream=True)
    (call,), finish = assembled(stream)
    assert finish == "tool_calls" and call["id"] and call["pieces"] > 2, call
    fits(call["name"], call["arguments"])


@check
def parallel_calls():
    asked = {"model": MODEL, "messages": QUESTION, "tools": TOOLS, "parallel_tool_calls": True}
    calls = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "local_time"]
    assert len({call.id for call in calls}) == 2
    for call in calls:
        fits(call.function.name, call.function.arguments)
    streamed, _ = assembled(client.chat.completions.create(**asked, stream=True))
    assert [call["name"] for call in streamed] == ["weather", "local_time"]
    assert len({call["id"] for call in streamed}) == 2
    for call in streamed:
        fits(call["name"], call["arguments"])


@check
def a_forced_call():
    choice = {"type": "function", "function": {"name": "local_time"}}
    completion = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS, tool_choice=choice)
    (call,) = completion.choices[0].message.tool_calls
    fits("local_time", call.function.arguments)


@check
def several_turns_with_results():
    messages = list(QUESTION)
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, parallel_tool_calls=True)
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 21.5})})
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    assert second.choices[0].finish_reason == "stop" and second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    messages += [second.choices[0].message, {"role": "user", "content": "And tomorrow?"}]
    third = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, stream=True)
    (call,), _ = assembled(third)
    fits(call["name"], call["arguments"])


@check
def an_answer_parsed_into_a_model():
    completion = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Trip)
    trip = completion.choices[0].message.parsed
    assert isinstance(trip, Trip) and trip.places and isinstance(trip.places[0], Place)
    assert trip == Trip.model_validate_json(completion.choices[0].message.content)


@check
def an_answer_bound_to_a_plain_schema():
    schema = {"name": "trip", "strict": True, "schema": Trip.model_json_schema()}
    completion = client.chat.completions.create(
        model=MODEL, messages=QUESTION, response_format={"type": "json_schema", "json_schema": schema}
    )
    assert Trip.model_validate_json(completion.choices[0].message.content).places


@check
def calls_parsed_into_models():
    function = openai.pydantic_function_tool(Trip, name="book")
    completion = client.chat.completions.parse(model=MODEL, messages=QUESTION, tools=[function])
    (call,) = completion.choices[0].message.tool_calls
    assert call.function.name == "book" and isinstance(call.function.parsed_arguments, Trip)


@check
def the_stream_helper_parses_answers():
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, response_format=Trip) as stream:
        partial = sum(event.type == "content.delta" for event in stream)
        final = stream.get_final_completion()
    assert partial > 2 and isinstance(final.choices[0].message.parsed, Trip)


@check
def the_stream_helper_parses_calls():
    function = openai.pydantic_function_tool(Trip, name="book")
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, tools=[function]) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (done,) = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert isinstance(done.parsed_arguments, Trip)
    assert sum(event.type == "tool_calls.function.arguments.delta" for event in events) > 2
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == done.parsed_arguments


@check
async def the_async_client_calls_and_parses():
    async with openai.AsyncOpenAI() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, tools=TOOLS, parallel_tool_calls=True, stream=True
        )
        calls, finish = assembled([chunk async for chunk in stream])
        assert finish == "tool_calls" and len(calls) == 2
        for call in calls:
            fits(call["name"], call["arguments"])
        completion = await client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Trip)
        assert isinstance(completion.choices[0].message.parsed, Trip)


run()

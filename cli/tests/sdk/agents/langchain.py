"""LangChain's ChatOpenAI: chats, streams, tools over several turns, structured output."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from runner import check, run


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


class Place(BaseModel):
    """A place on Earth."""

    name: str = Field(description="what it is called")
    people: int


@check
def chats(model):
    answer = ChatOpenAI(model=model).invoke("Hello there")
    assert isinstance(answer.content, str) and answer.content and not answer.tool_calls
    assert answer.usage_metadata["input_tokens"] > 0 and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] == "stop"


@check
def streams(model):
    pieces = list(ChatOpenAI(model=model, stream_usage=True).stream("Hello there"))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert len(pieces) > 3 and whole.content == ChatOpenAI(model=model).invoke("Hello there").content
    assert whole.usage_metadata["output_tokens"] > 0


@check
async def streams_concurrently(model):
    pieces = [piece async for piece in ChatOpenAI(model=model).astream("Hello there")]
    assert "".join(piece.content for piece in pieces)


@check
def calls_tools_over_several_turns(model):
    for stream in [False, True]:
        chat = ChatOpenAI(model=model, streaming=stream).bind_tools([weather])
        messages = [HumanMessage("What is the weather in Oslo?")]
        asked = chat.invoke(messages)
        (call,) = asked.tool_calls
        assert call["name"] == "weather" and isinstance(call["args"]["city"], str) and call["id"]
        messages += [asked, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
        told = chat.invoke(messages)
        assert told.content and not told.tool_calls, told


@check
def forces_a_tool(model):
    chat = ChatOpenAI(model=model).bind_tools([weather], tool_choice="weather")
    assert chat.invoke("Hello there").tool_calls[0]["name"] == "weather"


@check
def structures_its_output(model):
    for method in ["json_schema", "function_calling"]:
        place = ChatOpenAI(model=model).with_structured_output(Place, method=method).invoke("Which place?")
        assert isinstance(place, Place), (method, place)


run("langchain")

"""pydantic-ai: agents with tools, streamed and not, and output bound to a schema by a tool and by the response format."""

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from runner import check, run


class Place(BaseModel):
    name: str
    people: int


@check
async def talks(model):
    result = await Agent(OpenAIChatModel(model)).run("Hello there")
    assert result.output and result.usage.input_tokens > 0 and result.usage.output_tokens > 0


@check
async def talks_in_a_stream(model):
    async with Agent(OpenAIChatModel(model)).run_stream("Hello there") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3 and "".join(pieces)
    assert stream.usage.output_tokens > 0


@check
async def uses_tools_and_remembers(model):
    agent, asked = Agent(OpenAIChatModel(model)), []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    first = await agent.run("What is the weather in Oslo?")
    assert len(asked) == 1 and first.output
    second = await agent.run("And tomorrow?", message_history=first.all_messages())
    assert len(asked) == 2 and second.output


@check
async def output_fits_a_schema(model):
    for output in [ToolOutput(Place), NativeOutput(Place)]:
        result = await Agent(OpenAIChatModel(model), output_type=output).run("Which place?")
        assert isinstance(result.output, Place)


run("pydantic-ai")

"""instructor: answers as objects, by tools and by JSON schema, whole and partial."""

from typing import List

import instructor
import openai
from pydantic import BaseModel
from runner import check, run

ASK = [{"role": "user", "content": "Which places?"}]


class Place(BaseModel):
    name: str
    people: int


class Trip(BaseModel):
    title: str
    places: List[Place]


def client(mode):
    return instructor.from_openai(openai.OpenAI(), mode=mode)


@check
def by_tools(model):
    trip = client(instructor.Mode.TOOLS).chat.completions.create(model=model, messages=ASK, response_model=Trip)
    assert isinstance(trip, Trip)


@check
def by_schema(model):
    trip = client(instructor.Mode.JSON_SCHEMA).chat.completions.create(model=model, messages=ASK, response_model=Trip)
    assert isinstance(trip, Trip)


@check
def piece_by_piece(model):
    create = client(instructor.Mode.TOOLS).chat.completions.create_partial
    trips = list(create(model=model, messages=ASK, response_model=Trip))
    assert trips and isinstance(trips[-1].title, str) and trips[-1].places is not None


run("instructor")

"""Runs the functions marked with `check` in the order they stand in, and says `ok NAME` for each that holds.

The client under test finds its base URL and key where every program has them: in OPENAI_BASE_URL and OPENAI_API_KEY.
Further keys, by what is special about them, come as JSON in KEYFORGE_TEST_KEYS.
"""

import asyncio
import inspect
import json
import os
import sys
import traceback

import openai

MODEL = "gpt-4o-mini"
HELLO = [{"role": "user", "content": "Hello there"}]
KEYS = json.loads(os.environ.get("KEYFORGE_TEST_KEYS", "{}"))

_checks = []


def check(function):
    """Marks a function, plain or async, as one to run."""
    _checks.append(function)
    return function


def counted(key=None, **options):
    """A client, and the list that the status of every answer it gets is added to, retries included."""
    statuses = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    if key is not None:
        options["api_key"] = KEYS[key]
    return openai.OpenAI(http_client=openai.DefaultHttpxClient(event_hooks=hooks), **options), statuses


def raised(kind, call):
    """The error that `call` raises; it must be of exactly this class."""
    try:
        outcome = call()
    except openai.APIError as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__} but {outcome!r}")


def run():
    """Runs every check, and ends with status 0 if there were some and all of them held."""
    failed = 0
    for function in _checks:
        try:
            outcome = function()
            if inspect.isawaitable(outcome):
                asyncio.run(outcome)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}")
            traceback.print_exc(file=sys.stdout)
        else:
            print(f"ok {function.__name__}")
    print(f"openai {openai.__version__}: {len(_checks)} checks, {failed} failed")
    sys.exit(1 if failed or not _checks else 0)

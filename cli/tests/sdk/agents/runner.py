"""Runs the functions marked with `check` once for each provider's model, and says `ok NAME MODEL` for each that holds.

Clients find their base URL and key where every program has them: in OPENAI_BASE_URL and OPENAI_API_KEY. Only the name of the model differs.
"""

import asyncio
import inspect
import sys
import traceback

MODELS = ["gpt-4o-mini", "claude-sonnet-4-5", "claude-3-7-sonnet", "gemini-2.5-flash", "gemini-3-pro-preview"]

_checks = []


def check(function):
    """Marks a function of a model's name, plain or async, as one to run."""
    _checks.append(function)
    return function


def run(title):
    """Runs every check with every model, and ends with status 0 if there were some and all of them held."""
    failed = 0
    for function in _checks:
        for model in MODELS:
            try:
                outcome = function(model)
                if inspect.isawaitable(outcome):
                    asyncio.run(outcome)
            except Exception:
                failed += 1
                print(f"FAILED {function.__name__} {model}")
                traceback.print_exc(file=sys.stdout)
            else:
                print(f"ok {function.__name__} {model}")
    print(f"{title}: {len(_checks)} checks with {len(MODELS)} models, {failed} failed")
    sys.exit(1 if failed or not _checks else 0)

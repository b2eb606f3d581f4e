"""Loaded into schemathesis: lets cases meet sessions that there are, and reads refusals."""

import json
import os
from itertools import count

import requests
import schemathesis

KEY = os.environ["TORPOR_FUZZ_KEY"]
HAS_ENGINE = bool(os.environ["TORPOR_FUZZ_HAS_ENGINE"])
CASES_OF_A_SESSION = 25
NEVER = "ses-0123456789abcdef-0123456789abcdef"
SAID = {"messages": [{"role": "user", "content": "What is 48 * 17?"}], "max_tokens": 4}

calls = count()
real: dict[str, str] = {}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Every second request to a session is to one that exists, and may name its head."""
    if KEY and case.path_parameters.get("key_id") == KEY.split(".")[1]:
        case.path_parameters["key_id"] = "0" * 12  # or all that follows would be refused
    if "session_id" not in case.path_parameters:
        return
    if case.operation.path.endswith("/events"):  # of a session that there is, they never end
        case.path_parameters["session_id"] = NEVER
        return
    number = next(calls)
    if number % 2:
        return
    if number % (2 * CASES_OF_A_SESSION) == 0 or not real:
        make_session(case.operation.schema.get_base_url().rstrip("/"))
    case.path_parameters["session_id"] = real["id"]
    if isinstance(case.body, dict):
        if isinstance(case.body.get("snapshot"), str):
            case.body["snapshot"] = real["head"]
        if isinstance(case.body.get("branch"), str):
            case.body["branch"] = real["id"]
    if case.method == "DELETE":
        real.clear()


def make_session(url):
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {KEY}"
        made = http.post(f"{url}/v1/sessions", json={"stateless": not HAS_ENGINE})
        made.raise_for_status()
        session = f"{url}/v1/sessions/{made.json()['id']}"
        http.post(f"{session}/turns", json=SAID).raise_for_status()
        real.update(id=made.json()["id"], head=http.get(session).json()["head"])


@schemathesis.check
def refusals_are_named(context, response, case):
    """By a code that the document has for this status; none is the service's own failure."""
    status = response.status_code
    if status < 400 or status == 405 or (case.path, status) == ("/ready", 503):
        return
    body = json.loads(response.content)
    code = code_of(body)
    documented = case.operation.definition.raw["responses"].get(str(status), {})
    if f"`{code}`" not in documented.get("description", "") and code != "no_such_path":
        raise AssertionError(f"{status} {code} is not documented")
    # A store without replicas cannot confirm what they hold.
    expected = {"durability_not_reached", "no_backend" if HAS_ENGINE else "no_engine"}
    if status >= 500 and code not in expected:
        raise AssertionError(f"the service failed: {status} {code}: {response.text}")


def code_of(body):
    """Of a problem document, or of an error as OpenAI or Anthropic tell it."""
    error = body.get("error", body)
    return error["details"]["error_code"] if "details" in error else error["code"]

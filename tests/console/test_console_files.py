"""How the console's files are served: to everybody, with a policy that lets nothing else run."""

import re
import tomllib
from pathlib import Path

import httpx
import pytest

from agent_runtime.console.routes import PATHS

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "agent_runtime" / "console" / "static"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


@pytest.fixture(scope="module")
def http(runtime):
    with httpx.Client(base_url=runtime.url, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(make_runtime):
    with (
        make_runtime("--require-keys") as process,
        httpx.Client(base_url=process.url, trust_env=False) as client,
    ):
        yield client


def test_every_file_is_served_with_its_type_and_the_policy(http):
    assert {path.name for path in STATIC.iterdir()} == {
        path.rpartition("/")[2] for path in PATHS if path.count("/") == 2 and path != "/console/"
    }
    for path in sorted(PATHS - {"/console/"}):
        answer = http.get(path)
        assert answer.status_code == 200, path
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy.items() >= POLICY.items()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        kind = answer.headers["Content-Type"].partition(";")[0]
        assert kind == {
            "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"
        }.get(path.rpartition(".")[2], "text/html")  # fmt: skip
    assert http.get("/console/").headers["Location"].endswith("/console")


def test_a_file_that_the_browser_has_is_not_sent_again(http):
    first = http.get("/console/main.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = http.get(
        "/console/main.js", headers={"If-None-Match": f'"other", {first.headers["ETag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/console/main.js", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/console/nothing.js", "/console/routes.py", "/console/..%2froutes.py", "/console/%00"]
)
def test_nothing_else_is_served(http, path):
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] in ("not_found", "no_such_path")


def test_the_files_need_no_key_and_everything_else_does(guarded):
    for path in sorted(PATHS):
        assert guarded.get(path, follow_redirects=True).status_code == 200, path
    for path in ("/console/nothing.js", "/console/main.js/", "/v1/sessions"):
        assert guarded.get(path).status_code == 401, path


def test_pages_of_other_hosts_are_refused_and_forms_say_nothing(http):
    session = http.post("/v1/sessions").json()["id"]
    path = f"/v1/sessions/{session}/turns"
    body = '{"messages": [{"role": "user", "content": "Hi"}]}'
    elsewhere = http.post(path, content=body, headers={"Origin": "http://evil.example"})
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "origin_refused")
    assert http.get("/console", headers={"Host": "evil.example"}).status_code == 421
    # What a form or a script can send without asking first is not read as JSON.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert http.post(path, content=body, headers={"Content-Type": kind}).status_code == 415
    assert http.get(f"/v1/sessions/{session}").json()["head"] is None


def test_a_wheel_has_the_files():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    patterns = [pattern for pattern in data["agent_runtime"] if pattern.startswith("console/")]
    found = {path for pattern in patterns for path in (ROOT / "agent_runtime").glob(pattern)}
    assert found == set(STATIC.iterdir())


def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup():
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert not re.search(r"\s(style|on[a-z]+)=|<style", text), path.name
        assert len(text.splitlines()) <= 500, path.name

"""`/v1/models`, and errors in the form that OpenAI's clients read."""

import re
from pathlib import Path

import openai
import pytest

from agent_runtime.errors import SetupError
from agent_runtime.openai_api.served import Served
from agent_runtime.settings import RuntimeSettings
from engine.backends.settings import BackendSettings

PAGE = (Path(__file__).parents[2] / "docs/openai.md").read_text()


@pytest.fixture
async def client(runtime):
    async with openai.AsyncOpenAI(
        base_url=f"{runtime.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def test_the_models_that_are_served_are_listed(client):
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == ("demo", "model", "torpor")
    assert model.efforts is None
    assert await client.models.retrieve("demo") == model


async def test_a_model_that_is_not_served_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("gpt-9/large")
    error = refused.value
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "not_found_error")
    assert "served are: demo" in error.message
    assert error.request_id.startswith("req-")


async def test_a_method_that_is_not_there_is_told_in_that_form_too(client):
    with pytest.raises(openai.APIStatusError) as refused:
        await client.post("/models", cast_to=object, body={})
    assert (refused.value.status_code, refused.value.code) == (405, "method_not_allowed")


async def test_what_openai_has_and_is_not_here_is_not_found_in_that_form_too(client):
    (line,) = [line for line in PAGE.splitlines() if line.startswith("Of OpenAI's other paths")]
    paths = re.findall(r"`/v1(/[a-z_/]+)`", line)
    assert len(paths) == 10
    for path in paths:
        with pytest.raises(openai.NotFoundError) as refused:
            await client.post(path, cast_to=object, body={})
        assert (refused.value.code, refused.value.type) == ("no_such_path", "not_found_error")


def served(tmp_path, **options):
    settings = RuntimeSettings(redis_url="redis://x", **options)
    return Served(settings, since=7.9)


def test_a_checkpoint_is_called_as_its_folder_unless_it_is_given_a_name(tmp_path):
    folder = tmp_path / "nano"
    folder.mkdir()
    assert served(tmp_path, model_dir=folder).names() == ["nano"]
    both = served(
        tmp_path,
        model_dir=folder,
        model_name="ours",
        backend=BackendSettings(url="http://x/v1", model="nano"),
    )
    assert [(name, both.is_stateless(name)) for name in both.names()] == [
        ("ours", False),
        ("nano", True),
    ]
    assert both.view("nano").created == 7


def test_two_models_cannot_have_one_name(tmp_path):
    with pytest.raises(SetupError, match="both called nano"):
        served(
            tmp_path,
            model_dir=tmp_path / "nano",
            backend=BackendSettings(url="http://x/v1", model="nano"),
        )

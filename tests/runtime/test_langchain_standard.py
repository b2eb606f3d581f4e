"""LangChain's own tests of chat models, on the real stage."""

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import ValidationError

from agent_runtime.langchain import ChatTorpor

pytestmark = pytest.mark.usefixtures("nothing_left")
# Wrong answers only: a service that fails, fails these tests too.
WRONG = {"raises": (AssertionError, OutputParserException, ValidationError)}
ELEVEN = (
    "the demo model knows eleven kinds of exchange: held to a schema it still puts in what it "
    "likes, and ends no text that it was not taught; tests/backends/test_langchain_backends.py"
)
EITHER = [{}, {"output_version": "v1"}]


class ModelOfTorpor:
    """What both suites are told of the model. What is not named here has the suites' default."""

    url = "http://127.0.0.1:1"

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTorpor

    @property
    def chat_model_params(self):
        return {"url": self.url}

    @property
    def standard_chat_model_params(self):
        """Without `api_key` and `max_retries`: the model takes no setting that it does not have."""
        return {"temperature": 0, "max_tokens": 96, "timeout": 60, "stop": []}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_model_override(self):
        return False  # a runtime has one model


class TestChatTorporByItself(ModelOfTorpor, ChatModelUnitTests):
    @property
    def supports_model_override(self):
        return True  # of the name in traces, which is all that this suite looks at


@pytest.mark.slow
class TestChatTorpor(ModelOfTorpor, ChatModelIntegrationTests):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls, stage):
        cls.url = stage.runtime.url

    @property
    def supported_usage_metadata_details(self):
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream=False):
        model = ChatTorpor(url=self.url)
        said = [("user", "Remember: the code of harbour is 4712.")] * 8
        said += [model.invoke(said), ("user", "Thanks.")]
        if not stream:
            answer = model.invoke(said)
        else:
            first, *rest = model.stream(said)
            answer = sum(rest, first)
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
        return answer

    @pytest.mark.parametrize("model", EITHER, indirect=True)
    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_bind_runnables_as_tools(self, model):
        super().test_bind_runnables_as_tools(model)

    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    @pytest.mark.xfail(
        **WRONG, reason=ELEVEN, strict=False
    )  # only `pydantic` wants the whole of it
    def test_structured_output(self, model, schema_type):
        super().test_structured_output(model, schema_type)

    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    @pytest.mark.xfail(**WRONG, reason=ELEVEN, strict=False)
    async def test_structured_output_async(self, model, schema_type):
        await super().test_structured_output_async(model, schema_type)

    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_structured_output_pydantic_2_v1(self, model):
        super().test_structured_output_pydantic_2_v1(model)

    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_json_mode(self, model):
        super().test_json_mode(model)

    @pytest.mark.parametrize("model", EITHER, indirect=True)
    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_agent_loop(self, model):
        super().test_agent_loop(model)

    @pytest.mark.xfail(**WRONG, reason=ELEVEN)
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)

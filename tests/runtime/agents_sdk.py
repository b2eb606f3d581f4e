"""What agents of the OpenAI Agents SDK call and answer with."""

import operator

from agents import function_tool, set_tracing_disabled
from pydantic import BaseModel

set_tracing_disabled(True)  # it would send what was said to OpenAI


class Point(BaseModel):
    x: int
    bright: bool


@function_tool
async def calculator(expression: str) -> str:
    """Computes a sum, a difference or a product."""
    one, sign, other = expression.split()
    return str(
        {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](int(one), int(other))
    )

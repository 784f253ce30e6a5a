"""The code interpreter, as the model sees it: one function that takes Python.

Code is only ever run in isolation. This version brings none, so a call is refused, which fails the run.
"""

from typing import Final

from threadkeep.contract.tools import FunctionDefinition


class CodeInterpreter:
    definition = FunctionDefinition(
        name="code_interpreter",
        description="Runs Python code and returns what it prints.",
        parameters={
            "type": "object",
            "properties": {"code": {"type": "string", "description": "Python source code."}},
            "required": ["code"],
            "additionalProperties": False,
        },
    )
    unavailable = (
        "The model asked for the code_interpreter tool, which this server cannot run: no isolation for code is "
        "available. Remove the tool from the assistant, or offer a function of your own."
    )


TOOL: Final = CodeInterpreter()

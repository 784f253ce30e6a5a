"""File search, as the model sees it: one function that takes queries.

There is no index to search in this version, so a call is refused, which fails the run.
"""

from typing import Final

from threadkeep.contract.tools import FunctionDefinition


class FileSearch:
    definition = FunctionDefinition(
        name="file_search",
        description="Searches the files that belong to this conversation.",
        parameters={
            "type": "object",
            "properties": {
                "queries": {"type": "array", "items": {"type": "string"}, "description": "What to look for."}
            },
            "required": ["queries"],
            "additionalProperties": False,
        },
    )
    unavailable = (
        "The model asked for the file_search tool, which this server cannot run: it keeps no vector stores. "
        "Remove the tool from the assistant, or offer a function of your own."
    )


TOOL: Final = FileSearch()

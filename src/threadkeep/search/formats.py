"""Which files can be searched: one table, from a name's extension to what reads the file.

A format is one entry here, and a new kind of one a function in `search.parser`.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final, Literal, get_args

from threadkeep.contract.errors import InvalidRequest

# Names functions of `search.parser`. Part of what identifies a parsed content: equal bytes read in two ways are two.
Parser = Literal["text", "json", "html", "pdf", "word", "docx", "pptx", "xlsx", "rtf", "epub", "mail"]
PARSERS: Final[tuple[Parser, ...]] = get_args(Parser)

_LIKE_THEIR_NAME: Final[tuple[Parser, ...]] = (
    "docx",
    "epub",
    "html",
    "json",
    "pdf",
    "pptx",
    "rtf",
    "xlsx",
)
# First the contract's list, then what is text just the same. XML and YAML are text too: tags and keys are searched for.
_TEXT: Final = (
    "c cpp cs css go java js md php py rb sh tex ts txt"
    " bat cfg conf csv cxx cc diff h hpp hs ini jsx kt log lua m patch pl proto ps1 r rs rst scala sql srt svg"
    " swift tf toml tsv tsx vtt xml yaml yml"
)

FORMATS: Final[dict[str, Parser]] = {
    **dict.fromkeys((f".{name}" for name in _TEXT.split()), "text"),
    **{f".{name}": name for name in _LIKE_THEIR_NAME},
    ".jsonl": "json",
    ".ipynb": "json",
    ".htm": "html",
    ".xhtml": "html",
    ".markdown": "text",
    # Word's, and what people save under its name: RTF, HTML, newer Word.
    ".doc": "word",
    ".docm": "docx",
    ".xlsm": "xlsx",
    ".eml": "mail",
}


def extension_of(filename: str) -> str:
    """``.pdf`` of ``Report.PDF``; empty when the name has none."""
    return PurePosixPath(filename).suffix.lower()


def parser_of(filename: str) -> Parser | None:
    """What reads a file of this name; None: it can't be searched."""
    return FORMATS.get(extension_of(filename))


def check_supported(filenames: Iterable[str], *, param: str = "file_ids") -> None:
    """Raises the contract's refusal if one of the files can't be searched."""
    refused = {extension_of(name) or "none" for name in filenames if parser_of(name) is None}
    if refused:
        raise InvalidRequest(
            f"Files with extensions [{', '.join(sorted(refused))}] are not supported for retrieval. See "
            "https://platform.openai.com/docs/assistants/tools/file-search/supported-files",
            param=param,
            code="unsupported_file",
        )

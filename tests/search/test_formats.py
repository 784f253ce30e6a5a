import pytest

from threadkeep.contract.errors import InvalidRequest
from threadkeep.search.formats import FORMATS, PARSERS, check_supported, extension_of, parser_of
from threadkeep.search.parser import READERS

# "Supported files" of the contract's file search.
CONTRACTS_LIST = "c cpp cs css doc docx go html java js json md pdf php pptx py rb sh tex ts txt"
OURS = "csv tsv xlsx xml yaml yml rtf epub eml"


@pytest.mark.parametrize("extension", f"{CONTRACTS_LIST} {OURS}".split())
def test_every_promised_extension_can_be_searched(extension: str) -> None:
    assert parser_of(f"file.{extension}") is not None


def test_every_parser_has_a_reader_and_a_format() -> None:
    assert set(PARSERS) == set(READERS) == set(FORMATS.values())


@pytest.mark.parametrize(
    ("filename", "extension"),
    [("Report.PDF", ".pdf"), ("a.tar.gz", ".gz"), ("none", ""), (".hidden", ""), ("folder.md/none", ""), ("ends.", "")],
)
def test_an_extension_is_the_names_last_part_in_lower_case(filename: str, extension: str) -> None:
    assert extension_of(filename) == extension


def test_unsupported_files_are_refused_in_the_contracts_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_supported(["a.txt", "b.zip", "photo.PNG", "none", "c.zip"])
    assert refused.value.message == (
        "Files with extensions [.png, .zip, none] are not supported for retrieval. See "
        "https://platform.openai.com/docs/assistants/tools/file-search/supported-files"
    )
    assert (refused.value.param, refused.value.code) == ("file_ids", "unsupported_file")


def test_supported_files_are_not_refused() -> None:
    check_supported(["a.txt", "b.PDF"])

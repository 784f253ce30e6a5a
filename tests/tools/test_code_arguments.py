"""What models send around their code, and that it is read the same however it is cut into pieces."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from threadkeep.tools.code_interpreter.arguments import Arguments

CODE = 'import pandas as pd\nd = {"a": 1}\nprint("x\\ty", d["a"])\n'


def read(*fragments: str) -> str:
    arguments = Arguments()
    return "".join([*map(arguments.feed, fragments), arguments.finish()])


def pieces(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


READ = {
    "well-formed": (json.dumps({"code": CODE}), CODE),
    "white space around it": (' \n {\n "code" :\n "print(1)" \n}\n ', "print(1)"),
    "input": ('{"input": "print(1)"}', "print(1)"),
    "python": ('{"python": "print(1)"}', "print(1)"),
    "script": ('{"script": "print(1)"}', "print(1)"),
    "source": ('{"source": "print(1)"}', "print(1)"),
    "code ahead of other names of it": ('{"input": "data", "code": "print(1)"}', "print(1)"),
    "other keys": (
        '{"lang": "python", "n": [1, {"code": "no"}], "t": -1.5e3, "code": "print(1)", "x": null}',
        "print(1)",
    ),
    "code of something else": ('{"meta": {"code": "no"}, "code": "print(1)"}', "print(1)"),
    "a call in the arguments": ('{"name": "code_interpreter", "arguments": {"code": "print(1)"}}', "print(1)"),
    "a call with a string in it": (json.dumps({"arguments": json.dumps({"code": CODE})}), CODE),
    "a JSON string": (json.dumps(CODE), CODE),
    "JSON in a JSON string": (json.dumps(json.dumps({"code": CODE})), CODE),
    "a JSON string that is cut off": ('"import math\\nprint(1)', "import math\nprint(1)"),
    "a JSON string with quotes in it": ('"print("a")"', 'print("a")'),
    "no JSON": (CODE, CODE),
    "one line without JSON": ("print(1)", "print(1)"),
    "indented code without JSON": ("\n  if x:\n    y()", "  if x:\n    y()"),
    "code that begins with a string": ('"a".upper()', '"a".upper()'),
    "code that begins with a docstring": ('"""What it does."""\nimport math', '"""What it does."""\nimport math'),
    "code that is a set": ("{x for x in range(3)}", "{x for x in range(3)}"),
    "code that is a list": ("[1, 2, 3]", "[1, 2, 3]"),
    "code with such an object in it": ('x = {"code": "a"}\nprint(x)', 'x = {"code": "a"}\nprint(x)'),
    "code that calls with such an object": ('post(json={"code": "a"})', 'post(json={"code": "a"})'),
    "a fence": ("```python\nprint(1)\nprint(2)\n```", "print(1)\nprint(2)"),
    "a fence without a language": ("```\nprint(1)\n```\n", "print(1)"),
    "a fence that is not closed": ("```python\nprint(1)", "print(1)"),
    "a fence that closes on a line of code": ("```python\nprint(1)```", "print(1)"),
    "one line between backticks": ("`print(1)`", "print(1)"),
    "words around a fence": ("Here is it:\n```python\nprint(1)\n```\nIt prints 1.", "print(1)"),
    "two fences": ("```python\na = 1\n```\nand then\n```python\nprint(a)\n```", "a = 1\nprint(a)"),
    "a fence in a fence": ('```python\nt = """\n```sh\nls\n```\n"""\n```', 't = """\n```sh\nls\n```\n"""'),
    "a fence around JSON": ('```json\n{"code": "print(1)"}\n```', "print(1)"),
    "a fence in JSON": (json.dumps({"code": "```python\nprint(1)\n```"}), "print(1)"),
    "backticks in JSON": (json.dumps({"code": 'print("```")\n```'}), 'print("```")\n```'),
    "single quotes": ("{'code': 'print(\"a\")'}", 'print("a")'),
    "single quotes with such in them": ("{'code': 'print('a')'}", "print('a')"),
    "no quotes around the key": ('{code: "print(1)"}', "print(1)"),
    "no quotes around the code": ('{"code": print(1)}', "print(1)"),
    "nothing": ('{"code": null}', ""),
    "triple quotes": ('{"code": """import math\nprint("a\\n")\n"""}', 'import math\nprint("a\\n")\n'),
    "triple quotes with escapes": ('{"code": """import math\\nprint(1)"""}', "import math\nprint(1)"),
    "triple single quotes": ("{'code': '''\nprint(1)\n'''}", "\nprint(1)\n"),
    "triple quotes behind a quote": ('{"code": """\nx = "a""""}', '\nx = "a"'),
    "line breaks that are not escaped": ('{"code": "a = 1\nprint(a)\n"}', "a = 1\nprint(a)\n"),
    "quotes that are not escaped": ('{"code": "print("a", "b")"}', 'print("a", "b")'),
    "a dictionary that is not escaped": (
        '{"code": "d = {"a": 1, "b": "x"}\nprint(d)"}',
        'd = {"a": 1, "b": "x"}\nprint(d)',
    ),
    "a dictionary at the end that is not escaped": ('{"code": "{"a": "b"}"}', '{"a": "b"}'),
    "escapes of Python": (
        "{\"code\": \"re.sub('\\d\\.', '\\x41', t) \\\n + 1\"}",
        "re.sub('\\d\\.', '\\x41', t) \\\n + 1",
    ),
    "half of an escape": ('{"code": "a\\u12 b"}', "a\\u12 b"),
    "an apostrophe that is escaped": ('{"code": "print(\\\'a\\\')"}', "print('a')"),
    "cut off in the code": ('{"code": "print(1)\\nprint(', "print(1)\nprint("),
    "cut off in an escape": ('{"code": "print(1)\\u00', "print(1)"),
    "cut off behind the code": ('{"code": "print(1)"', "print(1)"),
    "cut off in another key": ('{"code": "print(1)", "lan', "print(1)"),
    "cut off in another value": ('{"code": "print(1)", "lang": "pyt', "print(1)"),
    "cut off at the beginning": ("{", ""),
    "words ahead of the object": ('Sure! I call it with: {"code": "print(1)"}', "print(1)"),
    "lines ahead of the object": ('Sure!\n\n{"code": "print(1)"}', "print(1)"),
    "words behind the object": ('{"code": "print(1)"} is what I run.', "print(1)"),
    "tags around the object": ('<tool_call>\n{"code": "print(1)"}\n</tool_call>', "print(1)"),
    "a tag ahead of code": ("<|python_tag|>print(1)", "print(1)"),
    "a brace too many": ('{"code": "print(1)"}}', "print(1)"),
    "double braces": ('{{"code": "print(1)"}}', "print(1)"),
    "a comma too many": ('{"code": "print(1)",}', "print(1)"),
    "a list around the object": ('[{"code": "print(1)"}]', "print(1)"),
    "an empty object first": ('{}{"code": "print(1)"}', "print(1)"),
    "several objects": ('{"code": "a = 1"}\n{"code": "print(a)"}', "a = 1\nprint(a)"),
    "the same object twice": ('{"code": "print(1)"}{"code": "print(1)"}', "print(1)"),
    "a pair of surrogates": ('{"code": "\\ud83d\\ude00"}', "\U0001f600"),
    "lone surrogates and NUL": ('{"code": "a\\ud83db\\ude00c\\u0000d\x00e"}', "abcde"),
    "surrogates that are no escapes": ('{"code": "a\ud83db"}', "ab"),
    "no arguments": ("", ""),
    "empty arguments": ("{}", ""),
    "white space": (" \n ", ""),
    "an object without code": ('{"query": "print(1)"}', ""),
}


@pytest.mark.parametrize("name", READ)
def test_code_is_found_in(name: str) -> None:
    arguments, code = READ[name]
    assert read(arguments) == code


@pytest.mark.parametrize("name", READ)
def test_code_is_found_character_by_character_in(name: str) -> None:
    arguments, code = READ[name]
    assert read(*arguments) == code


def test_well_formed_code_is_told_as_it_comes() -> None:
    arguments = Arguments()
    told = [arguments.feed(fragment) for fragment in ('{"co', 'de": "pri', "nt(", '\\"a\\', '")\\n', '"}')]
    assert [*told, arguments.finish()] == ["", "pri", "nt(", '"a', '")\n', "", ""]


def test_code_without_json_is_told_as_it_comes() -> None:
    arguments = Arguments()
    assert arguments.feed("import math\npri") == "import math\npri"
    assert arguments.feed("nt(1)") == "nt(1)"


def without_unwanted(text: str) -> str:
    return re.sub("[\x00\ud800-\udfff]", "", text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
cuts = st.lists(st.integers(0, 10_000), max_size=40)
code_text = st.text(st.characters(), max_size=200) | st.lists(
    st.sampled_from(
        ["print(", ")", '"', "'", '"""', "\\", "\\n", "\n", "{", "}", ":", ",", " ", "`", "code", "é", "😀", "\x00"]
    ),
    max_size=60,
).map("".join)


@given(code_text, st.dictionaries(st.text(max_size=8), json_values, max_size=3), st.booleans(), st.booleans(), cuts)
@example('"}{"code": "x"}', {}, False, False, [])
@example('", "code": "', {"a": "b"}, True, True, [])
def test_well_formed_json_is_read_exactly(
    code: str, others: dict[str, object], is_last: bool, is_ascii: bool, where: list[int]
) -> None:
    if code.lstrip().startswith("```"):
        code = "x" + code
    others = {key: value for key, value in others.items() if key.strip().lower() != "code"}
    document = {**others, "code": code} if is_last else {"code": code, **others}
    text = json.dumps(document, ensure_ascii=is_ascii)
    assert read(*pieces(text, where)) == without_unwanted(json.loads(text)["code"])


scraps = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        '"""',
        "'''",
        "```",
        "```json\n",
        "```python\n",
        "\n",
        " ",
        ",",
        ":",
        "\\",
        "\\u12",
        "\\ud83d",
        "\\n",
        "code",
        '"code"',
        '"input": "',
        '{"code": "',
        '"}',
        "print(1)",
        "import os\n",
        "x = ",
        "null",
        "12",
        "<tag>",
        "Words",
        "arguments",
        '{"arguments": ',
        "\ufeff",
        "\ude00",
        "é",
    ]
)


@given(st.lists(scraps, max_size=30).map("".join), cuts)
def test_how_arguments_are_cut_never_matters(text: str, where: list[int]) -> None:
    whole = read(text)
    assert read(*pieces(text, where)) == whole
    assert whole == without_unwanted(whole)


@given(st.sampled_from(sorted(READ)), cuts)
def test_how_usual_faults_are_cut_never_matters(name: str, where: list[int]) -> None:
    arguments, code = READ[name]
    assert read(*pieces(arguments, where)) == code


@pytest.mark.parametrize(
    "scrap", ['"}', '", "a": "', '"', "{", "[", "\\", '"""', "`", "\n```", " ", "x", '{"code": "', "<"]
)
def test_long_arguments_take_no_longer_than_their_length(scrap: str) -> None:
    """Not measured: what grows with the square of this would run into the limit of every test."""
    text = scrap * (600_000 // len(scrap))
    for begin in ('{"code": "', "{", '"', "", "```\n"):
        read(*[(begin + text)[at : at + 2_000] for at in range(0, 600_000, 2_000)])

"""Which words a text has: one answer for both databases, so that both find the same.

The databases do not split texts themselves; they are given the distinct words, and a search is for messages that
have all words asked for. User text therefore never reaches the syntax of either one's search language.
"""

import re
import unicodedata
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from threadkeep.contract.messages import Message, TextContent
from threadkeep.storage.statements import text

# Scripts written without spaces are cut into single characters: a word is then found when all its characters are in
# the message, which finds a little too much and misses nothing.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")

# A message of the contract's greatest length is read to its end; what is longer than any message is not.
_MAX_TEXT = 300_000
# Distinct words; more are not searched. Bounds the index entries that one message can cost.
_MAX_WORDS = 20_000
# PostgreSQL refuses an index entry of 2.7 kB; nobody searches for a word this long.
_MAX_WORD = 100


def words_of(value: str) -> str:
    """The distinct words in order of appearance, separated by single spaces; empty when there are none."""
    value = value[:_MAX_TEXT]
    # The quick way for ASCII gives the same words.
    folded = value.lower() if value.isascii() else unicodedata.normalize("NFKC", value).casefold()
    return " ".join(dict.fromkeys([word[:_MAX_WORD] for word in _WORD.findall(folded)[:_MAX_WORDS]]))


def words_of_message(message: Message) -> str | None:
    """What the message is found by; nothing while it is still being written."""
    if message.status == "in_progress":
        return None
    return words_of("\n".join(part.text.value for part in message.content if isinstance(part, TextContent))) or None


class HasWords(sa.ColumnElement[bool]):
    """True of a row of `messages` that has every word of the parameter `words`, which `words_of` made."""

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> "HasWords":
        # As it stands: SQLAlchemy would append `= 1` for SQLite, and the index were of no use any more.
        return self


@compiles(HasWords, "sqlite")
def _sqlite_has_words(_element: HasWords, compiler: SQLCompiler, **options: Any) -> str:
    words = compiler.process(text("words"), **options)
    quoted = f"""'"' || replace({words}, ' ', '" "') || '"'"""
    return f"messages.row_id IN (SELECT rowid FROM message_words WHERE message_words MATCH {quoted})"  # noqa: S608


@compiles(HasWords, "postgresql")
def _postgres_has_words(_element: HasWords, compiler: SQLCompiler, **options: Any) -> str:
    words = compiler.process(text("words"), **options)
    return f"string_to_array(messages.words, ' ') @> string_to_array({words}, ' ')"


class Unindexed(sa.ColumnElement[str]):
    """The column, but no reason for SQLite to choose an index by it: it would read all messages of a project, where
    the words have named the few rows to look at. PostgreSQL knows better by itself."""

    type = sa.Text()
    inherit_cache = False

    def __init__(self, column: sa.Column[str]) -> None:
        self.column = column


@compiles(Unindexed, "sqlite")
def _sqlite_unindexed(element: Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.column, **options)}"


@compiles(Unindexed, "postgresql")
def _postgres_unindexed(element: Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.column, **options)

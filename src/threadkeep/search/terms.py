"""Which terms a text is found by: one function for what is indexed and for what is asked, and for both databases.

Words are folded (case, width, accents), common English ones dropped, and stemmed by their script: Latin as English,
which leaves other languages' words recognisable, Cyrillic as Russian, Arabic and Greek as what they are. Names of code
are found whole and by their parts. Scripts written without spaces are cut into pairs of characters.
"""

import re
import threading
import unicodedata
from collections import Counter
from functools import lru_cache
from importlib import import_module
from typing import Final, Protocol, cast

# Nobody asks for a longer one, and PostgreSQL refuses entries of 2.7 kB.
_LONGEST: Final = 80
# Longer words are no language's: what stemmers do to them means nothing.
_LONGEST_STEMMED: Final = 40

# Thai, Lao, Myanmar, Khmer; kana, ideographs, Hangul (whose words carry endings that nobody asks for).
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
# The vowel signs of Indian scripts are no letters to Python, but parts of words.
_SIGNS: Final = "\u0900-\u0963\u0966-\u0dff"
_WORD: Final = re.compile(f"[{_UNSPACED}]+|(?:[^\\W{_UNSPACED}]|[{_SIGNS}])+")
_IS_UNSPACED: Final = re.compile(f"[{_UNSPACED}]")
# What stands on, in or below letters and is left out by many who write: accents, points, vowels of Arabic and Hebrew.
_MARKS: Final = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]+"
)
_PARTS: Final = re.compile("[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9_]+")
_IS_CAMEL: Final = re.compile("[a-z][A-Z]|[A-Z][A-Z][a-z]{2}")
# isn't, cell's, they'll
_APOSTROPHES: Final = re.compile("(?<=[^\\W\\d_])(?:n['\u2019]t|['\u2019](?:s|d|m|ll|re|ve))\\b")

_COMMON: Final = (
    "a about above after again against all am an and any are as at be because been before being below between both "
    "but by could did do does doing during each few for from further had has have having he her here hers him his "
    "how i if in into is it its itself just me more most my no nor not of off on once only or other our ours out "
    "over own same she should so some such than that the their theirs them then there these they this those through "
    "to too under until up very was we were what when where which while whom why will with would you your yours"
)
STOP_WORDS: Final = frozenset(_COMMON.split())


class _Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...  # noqa: N802 - the library's name


class _Stemmers(threading.local):
    """A stemmer is not to be used by two threads at once."""

    def __init__(self) -> None:
        # Without stubs.
        stemmer = import_module("Stemmer").Stemmer
        self.english = cast("_Stemmer", stemmer("english"))
        self.russian = cast("_Stemmer", stemmer("russian"))
        self.arabic = cast("_Stemmer", stemmer("arabic"))
        self.greek = cast("_Stemmer", stemmer("greek"))


_stemmers = _Stemmers()


def count_terms(text: str) -> dict[str, int]:
    """The terms of a passage, and how often each is there."""
    counted: Counter[str] = Counter()
    for word, times in Counter(_words(text)).items():
        for term in _terms_of(word):
            counted[term] += times
    return dict(counted)


def query_terms(text: str) -> list[str]:
    """What a query asks for, in order; a term that is there twice counts twice."""
    return [term for word in _words(text) for term in _asked_of(word)]


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = _MARKS.sub("", text)
    return _WORD.findall(_APOSTROPHES.sub("", text))


@lru_cache(maxsize=1 << 16)
def _terms_of(word: str) -> tuple[str, ...]:
    if _IS_UNSPACED.match(word):
        pairs = [word[at : at + 2] for at in range(len(word) - 1)]
        # Single characters too: somebody may ask for one.
        return (*pairs, *word)
    return _terms_of_spaced(word)


@lru_cache(maxsize=1 << 12)
def _asked_of(word: str) -> tuple[str, ...]:
    if _IS_UNSPACED.match(word):
        return tuple(word[at : at + 2] for at in range(len(word) - 1)) or (word,)
    return _terms_of_spaced(word)


def _terms_of_spaced(word: str) -> tuple[str, ...]:
    if "_" not in word and not _IS_CAMEL.search(word):
        term = _term(word)
        return () if term is None else (term,)
    parts = [part for part in _PARTS.findall(word) if part.isalnum()]
    # mRNA and iPhone are words, and so is PhD.
    if "_" not in word and any(len(part) == 1 for part in parts):
        parts = []
    whole = word.strip("_")
    names = [whole, *parts] if len(parts) > 1 else [whole]
    terms = [_term(name) for name in names]
    return tuple(term for term in terms if term)


def _term(word: str) -> str | None:
    """The one term of a word; None: it says nothing."""
    if word.isascii():
        folded = word.lower()
        if folded in STOP_WORDS:
            return None
        if not folded.isalpha() or len(folded) > _LONGEST_STEMMED:
            return folded[:_LONGEST]
        return _stemmers.english.stemWord(folded)
    folded = word.casefold()
    first = folded[0]
    if first < "\u0250" or "\u1e00" <= first < "\u1f00":
        folded = _bare(folded)
        stemmer = _stemmers.english
    elif "\u0400" <= first < "\u0530":
        folded = folded.replace("\u0451", "\u0435")
        stemmer = _stemmers.russian
    elif "\u0600" <= first < "\u0780":
        stemmer = _stemmers.arabic
    elif "\u0370" <= first < "\u0400" or "\u1f00" <= first < "\u2000":
        folded = _bare(folded)
        stemmer = _stemmers.greek
    else:
        return folded[:_LONGEST]
    return stemmer.stemWord(folded) if len(folded) <= _LONGEST_STEMMED else folded[:_LONGEST]


def _bare(word: str) -> str:
    """Without accents."""
    return _MARKS.sub("", unicodedata.normalize("NFD", word))

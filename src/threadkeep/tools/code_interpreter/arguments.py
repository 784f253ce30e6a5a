"""Reads the code out of the arguments of a call, while they arrive and however they are written.

Well-formed JSON is read exactly, and what is read of it is told at once. Models also send code without JSON, code in
Markdown fences, single or triple quotes, line breaks and quotes that nobody escaped, JSON in JSON, JSON that is cut
off, words around it, the same object twice. How the arguments are cut into fragments never matters: every decision
depends on the text up to a point, not on how much of it has arrived.
"""

import re
from collections.abc import Callable
from typing import Final, Literal

# The first is the tool's own; the others are read where it is missing.
_KEYS: Final = ("code", "input", "python", "script", "source")
# Models that wrap the arguments once more.
_WRAPPERS: Final = ("arguments", "parameters", "args", "kwargs")
_MAX_NESTING: Final = 3
_MAX_KEY: Final = 256
# How far to look for whether a quote ends the code, and for where the code begins after words.
_AHEAD: Final = 1_024
_MAX_PREAMBLE: Final = 4_096
# Quotes that turned out to be part of the code. After so many the next is believed: looking ahead costs time.
_MAX_DOUBTS: Final = 5_000

_UNWANTED: Final = re.compile("[\x00\ud800-\udfff]")
_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "'": "'"}
_HEX_DIGITS: Final = "0123456789abcdefABCDEF"
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_LOW_SURROGATE: Final = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_PART_OF_ESCAPE: Final = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_PLAIN: Final = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_WORD: Final = re.compile(r"[\w$.-]+")
_FENCE: Final = re.compile(r"[ \t]*```[ \t]*([\w+#.-]*)[ \t]*\r?")
_MARKER: Final = re.compile(
    r"\{\s*[\"']?(?:" + "|".join((*_KEYS, *_WRAPPERS)) + r")[\"']?\s*:|^[ \t]*(?=```)", re.MULTILINE
)
_CODE_LINE: Final = re.compile(
    r"\s*(?:[#%!@]|(?:import|from|async|await|del|assert|raise|global)\s+\w|(?:def|class)\s+\w+.*:|(?:for|with|while|if)\s.*:\s*$"
    r"|try\s*:|[A-Za-z_][\w.]*(?:\[[^\]]*\])?(?:\s*,\s*[A-Za-z_]\w*)*\s*(?:[-+*/%|&^]|//|\*\*)?=[^=]|[A-Za-z_][\w.]*\()"
)
_BEFORE_VALUE: Final = re.compile(r"(?:[=(\[,{\"']|\b(?:return|in|yield|and|or|not))\s*\Z")
_TAG: Final = re.compile(r"<[^<>\s]{1,40}>")
_TOKEN: Final = re.compile(r"\s+|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[-+\w.$]+|[{}\[\],:]", re.DOTALL)
_NEXT_OBJECT: Final = re.compile(r"\{\s*(?:\}|[\"'][^\"'\\]{0,64}[\"']\s*:)")
_PART_OF_NEXT_OBJECT: Final = re.compile(r"\{\s*(?:[\"'][^\"'\\]{0,64}(?:[\"']\s*)?)?\Z")
_PART_OF_SCALAR: Final = re.compile(r"[-+.\w]+")
_SCALAR: Final = re.compile(r"\s*(?:null|true|false)\s*(?:[,}\]]|\Z)")

_Where = Literal["start", "key", "colon", "value", "scalar", "word", "string", "closing", "after", "raw", "to_the_end"]
_Role = Literal["key", "skip", "wrapped", "code", "spare"]


class Arguments:
    """The arguments of one call. The code is what ``feed`` and ``finish`` return, put together."""

    def __init__(self, nesting: int = 0) -> None:
        self._nesting = nesting
        self._text: str = ""
        # What can only be judged as a whole.
        self._parts: list[str] = []
        self._at_end = False
        self._where: _Where = "start"
        self._out: list[str] = []
        # The code of the object at hand: told as it comes when it is the first, else compared with those before.
        self._fences = _Fences()
        self._codes: list[str] = []
        self._piece: list[str] = []
        self._has_code = False
        self._spare: str | None = None
        # Objects and arrays that are open: whether their keys mean something.
        self._open: list[bool] = []
        self._key = ""
        self._role: _Role = "skip"
        self._quote = '"'
        self._string: list[str] = []
        self._is_verbatim: bool | None = False
        self._doubts = 0
        self._whole: Callable[[str], None] = self._end_literal

    def feed(self, text: str) -> str:
        """More arguments; the code that they bring."""
        if self._where == "to_the_end":
            self._parts.append(text)
            return ""
        self._text += text
        self._run()
        return self._told()

    def finish(self) -> str:
        """There are no more arguments; the code that was held back."""
        self._at_end = True
        if self._where == "to_the_end":
            whole, self._parts = "".join(self._parts), []
            self._whole(whole)
        self._run()
        if self._where in ("string", "closing"):
            self._end_string()
        self._end_object()
        return self._told()

    def _run(self) -> None:
        steps: dict[_Where, Callable[[], bool]] = {
            "start": self._start,
            "key": self._structure,
            "colon": self._structure,
            "value": self._structure,
            "scalar": self._skip_scalar,
            "word": self._unquoted_key,
            "string": self._in_string,
            "closing": self._at_quote,
            "after": self._after,
            "raw": self._raw,
        }
        while self._text and self._where != "to_the_end" and steps[self._where]():
            pass

    def _told(self) -> str:
        told, self._out = "".join(self._out), []
        return _UNWANTED.sub("", told)

    # Where the code is.

    def _start(self) -> bool:
        """Finds out what the arguments are. Returns whether there is more to do with what has arrived."""
        text = self._text
        bare = text.lstrip("\ufeff \t\r\n")
        # Of white space ahead of code without JSON only the indentation of its first line is kept.
        blank = text[: len(text) - len(bare)]
        self._text = text = blank[blank.rfind("\n") + 1 :].replace("\ufeff", "")[-_MAX_KEY:] + bare
        match bare[:1]:
            case "":
                return False
            case "{":
                is_object = _is_object(bare)
                is_cut_off = self._at_end and not bare[1:].strip()
                if is_object or is_cut_off:
                    self._begin_object(bare[1:])
                    return True
                return self._wait_or_raw(is_undecided=is_object is None)
            case "[":
                inside = bare[1:].lstrip()
                if inside[:1] == "{":
                    self._text = inside
                    return True
                return self._wait_or_raw(is_undecided=not inside)
            case '"' | "'":
                self._hold(self._end_literal, bare)
                return False
            case "`":
                return self._start_fence(bare)
            case "<":
                if (tag := _TAG.match(bare)) is not None:
                    self._text = bare[tag.end() :]
                    return True
                return self._wait_or_raw(is_undecided=re.fullmatch(r"<[^<>\s]{0,40}", bare) is not None)
            case _:
                return self._start_words(text)

    def _start_fence(self, bare: str) -> bool:
        line, newline, following = bare.partition("\n")
        if not newline:
            if self._at_end:
                self._text = line.strip("` \t\r")
                self._where = "raw"
            return self._at_end
        following = following.lstrip()
        fence = _FENCE.fullmatch(line)
        is_object = following[:1] == "{" and _is_object(following)
        if is_object or (fence is not None and fence[1].lower() == "json"):
            self._text = following
            return True
        return self._wait_or_raw(is_undecided=not following or is_object is None)

    def _start_words(self, text: str) -> bool:
        """Code without JSON, or words ahead of the code."""
        ahead = text[:_MAX_PREAMBLE]
        marker = _MARKER.search(ahead)
        line_ends = ahead.find("\n")
        if line_ends >= 0 and (marker is None or marker.end() > line_ends) and _CODE_LINE.match(ahead[:line_ends]):
            return self._wait_or_raw(is_undecided=False)
        if marker is None:
            return self._wait_or_raw(is_undecided=len(text) < _MAX_PREAMBLE)
        if _BEFORE_VALUE.search(ahead[: marker.start()]):
            return self._wait_or_raw(is_undecided=False)
        self._text = text[marker.start() :]
        return True

    def _wait_or_raw(self, *, is_undecided: bool) -> bool:
        if is_undecided and not self._at_end:
            return False
        self._where = "raw"
        return True

    def _raw(self) -> bool:
        self._say(self._text)
        self._text = ""
        return False

    def _hold(self, then: Callable[[str], None], text: str) -> None:
        """Everything from here on is needed to judge."""
        self._where = "to_the_end"
        self._whole = then
        self._parts = [text]
        self._text = ""
        if self._at_end:
            whole, self._parts = "".join(self._parts), []
            then(whole)

    def _end_literal(self, whole: str) -> None:
        """The arguments began with a quote: JSON in JSON, or code that begins with a string."""
        self._where = "raw"
        whole = whole.rstrip()
        quote = whole[0]
        is_triple = whole.startswith(quote * 3)
        plain = re.compile(rf"{quote}(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL).match(whole)
        if is_triple:
            is_whole = len(whole) >= 6 and whole.find(quote * 3, 3) == len(whole) - 3
        else:
            # Else another literal follows, or an operator, or quotes inside that nobody escaped.
            is_whole = plain is None or plain.end() == len(whole) or whole[plain.end()].isalnum()
        if not is_whole or self._nesting >= _MAX_NESTING:
            self._say(whole)
            return
        inside = whole[3:-3] if is_triple else whole[1:].removesuffix(quote)
        if not (is_triple and "\n" in inside):
            inside = unescape(inside)
        nested = Arguments(self._nesting + 1)
        self._say(nested.feed(inside) + nested.finish())

    def _end_unquoted(self, whole: str) -> None:
        """The value of the code's key is no string: code that nobody quoted, to the end of the object."""
        self._where = "after"
        if _SCALAR.match(whole) is None:
            code = whole.rstrip()
            for _ in self._open:
                code = code.removesuffix("}").rstrip()
            self._say(code)
            self._has_code = True

    # Objects.

    def _begin_object(self, inside: str) -> None:
        self._open = [True]
        self._text = inside
        self._where = "key"

    def _structure(self) -> bool:
        text = self._text
        head = text.lstrip()[:1]
        self._text = text = text.lstrip()
        if not head:
            return False
        if head in "}]":
            self._text = text[1:]
            self._open.pop()
            self._where = "key"
            if not self._open:
                self._end_object()
                self._where = "after"
            return True
        if self._where == "key":
            if head in "\"'":
                self._begin_string("key", head, text[1:])
            elif head in "{[":
                # In an array; or one brace too many.
                self._open.append(self._open[-1] and head == "{")
                self._text = text[1:]
            elif _WORD.match(head):
                self._key = ""
                self._where = "word"
            else:
                self._text = text[1:]
            return True
        if self._where == "colon":
            self._where = "key" if head == "," else "value"
            if head in ":=,":
                self._text = text[1:]
            return True
        return self._value(head, text)

    def _value(self, head: str, text: str) -> bool:
        matters = self._open[-1]
        key = self._key.strip().lower() if matters else ""
        role: _Role = "skip"
        if key == _KEYS[0] and not self._has_code:
            role = "code"
        elif key in _KEYS[1:] and self._spare is None:
            role = "spare"
        elif key in _WRAPPERS and self._spare is None and self._nesting < _MAX_NESTING:
            role = "wrapped"
        if head == "{":
            self._open.append(matters and (key in _WRAPPERS or key in _KEYS))
            self._text = text[1:]
            self._where = "key"
        elif head == "[":
            self._open.append(False)
            self._text = text[1:]
            self._where = "key"
        elif head == ",":
            self._where = "key"
        elif head in "\"'":
            if role in ("code", "spare") and len(text) < 3 and not self._at_end and text == head * len(text):
                return False
            if role in ("code", "spare") and text.startswith(head * 3):
                self._begin_string(role, head * 3, text[3:])
            else:
                self._begin_string(role, head, text[1:])
        elif role == "code":
            self._hold(self._end_unquoted, text)
            return False
        else:
            self._text = text[1:]
            self._where = "scalar"
        return True

    def _skip_scalar(self) -> bool:
        scalar = _PART_OF_SCALAR.match(self._text)
        self._text = self._text[0 if scalar is None else scalar.end() :]
        if self._text:
            self._where = "key"
        return True

    def _unquoted_key(self) -> bool:
        word = _WORD.match(self._text)
        if word is not None:
            self._key = (self._key + word[0])[:_MAX_KEY]
            self._text = self._text[word.end() :]
        if self._text:
            self._where = "colon"
        return True

    def _end_object(self) -> None:
        """The object at hand is complete, or will never be."""
        if not self._has_code and self._spare is not None:
            self._say(self._spare)
        self._has_code = False
        self._spare = None
        if not self._codes:
            self._tell(self._fences.finish())
            code = "".join(self._piece)
        else:
            whole = "".join(self._piece)
            code = self._fences.feed(whole) + self._fences.finish()
            # Models also send the same call twice.
            if code.strip() and code not in self._codes:
                self._out.append("\n" + code)
        if code.strip():
            self._codes.append(code)
        self._piece = []
        self._fences = _Fences()

    def _after(self) -> bool:
        """Between objects."""
        start = self._text.find("{")
        if start < 0:
            self._text = ""
            return False
        self._begin_object(self._text[start + 1 :])
        return True

    def _say(self, code: str) -> None:
        """More code of the object at hand."""
        if self._codes:
            self._piece.append(code)
        else:
            self._tell(self._fences.feed(code))

    def _tell(self, code: str) -> None:
        self._piece.append(code)
        self._out.append(code)

    # Strings.

    def _begin_string(self, role: _Role, quote: str, text: str) -> None:
        self._role = role
        self._quote = quote
        # In triple quotes the first line break says whether the text is escaped.
        self._is_verbatim = None if len(quote) == 3 else False
        self._string = []
        self._text = text
        self._where = "string"

    def _in_string(self) -> bool:
        text, at = self._text, 0
        mark = self._quote[0]
        plain = _PLAIN[mark]
        read: list[str] = []
        while at < len(text):
            if (run := plain.match(text, at)) is not None:
                read.append(run[0])
                at = run.end()
                if self._is_verbatim is None and "\n" in run[0]:
                    self._is_verbatim = True
            elif text[at] == "\\":
                if self._is_verbatim:
                    taken, decoded = 2, text[at : at + 2]
                else:
                    taken, decoded = _escape(text, at)
                if at + taken > len(text) and not self._at_end:
                    break
                if self._is_verbatim is None and decoded == "\n":
                    self._is_verbatim = False
                read.append(decoded if at + taken <= len(text) else "")
                at += taken
            elif len(self._quote) == 3:
                run_ends = at
                while run_ends < len(text) and text[run_ends] == mark:
                    run_ends += 1
                if run_ends == len(text) and not self._at_end and run_ends - at < _MAX_KEY:
                    break
                if run_ends - at < 3:
                    read.append(text[at:run_ends])
                    at = run_ends
                    continue
                # The last three of them close.
                read.append(text[at : run_ends - 3])
                self._keep("".join(read))
                self._text = text[run_ends:]
                self._where = "closing"
                return self._at_quote()
            else:
                self._keep("".join(read))
                self._text = text[at + 1 :]
                if self._role in ("code", "spare"):
                    self._where = "closing"
                    return self._at_quote()
                self._end_string()
                return True
        self._keep("".join(read))
        self._text = text[at:]
        return False

    def _keep(self, read: str) -> None:
        match self._role:
            case "code":
                self._say(read)
            case "spare" | "wrapped":
                self._string.append(read)
            case "key":
                self._string = [("".join(self._string) + read)[:_MAX_KEY]]
            case "skip":
                pass

    def _at_quote(self) -> bool:
        """Whether the quote ends the code, or was meant to be part of it."""
        closes = self._doubts >= _MAX_DOUBTS or _closes(
            self._text, len(self._open), self._quote[0], at_end=self._at_end
        )
        if closes is None:
            return False
        if closes:
            self._end_string()
        else:
            self._doubts += 1
            self._keep(self._quote)
            self._where = "string"
        return True

    def _end_string(self) -> None:
        whole, self._string = "".join(self._string), []
        self._where = "key"
        match self._role:
            case "key":
                # In an array it was a value: then a comma follows instead.
                self._key = whole
                self._where = "colon"
            case "code":
                self._has_code = True
            case "spare":
                self._spare = whole
            case "wrapped":
                nested = Arguments(self._nesting + 1)
                self._spare = nested.feed(whole) + nested.finish()
            case "skip":
                pass


def unescape(text: str) -> str:
    """What is between the quotes of a JSON string, decoded; also where its escapes are none of JSON's."""
    read: list[str] = []
    at = 0
    while (slash := text.find("\\", at)) >= 0:
        taken, decoded = _escape(text, slash)
        read += (text[at:slash], decoded)
        at = slash + taken
    return "".join((*read, text[at:]))


def _escape(text: str, at: int) -> tuple[int, str]:
    """The length of the escape at ``at``, and what it stands for. One that is longer than ``text`` is cut off."""
    kind = text[at + 1 : at + 2]
    if kind == "":
        return 2, ""
    if kind == "u":
        return _unicode_escape(text, at)
    # `\d` of a regular expression, `\x41`, or a line that goes on: meant for Python.
    return 2, _ESCAPES.get(kind, "\\" + kind)


def _unicode_escape(text: str, at: int) -> tuple[int, str]:
    digits = text[at + 2 : at + 6]
    if _HEX.fullmatch(digits) is None:
        return (6, "") if len(digits) < 4 and all(digit in _HEX_DIGITS for digit in digits) else (2, "\\u")
    value = int(digits, 16)
    if not 0xD800 <= value < 0xE000:
        return 6, chr(value)
    following = text[at + 6 : at + 12]
    if value < 0xDC00:
        if _LOW_SURROGATE.fullmatch(following):
            low = int(following.removeprefix("\\u"), base=16)
            return 12, chr(0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00))
        if _PART_OF_ESCAPE.fullmatch(following):
            return 12, ""
    # Half a character.
    return 6, ""


def _is_object(text: str) -> bool | None:
    """Whether the brace at the beginning of ``text`` opens an object, or is code. None: unclear."""
    inside = text[1:].lstrip()
    if not inside:
        return None
    if inside[0] in "\"'}{":
        return True
    word = _WORD.match(inside)
    following = inside[word.end() :].lstrip() if word else inside
    if word and not following and word.end() < _MAX_KEY:
        return None
    return word is not None and following[:1] == ":"


def _closes(text: str, depth: int, mark: str, *, at_end: bool) -> bool | None:
    """Whether a quote ends its string, judged by the ``text`` behind it; None while that is unclear.

    It does if the text goes on as the ``depth`` objects around it may go on. Where they are complete, another object
    may follow, or a few words; but not what ends as a string in an object does.
    """
    is_far = len(text) >= _AHEAD
    text = text[:_AHEAD]
    around = ["{"] * depth
    expected = "comma"
    at = 0
    while around and at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            is_open_string = text[at] in "\"'" and expected in ("key", "value")
            return (True if at_end or is_far else None) if is_open_string else False
        at = token.end()
        word = token[0]
        if word.isspace():
            continue
        kind = word if word in "{}[],:" else "word"
        match expected, kind, around[-1]:
            case ("comma", ",", holder):
                expected = "key" if holder == "{" else "value"
            case ("comma" | "key", "}", "{") | ("comma" | "value", "]", "["):
                around.pop()
                expected = "comma"
            case ("key", "word", _):
                expected = "colon"
            case ("colon", ":", _):
                expected = "value"
            case ("value", "word", _):
                expected = "comma"
            case ("value", "{" | "[", _):
                around.append(kind)
                expected = "key" if kind == "{" else "value"
            case _:
                return False
    rest = text[at:].lstrip()
    if around or not rest:
        return True if at_end or is_far else None
    if _NEXT_OBJECT.match(rest):
        return True
    if is_far:
        return False
    if at_end:
        return re.search(mark + r"\s*\}[\s}\]`]*\Z", rest) is None
    return None


class _Fences:
    """Takes the Markdown fence off code that begins with one; what begins otherwise is passed on as it is."""

    def __init__(self) -> None:
        self._held: str = ""
        self._where: Literal["begin", "plain", "fenced", "behind"] = "begin"
        # Fences inside of the code, as when it writes Markdown.
        self._inner = 0
        # The line at hand was told in part: it is no fence.
        self._is_inside_line = False
        # Ahead of the closing fence it is none of the code's.
        self._newline = ""

    def feed(self, text: str) -> str:
        if self._where == "plain":
            return text
        self._held += text
        if self._where == "begin":
            self._where = self._begin()
        match self._where:
            case "begin":
                return ""
            case "plain":
                told, self._held = self._held, ""
                return told
            case "fenced" | "behind":
                return self._lines()

    def finish(self) -> str:
        held, self._held = self._held, ""
        match self._where:
            case "begin" | "plain":
                return held
            case "fenced":
                # A closing fence, or a part of one.
                rest = held.rstrip().rstrip("`").rstrip()
                return self._newline + held[: len(rest)] if rest else ""
            case "behind":
                return ""

    def _begin(self) -> Literal["begin", "plain", "fenced"]:
        bare = self._held.lstrip()
        line, newline, rest = bare.partition("\n")
        if newline and _FENCE.fullmatch(line):
            self._held = rest
            return "fenced"
        is_undecided = "```".startswith(bare) or (not newline and _FENCE.fullmatch(bare) is not None)
        return "begin" if is_undecided else "plain"

    def _lines(self) -> str:
        told: list[str] = []
        while self._held:
            line, newline, rest = self._held.partition("\n")
            if not newline:
                break
            self._held = rest
            self._line(line, told)
        if self._where == "fenced" and self._held:
            # What may become a fence is held back.
            sure = self._held if self._is_inside_line else self._held.lstrip(" \t")
            if sure and (self._is_inside_line or sure[0] != "`"):
                ends = len(self._held.rstrip("` \t\r"))
                if ends:
                    told += (self._newline, self._held[:ends])
                    self._newline = ""
                    self._held = self._held[ends:]
                    self._is_inside_line = True
        return "".join(told)

    def _line(self, line: str, told: list[str]) -> None:
        fence = None if self._is_inside_line else _FENCE.fullmatch(line)
        self._is_inside_line = False
        if self._where == "behind":
            if fence is not None and fence[1]:
                # A further block.
                self._where = "fenced"
                self._newline = "\n"
            return
        if fence is not None:
            if not fence[1] and not self._inner:
                self._where = "behind"
                return
            self._inner += 1 if fence[1] else -1
        told += (self._newline, line)
        self._newline = "\n"

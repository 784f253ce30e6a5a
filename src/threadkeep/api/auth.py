"""Whose request it is: from the key it carries to a project; and which version of the API it speaks.

A key is looked up at most once a second; so a revoked one is refused everywhere within that second.
"""

import re
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final, Literal, NamedTuple

from threadkeep.contract.errors import InvalidRequest, PermissionDenied, Unauthenticated
from threadkeep.storage.keys import hash_of
from threadkeep.storage.store import Store, Transaction

REMEMBERED_S: Final = 1.0
MAX_REMEMBERED: Final = 10_000

MISSING_KEY: Final = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


# Names of this machine that the world's name servers answer for nobody (RFC 6761, RFC 6762, ICANN's `.internal`).
_LOCAL_NAMES: Final = (".localhost", ".local", ".internal")


class _Owner(NamedTuple):
    """Whose key it is: null for a key that is not ours."""

    project: str | None
    # Any key would have done: it proves nothing about who sends it.
    is_anybody: bool


class Authenticator:
    """Finds the project of a key. As long as no key was ever made, ``open_project``, if given, takes every key."""

    def __init__(
        self, store: Store, *, open_project: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._open_project = open_project
        self._clock = clock
        # By the key's hash: the key itself is kept nowhere. A key that is not ours is remembered too (as None), so that
        # a client with a wrong one does not become load on the database.
        self._remembered: dict[str, tuple[_Owner, float]] = {}

    async def __call__(self, key: str | None, host: str | None = None) -> str:
        """The project of ``key``; ``host`` is what the client believes it talks to, from the header of that name."""
        if not key:
            raise Unauthenticated(MISSING_KEY)
        key_hash = hash_of(key)
        now = self._clock()
        owner, until = self._remembered.get(key_hash, (_Owner(None, is_anybody=False), 0.0))
        if until <= now:
            owner = await self._store.read(None, lambda tx: self._find(tx, key_hash))
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            # From before the look-up: what was read may be as old as that.
            self._remembered[key_hash] = (owner, now + REMEMBERED_S)
        if owner.project is None:
            raise Unauthenticated(
                f"Incorrect API key provided: '{masked(key)}'. You can find your API key at "
                "https://platform.openai.com/account/api-keys. (This server's own keys are made with "
                "'threadkeep keys create'.)"
            )
        if owner.is_anybody and not is_local(host):
            # A page of the open web can have its own name point at this machine (DNS rebinding); its browser then sends
            # whatever key the page likes. The name it sends along is the one thing the page can't choose.
            raise PermissionDenied(
                "This server takes any key, so it answers only to names of this machine, not to "
                f"'{(host or '')[:100]}'. Use 127.0.0.1, or make a key with 'threadkeep keys create'."
            )
        return owner.project

    def _find(self, tx: Transaction, key_hash: str) -> _Owner:
        if (found := tx.keys.find(key_hash)) is not None:
            return _Owner(found[1], is_anybody=False)
        if self._open_project is None or tx.keys.any():
            return _Owner(None, is_anybody=False)
        return _Owner(self._open_project, is_anybody=True)


def is_local(host: str | None) -> bool:
    """Whether ``Host`` names this machine in a way that no name server of a stranger's could answer for."""
    if host is None:
        # No browser leaves it out.
        return True
    name = host.rpartition(":")[0] if re.fullmatch(r"(\[.*\]|[^:]*):[0-9]*", host) else host
    name = name.strip("[]").rstrip(".").lower()
    try:
        ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_NAMES)
    return True


def masked(key: str) -> str:
    """Enough of a key to recognise it by and too little to use it."""
    if len(key) < 12:
        return "*" * len(key)
    return f"{key[:5]}***{key[-2:]}" if key.isascii() and key.isprintable() else "***"


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in ``Authorization: Bearer`` or, as Azure's clients send it, in ``api-key``."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            return key.strip().decode("latin-1")
    api_key = headers.get(b"api-key")
    return None if api_key is None else api_key.strip().decode("latin-1")


def presented_host(headers: Mapping[bytes, bytes]) -> str | None:
    """The name under which the client reached us."""
    host = headers.get(b"host")
    return None if host is None else host.strip().decode("latin-1")


_BETA: Final = re.compile(r"[A-Za-z0-9_.-]+=v[0-9]+")


def spoken_version(header: bytes | None, *, is_strict: bool) -> Literal["v1", "v2"]:
    """Which version ``OpenAI-Beta`` asks for. There may be other betas beside it; absent means the second unless
    ``is_strict``, as OpenAI was.
    """
    if header == b"assistants=v2":
        return "v2"
    if header is None:
        header = b""
    betas = [beta for part in header.decode("latin-1").split(",") if (beta := part.strip())]
    for beta in betas:
        if _BETA.fullmatch(beta) is None:
            raise InvalidRequest(
                f"Invalid beta header provided: '{beta[:100]}'. The header should be in the format "
                "'OpenAI-Beta: example_beta=v1'.",
                code="invalid_beta",
            )
    if not betas and is_strict:
        raise InvalidRequest(
            "You must provide the 'OpenAI-Beta' header to access the Assistants API. Please try again by setting the "
            "header 'OpenAI-Beta: assistants=v2'.",
            code="invalid_beta",
        )
    if "assistants=v2" in betas or not betas:
        return "v2"
    if "assistants=v1" in betas:
        return "v1"
    name, _, _ = betas[0].partition("=")
    raise InvalidRequest(
        f"Unknown beta requested: '{betas[0] if name == 'assistants' else name}'.", code="invalid_beta"
    )

"""What is wrong with an installation, and what to do about it. Looks; changes nothing; sends no prompt to a model."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Literal, NamedTuple

from threadkeep import __version__, storage
from threadkeep.contract.errors import ThreadkeepError, UpstreamFailed
from threadkeep.settings import Settings, flag, variable
from threadkeep.upstream.failures import told_plainly
from threadkeep.upstream.upstreams import Upstreams

State = Literal["ok", "warning", "problem"]

# The database and a day of growth fit; below, SQLite will soon refuse to write.
LITTLE_SPACE_BYTES = 512 * 1024**2
UPSTREAM_S = 10.0
BLOBS_S = 40.0


class Finding(NamedTuple):
    """One line of the examination. A problem keeps the server from working; a warning may."""

    state: State
    subject: str
    text: str


async def check(settings: Settings) -> list[Finding]:
    """Everything that can be looked at without a running server."""
    findings = [*_settings(settings), *_folder(settings), await asyncio.to_thread(_database, settings)]
    if settings.blobs_url is not None:
        findings.append(await _blobs(settings, settings.blobs_url))
    async with aclosing(_upstreams(settings)) as upstreams:
        findings += [finding async for finding in upstreams]
    return [*findings, _isolation()]


def _settings(settings: Settings) -> list[Finding]:
    given = ", ".join(f"{where} = {settings.shown(name)}" for name, where in settings.given.items())
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding("ok", "version", f"Threadkeep {__version__}, Python {python}"),
        Finding("ok", "settings", given or "all have their defaults"),
    ]
    findings += [Finding("warning", "settings", warning) for warning in settings.warnings]
    if settings.code_interpreter == "on":
        where = settings.named_as("code_interpreter")
        text = f"{where} is 'on', and this version cannot isolate code: the server will not start. Use auto or off."
        findings.append(Finding("problem", "settings", text))
    return findings


def _folder(settings: Settings) -> list[Finding]:
    """The data folder, or the nearest folder above in which it would be made."""
    folder = settings.data_dir.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    name = settings.named_as("data_dir")
    if not there.is_dir():
        return [Finding("problem", "data folder", f"{there} is a file. Name a folder with {name}.")]
    try:
        _write_durably(there)
    except OSError as error:
        who = f"uid {os.getuid()}"
        text = f"{there} cannot be written by {who}: {error.strerror}. Give it to them, or name another with {name}."
        return [Finding("problem", "data folder", text)]
    free = shutil.disk_usage(there).free
    space = f"{free / 1024**3:.1f} GiB free"
    if free < LITTLE_SPACE_BYTES:
        return [Finding("warning", "data folder", f"{folder}: only {space}. Make room, or name another with {name}.")]
    state = "it can be written and synced" if there == folder else "it will be made at the first start"
    return [Finding("ok", "data folder", f"{folder}: {state}, {space}")]


def _write_durably(folder: Path) -> None:
    """Raises OSError where a file can't be made to last."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"threadkeep doctor")
        file.flush()
        os.fsync(file.fileno())


def _database(settings: Settings) -> Finding:
    try:
        seen = storage.look(settings.database_url, settings.data_dir)
    except ThreadkeepError as error:
        hint = "" if settings.database_url is None else f" Is {settings.named_as('database_url')} right?"
        return Finding("problem", "database", error.message + hint)
    where = f"{seen.engine} at {seen.place}"
    if seen.revision is None:
        return Finding("ok", "database", f"{where}: empty; the first start sets it up")
    if seen.revision == seen.newest_revision:
        return Finding("ok", "database", f"{where}: at revision {seen.revision}, as this version wants it")
    if seen.revision < seen.newest_revision:
        text = f"{where}: at revision {seen.revision}; the next start, or 'threadkeep migrate', brings it to "
        return Finding("ok", "database", text + seen.newest_revision)
    text = f"{where}: at revision {seen.revision}, made by a newer version. Install that one, or restore a backup."
    return Finding("problem", "database", text)


async def _blobs(settings: Settings, url: str) -> Finding:
    """A place for files beside the data folder: a folder is looked at, a bucket is written to for a moment."""
    where = settings.named_as("blobs_url")
    if url.startswith("file:"):
        folder = storage.blobs_folder(url, settings.data_dir)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            _write_durably(there)
        except OSError as error:
            text = f"{there} cannot be written by uid {os.getuid()}: {error.strerror}. Name another place with {where}."
            return Finding("problem", "files", text)
        state = "it can be written and synced" if there == folder else "it will be made at the first start"
        return Finding("ok", "files", f"{folder}: {state}")
    try:
        async with asyncio.timeout(BLOBS_S):
            blobs = await storage.open_blobs(url, settings.data_dir)
            await blobs.check()
    except TimeoutError:
        return Finding("problem", "files", f"{url} did not answer within {BLOBS_S:g} seconds.")
    except ThreadkeepError as error:
        said = str(error.__cause__ or error.message).partition("\n")[0][:300]
        text = f"{url} cannot be written: {said}. Are {where} and the AWS_... variables right?"
        return Finding("problem", "files", text)
    return Finding("ok", "files", f"{url}: it can be written")


async def _upstreams(settings: Settings) -> AsyncGenerator[Finding, None]:
    if not settings.upstreams:
        how = f"{flag('upstream_url')} or {variable('upstream_url')}"
        yield Finding("warning", "model", f"only the offline model, which is not a language model. Set {how}.")
        return
    upstreams = Upstreams(settings.upstreams)
    try:
        for upstream in upstreams.configured:
            subject = f"upstream {upstream.name}"
            try:
                async with asyncio.timeout(UPSTREAM_S):
                    models = await upstream.models()
            except TimeoutError:
                yield Finding(
                    "problem", subject, f"{upstream.config.host} did not answer within {UPSTREAM_S:g} seconds."
                )
            except UpstreamFailed as failure:
                yield Finding("problem", subject, told_plainly(failure))
            else:
                named = ", ".join(model.id for model in models[:3])
                if models:
                    yield Finding("ok", subject, f"{upstream.config.host} answers; {len(models)} models: {named} …")
                else:
                    yield Finding("warning", subject, f"{upstream.config.host} lists no models, so this says little.")
    finally:
        await upstreams.close()


def _isolation() -> Finding:
    """What the code interpreter will want. Nothing depends on it yet, so nothing here is a problem."""
    lacking: list[str] = []
    if sys.platform != "linux":
        lacking.append("Linux")
    elif shutil.which("bwrap") is None:
        lacking.append("bubblewrap (Debian, Ubuntu: apt install bubblewrap)")
    for switch, wanted in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0"),
    ):
        try:
            value = Path(switch).read_text(encoding="ascii").strip()
        except OSError:
            # A kernel without the switch does not restrict it.
            continue
        if value != wanted:
            lacking.append(f"user namespaces for everybody ({switch} is {value})")
    coming = "the code interpreter comes with a later version"
    if lacking:
        return Finding("ok", "isolation", f"{coming} and will want {', '.join(lacking)}")
    return Finding("ok", "isolation", f"{coming}; what it wants is here")

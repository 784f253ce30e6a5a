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
from threadkeep.sandbox.environment import absence, read_environment
from threadkeep.sandbox.selftest import examine, mend_for
from threadkeep.settings import Settings, flag, variable
from threadkeep.upstream.failures import told_plainly
from threadkeep.upstream.upstreams import Upstreams

State = Literal["ok", "warning", "problem"]

# The database and a day of growth fit; below, SQLite will soon refuse to write.
LITTLE_SPACE_BYTES = 512 * 1024**2
UPSTREAM_S = 10.0
# No running server has as many boxes: theirs and this one's never share a user.
SLOT = 50_000
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
    return [*findings, *await code_interpreter(settings)]


def _settings(settings: Settings) -> list[Finding]:
    given = ", ".join(f"{where} = {settings.shown(name)}" for name, where in settings.given.items())
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [
        Finding("ok", "version", f"Threadkeep {__version__}, Python {python}"),
        Finding("ok", "settings", given or "all have their defaults"),
    ]
    findings += [Finding("warning", "settings", warning) for warning in settings.warnings]
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


async def code_interpreter(settings: Settings) -> list[Finding]:
    """Whether code could run here: a box is really started and attacked, as a server does when it starts."""
    from threadkeep.app import tier_of  # noqa: PLC0415 - the server itself, for this alone

    subject = "code interpreter"
    if settings.code_interpreter == "off":
        return [Finding("ok", subject, f"off, by {settings.named_as('code_interpreter')}")]
    missing: State = "problem" if settings.code_interpreter == "on" else "warning"
    environment = await asyncio.to_thread(read_environment, settings.environment_place, settings.sandbox_packages)
    if environment is None:
        reason, mend = absence(settings.environment_place)
        will = " The next start of the server installs it." if settings.sandbox_install else ""
        findings = [Finding(missing, subject, f"{reason}. {mend}{will}")]
        if shutil.which("bwrap") is None:
            said = "bubblewrap (bwrap) is not installed"
            findings.append(Finding(missing, subject, f"{said}. {mend_for(said)}"))
        return findings
    tier = tier_of(settings, environment)
    off = await examine(tier, settings.limits, SLOT)
    if off is not None:
        return [Finding(missing, subject, f"{off.reason}. {off.mend}")]
    there = f"{len(environment.packages)} packages in {environment.folder}"
    return [Finding("ok", subject, f"{tier.name} isolates code, and nothing got out; {there}")]

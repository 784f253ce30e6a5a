"""Runs real clients against the server, each in its own environment, and prints what became of it.

./run clients                  all of them
./run clients openai-3.54 ag2  some
./run clients --record         all of them, and the table goes into docs/reference/compatibility.md
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import environments
from bootstrap import ROOT

sys.path.insert(0, str(ROOT))

from tests.clients.suite import CLIENTS, Client, Outcome, Step, isolates, run

PAGE = ROOT / "docs" / "reference" / "compatibility.md"
RECORD = re.compile(r"(?<=<!-- recorded -->\n).*(?=<!-- /recorded -->)", re.DOTALL)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="./run clients", description="Runs real clients against the server.")
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(client.name for client in CLIENTS))
    arguments.add_argument("--record", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    asked = arguments.parse_args()
    names: list[str] = asked.names
    if unknown := set(names) - {client.name for client in CLIENTS}:
        arguments.error(f"no client is called {', '.join(sorted(unknown))}")
    if asked.record and names:
        arguments.error("--record is about all of them")
    if asked.record and not isolates():
        arguments.error("--record is for a machine that runs code: see docs/how-to/code-interpreter.md, and ./test")
    done = [(client, attempt(client)) for client in CLIENTS if not names or client.name in names]
    print_table(done)
    if asked.record:
        PAGE.write_text(RECORD.sub(lambda _: record(done), PAGE.read_text("utf-8")), "utf-8")
    sys.exit(any(not outcome.is_good for _, outcome in done))


def attempt(client: Client) -> Outcome:
    print(f"{client.name} ...", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="clients-") as folder:
            outcome = run(client, Path(folder))
    except environments.NotInstalled as error:
        return Outcome((Step("failed", "installation", str(error)),), 0, str(error), False)
    if not outcome.is_good:
        print(outcome.shown, file=sys.stderr, flush=True)
    return outcome


def verdict(outcome: Outcome) -> str:
    good, bad = len(outcome.of("ok")), outcome.of("failed")
    said = f"{good} of {good} ok" if outcome.is_good else f"{good} ok, then failed"
    return f"{said}: {bad[0].what}" if bad else said


def versions(client: Client) -> str:
    return ", ".join(f"{package} {version}" for package, version in client.versions().items())


def print_table(done: Sequence[tuple[Client, Outcome]]) -> None:
    for client, outcome in done:
        print(f"\n{client.name}: {client.title} ({versions(client)}): {verdict(outcome)}, {outcome.took_s:.1f} s")
        for step in outcome.steps:
            print(f"  {step.result:<9} {step.what}{f' ({step.why})' if step.why else ''}")
    wide = max(len(client.name) for client, _ in done)
    print()
    for client, outcome in done:
        print(f"{client.name:<{wide}}  {versions(client):<58}  {verdict(outcome)}")


def record(done: Sequence[tuple[Client, Outcome]]) -> str:
    """The section of the page, in Markdown."""
    today = datetime.now(UTC).date().isoformat()
    lines = [f"Last run of all of them: {today}.\n", "| name | client | versions | result |", "|---|---|---|---|"]
    lines += [
        f"| `{client.name}` | {client.title} | {versions(client)} | {verdict(outcome)} |" for client, outcome in done
    ]
    lines.append("\n### What was run\n")
    told: set[tuple[str, ...]] = set()
    for _, outcome in done:
        did = tuple(step.what for step in outcome.of("ok"))
        if did in told:
            continue
        told.add(did)
        same = [c.name for c, o in done if tuple(step.what for step in o.of("ok")) == did]
        lines.append(f"{', '.join(f'`{name}`' for name in same)}:\n")
        lines += [f"* {what}" for what in did]
        lines += [f"* left out: {step.what} ({step.why})" for step in outcome.of("left out")]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()

"""Breaks servers under load, for as many rounds as asked for, and prints what became of all that they acknowledged.

./run chaos                                  20 rounds on SQLite and 20 on PostgreSQL
./run chaos --database postgres --rounds 5   some
./run chaos --seed 7                         another course; a failure prints the seed that leads there
./run chaos --blows kill,freeze              these in every round
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bootstrap import ROOT

sys.path.insert(0, str(ROOT))

from tests.chaos.campaign import Report, Terms, run_campaign
from tests.chaos.cluster import BLOWS, Kind


def main() -> None:
    arguments = argparse.ArgumentParser(prog="./run chaos", description="Breaks servers under load and counts.")
    arguments.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    arguments.add_argument("--rounds", type=int, default=20, help="on each database. Default: %(default)s")
    arguments.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="Default: of the clock")
    arguments.add_argument("--clients", type=int, default=16, help="how many work at once. Default: %(default)s")
    arguments.add_argument("--load-seconds", type=float, default=8.0, help="of a round. Default: %(default)s")
    arguments.add_argument(
        "--blows", help=f"the blows of every round, of {', '.join(BLOWS)}. Default: drawn by the seed"
    )
    arguments.add_argument("--keep", type=Path, help="a folder to leave data and logs in")
    arguments.add_argument("--go-on", action="store_true", help="also after a round in which something was wrong")
    asked = arguments.parse_args()
    blows = [asked.blows.split(",")] if asked.blows else None
    if blows and (unknown := set(blows[0]) - BLOWS.keys()):
        arguments.error(f"no blow is called {', '.join(sorted(unknown))}")
    kinds: list[Kind] = ["sqlite", "postgres"] if asked.database == "both" else [asked.database]
    reports: list[Report] = []
    for kind in kinds:
        terms = Terms(
            kind,
            asked.seed,
            asked.rounds,
            clients=asked.clients,
            blows=blows,
            load_s=asked.load_seconds,
            goes_on=asked.go_on,
        )
        print(f"{kind}: seed {terms.seed}", flush=True)
        if asked.keep is not None:
            folder: Path = asked.keep / f"{kind}-{terms.seed}"
            folder.mkdir(parents=True)
            reports.append(run_campaign(terms, folder, tell))
        else:
            with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
                reports.append(run_campaign(terms, Path(name), tell))
        print(reports[-1], flush=True)
    sys.exit(any(report.faults for report in reports))


def tell(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()

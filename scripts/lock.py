"""Writes locks/*.txt from pyproject.toml, and from the *.in beside each: locks/clients/*.txt and the sandbox's list.

They hold exact versions, the digests of every platform's files, and no index's name.

Requirement files and not uv.lock: pip reads them too, and they do not record which index answered. With the argument
--upgrade all versions move, without it only those that pyproject.toml asks for.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Shipped with the package: what code finds in the sandbox.
SANDBOX = ROOT / "src" / "threadkeep" / "sandbox" / "environment.in"
LOCKS = {
    "runtime": [],
    "dev": ["--group", "dev", "--constraint", "locks/runtime.txt"],
}


def main() -> None:
    uv = shutil.which("uv") or sys.exit("./run lock needs uv (pipx install uv).")
    asked_aside = [*sorted((ROOT / "locks" / "clients").glob("*.in")), SANDBOX]
    aside = {str(asked.with_suffix(".txt").relative_to(ROOT)): asked for asked in asked_aside}
    for lock, asked in {**{f"locks/{name}.txt": ROOT / "pyproject.toml" for name in LOCKS}, **aside}.items():
        # The oldest Python of requires-python; --universal keeps the markers for newer ones and other systems.
        fixed = [
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--only-binary",
            ":all:",
            "--no-header",
        ]
        command = [
            uv,
            "pip",
            "compile",
            "--quiet",
            asked.relative_to(ROOT),
            *LOCKS.get(Path(lock).stem, []),
            # What a client asks for and cannot have here, because there is no wheel.
            *(("--override", override) if (override := asked.with_suffix(".override")).exists() else ()),
            *fixed,
            *sys.argv[1:],
        ]
        subprocess.run([*command, "--output-file", lock], cwd=ROOT, check=True)
    for package in sorted((ROOT / "locks" / "clients").glob("*/package.json")):
        lock_node(package.parent)


def lock_node(folder: Path) -> None:
    """package-lock.json without the addresses that npm notes: digests are kept, so any registry will do."""
    npm = shutil.which("npm") or sys.exit("./run lock needs npm for the clients in Node.js.")
    options = [
        "--package-lock-only",
        "--ignore-scripts",
        "--omit-lockfile-registry-resolved",
        "--no-audit",
        "--no-fund",
    ]
    subprocess.run([npm, "install", "--silent", *options], cwd=folder, check=True)


if __name__ == "__main__":
    main()

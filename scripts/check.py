"""Every check that needs no running: format, lint, types, imports. All of them run, whatever the first one says."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CHECKS = {
    "format": ["ruff", "format", "--check"],
    "lint": ["ruff", "check"],
    "types": ["pyright"],
    "imports": ["lint-imports", "--no-logo"],
}


def main() -> None:
    # Without it pyright asks a registry whether there is a newer one.
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    failed: list[str] = []
    for name, (tool, *arguments) in CHECKS.items():
        print(f"== {name}: {tool} {' '.join(arguments)}", flush=True)
        if subprocess.run([TOOLS / tool, *arguments], cwd=ROOT, env=environment, check=False).returncode != 0:
            failed.append(name)
    print(f"== failed: {', '.join(failed)}" if failed else "== all checks passed", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

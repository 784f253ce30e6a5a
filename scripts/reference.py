"""Writes docs/reference/api.md: the API reference, from the server's own types. Run it after a change to them."""

from pathlib import Path

from threadkeep.api.reference import as_markdown
from threadkeep.api.routes import REFERENCE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "api.md"

if __name__ == "__main__":
    PAGE.write_text(as_markdown(REFERENCE.document()), encoding="utf-8")
    print(f"{PAGE} is up to date.")

from collections.abc import AsyncGenerator

import pytest

from threadkeep.search.parse import Parsers


@pytest.fixture
async def parsers() -> AsyncGenerator[Parsers, None]:
    parsers = Parsers()
    yield parsers
    await parsers.close()

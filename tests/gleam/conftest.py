"""One Ray for all tests of a session: starting it takes longer than most of them."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.gleam.ray_session import ROOT


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, which strategies find running and leave running."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    from gleam.parallel import session

    with pytest.MonkeyPatch.context() as patched:
        # Workers import these tests' helpers, wherever pytest was started.
        patched.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        assert session.start()
        try:
            yield
        finally:
            session.end()

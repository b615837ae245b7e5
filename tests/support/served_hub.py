"""A hub on loopback for other processes: `python -m tests.support.served_hub FOLDER [TOKEN]`.

It prints its address, and serves until its stdin ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.hub_server import HubServer


def main(folder: str, token: str | None = None) -> None:
    """Serve; with a token, only requests that have it may write."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with HubServer(Path(folder)) as hub:
        if token is not None:
            hub.add_token(token)
        print(hub.url, flush=True)  # noqa: T201 (the parent process waits for it)
        sys.stdin.read()
    assert not hub.errors, hub.errors[0]


if __name__ == "__main__":
    main(*sys.argv[1:])

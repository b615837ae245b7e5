"""The verbs about trust: `sign`, `keys add`, `keys list`, `keys remove`; what `verify` and `run` share with them.

The promise: a password is asked for on a terminal or taken from the environment, never from the command line, where
other users could see it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import npu_persist
from npu_persist.cli.output import format_table
from npu_persist.errors import UsageError
from npu_persist.trust.keys import KeyRing, find_public_key

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from npu_persist.cli.output import Output

PASSWORD_VARIABLE = "NPU_PERSIST_KEY_PASSWORD"  # noqa: S105 (its name)
"""Environment variable with the password of the private key that signs."""

ALL = "all"
"""What `--trust` takes for whatever is attached, wherever it came from."""


def run_sign(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist sign REF --key FILE`."""
    written = npu_persist.sign(
        arguments.reference, arguments.key, password=_ask_password(arguments.key), store=arguments.store
    )
    files = [str(path) for path in written]
    output.show({"signed": files}, "\n".join(f"signed {path}" for path in files))


def run_keys_add(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys add NAME KEY`."""
    key = find_public_key(arguments.key)
    _ring(arguments).add(arguments.name, key)
    output.show({"name": arguments.name, "key": key.hex}, f"{arguments.name} is {key.hex}")


def run_keys_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys list`."""
    ring = _ring(arguments)
    keys = ring.read()
    if not keys:
        output.note(f"no keys in {ring.path}")

    def text() -> str:
        if not keys:
            return ""
        header, *rows = format_table(["NAME", "KEY"], [[name, key.hex] for name, key in keys.items()])
        return "\n".join([output.heading(header), *rows])

    output.show([{"name": name, "key": key.hex} for name, key in keys.items()], text)


def run_keys_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys remove NAME`."""
    _ring(arguments).remove(arguments.name)
    output.show({"removed": arguments.name}, f"removed {arguments.name}")


def parse_trust(given: Sequence[str]) -> bool | tuple[str, ...] | None:
    """Return what `load` takes for what `--trust` was given."""
    if ALL in given:
        return True
    return tuple(given) or None


def _ring(arguments: argparse.Namespace) -> KeyRing:
    return KeyRing(npu_persist.Store(arguments.store).home)


def _ask_password(key: str) -> str | Callable[[], str]:
    from getpass import getpass

    def ask() -> str:
        if not sys.stdin.isatty():
            raise UsageError(
                f"{key}: it is encrypted, and no terminal to ask for the password; {PASSWORD_VARIABLE} gives it"
            )
        return getpass(f"password of {Path(key).name}: ", sys.stderr)

    return os.environ.get(PASSWORD_VARIABLE) or ask

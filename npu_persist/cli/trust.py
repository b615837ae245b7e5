"""The verbs about trust: `sign`, and `keys` with its verbs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import add_group, add_reference, add_verb
from npu_persist.cli.output import table
from npu_persist.errors import UsageError
from npu_persist.progress import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from npu_persist.cli.output import Output
    from npu_persist.trust.keys import KeyRing, PublicKey

PASSWORD_VARIABLE = "NPU_PERSIST_KEY_PASSWORD"  # noqa: S105 (its name)
"""Environment variable with the password of the private key. There is no option: other users could see it."""


def add_verbs(verbs: Any) -> None:
    """Add them."""
    add_sign(verbs)
    add_keys(verbs)


def add_sign(verbs: Any) -> None:
    """Add `sign`."""
    parser = add_verb(verbs, "sign", run_sign, "sign a bundle's manifest and every attached artifact")
    add_reference(parser)
    parser.add_argument(
        "--key",
        metavar="FILE",
        required=True,
        help="the private key, as `openssl genpkey -algorithm ed25519 -out FILE` makes it; its password is asked for, "
        f"or in {PASSWORD_VARIABLE}",
    )


def run_sign(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist sign REF --key FILE`."""
    password = os.environ.get(PASSWORD_VARIABLE) or _make_password_prompt(arguments.key)
    files = npu_persist.sign(arguments.reference, arguments.key, password=password, store=arguments.store)
    output.show({"signed": files}, lambda: [f"signed {path}" for path in files])


def _make_password_prompt(key: str) -> Callable[[], str]:
    from getpass import getpass
    from pathlib import Path

    def ask() -> str:
        if not sys.stdin.isatty():
            raise UsageError(
                f"{key} is encrypted, and there is no terminal to ask for the password; set {PASSWORD_VARIABLE}"
            )
        return getpass(f"password of {one_line(Path(key).name)}: ", sys.stderr)

    return ask


def add_keys(verbs: Any) -> None:
    """Add `keys` and its verbs."""
    verbs = add_group(verbs, "keys", "manage the known public keys; blobs signed by their owners may run on devices")
    parser = add_verb(verbs, "add", run_keys_add, "add a key")
    parser.add_argument("name", metavar="NAME", help="a name for the key's owner")
    parser.add_argument(
        "key",
        metavar="KEY",
        help="a PEM file (`openssl pkey -in PRIVATE -pubout`), OpenSSH's .pub file, or the key itself in hex",
    )
    parser.add_argument(
        "--for",
        dest="names",
        metavar="NAME",
        action="append",
        default=[],
        help="trust the key only for bundles of this name, or for a pattern such as 'acme-*'; may be repeated "
        "(default: all)",
    )
    parser.add_argument(
        "--for-repo",
        dest="repositories",
        metavar="REPO",
        action="append",
        default=[],
        help="trust the key only for bundles pulled from this repository, from a pattern such as 'acme/*' on "
        "Hugging Face's hub, or "
        "'https://hub.example.com/acme/*' on another hub; may be repeated (default: all, and bundles that were "
        "not pulled)",
    )
    add_verb(verbs, "list", run_keys_list, "list the known keys")
    parser = add_verb(verbs, "remove", run_keys_remove, "remove a key")
    parser.add_argument("name", metavar="NAME")


def run_keys_add(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys add NAME KEY`."""
    from npu_persist.trust.keys import PublicKey, Scope, describe_scope, find_public_key

    scope = Scope(tuple(arguments.names), tuple(arguments.repositories))
    key = PublicKey(find_public_key(arguments.key).raw, scope)
    _find_key_ring(arguments).add(arguments.name, key)
    output.show(_describe_key(arguments.name, key), f"{arguments.name} is {key.hex}{describe_scope(scope)}")


def run_keys_list(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys list`."""
    ring = _find_key_ring(arguments)
    keys = ring.read()
    if not keys:
        output.note(f"no keys in {ring.path}")
    output.show(
        [_describe_key(name, key) for name, key in keys.items()],
        lambda: table(
            ["NAME", "KEY", "FOR"],
            [[name, key.hex, ", ".join(key.scope.patterns) or "all"] for name, key in keys.items()],
        ),
    )


def _describe_key(name: str, key: PublicKey) -> dict[str, object]:
    scope = key.scope
    return {"name": name, "key": key.hex, "for": list(scope.names), "for_repo": list(scope.repositories)}


def run_keys_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist keys remove NAME`."""
    _find_key_ring(arguments).remove(arguments.name)
    output.show({"removed": arguments.name}, f"removed {arguments.name}")


def _find_key_ring(arguments: argparse.Namespace) -> KeyRing:
    from npu_persist.trust.keys import KeyRing

    return KeyRing(npu_persist.Store(arguments.store).home)

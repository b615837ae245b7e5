"""The grammar of the verbs that keep, sign and send bundles, and of those with verbs of their own."""

from __future__ import annotations

from typing import Any

from npu_persist.cli.verb import REFERENCE, add_verb


def add_store_verbs(verbs: Any) -> None:
    """Add them."""
    _add_keeping(verbs)
    _add_trust(verbs)
    _add_layout(verbs)
    _add_push(verbs)
    _add_pull(verbs)
    _add_cache(verbs)
    _add_toolchain(verbs)


def _add_keeping(verbs: Any) -> None:
    parser = add_verb(verbs, "tag", "store:run_tag", "point an alias to a version, or remove an alias")
    parser.add_argument("reference", metavar="REF", help="the version; with --remove NAME:ALIAS")
    parser.add_argument("alias", metavar="ALIAS", nargs="?")
    parser.add_argument("--remove", action="store_true", help="remove the alias")
    parser = add_verb(verbs, "verify", "store:run_verify", "compare every byte with the manifest")
    parser.add_argument(
        "reference", metavar="REF", nargs="?", help=f"{REFERENCE} (default: every version in the store)"
    )
    signed = parser.add_mutually_exclusive_group()
    signed.add_argument(
        "--signed", action="store_true", help="and that a known key signed the manifest and what is attached"
    )
    signed.add_argument("--key", metavar="KEY", help="and that this public key did: a file, or the key itself")
    parser = add_verb(verbs, "remove", "store:run_remove", "remove a version from the store")
    parser.add_argument("reference", metavar="REF", help="the version: unet:3, unet:prod or unet@<digest prefix>")
    parser.add_argument("--force", action="store_true", help="and the aliases that point to it")
    add_verb(verbs, "prune", "store:run_prune", "remove what interrupted runs left in the store and the compile cache")


def _add_push(verbs: Any) -> None:
    parser = add_verb(verbs, "push", "push:run_push", "send a bundle to a repository on the hub, in one commit")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    parser.add_argument("repo", metavar="REPO", help="the repository: org/unet; made if it is missing")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch; made if it is missing (default: main)")
    parser.add_argument("--tag", help="for the commit (default: v3 for version 3)")
    parser.add_argument("--message", help="of the commit (default: the bundle and its digest)")
    parser.add_argument("--private", action="store_const", const=True, help="make a new repository private")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request; no branch changes")
    parser.add_argument("--no-compiled", dest="compiled", action="store_false", help="without attached artifacts")


def _add_pull(verbs: Any) -> None:
    parser = add_verb(verbs, "pull", "pull:run_pull", "bring a bundle from a repository on the hub into the store")
    parser.add_argument("repo", metavar="REPO", help="org/unet, hf://org/unet@v3 or hf://org/unet@v3#<digest>")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the default branch)")
    of_what = parser.add_mutually_exclusive_group()
    of_what.add_argument(
        "--device", metavar="D", help="with the artifacts that may run on this device (default: on any that is here)"
    )
    of_what.add_argument("--target", metavar="T", help="with those that may run on another machine's: NPU:4000")
    of_what.add_argument("--all", dest="compiled", action="store_const", const="all", help="with all artifacts")
    of_what.add_argument("--no-compiled", dest="compiled", action="store_const", const="none", help="without any")
    parser.set_defaults(compiled="fitting")
    parser.add_argument("--alias", help="point this alias to the version")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show files and bytes")


def _add_trust(verbs: Any) -> None:
    parser = add_verb(verbs, "sign", "trust:run_sign", "sign a bundle's manifest and everything that is attached to it")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    parser.add_argument(
        "--key",
        metavar="FILE",
        required=True,
        help="the private key, such as `openssl genpkey -algorithm ed25519 -out FILE` makes; its password is asked "
        "for, or in NPU_PERSIST_KEY_PASSWORD",
    )
    text = "look after the public keys that are known here: devices run what their owners signed"
    keys = verbs.add_parser("keys", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    parser = add_verb(verbs, "add", "trust:run_keys_add", "make a key known")
    parser.add_argument("name", metavar="NAME", help="what to call its owner")
    parser.add_argument(
        "key",
        metavar="KEY",
        help="a PEM file (`openssl pkey -in PRIVATE -pubout`), OpenSSH's .pub file, or the key itself in hex",
    )
    add_verb(verbs, "list", "trust:run_keys_list", "list the keys that are known")
    parser = add_verb(verbs, "remove", "trust:run_keys_remove", "forget a key")
    parser.add_argument("name", metavar="NAME")


def _add_layout(verbs: Any) -> None:
    parser = add_verb(verbs, "export", "layout:run_export", "write a bundle as a folder that OpenVINO's own tools read")
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    parser.add_argument("directory", metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--layout",
        choices=["openvino", "ovms", "genai"],
        default="openvino",
        help="openvino: model.xml and model.bin; ovms: the same in DIR/1, as OpenVINO Model Server wants them; genai: "
        "openvino_model.xml and .bin, for a part of an OpenVINO GenAI pipeline (default: openvino)",
    )
    parser.add_argument("--graph", metavar="NAME", help="one of the bundle's graphs, where there are several")


def _add_cache(verbs: Any) -> None:
    text = "look after the compile cache: what this machine's devices compiled, which may be removed at any time"
    cache = verbs.add_parser("cache", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = cache.add_subparsers(metavar="VERB", required=True)
    add_verb(verbs, "list", "cache:run_list", "list what is compiled here: bundle, device, size, last use")
    parser = add_verb(verbs, "verify", "cache:run_verify", "compare every byte with its digest")
    parser.add_argument("--repair", action="store_true", help="put damaged entries aside; they are compiled again")
    parser = add_verb(
        verbs, "prune", "cache:run_prune", "remove entries that are not in use, the least recently used first"
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        help="until so much is left: 5GB; 0 removes all (default: NPU_PERSIST_CACHE_QUOTA)",
    )
    parser.add_argument("--older-than", metavar="AGE", help="what was not used for so long: 30d, 12h")
    parser.add_argument("--device", help="only what was compiled for this device, all of it by default: NPU")
    key = "first digits of a key, or " + REFERENCE
    parser = add_verb(verbs, "export", "cache:run_export", "copy an entry to a folder, for an identical machine")
    parser.add_argument("entry", metavar="KEY|REF", help=key)
    parser.add_argument("directory", metavar="DIR", help="the folder to make")
    parser = add_verb(
        verbs,
        "import",
        "cache:run_import",
        "take in an exported entry; a device runs what is in it, so import only what you trust",
    )
    parser.add_argument("directory", metavar="DIR", help="what `cache export` made")


def _add_toolchain(verbs: Any) -> None:
    text = "look after what compiles for an NPU that is not in this machine"
    toolchain = verbs.add_parser("toolchain", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = toolchain.add_subparsers(metavar="VERB", required=True)
    add_verb(
        verbs,
        "install",
        "toolchain:run_install",
        "install the NPU compiler of OpenVINO's Windows wheel under wine: NPU_PERSIST_TOOLCHAINS, or the store's home",
    )
    add_verb(verbs, "list", "toolchain:run_list", "list the toolchains, and what each lacks")
    parser = add_verb(
        verbs, "remove", "toolchain:run_remove", "remove what was installed, and what interrupted runs left"
    )
    parser.add_argument("version", metavar="VERSION", nargs="?", help="OpenVINO's version (default: all)")
    parser = add_verb(verbs, "check", "toolchain:run_check", "compare every byte, and compile one operation")
    parser.add_argument("name", metavar="NAME", nargs="?", help="plugin, libraries or wine (default: all usable ones)")

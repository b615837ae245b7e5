"""The verbs that need a store and nothing else, as functions of the front door.

The promise: each is one call of `Store`, on the default store unless another is given, and `prune` one more of its
compile cache, `sign` and `verify_signature` of its bundle's signatures; none imports numpy, openvino or torch, but
`compatibility` where a device of this machine is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.store import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from npu_persist.artifact.compatibility import Compatibility
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.device.machine import Machine
    from npu_persist.store import Entry
    from npu_persist.trust.signing import Signed

    AnyStore = Store | str | os.PathLike[str] | None


def open_store(store: AnyStore = None) -> Store:
    """Return `store` itself, the store in that directory, or the default one."""
    return store if isinstance(store, Store) else Store(store)


def inspect(reference: str | os.PathLike[str], *, store: AnyStore = None) -> Bundle:
    """Open a bundle: its manifest is read and checked, its other files are not.

    Raises:
        BundleNotFoundError: There is no such bundle.
        ManifestError: Its manifest is damaged.
        FormatVersionError: It is of a format that this version does not read.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-inspect", (torch.zeros(1, 4),))
        >>> bundle = npu_persist.inspect("doc-inspect")
        >>> bundle.reference, bundle.graph().inputs[0].shape
        ('doc-inspect:1', (1, 4))
    """
    return open_store(store).resolve(reference)


def list_bundles(name: str | None = None, *, store: AnyStore = None) -> Sequence[Entry]:
    """Return what is in the store, by name and version: `npu_persist.list`.

    Args:
        name: Only the versions of this name.
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no bundle of that name.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-list", (torch.zeros(1, 4),), alias="prod")
        >>> [(entry.reference, entry.aliases) for entry in npu_persist.list("doc-list")]
        [('doc-list:1', ('prod',))]
    """
    return open_store(store).list(name)


def tag(reference: str, alias: str, *, store: AnyStore = None) -> str:
    """Let an alias point to a version, in one step, and return the version's reference.

    Raises:
        BundleNotFoundError: There is no such bundle.
        InvalidNameError: The alias is not valid.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-tag", (torch.zeros(1, 4),))
        >>> npu_persist.tag("doc-tag:1", "prod")
        'doc-tag:1'
        >>> npu_persist.inspect("doc-tag:prod").version
        1
    """
    return open_store(store).tag(reference, alias)


def verify(reference: str | os.PathLike[str] | None = None, *, store: AnyStore = None) -> None:
    """Read every byte of a bundle, or of all bundles in the store, and compare it with the manifest.

    Raises:
        IntegrityError: The first thing that is not as it was persisted.

    Example:
        >>> import torch, npu_persist
        >>> bundle = npu_persist.persist(torch.nn.Linear(4, 2), "doc-verify", (torch.zeros(1, 4),))
        >>> npu_persist.verify("doc-verify")
        >>> (bundle.path / "golden.safetensors").unlink()
        >>> npu_persist.verify("doc-verify")
        Traceback (most recent call last):
        ...
        npu_persist.errors.FileIntegrityError: ...golden.safetensors: expected a regular file, got nothing...
    """
    open_store(store).verify(reference)


def sign(
    reference: str | os.PathLike[str],
    key: str | os.PathLike[str],
    *,
    password: str | Callable[[], str] | None = None,
    store: AnyStore = None,
) -> tuple[Path, ...]:
    """Sign a bundle's manifest and everything that is attached to it, after every byte was compared.

    The signatures lie beside what they are for. They are no part of the bundle, whose digest stays, and travel with it.
    Whoever signs vouches for what is attached, too: devices run it where the key is known.

    Args:
        reference: The bundle.
        key: File of an Ed25519 private key: `openssl genpkey -algorithm ed25519 -out FILE` makes one.
        password: What the key is encrypted with, or what asks for it, called only if it is.
        store: A store, its directory, or None for the default one.

    Returns:
        The files with signatures.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IntegrityError: Something is not as it was persisted or compiled.
        MissingExtraError: The package `cryptography` is not installed.
        NotFoundError, UsageError: The file is not there, is no such key, or the password does not fit.
        StoreError: The file system refuses.

    Example:
        >>> import pathlib, tempfile, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-sign", (torch.zeros(1, 4),))
        >>> key = pathlib.Path(tempfile.mkdtemp()) / "key.pem"
        >>> lines = "-----BEGIN PRIVATE KEY-----", "MC4CAQAwBQYDK2VwBCIEI" + 43 * "A", "-----END PRIVATE KEY-----"
        >>> _ = key.write_text(chr(10).join(lines))  # of nobody: 32 zeros
        >>> [path.name for path in npu_persist.sign("doc-sign", key)]
        ['manifest.json.sig']
    """
    from pathlib import Path

    from npu_persist.trust.keys import read_private_key
    from npu_persist.trust.signing import sign_bundle

    private = read_private_key(Path(key), password)
    chosen = open_store(store)
    chosen.verify(reference)
    return tuple(sign_bundle(chosen.resolve(reference), private))


def verify_signature(
    reference: str | os.PathLike[str], key: str | os.PathLike[str] | None = None, *, store: AnyStore = None
) -> tuple[Signed, ...]:
    """Check that a bundle's manifest and what is attached to it are signed; the files themselves are not read.

    In a bundle that was pulled, what was compiled here after that needs no signature.

    Args:
        reference: The bundle.
        key: The public key that must have signed: a file, or the key as text. None: any key that is known here.
        store: A store, its directory, or None for the default one.

    Returns:
        The file of each signature, with the name of its signer; where `key` is given, that key in hex.

    Raises:
        BundleNotFoundError: There is no such bundle.
        SignatureError: The first thing that is not signed by such a key.
        MissingExtraError: The package `cryptography` is not installed.
        NotFoundError, UsageError: The file is not there, or is no public key.
        StoreError: Something cannot be read.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-signature", (torch.zeros(1, 4),))
        >>> npu_persist.verify_signature("doc-signature")
        Traceback (most recent call last):
        ...
        npu_persist.errors.SignatureError: ...manifest.json.sig: expected a signature, got nothing: it is not signed
    """
    from npu_persist.trust.keys import KeyRing, find_public_key
    from npu_persist.trust.signing import check_bundle

    chosen = open_store(store)
    if key is None:
        keys = KeyRing(chosen.home).read()
    else:
        public = find_public_key(key)
        keys = {public.hex: public}
    return tuple(check_bundle(chosen.resolve(reference), keys))


def remove(reference: str, *, force: bool = False, store: AnyStore = None) -> str:
    """Remove a version from the store and return its reference.

    Args:
        reference: Says which version: by number, alias or digest, not by the name alone.
        force: Remove the aliases that point to it as well.
        store: A store, its directory, or None for the default one.

    Raises:
        UsageError: The reference names no version, or an alias points to it and `force` is not given.
        BundleNotFoundError: There is no such bundle.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-remove", (torch.zeros(1, 4),))
        >>> npu_persist.remove("doc-remove:1")
        'doc-remove:1'
    """
    return open_store(store).remove(reference, force=force)


def prune(*, store: AnyStore = None) -> Sequence[Path]:
    """Remove what interrupted runs left in the store and the compile cache, and return what was removed.

    Versions and compiled artifacts stay; damaged artifacts that were put aside do not.

    Example:
        >>> import npu_persist
        >>> len(npu_persist.prune())
        0
    """
    from npu_persist.cache import CompileCache

    chosen = open_store(store)
    return [*chosen.prune(), *(removed.path for removed in CompileCache(chosen.home).sweep())]


def compatibility(
    reference: str | os.PathLike[str], device: str | Machine, *, store: AnyStore = None
) -> tuple[Compatibility, ...]:
    """Tell of each artifact that is attached to a bundle whether it runs on a machine, and why.

    Read are `artifact.json` and the ends of the blob, if that is there: neither the blob's payload nor the graph.

    Args:
        reference: As for `load`.
        device: OpenVINO's string for a device of this machine: "NPU"; a target, for a machine of which only that is
            known: "NPU:4000" or "lunar-lake"; or a `Machine`.
        store: A store, its directory, or None for the default one.

    Returns:
        One entry for each artifact, those that are damaged among them; empty if there are none.

    Raises:
        BundleNotFoundError: The reference leads nowhere.
        TargetError: `device` is neither a device nor a target.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-compatibility", (torch.zeros(1, 4),))
        >>> npu_persist.compatibility("doc-compatibility", "NPU:4000")
        ()
    """
    from npu_persist.artifact.compatibility import check_all_attached

    machine = find_machine(device)
    return check_all_attached(open_store(store).resolve(reference), machine)


def find_machine(device: str | Machine) -> Machine:
    """Return the machine that a device of this one, a target or a description means.

    Raises:
        TargetError: It is none of them.
    """
    from npu_persist.artifact.target import parse_target
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import VIRTUAL, check_device, get_kind
    from npu_persist.device.machine import Machine, describe_machine, describe_other

    if isinstance(device, Machine):
        return device
    if get_kind(str(device)) in VIRTUAL:
        check_device(get_core(), device)
        return describe_machine(get_core(), device)
    target = parse_target(device)
    if target.platform is None:
        return describe_machine(get_core(), target.device)
    return describe_other(target.device, target.platform)

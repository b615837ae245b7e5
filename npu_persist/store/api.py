"""The public functions that need only a store: open, list, alias, verify, sign, remove, prune, compatibility.

None imports numpy, openvino or torch, except `weights` and `compatibility` with a device of this machine.
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
    from npu_persist.bundle.tensors import Tensors
    from npu_persist.device.machine import Machine
    from npu_persist.store import StoredBundle
    from npu_persist.trust.signing import Signed

    AnyStore = Store | str | os.PathLike[str] | None


def open_store(store: AnyStore = None) -> Store:
    """Return `store` itself, the store in that directory, or the default one."""
    return store if isinstance(store, Store) else Store(store)


def open_bundle(reference: str | os.PathLike[str], *, store: AnyStore = None) -> Bundle:
    """Open the bundle at a reference: `npu_persist.open`. Its manifest is checked; its files are not read.

    Args:
        reference: `unet` (the newest version), `unet:3`, `unet:prod` (an alias), `unet@<digest prefix>` or the path of
            a bundle's directory.
        store: A store, its directory, or None for the default one.

    Raises:
        ReferenceFormatError: Malformed reference.
        BundleNotFoundError: There is no such bundle.
        AmbiguousReferenceError: The digests of several bundles start with the prefix.
        ManifestError: Its manifest is damaged.
        FormatVersionError: This version of npu_persist does not read its format.
        UsageError: The reference names a repository on the hub: `pull` or `load` it.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-open", (torch.zeros(1, 4),))
        >>> bundle = npu_persist.open("doc-open")
        >>> bundle.reference, bundle.graph().inputs[0].shape
        ('doc-open:1', (1, 4))
    """
    return open_store(store).resolve(reference)


def list_bundles(name: str | None = None, *, store: AnyStore = None) -> Sequence[StoredBundle]:
    """Return the bundles in the store, by name and version: `npu_persist.list`. Damaged versions are included.

    Args:
        name: Only the versions of this name.
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no bundle of that name.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-list", (torch.zeros(1, 4),), alias="prod")
        >>> [(found.reference, found.aliases) for found in npu_persist.list("doc-list")]
        [('doc-list:1', ('prod',))]
    """
    return open_store(store).list(name)


def alias(reference: str | os.PathLike[str], name: str, *, store: AnyStore = None) -> str:
    """Point an alias to a version, atomically, and return the version's reference.

    Args:
        reference: The version. An existing alias is moved.
        name: The alias, such as "prod".
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no such bundle.
        InvalidNameError: The alias is not valid, or differs from another only in case.
        StoreError: The file system reports an error.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-alias", (torch.zeros(1, 4),))
        >>> npu_persist.alias("doc-alias:1", "prod")
        'doc-alias:1'
        >>> npu_persist.open("doc-alias:prod").version
        1
    """
    return open_store(store).alias(reference, name)


def unalias(name: str, alias: str, *, store: AnyStore = None) -> None:
    """Remove an alias; the version that it points to stays.

    Args:
        name: The bundle's name.
        alias: The alias.
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no such alias.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-unalias", (torch.zeros(1, 4),), alias="prod")
        >>> npu_persist.unalias("doc-unalias", "prod")
        >>> npu_persist.Store().aliases("doc-unalias")
        {}
    """
    open_store(store).unalias(name, alias)


def verify(reference: str | os.PathLike[str] | None = None, *, store: AnyStore = None) -> None:
    """Compare every byte of a bundle, or of all bundles in the store, with its manifest.

    Artifacts that are attached to it are compared with their `artifact.json`.

    Args:
        reference: The bundle; None for all.
        store: A store, its directory, or None for the default one.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IntegrityError: The first difference.

    Example:
        >>> import torch, npu_persist
        >>> bundle = npu_persist.persist(torch.nn.Linear(4, 2), "doc-verify", (torch.zeros(1, 4),))
        >>> npu_persist.verify("doc-verify")
        >>> (bundle.path / "golden.safetensors").unlink()
        >>> npu_persist.verify("doc-verify")
        Traceback (most recent call last):
        ...
        npu_persist.errors.FileIntegrityError: ...golden.safetensors: expected a regular file; got nothing...
    """
    open_store(store).verify(reference)


def weights(reference: str | os.PathLike[str], *, store: AnyStore = None) -> Tensors:
    """Return a bundle's tensors by their names in the module's state_dict, after comparing the file with the manifest.

    Each is read on access, in its stored type; int8, int4 and bfloat16 as float32. Tensors that OpenVINO leaves out,
    such as scales that are all ones, are missing.

    Args:
        reference: The bundle.
        store: A store, its directory, or None for the default one.

    Returns:
        A mapping of the tensors; its `precision(name)` returns how one is stored: "int8", "int4" or a type such as
        "F16".

    Raises:
        BundleNotFoundError: There is no such bundle.
        IntegrityError: The weights are not those of the manifest.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-weights", (torch.zeros(1, 4),), precision="int8")
        >>> tensors = npu_persist.weights("doc-weights")
        >>> [*tensors], tensors["weight"].shape, tensors.precision("weight")
        (['bias', 'weight'], (2, 4), 'int8')
    """
    from npu_persist.bundle.tensors import Tensors
    from npu_persist.bundle.verification import Verification

    bundle = open_bundle(reference, store=store)
    with Verification("full") as verification:
        path = bundle.manifest.weights.path
        verification.start(bundle.path / path, bundle.manifest.files[path])
        verification.finish()
    return Tensors(bundle.path / path, constants=False)


def sign(
    reference: str | os.PathLike[str],
    key: str | os.PathLike[str],
    *,
    password: str | Callable[[], str] | None = None,
    store: AnyStore = None,
) -> tuple[Path, ...]:
    """Verify a bundle, then sign its manifest and the artifacts that are attached to it.

    Signatures are files beside what they sign; the bundle's digest stays, and `push` uploads them. Machines that know
    the key run the attached artifacts: sign only what you trust.

    Args:
        reference: The bundle.
        key: File of an Ed25519 private key: `openssl genpkey -algorithm ed25519 -out FILE` makes one.
        password: Of an encrypted key, or a function that asks for it, called only if the key is encrypted.
        store: A store, its directory, or None for the default one.

    Returns:
        The signature files.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IntegrityError: A file differs from the manifest or its `artifact.json`.
        MissingExtraError: The package `cryptography` is not installed.
        NotFoundError: There is no key file.
        UsageError: The file is no Ed25519 private key, or the password is wrong.
        StoreError: The file system reports an error.

    Example:
        >>> import pathlib, tempfile, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-sign", (torch.zeros(1, 4),))
        >>> key = pathlib.Path(tempfile.mkdtemp()) / "key.pem"
        >>> lines = "-----BEGIN PRIVATE KEY-----", "MC4CAQAwBQYDK2VwBCIEI" + 43 * "A", "-----END PRIVATE KEY-----"
        >>> _ = key.write_text(chr(10).join(lines))  # an example key: 32 zeros
        >>> [path.name for path in npu_persist.sign("doc-sign", key)]
        ['manifest.json.sig']
    """
    from pathlib import Path

    from npu_persist.artifact.attached import verify_attached
    from npu_persist.trust.keys import read_private_key
    from npu_persist.trust.signing import sign_bundle

    private = read_private_key(Path(key), password)
    bundle = open_store(store).resolve(reference)  # once: a version that is published meanwhile is another bundle
    bundle.verify()
    verify_attached(bundle)
    return tuple(sign_bundle(bundle, private))


def verify_signature(
    reference: str | os.PathLike[str], key: str | os.PathLike[str] | None = None, *, store: AnyStore = None
) -> tuple[Signed, ...]:
    """Check the signatures of a bundle's manifest and attached artifacts. Files are not read: `verify` does that.

    In a pulled bundle, artifacts that were compiled here later need no signature.

    Args:
        reference: The bundle.
        key: The public key that must have signed: a file, or the key as text. None: any key that this store trusts.
        store: A store, its directory, or None for the default one.

    Returns:
        Each signature's file and signer: the name of the trusted key, or `key` in hex.

    Raises:
        BundleNotFoundError: There is no such bundle.
        SignatureError: The first file without a signature by such a key.
        MissingExtraError: The package `cryptography` is not installed.
        NotFoundError: There is no key file.
        UsageError: It is no public key.
        StoreError: A signature cannot be read.

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
    """Remove a version from the store and return its reference. Files shared with other versions stay with them.

    Args:
        reference: The version, by number, alias or digest; the name alone is not enough.
        force: Also remove the aliases that point to it.
        store: A store, its directory, or None for the default one.

    Raises:
        UsageError: The reference names no version, or an alias points to it and `force` is False.
        BundleNotFoundError: There is no such bundle.
        StoreError: The file system reports an error.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-remove", (torch.zeros(1, 4),))
        >>> npu_persist.remove("doc-remove:1")
        'doc-remove:1'
    """
    return open_store(store).remove(reference, force=force)


def prune(*, store: AnyStore = None) -> Sequence[Path]:
    """Remove what interrupted runs left behind in the store and the compile cache, and return the removed paths.

    Versions and compiled artifacts stay; quarantined artifacts do not.

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
    """Tell for each artifact attached to a bundle whether a machine can run it, and why.

    Reads `artifact.json` and the ends of the blob, not its payload or the graph.

    Args:
        reference: The bundle.
        device: A device of this machine: "NPU"; a target, if nothing else is known of the machine: "NPU:4000" or
            "lunar-lake"; or a `Machine`.
        store: A store, its directory, or None for the default one.

    Returns:
        One entry for each artifact, damaged ones included; empty if there are none.

    Raises:
        BundleNotFoundError: There is no such bundle.
        TargetError: `device` is neither a device nor a target.

    Example:
        >>> import torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-compatibility", (torch.zeros(1, 4),))
        >>> npu_persist.compatibility("doc-compatibility", "NPU:4000")
        ()
    """
    from npu_persist.artifact.compatibility import check_all_attached
    from npu_persist.artifact.target import find_machine

    machine = find_machine(device)
    return check_all_attached(open_store(store).resolve(reference), machine)

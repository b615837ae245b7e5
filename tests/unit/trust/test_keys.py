from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.errors import (
    FileIntegrityError,
    InvalidNameError,
    MissingExtraError,
    NotFoundError,
    StoreError,
    UsageError,
)
from npu_persist.trust.keys import (
    KeyRing,
    PublicKey,
    parse_public_key,
    public_key_of,
    read_private_key,
    read_public_key,
)
from tests.support.processes import run_python
from tests.support.signers import know, private_key, public_key, write_private_key

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def test_openssl_and_openssh_write_the_same_key() -> None:
    theirs = private_key("ada").public_key()
    ours = public_key("ada")
    pem = theirs.public_bytes(serialization.Encoding.PEM, PUBLIC)
    ssh = theirs.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert ours.to_pem() == pem
    for text in (
        pem.decode(),
        pem.decode().replace("\n", "\r\n"),
        f"\n{ssh.decode()} ada@host of the lab\n",
        ssh.decode(),
    ):
        assert parse_public_key(text) == ours
    assert parse_public_key(f" {ours.hex.upper()}\n") == ours


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "00" * 31,
        "zz" * 32,
        "ssh-ed25519 AAAA",
        "ssh-ed25519 AAAAC3NzaC1yc2EAAAAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB",
        "-----BEGIN PUBLIC KEY-----\n=\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
        x25519.X25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, PUBLIC).decode(),
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(serialization.Encoding.PEM, PUBLIC).decode(),
    ],
)
def test_what_is_no_ed25519_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a PEM file with an Ed25519 public key"):
        parse_public_key(text)


@given(st.text(max_size=200))
def test_any_other_text_is_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert len(parse_public_key(text).raw) == 32


@given(st.binary(min_size=32, max_size=32))
def test_every_key_comes_back(raw: bytes) -> None:
    assert parse_public_key(PublicKey(raw).to_pem().decode()) == PublicKey(raw)


def test_a_private_key_is_no_key_to_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a private key"):
        read_public_key(write_private_key(tmp_path, "ada"))


def test_a_large_file_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b" " * 100_000)
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        read_public_key(tmp_path / "large")


class TestKeyRing:
    def test_keys_are_known_by_name(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path / "home")
        assert ring.read() == {}
        know(tmp_path / "home", "bob", "ada")
        assert list(ring.read().items()) == [("ada", public_key("ada")), ("bob", public_key("bob"))]
        assert (ring.path / "ada.pem").read_bytes() == public_key("ada").to_pem()
        ring.remove("ada")
        assert list(ring.read()) == ["bob"]
        assert [path.name for path in ring.path.iterdir()] == ["bob.pem"]

    def test_the_same_key_again_is_fine_another_is_not(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path)
        for _ in range(2):
            ring.add("ada", public_key("ada"))
        for name in ("ada", "Ada"):
            with pytest.raises(InvalidNameError, match="there is a key 'ada' already"):
                ring.add(name, public_key("mallory"))
        assert ring.read() == {"ada": public_key("ada")}

    @pytest.mark.parametrize("name", ["", "../ada", "a/b", "aux", ".ada", "a b"])
    def test_names_are_portable(self, tmp_path: Path, name: str) -> None:
        ring = KeyRing(tmp_path)
        with pytest.raises(InvalidNameError):
            ring.add(name, public_key("ada"))
        with pytest.raises(InvalidNameError):
            ring.remove(name)

    def test_what_is_not_there_cannot_be_removed(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="there is no key 'ada'"):
            KeyRing(tmp_path).remove("ada")

    def test_a_file_that_is_no_key_is_an_error_until_it_is_removed(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path)
        know(tmp_path, "ada")
        (ring.path / "bob.pem").write_text("a key\n")
        with pytest.raises(FileIntegrityError, match=r"bob\.pem: expected a PEM .* keys remove bob"):
            ring.read()
        ring.remove("bob")
        assert list(ring.read()) == ["ada"]

    def test_other_files_are_none_of_it(self, tmp_path: Path) -> None:
        know(tmp_path, "ada")
        (tmp_path / "keys" / "README").write_text("who is who\n")
        (tmp_path / "keys" / ".bob.0123").write_text("an interrupted add\n")
        assert list(KeyRing(tmp_path).read()) == ["ada"]

    def test_a_file_in_the_place_of_the_folder_is_a_store_error(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("")
        with pytest.raises(StoreError):
            KeyRing(tmp_path).read()
        with pytest.raises(StoreError):
            KeyRing(tmp_path).add("ada", public_key("ada"))

    def test_it_needs_no_package(self, tmp_path: Path) -> None:
        key = public_key("ada").hex
        code = f"""
import sys
from pathlib import Path
sys.modules["cryptography"] = None
from npu_persist.trust.keys import KeyRing, parse_public_key
ring = KeyRing(Path({str(tmp_path)!r}))
ring.add("ada", parse_public_key({key!r}))
assert ring.read()["ada"].hex == {key!r}
"""
        done = run_python("-c", code)
        assert done.returncode == 0, done.stderr


class TestPrivateKey:
    @pytest.mark.parametrize("password", [None, "secret"])
    def test_it_is_read(self, tmp_path: Path, password: str | None) -> None:
        key = read_private_key(write_private_key(tmp_path, "ada", password), password)
        assert public_key_of(key) == public_key("ada")

    def test_openssh_s_format_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "id_ed25519"
        path.write_bytes(
            private_key("ada").private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        assert public_key_of(read_private_key(path)) == public_key("ada")

    @pytest.mark.parametrize(
        ("written", "given", "problem"),
        [
            ("secret", None, "the key is encrypted, but no password was given"),
            ("secret", "Secret", "and its password"),
            (None, "secret", "the key is not encrypted"),
        ],
    )
    def test_the_password_has_to_fit(
        self, tmp_path: Path, written: str | None, given: str | None, problem: str
    ) -> None:
        with pytest.raises(UsageError, match=problem):
            read_private_key(write_private_key(tmp_path, "ada", written), given)

    @pytest.mark.parametrize("data", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
    def test_what_is_none_is_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "key").write_bytes(data)
        with pytest.raises(UsageError, match="expected an Ed25519 private key"):
            read_private_key(tmp_path / "key")

    def test_another_algorithm_is_refused(self, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / "key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(UsageError, match=r"got a .*EllipticCurve|got a EC"):
            read_private_key(tmp_path / "key")

    def test_a_missing_file_says_how_to_make_one(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="openssl genpkey -algorithm ed25519"):
            read_private_key(tmp_path / "key")

    def test_without_the_package_the_error_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_private_key(tmp_path, "ada")
        monkeypatch.setitem(sys.modules, "cryptography", None)
        with pytest.raises(MissingExtraError, match=r"npu_persist\[sign\]") as caught:
            read_private_key(path)
        assert (caught.value.extra, caught.value.name) == ("sign", "cryptography")

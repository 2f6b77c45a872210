"""Signatures of versions by OpenSSF's model-signing: an in-toto statement over every file, in a Sigstore bundle.

The library is an extra (``pip install llamafarm_ray[signing]``) and imported when a signature is made or checked.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llamafarm_ray.errors import InputError, IntegrityError, PolicyError, UnsupportedError
from llamafarm_ray.types import Digest

if TYPE_CHECKING:
    from llamafarm_ray.registry.commands import Sign
    from llamafarm_ray.registry.state import RegistryState, VersionRecord
    from llamafarm_ray.storage import ContentStore

__all__ = ["Signature", "check", "check_policies", "key_digest", "sign", "signed_files", "verify"]


@dataclass(frozen=True, slots=True)
class Signature:
    """A Sigstore bundle (JSON), and the public key (PEM) that verifies it."""

    bundle: bytes
    public_key: str


def sign(folder: Path, private_key: Path, password: str | None = None) -> Signature:
    """Sign every file of a folder.

    Args:
        folder: a pulled version.
        private_key: PEM file with an elliptic curve key (P-256, P-384 or P-521).

    Raises:
        InputError: there is no such key in the file, or the password is wrong.
        UnsupportedError: model-signing is not installed.
    """
    library = _library()
    from cryptography.hazmat.primitives import serialization  # comes with the extra

    try:
        secret = password.encode() if password is not None else None
        key: Any = serialization.load_pem_private_key(private_key.read_bytes(), secret)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with tempfile.TemporaryDirectory(prefix="llamafarm-") as temporary:
            bundle = Path(temporary, "signature")
            library.signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret).sign(
                folder, bundle
            )
            return Signature(bundle.read_bytes(), public.decode())
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{private_key} can't be used to sign: {error}.",
            hint="Make one with `openssl ecparam -genkey -name prime256v1 -noout -out key.pem`.",
        ) from None


def key_digest(public_key: str) -> Digest:
    """Return the digest of a public key (PEM): the sha256 of its DER form.

    Raises:
        InputError: the text holds no public key.
    """
    _library()
    from cryptography.hazmat.primitives import serialization  # comes with the extra

    try:
        key = serialization.load_pem_public_key(public_key.encode())
    except ValueError as error:
        raise InputError(f"This is no public key: {error}.", hint="Give a PEM file: `openssl ec -pubout`.") from None
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Digest(f"sha256:{hashlib.sha256(der).hexdigest()}")


def verify(folder: Path, bundle: bytes, public_key: str) -> None:
    """Check a signature over a folder's files, all of them and no other.

    Raises:
        IntegrityError: it is no signature of these files by that key.
    """
    library = _library()
    with tempfile.TemporaryDirectory(prefix="llamafarm-") as temporary:
        signature, key = Path(temporary, "signature"), Path(temporary, "key.pem")
        signature.write_bytes(bundle)
        key.write_text(public_key, encoding="utf-8")
        try:
            library.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, signature)
        except Exception as error:  # noqa: BLE001  (a hostile bundle makes the library raise anything)
            raise IntegrityError(f"The signature is not good: {str(error).splitlines()[0][:200]}.") from None


def signed_files(bundle: bytes, public_key: str) -> dict[str, Digest]:
    """Return the digests that a signature holds, by the path of the file, after checking the signature itself.

    Raises:
        IntegrityError: it is no signature by that key.
        UnsupportedError: its digests are not SHA-256 of whole files, or model-signing is not installed.
    """
    _library()
    # The library's public function compares whole folders; of a download some files may have been left out.
    from model_signing._signing import sign_ec_key, sign_sigstore_pb

    with tempfile.TemporaryDirectory(prefix="llamafarm-") as temporary:
        signature, key = Path(temporary, "signature"), Path(temporary, "key.pem")
        signature.write_bytes(bundle)
        key.write_text(public_key, encoding="utf-8")
        try:
            signed = sign_ec_key.Verifier(key).verify(sign_sigstore_pb.Signature.read(signature))
            found = {str(one.identifier): one.digest for one in signed.resource_descriptors()}
        except Exception as error:  # noqa: BLE001  (a hostile bundle makes the library raise anything)
            raise IntegrityError(f"The signature is not good: {str(error).splitlines()[0][:200]}.") from None
    if odd := sorted({one.algorithm for one in found.values()} - {"sha256"}):
        raise UnsupportedError(f"The signature holds digests by {odd[0]}; SHA-256 of whole files is compared.")
    return {name: Digest(f"sha256:{one.digest_hex}") for name, one in found.items()}


def check(state: RegistryState, content: ContentStore, command: Sign) -> None:
    """Check a signature before it is recorded.

    Raises:
        IntegrityError: it is not good.
        InputError: its key is no public key.
    """
    record = state.resolve(command.ref)
    if key_digest(command.public_key) != command.key:
        raise InputError("The signature's key is not the one it names.")
    manifest = Digest(record.registered.manifest)
    folder = content.pull(manifest)
    try:
        verify(folder, content.read_blob(Digest(command.signature)), command.public_key)
    finally:
        content.release(manifest)


def check_policies(state: RegistryState, content: ContentStore, record: VersionRecord, folder: Path) -> None:
    """Check a pulled version's signature, where the policy of an alias that points (or may soon) at it asks for one.

    Raises:
        PolicyError: no key that the policy names has signed it.
        IntegrityError: its signature is not good.
    """
    model, version = record.registered.model, record.registered.version
    rolled_out_to = [
        rollout.alias
        for rollout in state.rollouts_under_way()
        if (rollout.model, rollout.candidate) == (model, version)
    ]
    for alias in (*state.models[model].pointing_at(version), *rolled_out_to):
        policy = state.policies.get(alias)
        if policy is None or not policy.signed_by:
            continue
        signed = [record.signatures[key] for key in policy.signed_by if key in record.signatures]
        if not signed:
            raise PolicyError(
                f"{record.ref} is not signed with a key that {alias!r} asks for.",
                rules=("signed_by",),
                hint="`llamafarm models sign` signs it.",
            )
        for signature in signed:
            verify(folder, content.read_blob(Digest(signature.signature)), signature.public_key)


def _library() -> ModuleType:
    try:
        import model_signing  # an extra, and slow to import
    except ImportError:
        raise UnsupportedError(
            "Signatures need model-signing, which is not installed.", hint="pip install 'llamafarm_ray[signing]'"
        ) from None
    return model_signing

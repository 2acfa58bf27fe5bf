"""A certificate authority of a lab's own, and what it certifies: each a file with the key and the certificate."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=30)
_EARLY = timedelta(hours=1)
"""For clocks that differ a little."""


_SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """One authority, in a folder that is private to root."""

    def __init__(self, folder: Path) -> None:
        """Made if it is not there."""
        self._folder = folder
        self._file = folder / "authority.pem"
        self.certificate = folder / "ca.pem"
        """What those who trust it are given."""
        if not self.certificate.exists():
            self._found()

    def issue(
        self, name: str, common_name: str, *, group: str = "", addresses: Sequence[str] = (), names: Sequence[str] = ()
    ) -> Path:
        """``<name>.pem`` with a key and a certificate for servers and clients; one that is there stays.

        :param group: the organization, which Kubernetes reads as a group.
        :param addresses: and ``names``: what a server answers to.
        """
        file = self._folder / f"{name}.pem"
        if not file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
            if group:
                subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
            issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            signer = serialization.load_pem_private_key(self._file.read_bytes(), None)
            assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 (for the type checker)
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = _builder(x509.Name(subject), issuer.subject, key.public_key(), signer.public_key())
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            answers: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
            answers += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
            if answers:
                builder = builder.add_extension(x509.SubjectAlternativeName(answers), critical=False)
            _write(file, key, builder.sign(signer, hashes.SHA256()))
        return file

    def _found(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"phoenix-lab {self._folder.name}")])
        builder = _builder(name, name, key.public_key(), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_SIGNS, critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        _write(self._file, key, certificate)
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, own: ec.EllipticCurvePublicKey, signers: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signers), critical=False)
    )


def _write(file: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Whole or not at all, and never readable by others."""
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    fresh.rename(file)

"""The service speaks HTTPS where it is given a certificate, and starts with no other."""

import datetime
import os
import signal
import ssl
import subprocess
import sys
import time

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent_runtime.errors import SetupError
from agent_runtime.service.tls import require_certificate
from agent_runtime.settings import ServiceSettings
from engine.launch import free_port

PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()
SEALED = serialization.BestAvailableEncryption(b"secret")


def made(folder, *, encryption=PLAIN):
    """Files of a new certificate for 127.0.0.1, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "service.pem").write_bytes(certificate.public_bytes(PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return folder / "service.pem", folder / "key.pem"


def test_a_service_with_a_certificate_speaks_https_only(tmp_path, bare_store, endpoint):
    certificate, key = made(tmp_path / "tls")
    port = free_port()
    command = [sys.executable, "-m", "agent_runtime.cli", "serve", "--redis", bare_store.url]
    command += ["--backend", endpoint.url, "--backend-model", "scripted", "--port", str(port)]
    command += ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(command, stderr=log)
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trusted) as client:
            answered = until_it_answers(client, service)
            assert answered.status_code == 200
            assert client.post("/v1/sessions", json={}).status_code == 201
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"https://localhost:{port}/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/health")
    finally:
        os.kill(service.pid, signal.SIGTERM)
    assert service.wait(30) == 0


def until_it_answers(client, service):
    while True:
        try:
            return client.get("/health")
        except httpx.ConnectError:
            assert service.poll() is None, "the service has ended"
            time.sleep(0.1)


def test_a_certificate_that_cannot_be_shown_is_refused(tmp_path):
    certificate, key = made(tmp_path / "one")
    _, other = made(tmp_path / "other")
    _, sealed = made(tmp_path / "sealed", encryption=SEALED)
    together = tmp_path / "together.pem"
    together.write_bytes(certificate.read_bytes() + key.read_bytes())
    require_certificate(certificate, key)
    require_certificate(together, None)
    for one, its_key, told in (
        (certificate, other, "no certificate with its key, both in PEM"),
        (certificate, None, "no certificate with its key, both in PEM"),
        (certificate, sealed, "is encrypted, and nobody is asked for its password"),
        (tmp_path / "none.pem", key, "cannot be read: No such file or directory"),
    ):
        with pytest.raises(SetupError, match=told):
            require_certificate(one, its_key)


def test_a_key_without_a_certificate_is_refused():
    with pytest.raises(ValueError, match="tls_key is the key of a tls_certificate"):
        ServiceSettings(redis_url="redis://x", model_dir="models/demo", tls_key="key.pem")


@pytest.mark.parametrize(
    ("host", "certificate", "url"),
    [("127.0.0.1", None, "http://127.0.0.1:8700"), ("::1", "c.pem", "https://[::1]:8700")],
)
def test_where_the_service_is_found(host, certificate, url):
    settings = ServiceSettings(
        redis_url="redis://x", model_dir="models/demo", host=host, tls_certificate=certificate
    )
    assert settings.url == url

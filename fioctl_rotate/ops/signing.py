"""Sign with the root: a CSR from a file, and the gateway's next TLS certificate."""

from pathlib import Path

from cryptography import x509

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.files import read
from fioctl_rotate.ops.factory_certs import checked_csr, own_root, require_landed
from fioctl_rotate.ops.issuing import kept_or_signed, signed
from fioctl_rotate.ops.prompter import NOBODY, Prompter
from fioctl_rotate.pki import certificates, policy
from fioctl_rotate.pki.directory import GATEWAY_TLS, PkiDirectory
from fioctl_rotate.pki.parsing import dns_names, is_ca, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose, require


def sign_csr(directory: PkiDirectory, csr_file: Path, *, now: Clock = utc_now) -> x509.Certificate:
    """The root's certificate for a CSR in a file: a device CA where it asks for CA:TRUE, else a TLS server's.

    No Factory is asked. Raises Error or PolicyRefused. Source: fioctl `keys ca sign`.
    """
    root = directory.root(now=now())
    csr = load_csr(read(csr_file), str(csr_file))
    purpose = Purpose.DEVICE_CA if is_ca(csr) else Purpose.TLS
    require(str(csr_file), policy.csr_violations(csr, purpose, root.factory))
    return signed(csr, root, purpose, now())


async def rotate_tls(
    api: FactoryApi, directory: PkiDirectory, *, prompter: Prompter = NOBODY, now: Clock = utc_now
) -> x509.Certificate:
    """Give the Factory's gateway a new TLS key and certificate, for the names that it has now; read it back.

    The backend makes the key and its CSR; the present `tls-crt` is kept as `tls-crt.bak`. After an interruption it
    can be run again. Raises Refused where the root is not the Factory's, or the CSR asks for other names: devices
    know the gateway by its present ones. Source: fioctl `keys ca rotate-tls`.
    """
    directory.check_exists()
    with directory.locked():
        root, certs = await own_root(api, directory, now())
        present = load_certificate(certs.tls_crt, "the Factory's gateway TLS certificate")
        prompter.confirm(
            f"Replace the TLS certificate of the gateway of {api.factory}, {', '.join(dns_names(present))}?"
        )
        csrs = await api.create_csrs(wire.CsrRequest(tls_csr=True))
        csr = checked_csr(
            csrs.tls_csr, "the gateway TLS CSR", Purpose.GATEWAY_TLS, api, dns_names(present) or None
        )
        certificate = kept_or_signed(
            directory, GATEWAY_TLS, csr, root, Purpose.GATEWAY_TLS, prompter, now(), replaces=present
        )
        await api.patch_certs(wire.CertsPatch(tls_crt=certificates.pem(certificate)))
        require_landed("gateway TLS certificate", (await api.certs()).tls_crt, [certificate], api)
        return certificate

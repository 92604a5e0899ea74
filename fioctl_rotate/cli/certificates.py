"""How certificates are shown: as PEM or for people, with a warning where one expires soon."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fioctl_rotate.ops.certificate_view import CertificateView


def lines(view: "CertificateView", *, pretty: bool) -> Iterator[str]:
    """The certificate for people, or as PEM."""
    yield from (view.text if pretty else view.pem).splitlines()


def warnings(views: "Sequence[CertificateView]") -> list[str]:
    """A warning for each certificate that has expired or soon will."""
    return [f"{view.what}: {view.expiry}" for view in views if view.expiry]

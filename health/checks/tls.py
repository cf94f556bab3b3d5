"""TLS: a handshake, and how long the certificate lasts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from health.checks.certificate import not_after
from health.checks.probing import Progress, within
from health.checks.sockets import connected
from health.secure import Contexts, Stream, Tls
from health.spec import Code, Result, Target

_DAY_S = 86400


@dataclass(frozen=True)
class TlsCheck:
    """Good when the handshake succeeds and the certificate has not ended.

    A certificate that ends soon is no reason to take a member out: the result is good, with a warning.
    """

    timeout_s: float
    """For all of it, seconds."""

    tls: Tls = field(default_factory=Tls)
    """Without verification an ended certificate is bad all the same."""

    expiry_warning_days: int = 30
    clock: Callable[[], float] = field(default=time.time, compare=False)
    """Seconds since the epoch."""

    _contexts: Contexts = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reads the certificates.

        Raises:
            ValueError: they cannot be used.
        """
        object.__setattr__(self, "_contexts", Contexts(self.tls))

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            async with connected(target) as sock:
                progress.doing = "handshake"
                established = await Stream(sock).handshake(self._contexts.current(), self.tls.name_for(target))
                return self._judge(established.getpeercert(binary_form=True) or b"")

        return await within(self.timeout_s, ask)

    def _judge(self, certificate: bytes) -> Result:
        try:
            end = not_after(certificate)
        except ValueError as error:
            return Result(Code.SSL_CERT_ERROR, f"certificate: {error}")
        at = end.timestamp()
        left_s = at - self.clock()
        if left_s < 0:
            return Result(Code.SSL_CERT_ERROR, f"certificate: ended on {end:%Y-%m-%d %H:%M} UTC", ends_at=at)
        if left_s < self.expiry_warning_days * _DAY_S:
            text = f"certificate ends in {left_s / _DAY_S:.0f} days, on {end:%Y-%m-%d %H:%M} UTC"
            return Result(Code.OK, text, ends_at=at, warning=True)
        return Result(Code.OK, ends_at=at)

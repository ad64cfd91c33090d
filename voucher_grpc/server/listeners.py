"""The ports with their TLS, and who may call there."""

from pathlib import Path

import grpc
import structlog

from voucher_grpc.access.rates import Rates
from voucher_grpc.edge.authentication.authenticator import Authenticator
from voucher_grpc.edge.authentication.certificates import CertificateReader
from voucher_grpc.edge.authentication.tls import ServerTls, TlsError
from voucher_grpc.edge.authentication.token_keys import TokenKeys, TokenKeysError
from voucher_grpc.edge.authentication.tokens import TokenRules, TokenVerifier
from voucher_grpc.edge.rpc.guard import Guard
from voucher_grpc.errors import StartError
from voucher_grpc.runtime.background import keep_working
from voucher_grpc.server.config import Config

log = structlog.get_logger(__name__)

# Keys and certificates that change are in use after so long.
CHECK_INTERVAL_S = 1.0
# One caller may have this part of all streams open: so many are needed to keep others out.
_CALLERS_SHARE = 8


class Listeners:
    """The ports of a server and its guard."""

    def __init__(self, config: Config, rates_file: Path | None) -> None:
        self._config = config
        self.rates = Rates.open(config.rate_limits, rates_file)
        self._token_keys = (
            TokenKeys(config.token_keys, config.token_keys_refresh_s) if config.token_keys else None
        )
        rules = TokenRules(config.token_issuer, config.token_audience, config.token_leeway_s)
        tokens = None if self._token_keys is None else TokenVerifier(self._token_keys, rules)
        certificates = CertificateReader() if config.tls_client_ca_file else None
        max_streams = max(1, config.max_concurrent_streams // _CALLERS_SHARE)
        self.guard = Guard(Authenticator(tokens, certificates), self.rates, max_streams)
        self._tls: list[ServerTls] = []

    async def load(self) -> None:
        """Read the keys of those who issue tokens. Raises StartError."""
        if self._token_keys is not None:
            try:
                await self._token_keys.load()
            except TokenKeysError as error:
                raise StartError(f"VOUCHER_TOKEN_KEYS {error}") from error

    def bind(self, server: grpc.aio.Server) -> tuple[int, int | None]:
        """(port, port for callers with certificates or None). Raises StartError."""
        config = self._config
        certificates_here = bool(config.tls_client_ca_file) and not config.mtls_listen
        port = self._bind(server, config.listen, client_certificates=certificates_here)
        if not config.mtls_listen:
            return port, None
        return port, self._bind(server, config.mtls_listen, client_certificates=True)

    def _bind(self, server: grpc.aio.Server, address: str, *, client_certificates: bool) -> int:
        config = self._config
        try:
            if config.tls_certificate_file is None or config.tls_key_file is None:
                return server.add_insecure_port(address)
            authority = config.tls_client_ca_file if client_certificates else None
            tls = ServerTls(config.tls_certificate_file, config.tls_key_file, authority)
            self._tls.append(tls)
            credentials = tls.credentials(client_certificates=client_certificates)
            return server.add_secure_port(address, credentials)
        except TlsError as error:
            raise StartError(str(error)) from error
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: the address is taken or not ours"
            ) from error

    def close(self) -> None:
        """Give back what it holds."""
        self.rates.close()

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes were begun; gRPC does not report how they end."""
        return sum(tls.handshakes for tls in self._tls)

    @property
    def token_keys_age_s(self) -> float:
        """For how long the key set of tokens' issuers has not been read at its URL."""
        return self._token_keys.age_s if self._token_keys is not None else 0.0

    async def keep_token_keys_fresh(self) -> None:
        """Take over token keys that have changed, until cancelled.

        Whoever serves them may take a long time.
        """
        keys = self._token_keys
        if keys is None:
            return

        async def check() -> bool:
            await keys.refresh()
            return False

        await keep_working("token keys", check, lambda: CHECK_INTERVAL_S)

"""The address of a Redis and its credentials, parsed from the URL.

The only I/O is reading the certificate files.

    redis://user:password@host:6379/0                       rediss:// the same over TLS
    redis+sentinel://user:password@s1:26379,s2:26379/service/0?sentinel_password=...
    redis+cluster://user:password@n1:6379,n2:6379

Options after `?`: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`,
`ssl_check_hostname`, `client_name`, `db`, and `ssl=true` for Sentinel and clusters.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote

from layered_cache.errors import ConfigurationError
from layered_cache.tiers._url_options import named_values

Command: TypeAlias = "tuple[bytes | str | int, ...]"

_PORT = 6379
_SENTINEL_PORT = 26379
# a server has 16 databases by default and may be configured for more
_DATABASES = range(2**16)
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_ALLOWED = {
    "redis": ("client_name", "db"),
    "rediss": ("client_name", "db", *_TLS),
    "redis+sentinel": ("client_name", "db", "sentinel_password", "sentinel_username", "ssl", *_TLS),
    "redis+cluster": ("client_name", "ssl", *_TLS),
}
SCHEMES = tuple(_ALLOWED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """The parsed URL.

    `hosts` are the hosts of a server, of Sentinels or of a cluster. With Sentinels, `service` is
    the name of the monitored service.
    """

    hosts: tuple[tuple[str, int], ...]
    cluster: bool = False
    service: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    db: int = 0
    client_name: str | None = None
    tls: Mapping[str, str] | None = field(default=None, repr=False)

    def greeting(self) -> list[Command]:
        """Return the commands to send first on each new connection.

        The next commands need not wait for the replies.
        """
        commands = _authentication(self.username, self.password)
        if self.db:
            commands.append(("SELECT", self.db))
        if self.client_name:
            commands.append(("CLIENT", "SETNAME", self.client_name))
        return commands

    def sentinel_greeting(self) -> list[Command]:
        """Return the same commands for a Sentinel."""
        return _authentication(self.sentinel_username, self.sentinel_password)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None without TLS. The certificate files are read.

        Raises:
            ConfigurationError: If a file cannot be read.
        """
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
            if certificate := self.tls.get("ssl_certfile"):
                context.load_cert_chain(certificate, self.tls.get("ssl_keyfile"))
        except OSError as error:
            msg = f"a certificate in the URL of Redis cannot be read: {error}"
            raise ConfigurationError(msg) from error
        if self.tls.get("ssl_check_hostname", "true") == "false" or self.tls.get("ssl_cert_reqs", "required") != "required":
            context.check_hostname = False
        if self.tls.get("ssl_cert_reqs") == "none":
            context.verify_mode = ssl.CERT_NONE
        elif self.tls.get("ssl_cert_reqs") == "optional":
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _authentication(username: str | None, password: str | None) -> list[Command]:
    if password is None:
        return []
    return [("AUTH", password) if username is None else ("AUTH", username, password)]


def parse_address(url: str) -> RedisAddress:
    """Return the parsed *url*.

    Raises:
        ConfigurationError: If the URL is invalid. The message names the part but never contains the
            password.
    """
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    # a password may contain an unquoted slash
    user_info, _, where = rest.rpartition("@")
    hosts, slash, path = where.partition("/")
    options = _options(scheme, query)
    username, colon, password = user_info.partition(":")
    service, db = None, options.get("db", "")
    if scheme == "redis+sentinel":
        service, _, in_path = path.partition("/")
        if not service:
            msg = "redis+sentinel:// must have the name of the service after the hosts, like redis+sentinel://host:26379/mymaster/0"
            raise ConfigurationError(msg)
    else:
        in_path = path
        if scheme == "redis+cluster" and slash and path:
            msg = "redis+cluster:// must not have a path: a cluster has one database"
            raise ConfigurationError(msg)
    port = _SENTINEL_PORT if service else _PORT
    return RedisAddress(
        hosts=tuple(_host(part, scheme, port) for part in _hosts(hosts, scheme)),
        cluster=scheme == "redis+cluster",
        service=None if service is None else unquote(service),
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        db=_database(in_path or db or "0"),
        client_name=options.get("client_name"),
        tls=options if scheme == "rediss" or options.get("ssl") == "true" else None,
    )


def _options(scheme: str, query: str) -> dict[str, str]:
    options = named_values(query, "?")
    for name in options:
        if name not in _ALLOWED[scheme]:
            raise ConfigurationError.unknown(what=f"option after ? of {scheme}://", name=name, allowed=_ALLOWED[scheme])
    for name, allowed in (
        ("ssl", ("true", "false")),
        ("ssl_check_hostname", ("true", "false")),
        ("ssl_cert_reqs", ("required", "optional", "none")),
    ):
        if name in options and (options.setdefault(name, "") or "").lower() not in allowed:
            raise ConfigurationError.unknown(what=name, name=options[name], allowed=allowed)
        if name in options:
            options[name] = options[name].lower()
    return options


def _hosts(text: str, scheme: str) -> list[str]:
    hosts = text.split(",")
    if len(hosts) > 1 and scheme in {"redis", "rediss"}:
        msg = f"{scheme}:// must have one host. Use redis+sentinel:// or redis+cluster:// for several hosts"
        raise ConfigurationError(msg)
    return hosts


def _host(text: str, scheme: str, port: int) -> tuple[str, int]:
    # IPv6
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        colon, number = rest[:1], rest[1:]
    else:
        host, colon, number = text.partition(":")
    if colon and not (number.isascii() and number.isdigit() and 0 < int(number) < 2**16):
        # not shown: it may be a part of a password
        msg = f"the port in {scheme}:// must be a number from 1 to 65535"
        raise ConfigurationError(msg)
    return unquote(host) or "localhost", int(number) if colon else port


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) in _DATABASES):
        msg = f"the database of Redis must be a number, got {text!r}. Use a URL like redis://host:6379/0"
        raise ConfigurationError(msg)
    return int(text)

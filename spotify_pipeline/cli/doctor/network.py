"""The checks of `doctor` that look whether Spotify can be reached. They send no request."""

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from spotify_pipeline.cli.doctor.finding import OK, PROBLEM, Finding
from spotify_pipeline.settings import LOOPBACK, Settings

SECONDS = 5.0


def all_checks(settings: Settings) -> Iterator[Finding]:
    """Spotify's token service and its Web API, each address once."""
    for url in dict.fromkeys((settings.accounts_url, settings.api_url)):
        yield reach(url)


def reach(url: str) -> Finding:
    """Connects, through TLS for https, and hangs up. Through a proxy only as far as the proxy."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = _proxy(parts.scheme, host)
    through = ""
    if proxy:
        host, port = proxy
        through = f" (through the proxy {host}:{port})"
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            if parts.scheme == "https" and not proxy:
                _trusting(url).wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLError as error:
        return Finding(
            "spotify",
            PROBLEM,
            f"{url} has a certificate that is not trusted ({error.reason})",
            "check whether something between here and Spotify reads along",
        )
    except OSError as error:
        return Finding(
            "spotify",
            PROBLEM,
            f"{url} cannot be reached{through} ({error.strerror or type(error).__name__})",
            "check the network, the proxy and the address",
        )
    return Finding("spotify", OK, f"{url} can be reached{through}")


def _trusting(url: str) -> ssl.SSLContext:
    """The certificate authorities that calls trust: those of requests, or REQUESTS_CA_BUNDLE."""
    given = requests.Session().merge_environment_settings(url, {}, None, True, None)["verify"]
    trusted = Path(given if isinstance(given, str) else DEFAULT_CA_BUNDLE_PATH)
    if trusted.is_dir():
        return ssl.create_default_context(capath=str(trusted))
    return ssl.create_default_context(cafile=str(trusted))


def _proxy(scheme: str, host: str) -> tuple[str, int] | None:
    """The proxy that calls to this host go through, without its user and password."""
    if host in LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    address = urllib.request.getproxies().get(scheme)
    if not address:
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return parts.hostname or "", parts.port or 80

"""Download pictures to a folder, which is the cache: files in it are not downloaded again."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preprocess.modalities.images import NOT_AN_IMAGE, find_images
from preprocess.modalities.settings import FetchSettings
from utils.cli.progress import track
from utils.io.atomic import atomic_write

USER_AGENT = "HeLLM-preprocess"
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one
MAX_RETRY_DELAY = 60  # seconds, if a server asks for more
TOTAL_TIMEOUT_FACTOR = 10  # a complete picture may take this many times --timeout
MAX_CONSECUTIVE_FAILURES = 40  # transient failures in a row after which downloading ends
CHUNK_BYTES = 1 << 16
SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif"}
HANDLERS = (  # for http and https, and no other scheme, also after a redirect
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.UnknownHandler,
)


class PermanentError(Exception):
    """A response that another attempt would not change."""


def download_images(urls: dict[str, str], folder: Path, settings: FetchSettings) -> dict[str, str]:
    """Download the pictures that are not in the folder yet.

    Args:
        urls: addresses of the pictures, by ASIN.
        folder: where they go, as ASIN.suffix.
        settings: time-outs and limits.

    Returns:
        Why a picture could not be downloaded, by ASIN.

    Raises:
        ConnectionError: many transient failures in a row; what was downloaded stays.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cached = find_images(folder)
    wanted = {asin: url for asin, url in urls.items() if asin not in cached}
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    failures = {}
    n_consecutive = 0
    pool = ThreadPoolExecutor(settings.connections)
    try:
        results = pool.map(lambda pair: _fetch(opener, *pair, folder, settings), wanted.items())
        progress = track(results, "downloading", "pictures", len(wanted))
        for asin, (reason, is_transient) in zip(wanted, progress, strict=True):
            if reason:
                failures[asin] = f"not fetched: {reason}"
            n_consecutive = n_consecutive + 1 if is_transient else 0
            if n_consecutive == MAX_CONSECUTIVE_FAILURES:
                raise ConnectionError(
                    f"{MAX_CONSECUTIVE_FAILURES} pictures in a row could not be fetched, the last one from "
                    f"{wanted[asin]}: {reason}; re-run the same command later, or use --no-fetch to take those in "
                    f"{folder}"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def _fetch(opener, asin: str, url: str, folder: Path, settings: FetchSettings) -> tuple[str, bool]:
    """Download one picture; return the error ("" if there was none) and whether it is transient."""
    for attempt in range(settings.retries + 1):
        try:
            content = _read(opener, url, settings)
            break
        except (PermanentError, OSError, http.client.HTTPException, ValueError) as error:
            if not _is_transient(error):
                return _describe(error), False
            if attempt == settings.retries:
                return _describe(error), True
            time.sleep(_retry_delay(error, attempt))
    suffix = _suffix_of(content)
    if not suffix:
        return NOT_AN_IMAGE, False
    with atomic_write(folder / f"{asin}{suffix}") as temporary:
        temporary.write_bytes(content)
    return "", False


def _read(opener, url: str, settings: FetchSettings) -> bytes:
    """Request a URL once."""
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    deadline = time.monotonic() + TOTAL_TIMEOUT_FACTOR * settings.timeout
    content = bytearray()
    with opener.open(request, timeout=settings.timeout) as response:
        while chunk := response.read1(CHUNK_BYTES):
            content += chunk
            if len(content) > settings.max_bytes:
                raise PermanentError(f"more than --max_bytes {settings.max_bytes}")
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
        if response.length:  # bytes announced that did not come
            raise ConnectionError("cut short")
    return bytes(content)


def _is_transient(error: Exception) -> bool:
    """Return whether another attempt may succeed: after time-outs, failed connections and responses 429 and 5xx."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code == 429 or error.code >= 500
    if isinstance(error, urllib.error.URLError):
        error = error.reason  # a string if the scheme is not http or https
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    return isinstance(error, OSError | http.client.IncompleteRead)


def _describe(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answer {error.code} ({error.reason})"
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _retry_delay(error: Exception, attempt: int) -> float:
    """Return the seconds until the next attempt, at least as many as the server asks for."""
    delay = BACKOFF * 2**attempt
    if isinstance(error, urllib.error.HTTPError):
        requested = error.headers.get("Retry-After", "")
        if requested.isdecimal():
            delay = max(delay, min(float(requested), MAX_RETRY_DELAY))
    return delay


def _suffix_of(content: bytes) -> str:
    """Return the suffix for a picture's format, recognised by its first bytes; empty for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in SIGNATURES.items() if content.startswith(start)), "")

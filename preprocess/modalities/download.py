"""Pictures from the web to a folder, which is the cache: what is there is not fetched again."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from preprocess.modalities.images import NO_PICTURE, find_images
from utils.io.atomic import atomic_write

USER_AGENT = "HeLLM-preprocess"
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one
MAX_RETRY_DELAY = 60  # seconds, if a server asks for more
TOTAL_TIMEOUT_FACTOR = 10  # times --timeout that a whole picture may take
MAX_CONSECUTIVE_FAILURES = 40  # pictures in a row that another time may come, after which fetching ends
CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class FetchSettings:
    """How pictures are fetched."""

    fetch: bool = False  # fetch pictures that are not in the folder yet, from the addresses in item_image.tsv
    timeout: float = 20.0  # seconds without an answer or a further byte; a whole picture may take ten times as long
    retries: int = 3  # further attempts after a time-out, a failed connection, or an answer 429 or 5xx
    connections: int = 4  # pictures fetched at the same time
    max_bytes: int = 20_000_000  # of a picture that is fetched


class PermanentError(Exception):
    """An answer that another attempt would not change."""


def download_images(addresses: dict[str, str], folder: Path, settings: FetchSettings) -> dict[str, str]:
    """Fetch what is not in the folder yet.

    Args:
        addresses: of the pictures, by ASIN.

    Returns: why a picture could not be fetched, by ASIN.

    Raises:
        ConnectionError: no connection or a refusing server for many pictures in a row; what was fetched stays.
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = find_images(folder)
    wanted = {asin: address for asin, address in addresses.items() if asin not in there}
    opener = _web_only()
    failures, in_a_row = {}, 0
    pool = ThreadPoolExecutor(settings.connections)
    try:
        results = pool.map(lambda pair: _fetch(opener, *pair, folder, settings), wanted.items())
        for asin, (reason, passes) in zip(
            wanted, tqdm(results, "pictures", len(wanted), disable=None, leave=False), strict=True
        ):
            if reason:
                failures[asin] = f"not fetched: {reason}"
            in_a_row = in_a_row + 1 if passes else 0
            if in_a_row == MAX_CONSECUTIVE_FAILURES:
                raise ConnectionError(
                    f"{MAX_CONSECUTIVE_FAILURES} pictures in a row could not be fetched, the last one from {wanted[asin]}: {reason}; "
                    f"the same command goes on later, --no-fetch takes what is in {folder}"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def _web_only() -> urllib.request.OpenerDirector:
    """Opens http and https and nothing else, also where it is redirected to."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler),
        *(urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor),
        *(urllib.request.HTTPDefaultErrorHandler, urllib.request.UnknownHandler),
    ):
        opener.add_handler(handler())
    return opener


def _fetch(opener, asin: str, address: str, folder: Path, settings: FetchSettings) -> tuple[str, bool]:
    """Fetch one picture; returns why it failed (empty where it did not), and whether another time it may not."""
    for attempt in range(settings.retries + 1):
        try:
            content = _read(opener, address, settings)
            break
        except (PermanentError, OSError, http.client.HTTPException, ValueError) as error:
            if not _is_transient(error):
                return _describe(error), False
            if attempt == settings.retries:
                return _describe(error), True
            time.sleep(_retry_delay(error, attempt))
    suffix = _suffix(content)
    if not suffix:
        return NO_PICTURE, False
    with atomic_write(folder / f"{asin}{suffix}") as temporary:
        temporary.write_bytes(content)
    return "", False


def _read(opener, address: str, settings: FetchSettings) -> bytes:
    """One attempt to get what an address has."""
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT})
    end = time.monotonic() + TOTAL_TIMEOUT_FACTOR * settings.timeout
    content = bytearray()
    with opener.open(request, timeout=settings.timeout) as response:
        while chunk := response.read1(CHUNK):
            content += chunk
            if len(content) > settings.max_bytes:
                raise PermanentError(f"more than --max_bytes {settings.max_bytes}")
            if time.monotonic() > end:
                raise TimeoutError("timed out")
        if response.length:  # bytes announced that did not come
            raise ConnectionError("cut short")
    return bytes(content)


def _is_transient(error: Exception) -> bool:
    """Whether an error may be gone at the next attempt: time-outs, connections, and answers that say so."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code == 429 or error.code >= 500
    if isinstance(error, urllib.error.URLError):
        error = error.reason  # a text where the address is not on the web
    return isinstance(error, OSError | http.client.IncompleteRead) and not isinstance(
        error, ssl.SSLCertVerificationError
    )


def _describe(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answer {error.code} ({error.reason})"
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _retry_delay(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt, as long as the server asks for where it does."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return max(BACKOFF * 2**attempt, min(float(asked), MAX_RETRY_DELAY) if asked.isdecimal() else 0)


def _suffix(content: bytes) -> str:
    """Of the picture format that the first bytes tell; empty for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    signatures = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif"}
    return next((suffix for start, suffix in signatures.items() if content.startswith(start)), "")

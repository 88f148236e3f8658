"""The upload of a user's own history: read here, handed over in SQL, imported by the pipeline.

The files are never stored: they are read from memory or from an anonymous temporary file, which is
gone with the request. Only their plays go to the database, in batches.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spotify_pipeline import app
from spotify_pipeline.domain.import_receipt import FATES
from spotify_pipeline.exports.archives import BadExport, Upload
from spotify_pipeline.exports.reader import ExportFile, ExportRow, read_exports
from spotify_pipeline.web.forms import check_csrf, session_of, signed_in, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, private_page, site_of

ADDRESS = "/history"
# The JSON files of fifteen years, not zipped; a zip is 20 times smaller.
MAX_UPLOAD_BYTES = 500_000_000
MAX_UNPACKED_BYTES = 2_000_000_000
MAX_FILES = 50
# Each may fill a temporary file of MAX_UPLOAD_BYTES.
MOST_UPLOADS = 16
UPLOAD_SECONDS = 30 * 60
# A client that sends nothing for so long is cut off.
STALLED_SECONDS = 30
# Of a batch, below the limits of add_history_rows, which count bytes with the names of fields.
BATCH_ROWS, BATCH_CHARACTERS = 5_000, 1_000_000

# Starlette would decode with any charset that the client names.
_MULTIPART = re.compile(r'multipart/form-data; ?boundary="?([0-9A-Za-z\'()+_,./:=?-]{1,70})"?')
# For users: without the names of columns.
MEANINGS = FATES | {
    "matched": "known from Spotify before; now it is known how long they were heard",
    "short": "heard for less than 30 seconds: counted in minutes, not as plays",
    "silent": "skipped at once, 0 seconds: not counted",
    "local": "your own files, which Spotify does not name: not counted",
    "incognito": "private sessions: not counted",
    "before_retention": "older than the plays that are kept here: not counted",
}
_TOO_LARGE = (
    f"An upload has at most {MAX_UPLOAD_BYTES // 1_000_000} MB. Upload the zip as Spotify sent it, "
    "or its files one after the other."
)
_AGAIN = "Nothing was stored. Try again in a minute."


log = logging.getLogger(__name__)


class Refusal(Exception):
    """Why an upload is not taken: one sentence for the user, and the status of the response."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@signed_in
def history(request: Request, session: Session) -> Response:
    """The form, and what became of the latest import."""
    return _page(request, session)


def _page(request: Request, session: Session, complaint: str = "", status: int = 200) -> Response:
    receipt = _latest(request, session)
    return private_page(
        "history.html",
        session,
        status,
        complaint=complaint,
        receipt=receipt,
        state=_state(request, session, receipt),
        meanings=MEANINGS,
        most_bytes=MAX_UPLOAD_BYTES,
        too_large=_TOO_LARGE,
    )


@signed_in
def status(request: Request, session: Session) -> Response:
    """How far the import is, for our script."""
    receipt = _latest(request, session)
    shown = {
        "state": _state(request, session, receipt),
        "rows_read": receipt.rows_read if receipt else 0,
    }
    return JSONResponse(shown, headers=PRIVATE)


def _latest(request: Request, session: Session) -> app.HistoryReceipt | None:
    with site_of(request).engine.connect() as conn:
        return next(iter(app.history_receipts(conn, session.user_id)), None)


def _state(request: Request, session: Session, receipt: app.HistoryReceipt | None) -> str:
    """The status of the receipt; reading: it is being uploaded; broken: it was, and broke off."""
    if receipt is None:
        return "none"
    if receipt.status != "open":
        return receipt.status
    return "reading" if session.user_id in site_of(request).uploading else "broken"


async def upload(request: Request) -> Response:
    """Reads the files and hands their rows over; then the page shows how far the import is."""
    site = site_of(request)
    session = await run_in_threadpool(session_of, request)
    if session is None:
        return to("/")
    user_id = session.user_id
    try:
        if user_id in site.uploading:
            raise Refusal(423, f"Another upload of yours is going on. {_AGAIN}")
        if len(site.uploading) >= MOST_UPLOADS:
            raise Refusal(503, f"Others are uploading their histories just now. {_AGAIN}")
        site.uploading.add(user_id)
        try:
            await _take(request, session)
        finally:
            site.uploading.discard(user_id)
    except Refusal as refusal:
        return await run_in_threadpool(_page, request, session, refusal.sentence, refusal.status)
    return to(ADDRESS)


async def _take(request: Request, session: Session) -> None:
    """Receives the form, and hands over the histories in it. Raises Refusal."""
    receipt = await run_in_threadpool(_latest, request, session)
    if receipt and receipt.status == "closed":
        raise Refusal(423, "Your last import is still being worked on. Try again when it is done.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_UPLOAD_BYTES:
        raise Refusal(413, _TOO_LARGE)
    sent = await _receive(request)
    try:
        # Read again: the sessions may have been ended meanwhile.
        if await run_in_threadpool(session_of, request) is None:
            raise HTTPException(403, "You signed out during the upload. Nothing was stored.")
        check_csrf(session, {"csrf": str(sent.get("csrf", ""))})
        files = [file for file in sent.getlist("files") if isinstance(file, UploadFile)]
        chosen = [Upload(file.filename, file.file) for file in files if file.filename]
        if not chosen:
            raise Refusal(400, "Choose the zip that Spotify sent you, or JSON files out of it.")
        engine, private = site_of(request).engine, "incognito" in sent
        async with site_of(request).reading:
            await run_in_threadpool(hand_over, engine, session.user_id, chosen, private)
    finally:
        await sent.close()


async def _receive(request: Request) -> FormData:
    """The fields and files of the form. Raises Refusal and HTTPException."""
    kind = _MULTIPART.fullmatch(request.headers.get("content-type", ""))
    if kind is None:
        raise HTTPException(415, "Only the forms of this page are taken.")
    headers = Headers({"content-type": f'multipart/form-data; boundary="{kind[1]}"'})
    try:
        async with asyncio.timeout(UPLOAD_SECONDS), aclosing(_stream(request)) as stream:
            return await MultiPartParser(
                headers, stream, max_files=MAX_FILES, max_fields=5, max_part_size=1_000
            ).parse()
    except MultiPartException:
        raise Refusal(
            400, f"The form was not complete, or had more than {MAX_FILES} files. {_AGAIN}"
        ) from None
    except ClientDisconnect:
        # No client is left to read this.
        raise Refusal(400, f"The upload broke off. {_AGAIN}") from None
    except TimeoutError:
        raise Refusal(408, f"The upload stopped, or took over half an hour. {_AGAIN}") from None
    except OSError as error:
        log.error("an upload could not be written to a temporary file: %s", error.strerror)
        raise Refusal(503, f"There is no room for this upload just now. {_AGAIN}") from None


async def _stream(request: Request) -> AsyncGenerator[bytes]:
    """The body in parts. Raises TimeoutError when the client has stopped to send it."""
    async with aclosing(request.stream()) as parts:
        while True:
            async with asyncio.timeout(STALLED_SECONDS):
                part = await anext(parts, None)
            if part is None:
                return
            yield part


def hand_over(engine: Engine, user_id: str, chosen: Sequence[Upload], private: bool) -> None:
    """Reads the histories and stores their rows as an import of the user, all or none.

    `private`: private sessions too. Raises Refusal.
    """
    try:
        files = list(read_exports(chosen, now=datetime.now(UTC), include_incognito=private))
        if sum(file.size for file in files) > MAX_UNPACKED_BYTES:
            raise Refusal(413, "This unpacks to more than an export has. Upload fewer files.")
        with engine.begin() as conn:
            import_id = app.open_history_import(conn, user_id)
        try:
            _add(engine, import_id, files)
        except BaseException:
            # Otherwise the next upload takes its place.
            with suppress(SQLAlchemyError), engine.begin() as conn:
                app.discard_history_import(conn, import_id)
            raise
    except BadExport as error:
        raise Refusal(400, str(error)) from None
    except app.Refused as refused:
        codes = {app.BUSY: 423, app.TOO_LARGE: 413}
        raise Refusal(codes.get(refused.sqlstate, 409), refused.message) from None
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "22023":
            raise
        raise Refusal(400, "This is no history that Spotify made: it was not stored.") from None


def _add(engine: Engine, import_id: int, files: Iterable[ExportFile]) -> None:
    number, handed = 0, []
    for position, file in enumerate(files):
        for rows in _batches(file.rows()):
            # A transaction each: no connection is held while a file is read.
            with engine.begin() as conn:
                app.add_history_rows(conn, import_id, number, position, rows)
            number += 1
        handed.append(
            app.HistoryFile(
                name=file.name[-300:],
                source=file.source,
                counts=file.counts,
                first_at=file.first_at,
                last_at=file.last_at,
                malformed=file.malformed,
            )
        )
    with engine.begin() as conn:
        app.close_history_import(conn, import_id, handed)


def _batches(rows: Iterable[ExportRow]) -> Iterator[list[ExportRow]]:
    batch: list[ExportRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.track_name) + len(row.artist_name) + len(row.album_name or "")
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


ROUTES: list[Any] = [
    Route(ADDRESS, history),
    Route(ADDRESS, upload, methods=["POST"]),
    Route(f"{ADDRESS}/status", status),
]

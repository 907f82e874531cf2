"""The routes of the votes' page: the next pair, a vote, undo. They answer once a vote is on the disk, never before.

Routes are plain functions, which FastAPI runs in threads: a vote waits for the disk, and a picture for its decoding.
"""

from __future__ import annotations

import threading

from fastapi import APIRouter, BackgroundTasks, Request

from polite_flamingo.conversations import asked, polite_text
from polite_flamingo.images.digest import digest
from polite_flamingo.lru_cache import LruCache
from polite_flamingo.preference.votes.poll import Poll, Shown, UnknownBattle, cleaned
from polite_flamingo.report.gallery import Thumbnail, printable, thumbnail
from serving.errors import ApiError, invalid
from serving.http.validation import JsonRoute
from serving.votes.protocol import Asking, Ballot, Exchange, Pair, Picture, State

PICTURE_SIDE, PICTURE_QUALITY = 1280, 88
"""Pictures are sent as WebP of at most so many pixels a side: what a phone can show, and fast to load on one."""

PICTURE_CACHE = 64 << 20
"""Characters of pictures that are kept: voters see the same ones."""

router = APIRouter(prefix="/v1/votes", route_class=JsonRoute, tags=["votes"])


class Pictures:
    """Pictures as the page shows them, each encoded once while it fits the cache."""

    def __init__(self) -> None:
        self._cache: LruCache[str, Thumbnail] = LruCache(PICTURE_CACHE, lambda picture: len(picture.uri) + 100)
        self._lock = threading.Lock()

    def of(self, shown: Shown) -> list[Thumbnail]:
        """Return all pictures of a battle."""
        return [self._one(image.data) for image in shown.battle.sample.images]

    def _one(self, data: bytes) -> Thumbnail:
        name = digest(data)
        with self._lock:
            found = self._cache.get(name)
        if found is None:  # two threads may both encode it, which does no harm
            found = thumbnail(data, PICTURE_SIDE, PICTURE_QUALITY)
            with self._lock:
                self._cache.put(name, found)
        return found


@router.post("/next")
def next_pair(body: Asking, request: Request, later: BackgroundTasks) -> State:
    """The first pair that a voter has not voted on."""
    return _state(request, later, _voter(body.voter))


@router.post("")
def vote(body: Ballot, request: Request, later: BackgroundTasks) -> State:
    """Save a vote; returns the next pair. Sent twice, it counts once."""
    voter = _voter(body.voter)
    try:
        _poll(request).vote(voter, body.battle, body.choice, body.seconds)
    except UnknownBattle:
        message = "this pair is not part of the vote any more; reload the page"
        raise ApiError(409, message, code="unknown_pair", param="battle") from None
    except OSError as error:
        raise _not_saved(error) from error
    return _state(request, later, voter)


@router.post("/undo")
def undo(body: Asking, request: Request, later: BackgroundTasks) -> State:
    """Take the last vote back and show its pair again."""
    voter = _voter(body.voter)
    try:
        undone = _poll(request).undo(voter)
    except OSError as error:
        raise _not_saved(error) from error
    return _state(request, later, voter, undone)


@router.post("/reopen")
def reopen(body: Asking, request: Request, later: BackgroundTasks) -> State:
    """Show skipped pairs again."""
    voter = _voter(body.voter)
    try:
        _poll(request).reopen(voter)
    except OSError as error:
        raise _not_saved(error) from error
    return _state(request, later, voter)


def _state(request: Request, later: BackgroundTasks, voter: str, undone: str = "") -> State:
    poll, pictures = _poll(request), request.app.state.pictures
    now, *after = [*poll.upcoming(voter), None]
    if after and after[0] is not None:
        later.add_task(pictures.of, after[0])  # while the voter reads this one
    progress = poll.progress(voter)
    return State(
        voter=voter,
        pair=_pair(now, pictures.of(now)) if now is not None else None,
        voted=progress.voted,
        skipped=progress.skipped,
        total=progress.total,
        can_undo=progress.can_undo,
        undone=undone,
    )


def _pair(shown: Shown, pictures: list[Thumbnail]) -> Pair:
    sample = shown.battle.sample
    return Pair(
        id=shown.battle.id,
        question=printable(sample.question),
        before=[Exchange(asked=printable(asked(turn)), said=printable(polite_text(turn))) for turn in sample.before],
        pictures=[Picture(uri=one.uri, width=one.width, height=one.height, problem=one.problem) for one in pictures],
        left=printable(shown.left.text),
        right=printable(shown.right.text),
    )


def _poll(request: Request) -> Poll:
    poll: Poll = request.app.state.poll
    return poll


def _voter(name: str) -> str:
    try:
        return cleaned(name)
    except ValueError as error:
        raise invalid("voter", str(error)) from None


def _not_saved(error: OSError) -> ApiError:
    why = error.strerror or type(error).__name__
    message = f"the vote is not saved ({why}); make room on the server's disk, then try again"
    return ApiError(503, message, "server_error", "not_saved", retry_after=5)

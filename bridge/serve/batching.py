"""One thread that works for all visitors: their pictures share batches, everything else waits its turn.

Image i of a request depends on its seed, caption and settings alone (`bridge.pipeline`), so that what shares a batch
is bit for bit what each would get alone, and a batch costs the same full or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from bridge.errors import UserError
from bridge.pipeline import MICRO_BATCH, SAMPLE_BATCH, BridgePipeline, GeneratedImage, Job, Settings
from bridge.serve.limits import WAITING

T = TypeVar("T")
GATHER = 0.02
"""Seconds that an idle thread waits for others to come with the first."""


class FullError(UserError):
    """So many wait already that one more would wait too long."""


class StoppedError(UserError):
    """The visitor stopped it, or left."""


@dataclass(frozen=True)
class Request:
    """Pictures that a visitor asks for; see `BridgePipeline.__call__`."""

    captions: tuple[str, ...]
    count: int
    seed: int
    settings: Settings
    negative: str | None = None
    size: int | None = None
    transparent: bool = False


@dataclass(eq=False)
class _Ticket:
    """A request in the queue, or a function to be called in its turn."""

    owner: str
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Any]
    request: Request | None = None
    work: Callable[[], Any] | None = None
    jobs: deque[Job] | None = None
    cancelled: bool = False

    def send(self, event: object) -> None:
        """Hand something over to the visitor's loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


@dataclass(frozen=True)
class _End:
    """The last event of a ticket."""

    error: BaseException | None = None
    value: Any = None


@dataclass
class Tally:
    """What a batcher has done: batches, and pictures in them."""

    batches: int = 0
    pictures: int = 0
    cancelled: int = field(default=0)


class Batcher:
    """Works for all visitors, oldest request first.

    Args:
        pipe: The model; from now on only the batcher's thread touches it.
        waiting: Requests that may wait or be worked on.
    """

    def __init__(self, pipe: BridgePipeline, waiting: int = WAITING) -> None:
        self.pipe, self.most, self.tally = pipe, waiting, Tally()
        self._tickets: deque[_Ticket] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bridge-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait or are worked on."""
        with self._change:
            return len(self._tickets)

    def close(self) -> None:
        """End the thread; what waits is stopped."""
        with self._change:
            self._closed = True
            left = list(self._tickets)
            for ticket in left:
                self._drop(ticket)
            self._change.notify_all()
        for ticket in left:
            ticket.send(_End(StoppedError("stopped: the server is closing")))
        self._thread.join(timeout=60)

    def cancel(self, owner: str) -> int:
        """Stop whatever a visitor waits for, and free its places; returns how many."""
        with self._change:
            found = [ticket for ticket in self._tickets if ticket.owner == owner]
            for ticket in found:
                self._drop(ticket)
        for ticket in found:
            ticket.send(_End(StoppedError("stopped")))
        return len(found)

    async def draw(self, request: Request, owner: str = "") -> AsyncIterator[GeneratedImage]:
        """The pictures of a request, as they are made; ending the iteration early frees its place.

        Raises:
            FullError: Too many wait, at once.
            StoppedError: See `cancel`.
            UserError: A caption cannot be read.
        """
        ticket = self._enter(_Ticket(owner, asyncio.get_running_loop(), asyncio.Queue(), request=request))
        try:
            while not isinstance(event := await ticket.events.get(), _End):
                yield event
            if event.error is not None:
                raise event.error
        finally:
            self._leave(ticket)

    async def call(self, work: Callable[[], T], owner: str = "") -> T:
        """What `work` returns, called in its turn on the batcher's thread.

        Raises:
            FullError: Too many wait, at once.
            StoppedError: See `cancel`.
        """
        ticket = self._enter(_Ticket(owner, asyncio.get_running_loop(), asyncio.Queue(), work=work))
        try:
            end: _End = await ticket.events.get()
            if end.error is not None:
                raise end.error
            result: T = end.value
            return result
        finally:
            self._leave(ticket)

    def _enter(self, ticket: _Ticket) -> _Ticket:
        with self._change:
            if len(self._tickets) >= self.most or self._closed:
                raise FullError(f"busy: {len(self._tickets)} requests wait already; try again in a minute")
            self._tickets.append(ticket)
            self._change.notify_all()
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        with self._change:
            if ticket in self._tickets:
                self._drop(ticket)

    def _drop(self, ticket: _Ticket) -> None:
        """Take a ticket out before it has ended; holds the lock."""
        self._tickets.remove(ticket)
        ticket.cancelled = True
        self.tally.cancelled += 1

    def _end(self, ticket: _Ticket, end: _End) -> None:
        with self._change:
            if ticket.cancelled:
                return
            self._tickets.remove(ticket)
        ticket.send(end)

    def _run(self) -> None:
        while True:
            with self._change:
                idle = not self._tickets
                self._change.wait_for(lambda: self._tickets or self._closed)
            if idle:
                time.sleep(GATHER)  # who comes together shares the first batch
            with self._change:
                if self._closed:
                    return
                tickets = list(self._tickets)
            if not tickets:
                continue
            if tickets[0].work is not None:
                self._end(tickets[0], _outcome(tickets[0].work))
            else:
                self._batch(tickets)

    def _batch(self, tickets: Iterable[_Ticket]) -> None:
        """Sample and draw once for the oldest request and those after it that can share its batch."""
        rows: list[tuple[_Ticket, Job]] = []
        settings: Settings | None = None
        for ticket in tickets:
            request = ticket.request
            if len(rows) == SAMPLE_BATCH or request is None or settings not in (None, request.settings):
                continue
            if not self._prepare(ticket, request):
                continue
            settings, jobs = request.settings, ticket.jobs
            assert jobs is not None
            while jobs and len(rows) < SAMPLE_BATCH and jobs[0].places == (rows or [(ticket, jobs[0])])[0][1].places:
                rows.append((ticket, jobs.popleft()))
        if not rows or settings is None:
            return
        try:
            self._draw(rows, settings)
        except Exception as error:
            for ticket in {id(ticket): ticket for ticket, _ in rows}.values():
                self._end(ticket, _End(error))
            return
        for ticket in {id(ticket): ticket for ticket, _ in rows}.values():
            if not ticket.jobs:
                self._end(ticket, _End())

    def _prepare(self, ticket: _Ticket, request: Request) -> bool:
        """Whether a ticket has jobs; a caption that cannot be read ends it."""
        if ticket.jobs is None:
            jobs = _outcome(lambda: self._jobs(request))
            if jobs.error is not None:
                self._end(ticket, jobs)
                return False
            ticket.jobs = jobs.value
        return not ticket.cancelled

    def _jobs(self, request: Request) -> deque[Job]:
        seed, negative, settings = request.seed, request.negative, request.settings
        made = self.pipe.jobs(request.captions, request.count, seed=seed, negative_prompt=negative, settings=settings)
        return deque(made)

    def _draw(self, rows: list[tuple[_Ticket, Job]], settings: Settings) -> None:
        z = self.pipe.sample([job for _, job in rows], settings)
        self.tally.batches += 1

        def look(row: int) -> tuple[int, bool]:
            request = rows[row][0].request
            assert request is not None
            return request.size or 0, request.transparent

        for (size, transparent), alike in groupby(sorted(range(len(rows)), key=look), key=look):
            numbers = list(alike)
            for first in range(0, len(numbers), MICRO_BATCH):
                some = [row for row in numbers[first : first + MICRO_BATCH] if not rows[row][0].cancelled]
                images = self.pipe.decode(z[some], size or None, transparent) if some else []
                self.tally.pictures += len(images)
                for row, image in zip(some, images, strict=True):
                    ticket, job = rows[row]
                    assert ticket.request is not None
                    seed, latent = ticket.request.seed, z[row].clone()
                    place = job.prompt_index
                    ticket.send(GeneratedImage(image, job.prompt, place, job.index, seed, job.note, latent))


def _outcome(work: Callable[[], Any]) -> _End:
    try:
        return _End(value=work())
    except Exception as error:
        return _End(error)

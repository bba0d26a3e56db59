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
from collections.abc import AsyncGenerator, Callable, Iterable
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
    """A request in the queue, or a function to be called in its turn.

    `events` gets what the visitor waits for, then an exception, or None at the end.
    """

    owner: str
    request: Request | None = None
    work: Callable[[], Any] | None = None
    jobs: deque[Job] | None = None
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def send(self, *events: object) -> None:
        """Hand something over to the visitor's loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            for event in events:
                self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Batcher:
    """Works for all visitors, oldest request first; so many may be `waiting` or worked on.

    From now on only the batcher's thread touches the model.
    """

    def __init__(self, pipe: BridgePipeline, waiting: int = WAITING) -> None:
        self.pipe, self.most = pipe, waiting
        self._tickets: list[_Ticket] = []
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bridge-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._tickets)

    def close(self) -> None:
        """End the thread; what waits is stopped."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._drop(list(self._tickets), StoppedError("stopped: the server is closing"))
        self._thread.join(timeout=60)

    def cancel(self, owner: str) -> int:
        """Stop whatever a visitor waits for, and free its places; returns how many."""
        return self._drop([ticket for ticket in list(self._tickets) if ticket.owner == owner], StoppedError("stopped"))

    async def draw(self, request: Request, owner: str = "") -> AsyncGenerator[GeneratedImage]:
        """The pictures of a request, as they are made; ending the iteration early frees its place.

        Raises FullError at once if too many wait, StoppedError (see `cancel`), UserError if a caption cannot be read.
        """
        async with contextlib.aclosing(self._events(_Ticket(owner, request))) as pictures:
            async for picture in pictures:
                yield picture

    async def call(self, work: Callable[[], T], owner: str = "") -> T:
        """What `work` returns, called in its turn on the batcher's thread.

        Raises FullError at once if too many wait, StoppedError (see `cancel`), and what `work` raises.
        """
        [result] = [event async for event in self._events(_Ticket(owner, work=work))]
        value: T = result
        return value

    async def _events(self, ticket: _Ticket) -> AsyncGenerator[Any]:
        with self._change:
            if len(self._tickets) >= self.most or self._closed:
                raise FullError(f"busy: {len(self._tickets)} requests wait already; try again in a minute")
            self._tickets.append(ticket)
            self._change.notify_all()
        try:
            while (event := await ticket.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._drop([ticket])

    def _drop(self, tickets: Iterable[_Ticket], *events: object) -> int:
        """Take tickets out that have not ended; returns how many."""
        return sum(self._end(ticket, *events) for ticket in tickets)

    def _end(self, ticket: _Ticket, *events: object) -> bool:
        """Take a ticket out and send its last events; whether it was there."""
        with self._change:
            if ticket not in self._tickets:
                return False
            self._tickets.remove(ticket)
        ticket.send(*events)
        return True

    def _waits(self, ticket: _Ticket) -> bool:
        with self._change:
            return ticket in self._tickets

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
            if tickets and tickets[0].work is not None:
                self._work(tickets[0], tickets[0].work)
            else:
                self._batch(tickets)

    def _work(self, ticket: _Ticket, work: Callable[[], Any]) -> None:
        try:
            self._end(ticket, work(), None)
        except Exception as error:
            self._end(ticket, error)

    def _batch(self, tickets: Iterable[_Ticket]) -> None:
        """Sample and draw once for the oldest request and those after it that can share its batch."""
        rows: list[tuple[_Ticket, Job]] = []
        settings: Settings | None = None
        for ticket in tickets:
            request = ticket.request
            if len(rows) == SAMPLE_BATCH or request is None or settings not in (None, request.settings):
                continue
            jobs = self._jobs(ticket, request)
            while jobs and len(rows) < SAMPLE_BATCH and (not rows or jobs[0].places == rows[0][1].places):
                settings = request.settings
                rows.append((ticket, jobs.popleft()))
        if settings is None:
            return
        shared = dict.fromkeys(ticket for ticket, _ in rows)
        try:
            self._draw(rows, settings)
        except Exception as error:
            for ticket in shared:
                self._end(ticket, error)
        for ticket in shared:
            if not ticket.jobs:
                self._end(ticket, None)

    def _jobs(self, ticket: _Ticket, request: Request) -> deque[Job]:
        """What is left to draw of a request; a caption that cannot be read ends it."""
        if ticket.jobs is None:
            seed, negative, settings = request.seed, request.negative, request.settings
            captions, count, ticket.jobs = request.captions, request.count, deque()
            try:
                made = self.pipe.jobs(captions, count, seed=seed, negative_prompt=negative, settings=settings)
                ticket.jobs.extend(made)
            except Exception as error:
                self._end(ticket, error)
        return ticket.jobs if self._waits(ticket) else deque()

    def _draw(self, rows: list[tuple[_Ticket, Job]], settings: Settings) -> None:
        z = self.pipe.sample([job for _, job in rows], settings)

        def look(row: int) -> tuple[int, bool]:
            request = rows[row][0].request
            assert request is not None
            return request.size or 0, request.transparent

        for (size, transparent), alike in groupby(sorted(range(len(rows)), key=look), key=look):
            numbers = list(alike)
            for first in range(0, len(numbers), MICRO_BATCH):
                some = [row for row in numbers[first : first + MICRO_BATCH] if self._waits(rows[row][0])]
                images = self.pipe.decode(z[some], size or None, transparent) if some else []
                for row, image in zip(some, images, strict=True):
                    ticket, job = rows[row]
                    assert ticket.request is not None
                    seed, place = ticket.request.seed, job.prompt_index
                    ticket.send(GeneratedImage(image, job.prompt, place, job.index, seed, job.note, z[row].clone()))

"""One thread that works for all visitors: their pictures share batches, everything else waits its turn.

Image i of a request depends on its seed, caption and settings alone (`bridge.pipeline`), so that pictures that share a
batch are bit for bit those that each visitor would get alone, and a batch costs the same full or not.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar, cast

from bridge.errors import UserError
from bridge.pipeline import MICRO_BATCH, BridgePipeline, GeneratedImage, Job, Settings, given_at_once
from bridge.serve.limits import WAITING

T = TypeVar("T")
Owner = str | None  # a visitor's tab
GATHER = 0.02  # seconds that a visitor who is alone waits for others to share the first batch


@dataclass(frozen=True)
class Request:
    """Pictures that a visitor asks for; see `BridgePipeline.__call__`."""

    captions: tuple[str, ...]
    count: int
    seed: int
    settings: Settings
    size: int | None = None
    transparent: bool = False


@dataclass(eq=False)
class _Ticket:
    """A request in the queue, or a function to be called in its turn."""

    owner: Owner
    work: Request | Callable[[], Any]
    jobs: deque[Job] | None = None  # what is left to draw
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)  # results, then an exception, or None at the end
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def send(self, *events: object) -> None:
        """Hand something over to the visitor's loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            for event in events:
                self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Batcher:
    """Works for all visitors, oldest request first; from now on only its thread touches the model.

    What is asked for raises UserError at once if `waiting` others wait, and later if it is stopped; see `cancel`.
    """

    def __init__(self, pipe: BridgePipeline, waiting: int = WAITING) -> None:
        self.pipe, self.most = pipe, waiting
        self._tickets: list[_Ticket] = []
        self._lock, self._closed = Lock(), False
        self._thread = ThreadPoolExecutor(1, "bridge-batcher")

    @property
    def waiting(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._tickets)

    def close(self) -> None:
        """End the thread; what waits is stopped."""
        with self._lock:
            self._closed = True
        for ticket in list(self._tickets):
            self._end(ticket, UserError("stopped: the server is closing"))
        self._thread.shutdown()

    def cancel(self, owner: Owner) -> int:
        """Stop whatever a visitor waits for, and free its places; returns how many."""
        own = [ticket for ticket in list(self._tickets) if ticket.owner == owner]
        return sum(self._end(ticket, UserError("stopped")) for ticket in own)

    def draw(self, request: Request, owner: Owner = None) -> AsyncGenerator[GeneratedImage]:
        """A request's pictures as they are made, UserError if a caption cannot be read; leaving frees its place."""
        return self._events(request, owner)

    async def call(self, work: Callable[[], T], owner: Owner = None) -> T:
        """What `work` returns or raises, called in its turn on the batcher's thread."""
        [result] = [event async for event in self._events(work, owner)]
        return cast(T, result)

    async def _events(self, work: Request | Callable[[], Any], owner: Owner) -> AsyncGenerator[Any]:
        ticket = _Ticket(owner, work)
        with self._lock:
            if len(self._tickets) >= self.most or self._closed:
                raise UserError(f"busy: {len(self._tickets)} requests wait already; try again in a minute")
            self._tickets.append(ticket)
            self._thread.submit(self._run, ticket)
        try:
            while (event := await ticket.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self._end(ticket)

    def _end(self, ticket: _Ticket, *events: object) -> bool:
        """Take a ticket out and send its last events; whether it was there."""
        with self._lock:
            if ticket not in self._tickets:
                return False
            self._tickets.remove(ticket)
        ticket.send(*events)
        return True

    @contextlib.contextmanager
    def _failing(self, tickets: Iterable[_Ticket]) -> Iterator[None]:
        """A block whose errors end these tickets."""
        try:
            yield
        except Exception as error:
            for ticket in tickets:
                self._end(ticket, error)

    def _run(self, ticket: _Ticket) -> None:
        """Work on the oldest ticket until it has ended."""
        if len(self._tickets) == 1:
            time.sleep(GATHER)
        while ticket in self._tickets:
            if isinstance(ticket.work, Request):
                self._batch(list(self._tickets))
            else:
                with self._failing([ticket]):
                    self._end(ticket, ticket.work(), None)

    def _batch(self, tickets: Iterable[_Ticket]) -> None:
        """Sample and draw once for the oldest request and those after it that can share its batch."""
        rows: list[tuple[_Ticket, Request, Job]] = []
        for ticket in tickets:
            request = ticket.work
            if rows and len(rows) == given_at_once(rows[0][1].settings):
                break
            if not isinstance(request, Request) or (rows and request.settings != rows[0][1].settings):
                continue
            if ticket.jobs is None:
                ticket.jobs = deque()
                with self._failing([ticket]):
                    captions, count, seed = request.captions, request.count, request.seed
                    ticket.jobs.extend(self.pipe.jobs(captions, count, seed=seed, settings=request.settings))
            jobs = ticket.jobs if ticket in self._tickets else deque()
            most = given_at_once(request.settings)
            while jobs and len(rows) < most and (not rows or jobs[0].places == rows[0][2].places):
                rows.append((ticket, request, jobs.popleft()))
        shared = dict.fromkeys(ticket for ticket, _, _ in rows)
        with self._failing(shared):
            if rows:
                self._draw(rows)
        for ticket in shared:
            if not ticket.jobs:
                self._end(ticket, None)

    def _draw(self, rows: list[tuple[_Ticket, Request, Job]]) -> None:
        z = self.pipe.sample([job for _, _, job in rows], rows[0][1].settings)
        alike: dict[tuple[int | None, bool], list[int]] = {}
        for row, (_, request, _) in enumerate(rows):
            alike.setdefault((request.size, request.transparent), []).append(row)
        for (size, transparent), numbers in alike.items():
            for first in range(0, len(numbers), MICRO_BATCH):
                some = [row for row in numbers[first : first + MICRO_BATCH] if rows[row][0] in self._tickets]
                images = self.pipe.decode(z[some], size, transparent) if some else []
                for row, image in zip(some, images, strict=True):
                    ticket, request, job = rows[row]
                    ticket.send(GeneratedImage(image, job.prompt, job.prompt_index, job.index, request.seed, job.note))

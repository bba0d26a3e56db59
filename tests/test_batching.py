"""The batcher: visitors share batches and get bit for bit what each would get alone."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from bridge import BridgePipeline
from bridge.errors import UserError
from bridge.pipeline import GeneratedImage, Settings
from bridge.serve.batching import Batcher, Request
from tests.fixtures import make_tiny_pipeline
from tests.test_composition import make_pipeline


@pytest.fixture(scope="module")
def pipe(encoder) -> BridgePipeline:
    return make_tiny_pipeline(encoder)


@pytest.fixture
def batcher(pipe) -> Iterator[Batcher]:
    batcher = Batcher(pipe)
    yield batcher
    batcher.close()


@pytest.fixture
def made(pipe, monkeypatch) -> Counter[str]:
    """How many batches the model samples, and how many pictures it draws, from now on."""
    counts: Counter[str] = Counter()
    sample, decode = pipe.sample, pipe.decode

    def counted_sample(jobs, settings):
        counts["batches"] += 1
        return sample(jobs, settings)

    def counted_decode(z, *options):
        counts["pictures"] += len(z)
        return decode(z, *options)

    monkeypatch.setattr(pipe, "sample", counted_sample)
    monkeypatch.setattr(pipe, "decode", counted_decode)
    return counts


def request(pipe: BridgePipeline, caption: str = "cat", count: int = 1, seed: int = 0, **options) -> Request:
    return Request((caption,), count, seed, pipe.settings, **options)


async def all_of(pictures: AsyncIterator[GeneratedImage]) -> list[GeneratedImage]:
    return [picture async for picture in pictures]


class Gate:
    """Work that keeps the batcher's thread until it is opened."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.open.wait(30)
        return "passed"


async def behind(batcher: Batcher, gate: Gate, *tasks) -> list:
    """What coroutines give that enter the queue while the thread is kept."""
    kept = asyncio.create_task(batcher.call(gate))
    assert await asyncio.to_thread(gate.entered.wait, 30)
    waiting = [asyncio.create_task(task) for task in tasks]
    await asyncio.sleep(0.05)
    gate.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert await kept == "passed"
    return results


def test_fifty_at_once_get_what_each_would_get_alone(pipe, batcher, made):
    captions = ("cat", "a far thing", "bus", "waving hand", "fire")
    asked = [request(pipe, captions[n % 5], 1 + n % 3, seed=n) for n in range(50)]
    found = asyncio.run(behind(batcher, Gate(), *(all_of(batcher.draw(one)) for one in asked)))
    total = sum(one.count for one in asked)
    assert made == {"pictures": total, "batches": -(-total // 32)}
    for one, pictures in zip(asked, found, strict=True):
        alone = pipe(one.captions[0], one.count, seed=one.seed).images
        assert [p.image.tobytes() for p in pictures] == [image.tobytes() for image in alone]
        assert [(p.index, p.prompt, p.seed) for p in pictures] == [
            (i, one.captions[0], one.seed) for i in range(one.count)
        ]


def test_new_pictures_come_a_few_at_a_time(encoder, monkeypatch):
    """Each takes a fifth of a second, and who asks for thirty wants to see the first."""
    varied, sizes = make_pipeline(encoder), list[int]()
    sample = varied.sample

    def counted(jobs, settings):
        sizes.append(len(jobs))
        return sample(jobs, settings)

    monkeypatch.setattr(varied, "sample", counted)
    batcher = Batcher(varied)

    async def visit() -> list[list[GeneratedImage]]:
        some = [Request(("a ball",), n, 0, replace(varied.settings, novelty=0.5)) for n in (19, 3)]
        return list(await behind(batcher, Gate(), *[all_of(batcher.draw(each)) for each in some]))

    many, few = asyncio.run(visit())
    batcher.close()
    assert sizes == [8, 8, 6]
    assert [image.image.tobytes() for image in many[:3]] == [image.image.tobytes() for image in few]
    sizes.clear()
    streamed = list(varied.stream("a ball", 19, seed=0, novelty=0.5))
    assert sizes == [8, 8, 3]
    assert [image.image.tobytes() for image in streamed] == [image.image.tobytes() for image in many]
    sizes.clear()
    assert len(list(varied.stream("a ball", 19, seed=0, novelty=0.0))) == sum(sizes) == 19
    assert len(sizes) == 1


def test_other_settings_never_share_a_batch(pipe, batcher, made):
    other = Request(("cat",), 2, 0, Settings(guidance_scale=3.0, num_inference_steps=2))
    first, second = asyncio.run(
        behind(batcher, Gate(), *(all_of(batcher.draw(one)) for one in (request(pipe, count=2), other)))
    )
    assert made["batches"] == 2
    alone = pipe("cat", 2, seed=0).images
    assert [p.image.tobytes() for p in first] == [image.tobytes() for image in alone]
    assert first[0].image.tobytes() != second[0].image.tobytes()


def test_a_request_of_several_captions(pipe, batcher):
    asked = Request(("cat", "bus"), 20, 3, pipe.settings)
    pictures = asyncio.run(all_of(batcher.draw(asked)))
    alone = pipe(["cat", "bus"], 20, seed=3).images
    assert [p.image.tobytes() for p in pictures] == [image.tobytes() for image in alone]


def test_a_full_queue_says_so_at_once(pipe):
    batcher, gate = Batcher(pipe, waiting=3), Gate()

    async def run() -> None:
        tasks = [all_of(batcher.draw(request(pipe, seed=n))) for n in range(3)]
        results = await behind(batcher, gate, *tasks)
        assert [type(result) for result in results] == [list, list, UserError]
        assert "busy: 3 requests wait already" in str(results[2])
        assert len(await all_of(batcher.draw(request(pipe)))) == 1

    asyncio.run(run())
    batcher.close()


def test_who_leaves_frees_the_place_and_costs_nothing(pipe, batcher, made):
    async def run() -> None:
        gate = Gate()
        kept = asyncio.create_task(batcher.call(gate))
        await asyncio.to_thread(gate.entered.wait, 30)
        gone = [asyncio.create_task(all_of(batcher.draw(request(pipe, seed=n), owner="a tab"))) for n in range(5)]
        stays = asyncio.create_task(all_of(batcher.draw(request(pipe, seed=9), owner="another")))
        await asyncio.sleep(0.05)
        assert batcher.waiting == 7
        assert batcher.cancel("a tab") == 5
        assert batcher.waiting == 2
        gate.open.set()
        results = await asyncio.gather(*gone, return_exceptions=True)
        assert {(type(result), str(result)) for result in results} == {(UserError, "stopped")}
        assert len(await stays) == 1
        await kept

    asyncio.run(run())
    assert (made["pictures"], batcher.waiting) == (1, 0)


def test_ending_the_iteration_frees_the_place(pipe, batcher, made):
    async def run() -> None:
        pictures = batcher.draw(request(pipe, count=100))
        await anext(pictures)
        await pictures.aclose()
        assert batcher.waiting == 0

    asyncio.run(run())
    assert made["pictures"] < 100


def test_a_visitors_mistake_is_his_alone(pipe, batcher):
    results = asyncio.run(
        behind(batcher, Gate(), *(all_of(batcher.draw(request(pipe, caption))) for caption in ("cat", " ", "bus")))
    )
    assert [type(result) for result in results] == [list, UserError, list]
    assert "is empty or blank" in str(results[1])


def test_a_fault_of_ours_ends_a_request_and_the_thread_goes_on(pipe, batcher, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "sample", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asyncio.run(all_of(batcher.draw(request(pipe))))
    with pytest.raises(KeyError):
        asyncio.run(batcher.call(lambda: {}["no"]))
    assert len(asyncio.run(all_of(batcher.draw(request(pipe))))) == 1


def test_closing_stops_what_waits(pipe):
    batcher, gate = Batcher(pipe), Gate()

    async def run() -> None:
        kept = asyncio.create_task(batcher.call(gate))
        await asyncio.to_thread(gate.entered.wait, 30)
        waits = asyncio.create_task(all_of(batcher.draw(request(pipe))))
        await asyncio.sleep(0.05)
        gate.open.set()
        batcher.close()
        for task in (kept, waits):
            with pytest.raises(UserError, match=r"^stopped: the server is closing$"):
                await task
        with pytest.raises(UserError, match=r"^busy: "):
            await all_of(batcher.draw(request(pipe)))

    asyncio.run(run())

"""The web page under load, over HTTP, in one run.

- many visitors at once, each with a seed of its own: is it bit for bit what each gets alone?
- visitors at once against one after the other, in turns: how many times the rate?
- resident memory over many requests.
- a queue that is full: how long until it says so?
"""

import argparse
import json
import secrets
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from PIL import Image

from bridge.pipeline import MICRO_BATCH, SAMPLE_BATCH, BridgePipeline
from bridge.serve.app import Served, served
from eval.studies import COMMON, Study
from train.command import Parser, whole
from train.timing import interleaved

CAPTIONS = ("a smiling cat", "a rocket", "a red heart", "a house", "a dog", "a strawberry", "a bus", "a tree")
TIMEOUT = 300  # Seconds without a byte after which a visitor gives up
CHECKS = 10  # Times at which resident memory is read


def draw(site: Served, number: int, count: int, tab: int | None = None) -> tuple[list[str], str]:
    """Files and message that Draw shows for seed `number`, in the session of a `tab` or in one of its own."""
    caption = CAPTIONS[number % len(CAPTIONS)]
    fields = {**vars(site.studio.default), "captions": caption, "count": count, "seed": number}
    session = secrets.token_hex(8) if tab is None else f"tab-{tab}"
    address, body = f"{site.url}/gradio_api/call/draw", {"data": list(fields.values()), "session_hash": session}
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=TIMEOUT) as stream:
        last = [line for line in stream.read().decode().splitlines() if line.startswith("data: [")][-1]
    gallery, message, *_ = json.loads(last.removeprefix("data: "))
    return [entry["image"]["path"] for entry in gallery] if isinstance(gallery, list) else [], message


def identical(site: Served, visitors: int, count: int) -> str:
    """Visitors at once with a seed each, against the pipeline alone."""
    with ThreadPoolExecutor(visitors) as pool:
        shown = list(pool.map(lambda n: draw(site, n, count)[0], range(visitors)))
    same = 0
    for number, paths in enumerate(shown):
        alone = site.studio.pipe(CAPTIONS[number % len(CAPTIONS)], count, seed=number).images
        same += [Image.open(path).tobytes() for path in paths] == [image.tobytes() for image in alone]
    return f"bit for bit as alone    {same} of {visitors} visitors at once, {count} pictures each"


def rates(site: Served, visitors: int, count: int, rounds: int) -> list[str]:
    """Lines: requests a second, one after the other and at once, in turns; the ratio of each turn."""

    def rate(tabs: int, turn: int) -> float:
        seeds, start = range(turn * visitors, (turn + 1) * visitors), time.perf_counter()
        with ThreadPoolExecutor(tabs) as pool:
            list(pool.map(lambda seed: draw(site, seed, count, seed % tabs), seeds))
        return visitors / (time.perf_counter() - start)

    for number in range(visitors):
        draw(site, 0, 1, number)  # a tab is open before it is used
    serial, together = zip(*((rate(1, turn), rate(visitors, turn)) for turn in range(rounds)), strict=True)
    ratios = sorted(b / a for a, b in zip(serial, together, strict=True))
    kind = f"requests/s of {count} picture{'s' if count > 1 else ''}"
    return [
        f"one after the other     {median(serial):.2f} {kind}",
        f"{visitors} at once              {median(together):.2f} {kind}",
        f"at once / serial        {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {rounds} turns)",
    ]


def bound(pipe: BridgePipeline, count: int, repeats: int = 5) -> str:
    """How many times the rate shared batches can give at best: those of one request are padded to the same size."""
    jobs = pipe.jobs(["a smiling cat"], SAMPLE_BATCH, seed=0)
    z = pipe.sample(jobs, pipe.settings)
    works = {"sample": lambda: pipe.sample(jobs, pipe.settings), "draw": lambda: pipe.decode(z[:MICRO_BATCH])}
    sampling, drawing = interleaved(works, repeats, time.perf_counter).values()
    alone = -(-count // SAMPLE_BATCH) * sampling + -(-count // MICRO_BATCH) * drawing
    shared = count / SAMPLE_BATCH * sampling + count / MICRO_BATCH * drawing
    costs = f"{SAMPLE_BATCH} latents {sampling:.2f} s, {MICRO_BATCH} pictures {drawing:.2f} s"
    return f"at best by batches      {alone / shared:.2f} for requests of {count} ({costs})"


def memory(site: Served, requests: int, visitors: int) -> list[str]:
    """Lines: resident memory after each tenth of the requests."""

    def use(tab: int, numbers: range) -> None:
        for number in numbers[tab::visitors]:  # one after the other, as a tab does
            draw(site, number, 1, tab)

    lines, each = [], max(1, requests // CHECKS)
    for start in range(0, requests, each):
        numbers = range(start, min(requests, start + each))
        with ThreadPoolExecutor(visitors) as pool:
            list(pool.map(use, range(visitors), [numbers] * visitors))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
        lines.append(f"resident memory         {resident:7.1f} MB after {numbers.stop} requests of 1 picture")
    return lines


def full(pipe: BridgePipeline, visitors: int) -> str:
    """How long a refusal takes while a queue of `visitors` places is full."""
    with served(pipe, waiting=visitors) as site, ThreadPoolExecutor(2 * visitors) as pool:
        waits = [pool.submit(draw, site, n, 32) for n in range(2 * visitors)]
        while site.studio.batcher.waiting < visitors and not all(wait.done() for wait in waits):
            time.sleep(0.01)
        start = time.perf_counter()
        refused = "usy: " in draw(site, 0, 1)[1]
        seconds = time.perf_counter() - start
        for wait in waits:
            wait.result()
    return f"a full queue            {'refuses' if refused else 'did not refuse'} after {seconds:.2f} s"


def _arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("model", nargs="?", default="pictures", **COMMON["model"])
    add("--visitors", type=whole(2), default=16, help="at once, where rates are compared")
    add("--seeds", type=whole(1), default=50, help="visitors at once, where pictures are compared")
    add("--pictures", type=whole(1), default=8, help="of a request, where rates are compared")
    add("--rounds", type=whole(1), default=3, help="turns of the comparison")
    add("--requests", type=whole(1), default=1000, help="over which memory is watched")


def _run(args: argparse.Namespace, _: str) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    with served(pipe) as site:
        print(identical(site, args.seeds, 2), flush=True)
        for count in sorted({1, args.pictures}):
            print(*rates(site, args.visitors, count, args.rounds), bound(pipe, count), sep="\n", flush=True)
        print(*memory(site, args.requests, args.visitors), sep="\n", flush=True)
    print(full(pipe, 4))


STUDY = Study(__doc__, "pictures", _arguments, _run)

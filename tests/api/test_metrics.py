"""GET /metrics: in Prometheus' format, cheap, and about nobody."""

import asyncio
import re
import time
from pathlib import Path

import httpx2

from tests.support.server import RunningServer, serving
from tests.support.stories import Story
from threadkeep import metrics
from threadkeep.metrics import Gauge, Lag
from threadkeep.settings import Settings
from threadkeep.upstream.scripted import Gate, Say

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "metrics.md"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"]*",?)+)\})? (\S+)')


def scraped(server: RunningServer) -> dict[str, float]:
    """All samples, by name and labels. Every line is one, or tells of those that follow."""
    answer = httpx2.get(f"{server.url}/metrics", trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[str, float] = {}
    family = ""
    for line in answer.text.splitlines():
        if line.startswith("#"):
            family = line.split()[2]
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] == family
        samples[line.rpartition(" ")[0]] = float(match[3])
    return samples


def test_it_needs_no_key_and_tells_of_the_process(server: RunningServer) -> None:
    samples = scraped(server)

    assert samples["process_resident_memory_bytes"] > 10_000_000
    assert 3 < samples["process_open_fds"] < samples["process_max_fds"]
    assert samples["process_cpu_seconds_total"] > 0
    assert abs(samples["process_start_time_seconds"] - time.time()) < 24 * 3600


def test_what_happens_is_counted(story: Story) -> None:
    before = scraped(story.server)
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])

    with story.streaming_run(story.thread("Hi")) as stream:
        gate.wait_reached()
        during = scraped(story.server)
        gate.release()
        stream.rest()
    after = scraped(story.server)

    assert during["threadkeep_runs_held"] >= 1
    assert during["threadkeep_streams_open"] == before["threadkeep_streams_open"] + 1
    assert after["threadkeep_runs_waiting"] == 0
    for name, least in {
        'threadkeep_runs_settled_total{status="completed"}': 1,
        'threadkeep_upstream_calls_total{upstream="scripted",outcome="answered"}': 1,
        'threadkeep_database_calls_total{kind="write"}': 4,
        'threadkeep_database_calls_total{kind="read"}': 1,
        'threadkeep_http_requests_total{status="200"}': 3,
    }.items():
        assert after[name] >= before.get(name, 0) + least, name


def test_a_client_can_make_no_new_label(server: RunningServer, client: httpx2.Client) -> None:
    scraped(server)
    before = set(scraped(server))
    client.request("BREW", "/coffee-2718")
    client.get("/threads/thread_2718")

    added = set(scraped(server)) - before

    assert added <= {f'threadkeep_http_requests_total{{status="{status}"}}' for status in (404, 405)}


def test_every_metric_is_on_the_page_and_no_other(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    named = set(re.findall(r"^# TYPE (\S+)", answer, re.MULTILINE))

    assert set(re.findall(r"`((?:threadkeep|process)_[a-z_]+)`", PAGE.read_text("utf-8"))) == named


def test_without_a_database_the_rest_is_told(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path)) as server:
        server.call(server.parts.store.close)

        samples = scraped(server)

    assert "threadkeep_runs_waiting" not in samples
    assert "threadkeep_runs_held" in samples


async def test_what_takes_long_is_left_out() -> None:
    async def never() -> float:
        await asyncio.Event().wait()
        return 0

    metrics_text = asyncio.create_task(metrics.text([Gauge("never", "", never), Gauge("soon", "Soon.", lambda: 1.5)]))

    lines = (await metrics_text).decode().splitlines()

    assert lines[-1] == "soon 1.5"
    assert "# TYPE never gauge" not in lines


async def test_values_of_labels_are_escaped() -> None:
    text = await metrics.text([Gauge("g", "G.", lambda: {('a"b\\c\nd',): 1}, labels=("name",))])

    assert text.decode().splitlines()[-1] == r'g{name="a\"b\\c\nd"} 1'


async def test_the_lag_of_a_loop_that_was_held_up_is_seen() -> None:
    lag = Lag()
    try:
        await asyncio.sleep(0.3)
        time.sleep(0.6)  # noqa: ASYNC251 - this is what is to be seen
        await asyncio.sleep(0.1)
        assert lag.worst > 0.2
    finally:
        lag.close()

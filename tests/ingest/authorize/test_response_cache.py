import asyncio
from datetime import timedelta

from ingest.authorize.decisions import PolicyResult
from ingest.authorize.response_cache import ResponseCache


def repeats_of(script, **given):
    """Run a script of (request, seconds to wait before it); return of which entries they were repeats."""

    async def run():
        now = [0.0]
        cache = ResponseCache(given.pop("ttl", timedelta(seconds=60)), monotonic=lambda: now[0], **given)
        repeats = []
        for number, (request, wait) in enumerate(script):
            now[0] += wait

            async def compute():
                return PolicyResult()

            entry, is_repeat = cache.get_or_compute(request, str(number), compute)
            await entry.result
            repeats.append(entry.id if is_repeat else None)
        return repeats

    return asyncio.run(run())


def test_a_request_is_cached_for_a_time_from_its_first_arrival():
    assert repeats_of([(b"a", 0), (b"b", 0), (b"a", 30), (b"a", 29), (b"a", 1)]) == [None, None, "0", "0", None]


def test_a_full_cache_evicts_the_oldest():
    assert repeats_of([(b"a", 0), (b"b", 0), (b"c", 0), (b"c", 0), (b"a", 0)], max_entries=2) == [
        None,
        None,
        None,
        "2",
        None,
    ]


def test_a_ttl_of_zero_disables_the_cache():
    assert repeats_of([(b"a", 0), (b"a", 0)], ttl=timedelta()) == [None, None]

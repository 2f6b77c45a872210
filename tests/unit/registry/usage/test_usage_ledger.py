"""The ledger adds up what any number of writers used, by day, and loses nothing that was written."""

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.usage import CPU, LEDGER_FOLDER, Amounts, Meter, WorkKey, gpu_name, read_ledger, write_page
from llamafarm_ray.storage import Location
from llamafarm_ray.types import DeviceUse

DAY = dt.date(2026, 11, 29)
NEXT = dt.date(2026, 11, 30)
BOT = WorkKey("team", "bot", "train", CPU)


class Clock:
    def __init__(self, *parts):
        self.now = dt.datetime(*parts, tzinfo=dt.UTC).timestamp()

    def __call__(self):
        return self.now


@pytest.fixture
def home(tmp_path):
    return Location(tmp_path / "home")


def meter(home, clock, name="team/bot", work="train", gpu="L4"):
    return Meter(home, "team", name, work, gpu=lambda: gpu, clock=clock)


def files(home):
    return sorted(file.name for file in home.walk(LEDGER_FOLDER))


def test_many_writers_at_once_lose_nothing(home):
    def work(number):
        with meter(Location(home.uri), Clock(2026, 11, 29, 12), work="tune" if number % 2 else "train") as one:
            for _ in range(10):
                one.add(DeviceUse(1.5))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    total = read_ledger(home, DAY, DAY)
    assert {key.work: used.device_s for key, used in total.items()} == {"train": 120.0, "tune": 120.0}
    assert len(files(home)) == 16


def test_a_page_is_replaced_by_its_writer_and_read_once(home):
    for seconds in (10.0, 25.0):
        write_page(home, DAY, "one", [(BOT, Amounts(seconds, 7))])
    write_page(home, DAY, "two", [(BOT, Amounts(5.0, 1))])
    assert read_ledger(home, DAY, DAY) == {BOT: Amounts(30.0, 8)}
    assert read_ledger(home, DAY, DAY, leave_out="one") == {BOT: Amounts(5.0, 1)}
    assert read_ledger(home, NEXT, NEXT) == {}


def test_work_over_midnight_is_of_two_days(home):
    clock = Clock(2026, 11, 29, 23, 59, 30)
    with meter(home, clock) as one:
        one.add(DeviceUse(60.0))
        clock.now += 31
        one.add(DeviceUse(40.0))
    assert read_ledger(home, DAY, DAY)[BOT].device_s == 60.0
    assert read_ledger(home, NEXT, NEXT)[BOT].device_s == 40.0
    assert read_ledger(home, DAY, NEXT)[BOT].device_s == 100.0


def test_work_that_is_killed_has_written_all_but_its_last_minute(home):
    clock = Clock(2026, 11, 29, 12)
    one = meter(home, clock)
    for _ in range(5):
        clock.now += 30
        one.add(DeviceUse(30.0))
        if one._writing is not None:
            one._writing.result()
    assert read_ledger(home, DAY, DAY)[BOT].device_s == 120.0


def test_gpus_are_counted_by_their_type_and_cpus_by_cores(home):
    with meter(home, Clock(2026, 11, 29, 12)) as one:
        one.add(DeviceUse(4.0))
        one.add(DeviceUse(8.0, on_gpu=True))
    assert {key.device: used.device_s for key, used in read_ledger(home, DAY, DAY).items()} == {"CPU": 4.0, "L4": 8.0}
    assert gpu_name({"CPU": 8, "accelerator_type:L40S": 1.0}) == "L40S"
    assert gpu_name({"accelerator_type:L40S": 1.0, "accelerator_type:L4": 1.0}) == "GPU"
    assert gpu_name({"CPU": 8}) == "GPU"


def test_storage_that_is_away_ends_no_work_and_gets_it_later(home, monkeypatch, caplog):
    def away(*_):
        raise StorageError("nobody answers")

    clock, write = Clock(2026, 11, 29, 12), home.write
    monkeypatch.setattr(home, "write", away)
    with meter(home, clock) as one:
        for _ in range(3):
            clock.now += 61
            one.add(DeviceUse(10.0))
            one._writing.result()
        assert "nobody answers" in caplog.text
        monkeypatch.setattr(home, "write", write)
    assert read_ledger(home, DAY, DAY)[BOT].device_s == 30.0


@pytest.mark.parametrize(
    "text", ['{"format": 1, "ro', '{"format": 9}', '{"format": 1, "rows": [{"work": "mine"}]}', "[]"]
)
def test_a_file_that_is_no_page_is_named_and_passed_over(home, caplog, text):
    write_page(home, DAY, "good", [(BOT, Amounts(1.0))])
    home.write(f"{LEDGER_FOLDER}/2026/11/29/bad.json", text.encode())
    assert read_ledger(home, DAY, DAY) == {BOT: Amounts(1.0)}
    assert "bad.json is passed over" in caplog.text


def test_a_page_says_what_its_rows_are_of(home):
    write_page(home, DAY, "one", [(BOT, Amounts(1.0004, 3))])
    (row,) = json.loads(home.read(f"{LEDGER_FOLDER}/2026/11/29/one.json"))["rows"]
    of_what = {"namespace": "team", "name": "bot", "work": "train", "device": "CPU"}
    assert row == {**of_what, "device_s": 1.0, "num_tokens": 3}

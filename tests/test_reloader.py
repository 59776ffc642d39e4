"""The files of a configuration, followed: every change of what they say is seen, and only that."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asgi_gateway.config import Config, ConfigError, Files, load_config
from asgi_gateway.reload import SETTLE, Reloader
from asgi_gateway.testing import ManualClock

TEXT = "version: 1\nlogging: {level: warning}\nlisten: {host: '${file:host}'}\ninclude: [more/*.yaml]\n"
SERVICE = "services: {%s: {url: 'http://127.0.0.1:9', routes: [{path: /%s}]}}\n"


class Followed:
    """A configuration in a folder, and what was made of it each time."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.folder = folder
        self.clock = clock
        self.applied: list[Config] = []
        files = Files()
        config = load_config(folder / "gateway.yaml", files=files)
        self.reloader = Reloader(str(folder / "gateway.yaml"), config, files, self._apply, clock=clock)

    async def _apply(self, config: Config, files: Files) -> tuple[str, ...]:
        assert load_config(self.folder / "gateway.yaml", files=files) == config
        self.applied.append(config)
        return ()

    async def looks(self, times: int = 1) -> None:
        """Let that many looks at the files pass, and what they lead to."""
        for _ in range(times):
            await self.clock.advance(1)
            if await self.waits() < 0.5:
                await self.clock.advance(SETTLE)
                await self.waits()

    async def waits(self) -> float:
        """How long it waits next, once threads have read what there is to read."""
        async with asyncio.timeout(5):
            while not self.clock.pending:
                await asyncio.sleep(0.001)
        return self.clock.pending[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    (tmp_path / "host").write_text("127.0.0.1\n")
    (tmp_path / "gateway.yaml").write_text(TEXT)
    (tmp_path / "more" / "a.yaml").write_text(SERVICE % ("a", "a"))
    return tmp_path


@asynccontextmanager
async def followed(folder: Path) -> AsyncIterator[Followed]:
    clock = ManualClock()
    one = Followed(folder, clock)
    watching = asyncio.ensure_future(one.reloader.watch())
    await clock.advance(0)
    try:
        yield one
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_nothing_happens_while_nothing_changes(folder: Path) -> None:
    async with followed(folder) as one:
        await one.looks(3)
        for name in ("gateway.yaml", "host", "more/a.yaml"):
            os.utime(folder / name, (1, 1))
        await one.looks(3)
        assert one.applied == []
        assert one.reloader.last is None


async def test_the_file_and_all_that_it_names_are_followed(folder: Path) -> None:
    async with followed(folder) as one:
        (folder / "gateway.yaml").write_text(TEXT.replace("warning", "error"))
        await one.looks()
        assert one.applied[-1].logging.level == "error"
        (folder / "host").write_text("127.0.0.2")
        await one.looks()
        assert one.applied[-1].listen.host == "127.0.0.2"
        (folder / "more" / "a.yaml").write_text(SERVICE % ("a", "other"))
        await one.looks()
        assert one.applied[-1].services["a"].routes[0].path == "/other"
        (folder / "more" / "b.yaml").write_text(SERVICE % ("b", "b"))
        await one.looks()
        assert list(one.applied[-1].services) == ["a", "b"]
        (folder / "more" / "a.yaml").unlink()
        await one.looks()
        assert list(one.applied[-1].services) == ["b"]
        assert len(one.applied) == 5
        assert one.reloader.number == 6


async def test_a_change_of_the_same_size_and_time_is_seen(folder: Path) -> None:
    async with followed(folder) as one:
        file = folder / "host"
        before = file.stat()
        file.write_text("127.0.0.9\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        await one.looks()
        assert one.applied[-1].listen.host == "127.0.0.9"


async def test_a_link_that_leads_elsewhere_is_seen(folder: Path) -> None:
    (folder / "..one").mkdir()
    (folder / "..two").mkdir()
    (folder / "..one" / "host").write_text("127.0.0.1")
    (folder / "..two" / "host").write_text("127.0.0.2")
    (folder / "..data").symlink_to("..one")
    (folder / "host").unlink()
    (folder / "host").symlink_to("..data/host")
    async with followed(folder) as one:
        (folder / "..next").symlink_to("..two")
        (folder / "..next").rename(folder / "..data")
        await one.looks()
        assert one.applied[-1].listen.host == "127.0.0.2"


async def test_a_file_that_still_changes_is_left_alone(folder: Path) -> None:
    async with followed(folder) as one:
        file = folder / "gateway.yaml"
        file.write_text("version: 1")
        await one.clock.advance(1)
        assert await one.waits() == pytest.approx(SETTLE)
        file.write_text(TEXT.replace("warning", "error"))
        await one.clock.advance(SETTLE)
        assert await one.waits() == pytest.approx(1)
        assert one.applied == []
        await one.looks()
        assert [config.logging.level for config in one.applied] == ["error"]


async def test_a_broken_file_is_told_once_and_tried_when_it_changes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with followed(folder) as one:
        (folder / "gateway.yaml").write_text(TEXT.replace("warning", "wrong"))
        await one.looks(3)
        assert [line for line in caplog.messages if "logging.level" in line] == [
            line for line in caplog.messages if line.startswith(f"{folder}/gateway.yaml:2:")
        ]
        assert sum("logging.level" in line for line in caplog.messages) == 1
        assert one.reloader.last is not None
        assert len(one.reloader.last.mistakes) == 1
        assert one.applied == []
        (folder / "gateway.yaml").write_text(TEXT)
        await one.looks()
        assert one.reloader.last.mistakes == ()
        assert len(one.applied) == 1


async def test_a_file_that_was_wanted_and_missing_is_waited_for(folder: Path) -> None:
    async with followed(folder) as one:
        (folder / "gateway.yaml").write_text(TEXT + "workers: ${file:number}\n")
        await one.looks(2)
        assert one.applied == []
        (folder / "number").write_text("3")
        await one.looks()
        assert one.applied[-1].workers == 3
        (folder / "gateway.yaml").unlink()
        await one.looks(2)
        assert "cannot read the file" in str(one.reloader.last)
        assert len(one.applied) == 1


async def test_what_is_not_to_be_watched_is_reloaded_when_asked(folder: Path) -> None:
    (folder / "gateway.yaml").write_text(TEXT + "reload: {watch: false}\n")
    async with followed(folder) as one:
        (folder / "host").write_text("127.0.0.2")
        await one.looks(3)
        assert one.applied == []
        assert (await one.reloader.reload()).mistakes == ()
        assert one.applied[-1].listen.host == "127.0.0.2"


async def test_a_reload_that_cannot_be_applied_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(config: Config, files: Files) -> tuple[str, ...]:
        raise ConfigError([config.mistake(("logging",), "not here")])

    async def break_down(config: Config, files: Files) -> tuple[str, ...]:
        raise RuntimeError("a bug")

    files = Files()
    path = folder / "gateway.yaml"
    config = load_config(path, files=files)
    outcome = await Reloader(str(path), config, files, refuse).reload()
    assert outcome.mistakes == (f"{path}:2:10: logging: not here",)
    reloader = Reloader(str(path), config, files, break_down)
    assert (await reloader.reload()).mistakes == ("the reload failed, the log says why",)
    assert reloader.number == 1
    assert "a bug" in caplog.text


async def test_reloads_are_counted_and_the_last_one_is_told(folder: Path) -> None:
    async with followed(folder) as one:
        metrics = one.reloader.metrics

        def told() -> list[float]:
            return [metric.value for metric in (*metrics.counters, *metrics.gauges)]

        names = {metric.name for metric in (*metrics.counters, *metrics.gauges)}
        assert names == {"config_reloads_total", "config_last_reload_success"}
        assert told() == [0, 0, 1]
        (folder / "gateway.yaml").write_text("version: 2\n")
        await one.reloader.reload()
        assert told() == [0, 1, 0]
        (folder / "gateway.yaml").write_text(TEXT)
        await one.reloader.reload()
        assert told() == [1, 1, 1]


async def test_the_watch_leaves_alone_what_a_reload_still_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It looked at files that grew in number meanwhile, which ended it, or made it reload once more."""
    begun, go_on, read = threading.Event(), threading.Event(), threading.Event()

    def load(path: str, *, files: Files) -> Config:
        files.read(Path(path))
        begun.set()
        assert go_on.wait(5)
        config = load_config(path, files=files)
        read.set()
        return config

    def content(name: str) -> bytes:
        go_on.set()
        assert read.wait(5)
        return Path(name).read_bytes()

    monkeypatch.setattr("asgi_gateway.reload.load_config", load)
    monkeypatch.setattr("asgi_gateway.config.files._content", content)
    async with followed(folder) as one:
        reloading = asyncio.ensure_future(one.reloader.reload())
        await asyncio.to_thread(begun.wait, 5)
        await one.clock.advance(1)
        await one.waits()
        go_on.set()
        await reloading
        await one.looks(2)
        assert one.reloader.number == 2
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_change_that_a_reload_has_overtaken_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, loop, looks = Files.again, asyncio.get_running_loop(), list[Files]()

    def overtaken(files: Files) -> Files:
        looks.append(files)
        if len(looks) == 2:
            asyncio.run_coroutine_threadsafe(one.reloader.reload(), loop).result(5)
        return again(files)

    async with followed(folder) as one:
        monkeypatch.setattr(Files, "again", overtaken)
        (folder / "host").write_text("127.0.0.2")
        await one.looks(2)
        assert one.reloader.number == 2


async def test_nothing_ends_the_watch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(files: Files) -> Files:
        raise RuntimeError("a bug")

    async with followed(folder) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Files, "again", broken)
            await one.looks()
        assert "a bug" in caplog.text
        (folder / "host").write_text("127.0.0.2")
        await one.looks()
        assert one.applied[-1].listen.host == "127.0.0.2"


@pytest.mark.parametrize("name", [r"a\0b", r"\ud800"])
async def test_a_name_that_no_file_can_have_is_a_mistake_that_can_be_mended(folder: Path, name: str) -> None:
    async with followed(folder) as one:
        broken = TEXT.replace("'${file:host}'", f'"${{file:{name}}}"')
        (folder / "gateway.yaml").write_text(broken.replace("more/*", r"a\0b*"))
        await one.looks()
        assert "no file can be called that" in str(one.reloader.last)
        (folder / "gateway.yaml").write_text(TEXT.replace("[more/*.yaml]", r'["more/*.yaml", "a\0b/*.yaml"]'))
        await one.looks(2)
        assert [config.listen.host for config in one.applied] == ["127.0.0.1"]

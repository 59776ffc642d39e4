"""The benchmark program reads its tools rightly and judges rightly; it is run by hand."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest
import yaml

from tests import benchmarks
from tests.benchmarks import report
from tests.benchmarks.bars import BARS, layer_us
from tests.benchmarks.peers import ALL, LAYERED, Place
from tests.benchmarks.peers.ours import bare_config, roomy, whole_config
from tests.benchmarks.services import completion
from tests.benchmarks.soak import Sample, verdict
from tests.benchmarks.wrk import read_report

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 32 connections
  Latency Distribution
     50%  812.00us
     75%    1.10ms
     90%    1.40ms
     99%    1.25s
  31415 requests in 1.10s, 24.04MB read
  Socket errors: connect 0, read 3, write 0, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  28559.09
"""


def test_every_module_can_be_imported():
    names = {name for _, name, _ in pkgutil.walk_packages(benchmarks.__path__, "tests.benchmarks.")}
    for name in names - {"tests.benchmarks.plots"}:  # needs matplotlib
        import_module(name)
    assert "tests.benchmarks.peers.ours" in names


def test_what_wrk_prints_is_read_with_its_units_and_errors():
    run = read_report(WRK)
    assert (run.requests, run.seconds, run.errors) == (31415, 1.1, 12)
    assert run.p50_ms == pytest.approx(0.812)
    assert run.p99_ms == 1250


def test_a_completion_has_exactly_the_size_asked_for():
    assert [len(completion(size)) for size in (600, 1024)] == [600, 1024]


def test_the_whole_configuration_keeps_its_chains_and_loses_its_limits():
    config = whole_config(9000)
    limits = [layer["rate_limit"] for layer in config["middleware"] if "rate_limit" in layer]
    assert limits[0]["limit"] == "1000000000/minute"
    assert {service["url"] for service in config["services"].values()} == {"http://127.0.0.1:9000"}
    assert "access_log" in config["middleware"]


def test_configurations_of_ours_are_valid(tmp_path):
    from asgi_gateway.config import load_config

    for number, config in enumerate([bare_config(1, layers=5), whole_config(1), roomy(whole_config(1))]):
        path = Place(tmp_path, number, 1).write("gateway.yaml", yaml.safe_dump(config))
        assert load_config(path).services


def test_every_peer_that_may_be_missing_says_how_to_install_it():
    assert all(peer.install for peer in ALL if peer.missing())


def test_a_bar_is_told_as_met_missed_or_not_measured():
    rows = {peer.name: {"cpu_us": 40.0 + cost} for peer, cost in zip(LAYERED, (0, 1, 5, 40), strict=True)}
    figures = {"layers": {"results": {"small POST": rows}}}
    (bar,) = [bar for bar in BARS if "pass-through" in bar.name]
    value = bar.value(figures)
    assert value == layer_us(figures, 10) == 4
    assert not bar.met(4)
    assert bar.met(2.9)
    assert sum(other.value(figures) is None for other in BARS) == len(BARS) - 1


def test_a_ratio_that_must_be_reached_is_no_upper_limit():
    figures = {
        "load": {
            "results": {
                "small POST": {
                    "asgi_gateway, bare": {"requests_per_second": 90.0, "cpu_us": 50.0},
                    "Envoy": {"requests_per_second": 100.0, "cpu_us": 40.0},
                }
            }
        }
    }
    bar = BARS[0]
    assert bar.value(figures) == 0.9
    assert bar.cpu_value(figures) == 0.8
    assert bar.met(0.9)
    assert not bar.met(0.79)


def test_the_page_keeps_what_stands_around_the_figures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.into_page(page, "new", [tmp_path / "images" / "load.svg"])
    assert page.read_text() == (
        f"before\n{report.BEGIN}\n\n![load](images/load.svg)\n\nnew\n{report.END}\nafter\n"
    )


def flat(**changes: int) -> list[Sample]:
    """Nine samples that stay the same but for what the last three have in place."""
    usual = {"kilobytes": 60_000, "files": 50, "tasks": 30}
    return [Sample(n, **(usual if n < 6 else {**usual, **changes})) for n in range(9)]


@pytest.mark.parametrize(("what", "value"), [("kilobytes", 64_000), ("files", 90), ("tasks", 60)])
def test_what_grows_while_it_soaks_is_told(what: str, value: int) -> None:
    rest = (Sample(0, 50_000, 20, 10), Sample(9, 60_000, 21, 10))
    assert verdict(flat(), rest) == []
    assert [one.partition(" ")[0] for one in verdict(flat(**{what: value}), rest)] == [what]


def test_what_is_left_after_a_soak_is_told() -> None:
    left = (Sample(0, 50_000, 20, 10), Sample(9, 60_000, 40, 30))
    assert verdict(flat(), left) == ["files were left: 20", "tasks were left: 20"]

from pathlib import Path

import pytest

from asgi_gateway.config.interpolation import Interpolated, Interpolation


def fill(text: str, folder: Path = Path(), **environ: str) -> Interpolated:
    return Interpolation(environ, folder)(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${HOST}", "h"),
        ("http://${HOST}:${PORT}/x", "http://h:80/x"),
        ("${UNSET:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("${HOST:-default}", "h"),
        ("${UNSET:-}", ""),
        ("${UNSET:-http://localhost:8000}", "http://localhost:8000"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$HOST costs $5", "$HOST costs $5"),
        ("$${HOST}", "${HOST}"),
        ("$${HOST} is ${HOST}", "${HOST} is h"),
        ("${REFERENCE}", "${HOST}"),
        ("", ""),
    ],
)
def test_references_are_filled_in(text: str, value: str) -> None:
    result = fill(text, HOST="h", PORT="80", EMPTY="", REFERENCE="${HOST}")
    assert (result.value, result.mistakes) == (value, [])


def test_an_unset_variable_without_default_is_a_mistake() -> None:
    assert fill("${NOPE}").mistakes == ["the environment variable NOPE is not set and has no default"]


def test_all_that_is_wrong_with_a_text_is_said() -> None:
    assert len(fill("${ONE} ${TWO} ${three").mistakes) == 3


@pytest.mark.parametrize("text", ["${", "${}", "${A-b}", "${A:?b}", "${1A}", "${A B}", "${A:-${B}}", "x ${A"])
def test_a_malformed_reference_is_a_mistake(text: str) -> None:
    assert len(fill(text, A="a", B="b").mistakes) == 1


def test_a_file_gives_its_text_less_the_final_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b" s3cret \r\n")
    assert fill(f"Bearer ${{file:{tmp_path}/key}}").value == "Bearer  s3cret "
    assert fill("${file:key}", folder=tmp_path).value == " s3cret "


def test_an_unreadable_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    assert fill("${file:none}", folder=tmp_path).mistakes == ["cannot read none: No such file or directory"]
    assert fill("${file:binary}", folder=tmp_path).mistakes == ["cannot read binary: it is not UTF-8 text"]
    assert fill(f"${{file:{tmp_path}}}").mistakes == [f"cannot read {tmp_path}: Is a directory"]


@pytest.mark.parametrize("name", ["API_KEY", "token", "DbPassword", "CLIENT_SECRET", "AWS_CREDENTIALS"])
def test_a_variable_with_a_telling_name_is_secret(name: str) -> None:
    result = fill(f"a-${{{name}:-plain}}", **{name: "hunter2"})
    assert result.secret
    assert result.value == "a-hunter2"
    assert result.shown == f"a-${{{name}:-***}}"


def test_a_file_is_secret(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hunter2")
    result = fill("${file:x}", folder=tmp_path)
    assert result.secret
    assert result.shown == "${file:x}"


def test_other_variables_are_not_secret() -> None:
    assert not fill("${PORT:-3000} ${AI_SERVICE_URL:-x}").secret

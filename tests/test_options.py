from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field, ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from asgi_gateway.options import accepts_runtime, option_values, options_model, validated
from asgi_gateway.types import PositiveSeconds

if TYPE_CHECKING:
    from nowhere import Unknown


class Plain:
    """What it does,
    in a line.

    More of it.
    """

    def __init__(
        self,
        application: Any,
        *,
        wait: Annotated[PositiveSeconds, Field(description="How long.")] = 60.0,
        count: int,
        runtime: Any = None,
    ) -> None: ...


class Awkward:
    def __init__(
        self,
        app: Any,
        copy: int = 1,
        model_config: int = 2,
        _hidden: int = 3,
        what: Unknown = None,
        n: int = 4,
    ) -> None: ...


def test_the_keyword_parameters_are_the_options() -> None:
    model = options_model(Plain)
    assert set(model.model_fields) == {"wait", "count"}
    assert model.model_fields["wait"].description == "How long."
    assert model.__name__ == "Plain"
    assert model.__doc__ == "What it does, in a line."
    assert option_values(model.model_validate({"count": "3"})) == {"wait": 60.0, "count": 3}


@pytest.mark.parametrize("options", [{}, {"count": 1, "wait": 0}, {"count": 1, "other": 2}, {"count": "x"}])
def test_what_the_constructor_would_not_take_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options_model(Plain).model_validate(options)


@pytest.mark.parametrize("name", ["app", "application", "self", "runtime"])
def test_what_is_handed_in_is_no_option(name: str) -> None:
    with pytest.raises(ValidationError):
        options_model(Plain).model_validate({"count": 1, name: None})


def test_any_name_of_a_parameter_will_do() -> None:
    model = options_model(Awkward)
    given = {"copy": 5, "model_config": 6, "_hidden": 7, "what": object(), "n": 8}
    assert option_values(model.model_validate(given)) == given
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"copy": "x"})
    assert caught.value.errors()[0]["loc"] == ("copy",)


def test_an_annotation_that_cannot_be_resolved_spoils_no_other() -> None:
    with pytest.raises(ValidationError):
        options_model(Awkward).model_validate({"what": object(), "n": "x"})


def test_whoever_takes_any_keyword_gets_it() -> None:
    def factory(app: Any, size: int = 1, **others: Any) -> Any: ...

    model = options_model(factory).model_validate({"size": 2, "colour": "red"})
    assert option_values(model) == {"size": 2, "colour": "red"}


def test_other_peoples_middlewares_are_read_by_the_same_rule() -> None:
    gzip = option_values(options_model(GZipMiddleware).model_validate({"minimum_size": "64"}))
    assert (gzip["minimum_size"], gzip["compresslevel"]) == (64, 9)
    cors = option_values(options_model(CORSMiddleware).model_validate({"allow_origins": ["*"]}))
    assert cors["allow_origins"] == ["*"]


def test_a_class_without_a_constructor_has_no_options() -> None:
    class Bare:
        pass

    with pytest.raises(ValidationError):
        options_model(Bare).model_validate({"x": 1})


def test_what_has_no_signature_is_an_error() -> None:
    with pytest.raises((TypeError, ValueError)):
        options_model(dict)


def test_the_runtime_is_given_to_whoever_wants_it() -> None:
    assert accepts_runtime(Plain)
    assert not accepts_runtime(GZipMiddleware)


@validated
class Held:
    made: dict[str, Any]

    def __init__(
        self,
        app: Any,
        *,
        wait: PositiveSeconds = 5.0,
        count: Annotated[int, Field(ge=1)] = 3,
        runtime: Any = None,
    ) -> None:
        self.made = {"app": app, "wait": wait, "count": count, "runtime": runtime}


def test_a_validated_constructor_converts_and_fills_in() -> None:
    assert Held("inner", wait="2m").made == {"app": "inner", "wait": 120.0, "count": 3, "runtime": None}  # type: ignore[arg-type]


def test_a_validated_constructor_takes_the_app_by_name_and_the_runtime_as_it_is() -> None:
    runtime = object()
    made = Held(app="inner", runtime=runtime).made
    assert made["app"] == "inner"
    assert made["runtime"] is runtime


@pytest.mark.parametrize("options", [{"count": 0}, {"wait": "soon"}, {"cuont": 3}])
def test_a_validated_constructor_refuses_what_the_file_would(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Held("inner", **options)
    assert caught.value.title == "Held"


def test_the_options_of_a_validated_constructor_are_those_it_says() -> None:
    model = options_model(Held)
    assert issubclass(model, BaseModel)
    assert set(model.model_fields) == {"wait", "count"}


def test_validated_values_are_accepted_again() -> None:
    values = option_values(options_model(Held).model_validate({"wait": "1s"}))
    assert Held("inner", **values).made["wait"] == 1.0

"""Services that middlewares send requests to: unknown ones and circles are mistakes of the file."""

from collections.abc import Callable

from asgi_gateway.config import Config

Parse = Callable[..., Config]
Mistakes = Callable[..., list[str]]


def services(**leads: str) -> str:
    lines = ["version: 1", "services:"]
    for name, options in leads.items():
        lines += [
            f"  {name}:",
            f"    url: http://{name}",
            f"    routes: [{{path: /{name}/*}}]",
            f"    middleware: [{{use: 'config_toys:LeadingMiddleware', options: {options}}}]",
        ]
    return "\n".join(lines)


def test_services_may_lead_to_each_other_in_one_direction(parse: Parse) -> None:
    config = parse(services(first="{to: [second, third]}", second="{deep: {to: third}}", third="{}"))
    assert config.services["first"].middleware[0].options["to"] == ["second", "third"]


def test_a_service_that_is_not_there_is_a_mistake_at_its_place(mistakes: Mistakes) -> None:
    first, second = mistakes(services(first="{to: [secnod]}", second="{deep: {to: nowhere}}"))
    place = "g.yaml:6:72: services.first.middleware[0].options.to[0]"
    assert first == f"{place}: there is no service 'secnod' (did you mean 'second'?)"
    assert second.startswith("g.yaml:10:")
    assert second.endswith("services.second.middleware[0].options.deep.to: there is no service 'nowhere'")


def test_a_circle_is_a_mistake_at_the_step_that_closes_it(mistakes: Mistakes) -> None:
    text = services(first="{to: [second]}", second="{to: [third]}", third="{to: [second]}")
    place = "g.yaml:14:72: services.third.middleware[0].options.to[0]"
    assert mistakes(text) == [f"{place}: requests would go in a circle: second -> third -> second"]


def test_a_service_may_not_lead_to_itself(mistakes: Mistakes) -> None:
    (mistake,) = mistakes(services(only="{to: [only]}"))
    assert mistake.endswith("requests would go in a circle: only -> only")


def test_a_service_that_another_names_needs_no_route(parse: Parse, mistakes: Mistakes) -> None:
    routed = "  first: {url: 'http://x', routes: [{path: /*}], middleware: [{mirror: {target: second}}]}\n"
    inner = "  second: {url: 'http://x', middleware: [{fallback: {targets: [third]}}]}\n  third: {url: 'http://x'}\n"
    config = parse(f"version: 1\nservices:\n{routed}{inner}")
    assert [len(service.routes) for service in config.services.values()] == [1, 0, 0]
    (mistake,) = mistakes(f"version: 1\nservices:\n{inner}")
    assert mistake.startswith("g.yaml:3:3: services.second: nothing leads to it")


def test_what_is_mistaken_may_be_what_leads_there(mistakes: Mistakes) -> None:
    text = services(first="{to: [second], nosuch: 1}", second="{}").replace(
        "    routes: [{path: /second/*}]\n", ""
    )
    (mistake,) = mistakes(text)
    assert "nosuch" in mistake

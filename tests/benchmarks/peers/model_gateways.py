"""LiteLLM and Portkey: gateways for model traffic alone."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.peers.folders import LITELLM, NODE
from tests.benchmarks.peers.peer import Peer, Place, no_file

_START = NODE / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

# Portkey has no option for the address and would listen on all.
_LOOPBACK = """const { Server } = require('node:net');
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { port, host: '127.0.0.1' }, ...rest.filter((a) => typeof a === 'function'));
};
"""


def _litellm(place: Place) -> list[str]:
    config = f"""model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: "http://127.0.0.1:{place.service}/v1"
      api_key: sk-x
general_settings: {{ master_key: sk-1234 }}
litellm_settings: {{ telemetry: false, num_retries: 2, callbacks: [] }}
"""
    options = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]
    return [str(LITELLM / "bin" / "litellm"), "--config", place.write("litellm.yaml", config), *options]


def _portkey(place: Place) -> list[str]:
    loopback = place.write("loopback.cjs", _LOOPBACK)
    return ["node", "--require", loopback, str(_START), f"--port={place.port}", "--headless"]


def _portkey_headers(place: Place) -> Mapping[str, str]:
    return {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{place.service}/v1",
    }


LITELLM_PROXY = Peer(
    "LiteLLM",
    _litellm,
    f"python -m venv {LITELLM} && {LITELLM}/bin/pip install 'litellm[proxy]'",
    no_file(LITELLM / "bin" / "litellm"),
    env={
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    },
    speaks_json_only=True,
)
PORTKEY = Peer(
    "Portkey",
    _portkey,
    f"npm install --prefix {NODE} @portkey-ai/gateway",
    no_file(_START),
    env={"NODE_ENV": "production"},
    headers=_portkey_headers,
    speaks_json_only=True,
)

"""nginx, HAProxy and Caddy, as Debian packs them, each on one thread."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.peers.peer import Peer, Place, no_program


def nginx_config(directory: Path, prefix: str, body: str) -> str:
    """The whole of an nginx configuration around what is special of it."""
    temporary = "".join(
        f"  {kind}_temp_path {directory}/{prefix}-{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root, its worker would be another user, who may not write beside the configuration.
    user = "user root;\n" if os.geteuid() == 0 else ""
    return f"""{user}worker_processes 1;
daemon off;
pid {directory}/{prefix}.pid;
error_log {directory}/{prefix}.err;
events {{ worker_connections 18000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
{temporary}{body}
}}
"""


def nginx_command(directory: Path, config: str) -> list[str]:
    return ["nginx", "-p", str(directory), "-c", config, "-e", f"{config}.err"]


def _nginx(place: Place) -> list[str]:
    """Bodies pass without the detour over the disk, as they do with the others."""
    body = f"""  upstream b {{
    server 127.0.0.1:{place.service};
    keepalive 1024;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://b;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
  }}"""
    config = nginx_config(place.directory, f"nginx-{place.port}", body)
    return nginx_command(place.directory, place.write("nginx.conf", config))


def _haproxy(place: Place, options: str = "") -> list[str]:
    config = f"""global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
{options}frontend f
  bind 127.0.0.1:{place.port} backlog 4096
  default_backend b
backend b
  server s1 127.0.0.1:{place.service}
"""
    return ["haproxy", "-f", place.write("haproxy.cfg", config)]


def _caddy(place: Place) -> list[str]:
    config = f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{place.port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{place.service}
}}
"""
    return ["caddy", "run", "--adapter", "caddyfile", "--config", place.write("Caddyfile", config)]


NGINX = Peer("nginx", _nginx, "apt-get install nginx-light", no_program("nginx"))
HAPROXY = Peer("HAProxy", _haproxy, "apt-get install haproxy", no_program("haproxy"))
# Without the option it holds events back for each other's company, for tenths of a second.
HAPROXY_NO_DELAY = replace(HAPROXY, command=lambda place: _haproxy(place, "  option http-no-delay\n"))
CADDY = Peer("Caddy", _caddy, "apt-get install caddy", no_program("caddy"), env={"GOMAXPROCS": "1"})

"""What an intermediary must do (RFC 9110, 9112, 7239), shown by the real process on real sockets.

Raw bytes go in; what the service received, and what the client did, is looked at. What stands elsewhere
is not repeated here:

- malformed requests, and what the server in front refuses: `tests/server/test_http_protocol.py`;
- faults of services and clients, answers that break off: `tests/faults/`, `tests/test_over_sockets.py`;
- malformed answers in every variant, bytes after an answer: `tests/proxy/test_http1_answers.py`;
- who never reads, uploads that are refused under other servers, early hints and trailers over HTTP/2:
  `tests/proxy/test_http1_gateway.py`; the same over HTTP/1.1: `tests/server/test_asgi_extensions.py`;
- Forwarded, Via and Max-Forwards in every variant: `tests/asgi/test_forwarded.py`, `tests/proxy/`;
- the same over the httpx transport: `tests/proxy/test_proxy_app.py`.
"""

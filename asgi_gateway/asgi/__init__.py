"""Plain functions over ASGI's own data: headers and paths."""

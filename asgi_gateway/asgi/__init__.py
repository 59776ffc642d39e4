"""What works on ASGI's own data: headers, paths, keys, bodies that are kept, messages that are watched."""

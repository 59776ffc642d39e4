"""``asgi-gateway demo``: two services that can be made to fail, and the gateway in front of them."""

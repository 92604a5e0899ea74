"""The mocked Factory: operator API, device gateway, their store and their server."""

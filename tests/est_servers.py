"""Values of ESTSERVER, and the target of the request that a device makes of each (None: it makes none).

PORT stands for the port of an EST server on localhost, below /.well-known/est. The real fioconfig ended like this.
"""

EST = "/.well-known/est"

ROTATING: list[tuple[str, str]] = [
    ("https://localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
    ("https://localhost:PORT/.well-known/%65st", "/.well-known/%65st/simplereenroll"),
    ("https://localhost:PORT/.well-known%2Fest", "/.well-known%2Fest/simplereenroll"),
    ("HTTPS://localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
    ("https://LOCALHOST:PORT/.well-known/est", f"{EST}/simplereenroll"),
    ("https://user:pw@localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
]

WEDGING: list[tuple[str, str | None]] = [
    ("https://localhost:PORT/.well-known/est/", f"{EST}//simplereenroll"),
    ("https://localhost:PORT/x/../.well-known/est", f"/x/..{EST}/simplereenroll"),
    ("https://localhost:PORT//.well-known/est", f"/{EST}/simplereenroll"),
    ("https://localhost:PORT/./.well-known/est", f"/.{EST}/simplereenroll"),
    ("https://localhost:PORT/.well-known/est?x", f"{EST}?x/simplereenroll"),
    ("https://localhost:PORT/.well-known/est#f", EST),
    ("https://localhost:PORT", "/simplereenroll"),
    ("https://localhost:PORT/.well-known/ést", "/.well-known/%C3%A9st/simplereenroll"),
    ("https://localhost:PORT/.well-known/est;a", f"{EST};a/simplereenroll"),
    ("https://localhost:PORT/.well-known/est|x", f"{EST}%7Cx/simplereenroll"),
    ("http://localhost:PORT/.well-known/est", None),
    ("https://127.0.0.1:PORT/.well-known/est", None),
    ("localhost:PORT/.well-known/est", None),
    ("https://localhost:PORT/.well-known/%zz", None),
    ("https://localhost:1/.well-known/est", None),
    ("https://localhost:99999/.well-known/est", None),
    ("https:///.well-known/est", None),
]

"""What the operator API answers, with every field that is read: a document for each of some commands."""

GROUPS = {
    "groups": [
        {"id": 7, "name": "field", "description": "ä", "change-meta": {"created-at": "2024-11-11T15:59:07"}}
    ]
}
DEVICES = {
    "devices": [
        {"uuid": "u", "name": "d", "last-seen": "2024-11-11T15:59:07Z", "group": {"id": 1, "name": "g"}}
    ],
    "total": 1,
    "next": None,
}
DEVICE = {
    "uuid": "u",
    "name": "d",
    "factory": "acme",
    "public-key": "-----BEGIN PUBLIC KEY-----\n",
    "is-prod": True,
}
CONFIG = {
    "config": [
        {
            "created-at": "2024-11-11T15:59:07",
            "applied-at": None,
            "reason": "why",
            "files": [{"name": "fio-rotate-certs", "value": "ROTATIONID=certs-1\n", "on-changed": ["/x"]}],
        }
    ],
    "total": 1,
    "next": None,
}
USER = {"polis-id": "p", "name": "n", "role": "admin"}
ANSWERS: dict[tuple[str, ...], object] = {
    ("config", "device-group", "list"): GROUPS,
    ("devices", "list"): DEVICES,
    ("devices", "show", "d"): DEVICE,
    ("config", "log"): CONFIG,
    ("whoami",): USER,
}

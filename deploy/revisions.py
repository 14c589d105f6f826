"""Read gcloud's descriptions of a service: `python -m deploy.revisions COMMAND` takes its JSON on standard input.

tagged TAG           the service → the revision with that tag, if it is the newest one
url [TAG]            the service → its address, or the tag's
former               [the service, its revisions] → the newest ready revision before the one that is served
notifications TOPIC  a bucket's notifications → the ids of those that go to the topic
"""

import json
import sys
from typing import Any


class Refusal(Exception):
    """What was asked for does not exist; the message says what does."""


def tagged(service: Any, tag: str) -> str:
    """Return the revision with the tag; raise Refusal if a later one is ready, which promoting would send all to."""
    revision = _target(service, tag).get("revisionName", "")
    newest = service["status"].get("latestReadyRevisionName", "")
    if revision != newest:
        raise Refusal(f"promote: expected the tag {tag} on the newest ready revision, {newest}, got it on {revision}")
    return str(revision)


def url(service: Any, tag: str = "") -> str:
    """Return the address of the service, or of the tag."""
    address = _target(service, tag).get("url") if tag else service["status"].get("url")
    if not address:
        raise Refusal(f"the service has no address{f' for the tag {tag}' if tag else ''} yet")
    return str(address)


def _target(service: Any, tag: str) -> Any:
    targets = service["status"].get("traffic", [])
    tags = [target["tag"] for target in targets if "tag" in target]
    for target in targets:
        if target.get("tag") == tag:
            return target
    raise Refusal(f"there is no revision with the tag {tag}; there are: {', '.join(tags) or 'no tags'}")


def former(service: Any, revisions: Any) -> str:
    """Return the newest ready revision that is older than the one most requests go to."""
    targets = service["status"].get("traffic", [])
    share = {target.get("revisionName", ""): target.get("percent") or 0 for target in targets if target.get("percent")}
    served = max(share, key=lambda name: share[name], default="")
    created = {revision["metadata"]["name"]: revision["metadata"]["creationTimestamp"] for revision in revisions}
    if served not in created:
        raise Refusal(f"rollback: the revision that is served, {served or 'none'}, is not in the list of revisions")
    older = [(created[name], name) for name in map(_ready, revisions) if name and created[name] < created[served]]
    if not older:
        raise Refusal(f"rollback: there is no ready revision before {served}")
    return str(max(older)[1])


def _ready(revision: Any) -> str:
    conditions = revision.get("status", {}).get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return str(revision["metadata"]["name"]) if ready else ""


def notifications(listed: Any, topic: str) -> str:
    """Return the ids of the notifications to the topic, one per line."""
    configurations = [entry.get("Notification Configuration", entry) for entry in listed or []]
    return "\n".join(
        str(entry["id"]) for entry in configurations if entry.get("topic", "").endswith(f"/topics/{topic}")
    )


def main(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    command, *words = arguments
    text = sys.stdin.read()
    description: Any = json.loads(text) if text.strip() else None
    try:
        if command == "former":
            service, revisions = description
            print(former(service, revisions))
        else:
            print({"tagged": tagged, "url": url, "notifications": notifications}[command](description, *words))
    except Refusal as refusal:
        print(f"deploy.sh: {refusal}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
